"""The recorded state of a MUGEN game: level, agent and monsters of every frame, read from JSON."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from tats.data.mugen.fields import Fields

EMPTY = "."
COIN = "1"
GEM = "2"
WALL = "A"
PASSABLE = ".12"  # what a body falls through: air and things that can be collected

_FRAMES_PER_POSE_VARIANT = 5  # the agent's walk and climb alternate their two pictures at this rate

Pose = Literal["hit", "climb1", "climb2", "jump", "duck", "stand", "walk1", "walk2"]


@dataclass(frozen=True, slots=True)
class Agent:
    """The player's figure in one frame; positions in cells, (x, y) its lower left corner."""

    x: float
    y: float
    vx: float
    vy: float
    time_alive: int
    ladder: bool
    spring: float
    is_killed: bool
    killed_animation_frame_cnt: int
    power_up_mode: bool

    @property
    def pose(self) -> Pose:
        """Name of the picture that shows this state."""
        variant = 1 if self.time_alive // _FRAMES_PER_POSE_VARIANT % 2 == 0 else 2
        if self.is_killed:
            return "hit"
        if self.ladder:
            return "climb1" if variant == 1 else "climb2"
        if self.vy != 0:
            return "jump"
        if self.spring != 0:
            return "duck"
        if self.vx == 0:
            return "stand"
        return "walk1" if variant == 1 else "walk2"


@dataclass(frozen=True, slots=True)
class Monster:
    """One monster in one frame; positions in cells."""

    name: str
    x: float
    y: float
    vx: float
    vy: float
    is_jumping: bool
    is_dead: bool
    time: int
    anim_freq: int
    monster_dying_frame_cnt: int

    @property
    def sprite(self) -> str:
        """Name of the picture that shows this state."""
        if self.is_dead:
            return f"{self.name}_dead"
        resting = self.vy == 0 if self.is_jumping else self.time // self.anim_freq % 2 == 0
        return self.name if resting else f"{self.name}_move"


@dataclass(frozen=True, slots=True)
class Frame:
    """Everything that changes from frame to frame."""

    state_time: int
    coins_eaten: frozenset[tuple[int, int]]  # (x, y) of every coin and gem taken so far
    agent: Agent
    monsters: tuple[Monster, ...]


@dataclass(frozen=True)
class Game:
    """One recorded game.

    ``maze[y][x]`` is the character of a cell, row 0 at the bottom. Coins the last frame lists as
    eaten are back in the maze, so that the frames before show them; an eaten gem comes back as a
    coin (DEVIATIONS D14).
    """

    zoom: float
    bgzoom: float
    maze_w: int
    maze_h: int
    maze: tuple[str, ...]
    background: str
    ground_theme: str
    agent_theme: str
    frames: tuple[Frame, ...]

    @classmethod
    def load(cls, path: str | Path) -> Game:
        """Read one game file.

        Args:
            path: a MUGEN game JSON.

        Returns:
            The game, at least one frame long.

        Raises:
            UserError: the file is missing, is not JSON, or a field is missing or wrong; the
                message names file and field.
        """
        fields = Fields.load(path, kind="game file")
        return cls._from_fields(fields)

    @classmethod
    def from_record(cls, record: object, source: str = "game") -> Game:
        """Check and build a game from its parsed JSON.

        Args:
            record: what ``json.load`` gives.
            source: how error messages call the origin, for example ``game file x.json``.

        Returns:
            The game.

        Raises:
            UserError: a field is missing or wrong.
        """
        return cls._from_fields(Fields(record, source=source))

    @classmethod
    def _from_fields(cls, fields: Fields) -> Game:
        frame_fields = fields.objects("frames")
        if not frame_fields:
            raise fields.wrong("frames", "at least one frame")
        names = _monster_names(fields)
        frames = tuple(_frame(frame, names) for frame in frame_fields)
        return cls(
            zoom=fields.number("zoom", default=5.5),
            bgzoom=fields.number("bgzoom", default=0.4),
            maze_w=fields.integer("maze_w", default=64, minimum=1),
            maze_h=fields.integer("maze_h", default=13, minimum=1),
            maze=_restored_maze(fields, frames[-1].coins_eaten),
            background=fields.chosen("background_themes", "world_theme_n"),
            ground_theme=fields.chosen("ground_themes", "world_theme_n"),
            agent_theme=fields.chosen("agent_themes", "agent_theme_n"),
            frames=frames,
        )

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return len(self.frames)

    def cell(self, x: int, y: int) -> str:
        """Character at column x, row y; outside of the maze everything is wall."""
        if 0 <= y < len(self.maze) and 0 <= x < len(self.maze[y]):
            return self.maze[y][x]
        return WALL

    @cached_property
    def columns(self) -> int:
        """Length of the maze's rows, all equal."""
        return len(self.maze[0])


def _frame(fields: Fields, names: list[str]) -> Frame:
    return Frame(
        state_time=fields.integer("state_time"),
        coins_eaten=fields.cells("coins_eaten"),
        agent=_agent(fields.object("agent")),
        monsters=tuple(_monster(monster, names) for monster in fields.objects("monsters")),
    )


def _agent(fields: Fields) -> Agent:
    return Agent(
        x=fields.number("x"),
        y=fields.number("y"),
        vx=fields.number("vx"),
        vy=fields.number("vy"),
        time_alive=fields.integer("time_alive"),
        ladder=fields.flag("ladder"),
        spring=fields.number("spring"),
        is_killed=fields.flag("is_killed"),
        killed_animation_frame_cnt=fields.integer("killed_animation_frame_cnt"),
        power_up_mode=fields.flag("power_up_mode"),
    )


def _monster(fields: Fields, names: list[str]) -> Monster:
    return Monster(
        name=names[fields.index("theme", "monster_names", len(names))],
        x=fields.number("x"),
        y=fields.number("y"),
        vx=fields.number("vx"),
        vy=fields.number("vy"),
        is_jumping=fields.flag("is_jumping"),
        is_dead=fields.flag("is_dead"),
        time=fields.integer("time"),
        anim_freq=fields.integer("anim_freq", minimum=1),
        monster_dying_frame_cnt=fields.integer("monster_dying_frame_cnt"),
    )


def _monster_names(fields: Fields) -> list[str]:
    groups = fields.object("monster_names")
    return [name for kind in ("ground", "walking", "flying") for name in groups.texts(kind)]


def _restored_maze(fields: Fields, eaten: frozenset[tuple[int, int]]) -> tuple[str, ...]:
    rows = fields.texts("maze")
    if not rows or not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise fields.wrong("maze", "rows of one length, at least one")
    cells = [list(row) for row in rows]
    for x, y in eaten:
        if not (0 <= y < len(cells) and 0 <= x < len(cells[y])):
            size = f"{len(rows[0])}x{len(rows)}"
            raise fields.wrong("maze", f"it to hold cell [{x}, {y}] of coins_eaten (it is {size})")
        if cells[y][x] == EMPTY:
            cells[y][x] = COIN
    return tuple("".join(row) for row in cells)
