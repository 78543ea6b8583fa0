"""The moving part of a simulated game: bodies, gravity, collisions, what is eaten and who dies."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import NamedTuple

from tats.data.mugen.game import COIN, EMPTY, GEM
from tats.data.mugen.levels import LADDER, LAVA_SURFACE, WIDTH, Level

MONSTER_NAMES = {
    "ground": ("sawHalf", "barnacle"),
    "walking": ("slimeBlock", "slimeBlue", "mouse", "snail", "ladybug", "wormPink", "frog"),
    "flying": ("bee",),
}
DEATH_FRAMES = 31  # the killed agent fades for this long
_THEMES = [(kind, name) for kind, names in MONSTER_NAMES.items() for name in names]
_UNBEATABLE = MONSTER_NAMES["ground"]  # landing on them hurts

# Cells and frames.
WALK_SPEED = 0.18
_CLIMB_SPEED = 0.12
_JUMP_SPEED = 0.54
_BOUNCE_SPEED = 0.25
_GRAVITY = 0.04
_MAX_FALL = 0.6
_HALF_WIDTH = 0.3  # of a body, around the middle of its cell
_TOUCH_X, _TOUCH_Y = 0.6, 0.7
_STOMP_HEIGHT = 0.25  # the agent must come from at least this far above
_DYING_FRAMES = 3
_SAFE_FRAMES_AFTER_HIT = 30
_N_MONSTERS = 11
_EPSILON = 1e-6


class Control(NamedTuple):
    """What the agent wants to do in one frame."""

    move: int = 0  # -1 left, 0, 1 right
    climb: int = 0  # -1 down, 0, 1 up; holds on to a ladder if not 0
    jump: bool = False
    duck: bool = False


class Events(NamedTuple):
    """What happened to the agent in one frame."""

    collected: str = ""  # the maze's character of it
    killed_monster: bool = False
    bumped_head: bool = False


@dataclass
class Body:
    """Something with a place and a speed; (x, y) is the lower left corner of its cell."""

    x: float
    y: float
    vx: float = 0.0
    vy: float = 0.0

    @property
    def column(self) -> int:
        """Maze column of the body's middle."""
        return int(self.x + 0.5)

    @property
    def row(self) -> int:
        """Maze row of the body's middle."""
        return int(self.y + 0.5)


@dataclass
class AgentBody(Body):
    """The player's figure."""

    on_ground: bool = True
    on_ladder: bool = False
    ducking: bool = False
    shielded: bool = False
    is_killed: bool = False
    death_count: int = 0
    safe_frames: int = 0  # after the shield took a hit


@dataclass
class Monster(Body):
    """An enemy."""

    theme: int = 0
    anim_freq: int = 5
    is_dead: bool = False
    dying_count: int = 0

    @property
    def kind(self) -> str:
        """``ground`` (never moves), ``walking`` or ``flying``."""
        return _THEMES[self.theme][0]

    @property
    def name(self) -> str:
        """Name of its sprite."""
        return _THEMES[self.theme][1]

    @property
    def hops(self) -> bool:
        """Whether it moves in jumps."""
        return self.name == "frog"


