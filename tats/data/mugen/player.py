"""The simulated agent's mind: chooses what to do next and avoids most of the dangers ahead."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

from tats.data.mugen.game import COIN, GEM
from tats.data.mugen.levels import LADDER, LAVA_SURFACE, WIDTH
from tats.data.mugen.world import WALK_SPEED, Control, Monster, World

Task = Literal["walk", "hop", "climb", "duck", "stand"]

_TASK_WEIGHTS: dict[Task, float] = {"walk": 5, "hop": 3, "duck": 0.7, "stand": 1}
_CLIMB_CHANCE = 0.5  # when a ladder is near
_TREASURE_CHANCE = 0.6  # when a coin or gem is near
_JUMP_OVER_CHANCE = 0.7  # when a monster is close ahead
_LADDER_SIGHT, _TREASURE_SIGHT = 7, 8  # cells
_MONSTER_SIGHT = (1.2, 2.0)
_PAUSE = 3  # frames between hops


@dataclass
class Player:
    """Decides frame by frame; keeps a task until it is done."""

    rng: random.Random
    heading: int = 1
    task: Task = "walk"
    frames_left: int = 0
    hops_left: int = 0
    hop_move: int = 0
    climb_direction: int = 0
    ladder: int = 0  # column of the ladder to climb
    ignored: set[int] = field(default_factory=set)  # monsters it will walk into

    def control(self, world: World) -> Control:
        """Choose what to do in this frame.

        Args:
            world: the game as it is now.

        Returns:
            The wish.
        """
        agent = world.agent
        if agent.on_ladder:
            return Control(climb=self.climb_direction)
        if not agent.on_ground:
            return Control(move=self.hop_move)
        if self.frames_left <= 0:
            self._choose(world)
        self.frames_left -= 1
        if self.task == "duck":
            return Control(duck=True)
        if self.task == "stand":
            return Control()
        if self.task == "hop":
            return self._hop()
        if self.task == "climb":
            return self._go_climbing(world)
        return self._walk(world)

    def _choose(self, world: World) -> None:
        ladder = self._near_ladder(world)
        if ladder is not None and self.rng.random() < _CLIMB_CHANCE:
            self.ladder, self.climb_direction = ladder
            self.task, self.frames_left = "climb", 80
            return
        self.heading = self._choose_heading(world)
        tasks = list(_TASK_WEIGHTS)
        self.task = self.rng.choices(tasks, [_TASK_WEIGHTS[task] for task in tasks])[0]
        self.frames_left = self.rng.randrange(8, 16)
        if self.task == "walk":
            self.frames_left = self.rng.randrange(12, 40)
        elif self.task == "hop":
            self.hops_left = self.rng.choice((1, 1, 2, 3))
            self.hop_move = self.rng.choice((0, self.heading, self.heading))
            self.frames_left = 200

    def _choose_heading(self, world: World) -> int:
        agent = world.agent
        treasures = [
            x
            for x in range(agent.column - _TREASURE_SIGHT, agent.column + _TREASURE_SIGHT + 1)
            for y in range(agent.row, agent.row + 4)
            if x != agent.column and world.level.cell(x, y) in (COIN, GEM)
        ]
        if treasures and self.rng.random() < _TREASURE_CHANCE:
            nearest = min(treasures, key=lambda x: abs(x - agent.column))
            return 1 if nearest > agent.column else -1
        if not 6 < agent.x < WIDTH - 7:
            return 1 if agent.x < WIDTH / 2 else -1
        return self.heading if self.rng.random() < 0.65 else -self.heading

    def _near_ladder(self, world: World) -> tuple[int, int] | None:
        """Column of the nearest ladder one can walk to, and the way along it."""
        agent = world.agent
        for distance in range(_LADDER_SIGHT):
            for column in (agent.column - distance, agent.column + distance):
                for row, direction in ((agent.row, 1), (agent.row - 1, -1)):
                    if world.level.cell(column, row) == LADDER:
                        return column, direction
        return None

    def _hop(self) -> Control:
        if self.hops_left == 0:
            self.frames_left = 0
            return Control()
        if self.frames_left % _PAUSE:
            return Control()
        self.hops_left -= 1
        return Control(move=self.hop_move, jump=True)

    def _go_climbing(self, world: World) -> Control:
        apart = self.ladder - world.agent.x
        if abs(apart) <= WALK_SPEED:
            self.frames_left = 0
            if world.can_climb(self.climb_direction):
                return Control(climb=self.climb_direction)
            return Control()
        self.heading = 1 if apart > 0 else -1
        return self._walk(world)

    def _walk(self, world: World) -> Control:
        agent, heading = world.agent, self.heading
        front = int(agent.x + 0.5 + heading * 0.8)
        feet = round(agent.y)
        self.hop_move = heading
        if world.level.is_solid(front, feet):
            if world.level.is_solid(front, feet + 3) or not 0 < front < WIDTH - 1:
                self.heading = -heading
                return Control()
            return Control(move=heading, jump=True)
        lava_near = any(world.level.cell(front, feet - down) == LAVA_SURFACE for down in (1, 2, 3))
        if lava_near or self._jumps_over_monster(world):
            return Control(move=heading, jump=True)
        return Control(move=heading)

    def _jumps_over_monster(self, world: World) -> bool:
        for i, monster in enumerate(world.monsters):
            if i in self.ignored or not self._is_close_ahead(world, monster):
                continue
            if self.rng.random() < _JUMP_OVER_CHANCE:
                return True
            self.ignored.add(i)
        return False

    def _is_close_ahead(self, world: World, monster: Monster) -> bool:
        ahead = (monster.x - world.agent.x) * self.heading
        near, far = _MONSTER_SIGHT
        level = abs(monster.y - world.agent.y) < 1
        return near <= ahead <= far and level and not monster.is_dead
