"""Random levels for simulated games: ground, steps, lava pits, platforms, ladders, crates, coins.

Every level can be walked from end to end by an agent that jumps three cells high and four wide.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from tats.data.mugen.game import COIN, EMPTY, GEM, WALL

WIDTH, HEIGHT = 64, 13
LADDER = "="
LAVA_SURFACE = "^"
LAVA_DEEP = "|"
SOLID = "SAab#$&%"
CRATES = "#$&%"
_SURFACES = (0, 1, 2)  # rows of the ground's crust
_MAX_STEP = 2
_PIT_CHANCE, _STEP_CHANCE, _CRATE_CHANCE = 0.22, 0.3, 0.8
_N_PLATFORM_TRIES = 9
_PLATFORM_RISES = (3, 3, 4, 5)  # a rise of 3 can be jumped, more needs the ladder


@dataclass
class Level:
    """A maze under construction; ``cells[y][x]``, row 0 at the bottom."""

    cells: list[list[str]]
    surface: list[int] = field(default_factory=lambda: [0] * WIDTH)  # crust row of each column

    def cell(self, x: int, y: int) -> str:
        """Character of a cell; outside everything is wall."""
        if 0 <= x < WIDTH and 0 <= y < HEIGHT:
            return self.cells[y][x]
        return WALL

    def is_solid(self, x: int, y: int) -> bool:
        """Whether a body cannot enter the cell."""
        return self.cell(x, y) in SOLID

    def floors(self, x: int) -> list[int]:
        """Rows of a column that have room to stand on, far enough below the ceiling."""
        return [y for y in range(HEIGHT - 4) if self.is_solid(x, y) and not self.is_solid(x, y + 1)]

    def rows(self) -> list[str]:
        """The maze as game files hold it."""
        return ["".join(row) for row in self.cells]


def make_level(rng: random.Random) -> Level:
    """Build a random level.

    Args:
        rng: where the chances come from.

    Returns:
        The level, walled on all sides.
    """
    level = Level([[EMPTY] * WIDTH for _ in range(HEIGHT)])
    pits = _lay_ground(level, rng)
    for _ in range(_N_PLATFORM_TRIES):
        _add_platform(level, rng)
    _add_crates(level, rng, pits)
    _add_treasures(level, rng)
    for y in range(HEIGHT):
        level.cells[y][0] = level.cells[y][WIDTH - 1] = WALL
    level.cells[HEIGHT - 1] = [WALL] * WIDTH
    return level


def _lay_ground(level: Level, rng: random.Random) -> set[int]:
    """Fill in the ground from left to right; gives the columns of the lava pits."""
    pits: set[int] = set()
    height, x = rng.choice(_SURFACES[:2]), 0
    while x < WIDTH:
        flat = rng.randrange(4, 10)
        for column in range(x, min(x + flat, WIDTH)):
            level.surface[column] = height
        x += flat
        chance = rng.random()
        if chance < _PIT_CHANCE and 8 < x < WIDTH - 8:
            width = rng.randrange(2, 4)
            pits.update(range(x, x + width))
            for column in range(x, x + width):
                level.surface[column] = height
            x += width
        elif chance < _PIT_CHANCE + _STEP_CHANCE:
            height = rng.choice([s for s in _SURFACES if 0 < abs(s - height) <= _MAX_STEP])
    for column in range(WIDTH):
        _fill_column(level, column, pits)
    return pits


def _fill_column(level: Level, x: int, pits: set[int]) -> None:
    height = level.surface[x]
    for y in range(height):
        level.cells[y][x] = LAVA_DEEP if x in pits else WALL
    if x in pits:
        level.cells[height][x] = LAVA_SURFACE
        return
    drops = [
        column in pits or level.surface[min(max(column, 0), WIDTH - 1)] < height
        for column in (x - 1, x + 1)
    ]
    level.cells[height][x] = "a" if drops[0] else "b" if drops[1] else "S"


def _add_platform(level: Level, rng: random.Random) -> None:
    length = rng.randrange(4, 9)
    first = rng.randrange(4, WIDTH - 4 - length)
    ground = max(level.surface[first - 1 : first + length + 1])
    rise = rng.choice(_PLATFORM_RISES)
    row = ground + rise
    around = [
        level.cells[y][x]
        for y in range(ground + 1, min(row + 4, HEIGHT - 1))
        for x in range(first - 3, first + length + 3)
    ]
    if row > HEIGHT - 5 or any(cell != EMPTY for cell in around):
        return
    for x in range(first, first + length):
        level.cells[row][x] = "S"
    level.cells[row][first], level.cells[row][first + length - 1] = "a", "b"
    foot = level.surface[first - 1]
    if (rise > 3 or rng.random() < 0.5) and level.cells[foot][first - 1] != LAVA_SURFACE:
        level.cells[row][first] = "S"
        for y in range(foot + 1, row + 1):
            level.cells[y][first - 1] = LADDER


def _add_crates(level: Level, rng: random.Random, pits: set[int]) -> None:
    x = rng.randrange(3, 9)
    while x < WIDTH - 4:
        if rng.random() < _CRATE_CHANCE:
            for column in range(x, x + rng.randrange(1, 4)):
                _stack_crates(level, rng, column, pits)
        x += rng.randrange(4, 8)


def _stack_crates(level: Level, rng: random.Random, x: int, pits: set[int]) -> None:
    height = level.surface[x]
    flat = all(
        level.surface[column] == height
        and column not in pits
        and level.cells[height + 1][column] != LADDER
        for column in range(x - 2, x + 3)
    )
    roof = any(level.is_solid(x, y) for y in range(height + 1, min(height + 6, HEIGHT)))
    if flat and not roof:
        for y in range(height + 1, height + 1 + rng.choice((1, 1, 1, 2))):
            level.cells[y][x] = rng.choice(CRATES)


def _add_treasures(level: Level, rng: random.Random) -> None:
    """Put coins and gems on standing ground, in rows, and some in the air over it."""
    for _ in range(16):
        x, n_coins = rng.randrange(2, WIDTH - 6), rng.randrange(1, 5)
        floors = level.floors(x)
        if not floors:  # lava
            continue
        floor = rng.choice(floors)
        lift = rng.choice((1, 1, 3))
        thing = GEM if rng.random() < 0.25 else COIN
        for column in range(x, x + (1 if thing == GEM else n_coins)):
            if level.cell(column, floor + lift) == EMPTY and level.is_solid(column, floor):
                level.cells[floor + lift][column] = thing