@dataclass
class World:
    """A level with its creatures, advanced frame by frame."""

    level: Level
    rng: random.Random
    peaceful: bool = False  # no monsters, and lava does not kill
    time: int = 0
    eaten: list[tuple[int, int]] = field(default_factory=list)
    events: Events = field(default_factory=Events)
    agent: AgentBody = field(init=False)
    monsters: list[Monster] = field(init=False)

    def __post_init__(self) -> None:
        x = self.rng.choice([x for x in range(3, WIDTH - 3) if self._is_free_ground(x)])
        self.agent = AgentBody(float(x), float(self.level.surface[x] + 1))
        self.monsters = [] if self.peaceful else list(self._place_monsters())

    def step(self, control: Control) -> None:
        """Advance everything by one frame.

        Args:
            control: the agent's wish; ignored once it is killed.
        """
        self.time += 1
        self.events = Events()
        for monster in self.monsters:
            self._move_monster(monster)
        agent = self.agent
        if agent.is_killed:
            agent.death_count = max(agent.death_count - 1, 0)
            return
        agent.safe_frames = max(agent.safe_frames - 1, 0)
        self._move_agent(control)
        self._collect()
        self._meet_monsters()
        in_lava = self.level.cell(agent.column, agent.row) == LAVA_SURFACE
        if in_lava and not self.peaceful:
            self._kill_agent()

    def can_climb(self, direction: int) -> bool:
        """Whether there is ladder above (1) or below (-1) the agent's feet."""
        column, feet = self.agent.column, self.agent.y
        row = int(feet + _EPSILON) if direction > 0 else int(feet - _EPSILON)
        return self.level.cell(column, row) == LADDER

    def _is_free_ground(self, x: int) -> bool:
        floor = self.level.surface[x]
        is_crust = self.level.is_solid(x, floor)
        return is_crust and not any(
            self.level.is_solid(x, floor + up) or self.level.cell(x, floor + up) == LADDER
            for up in (1, 2)
        )

    def _place_monsters(self) -> list[Monster]:
        monsters: list[Monster] = []
        for _ in range(_N_MONSTERS):
            x = self.rng.randrange(2, WIDTH - 2)
            theme = self.rng.randrange(len(_THEMES))
            floors = self.level.floors(x)
            y = self.rng.choice(floors) + 1 if floors else 0
            taken = any(abs(x - other.x) < 3 and y == other.y for other in monsters)
            if not floors or taken or abs(x - self.agent.x) < 5:
                continue
            monster = Monster(float(x), float(y), theme=theme)
            if monster.kind == "flying":
                monster.y += self.rng.choice((0.0, 1.0))
            if monster.kind != "ground":
                monster.vx = self.rng.choice((-1, 1)) * self.rng.choice((0.03, 0.05))
            monster.anim_freq = self.rng.choice((3, 5))
            monsters.append(monster)
        return monsters

    def _move_monster(self, monster: Monster) -> None:
        if monster.is_dead:
            monster.dying_count = max(monster.dying_count - 1, 0)
            return
        if monster.kind == "ground":
            return
        if monster.hops:
            self._hop(monster)
        ahead = int(monster.x + 0.5 + (0.5 if monster.vx > 0 else -0.5))
        floor = round(monster.y) - 1
        walks_off = monster.kind == "walking" and not self.level.is_solid(ahead, floor)
        if self.level.is_solid(ahead, round(monster.y)) or (walks_off and monster.vy == 0):
            monster.vx = -monster.vx
        elif not (monster.hops and monster.vy == 0):
            monster.x += monster.vx

    def _hop(self, monster: Monster) -> None:
        if monster.vy == 0:
            if self.rng.random() < 0.04:
                monster.vy = 0.2
            return
        monster.y += monster.vy
        monster.vy -= _GRAVITY
        floor = int(monster.y + _EPSILON)
        if monster.vy < 0 and self.level.is_solid(monster.column, floor):
            monster.y, monster.vy = float(floor + 1), 0.0

    def _move_agent(self, control: Control) -> None:
        agent = self.agent
        agent.ducking = control.duck and agent.on_ground
        if control.climb and (agent.on_ladder or self.can_climb(control.climb)):
            self._climb(control.climb)
            return
        agent.on_ladder = False
        agent.vx = 0.0 if agent.ducking else control.move * WALK_SPEED
        if agent.vx and self._is_blocked(agent.x + agent.vx, agent.y):
            agent.vx = 0.0
        agent.x += agent.vx
        if control.jump and agent.on_ground:
            agent.vy, agent.on_ground = _JUMP_SPEED, False
        self._fall()

    def _climb(self, direction: int) -> None:
        agent = self.agent
        agent.on_ladder, agent.on_ground = True, False
        agent.x, agent.vx = float(agent.column), 0.0
        agent.vy = direction * _CLIMB_SPEED
        agent.y += agent.vy
        if not self.can_climb(direction):  # at the ladder's end: stand there
            agent.y, agent.vy = float(round(agent.y)), 0.0
            agent.on_ladder, agent.on_ground = False, True

    def _fall(self) -> None:
        agent = self.agent
        if agent.on_ground and self._is_supported():
            agent.vy = 0.0
            return
        agent.on_ground = False
        y = agent.y + agent.vy
        if agent.vy > 0 and self._is_blocked(agent.x, y):
            agent.y, agent.vy = float(int(y)), 0.0
            self.events = self.events._replace(bumped_head=True)
            return
        if agent.vy <= 0 and self._is_blocked(agent.x, y):
            agent.y, agent.vy, agent.on_ground = float(int(y + _EPSILON) + 1), 0.0, True
            return
        agent.y = y
        agent.vy = max(agent.vy - _GRAVITY, -_MAX_FALL)
        if agent.vy == 0:
            agent.vy = -_EPSILON * 100  # still in the air: a speed of zero would look like standing

    def _is_supported(self) -> bool:
        agent = self.agent
        on_ladder_top = self.level.cell(agent.column, int(agent.y - 0.5)) == LADDER
        return on_ladder_top or self._is_blocked(agent.x, agent.y - 0.01)

    def _is_blocked(self, x: float, y: float) -> bool:
        """Whether a body at (x, y) would be inside something solid."""
        columns = {int(x + 0.5 - _HALF_WIDTH), int(x + 0.5 + _HALF_WIDTH)}
        rows = {int(y + _EPSILON), int(y + 1 - _EPSILON)}
        return any(self.level.is_solid(column, row) for column in columns for row in rows)

    def _collect(self) -> None:
        agent = self.agent
        for row in {agent.row, agent.row + 1}:  # it is two cells high
            thing = self.level.cell(agent.column, row)
            if thing in (COIN, GEM):
                self.level.cells[row][agent.column] = EMPTY
                self.eaten.append((agent.column, row))
                self.events = self.events._replace(collected=thing)
                agent.shielded = agent.shielded or thing == GEM

    def _meet_monsters(self) -> None:
        agent = self.agent
        for monster in self.monsters:
            apart_x, apart_y = abs(monster.x - agent.x), abs(monster.y - agent.y)
            if monster.is_dead or apart_x > _TOUCH_X or apart_y > _TOUCH_Y:
                continue
            from_above = agent.vy < 0 and agent.y - monster.y > _STOMP_HEIGHT
            if from_above and not agent.on_ladder and monster.name not in _UNBEATABLE:
                monster.is_dead, monster.dying_count = True, _DYING_FRAMES
                agent.vy = _BOUNCE_SPEED
                self.events = self.events._replace(killed_monster=True)
            elif agent.shielded:
                agent.shielded, agent.safe_frames = False, _SAFE_FRAMES_AFTER_HIT
            elif agent.safe_frames == 0:
                self._kill_agent()
                return

    def _kill_agent(self) -> None:
        agent = self.agent
        agent.is_killed, agent.death_count = True, DEATH_FRAMES
        agent.vx = agent.vy = 0.0
        agent.on_ladder = agent.ducking = agent.shielded = False
