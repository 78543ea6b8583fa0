"""Where every sprite of a game's frame lies on the picture, in the order they are painted.

Positions in the maze are in cells; everything else is in pixels of the picture. The published
renderer's constants are kept to the digit: they decide which pixel a sprite starts on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

from tats.data.mugen.game import EMPTY, Agent, Frame, Game, Monster
from tats.data.mugen.sprites import (
    GROUND_FILES,
    LAVA,
    SHIELD_FILE,
    TILE_FILES,
    Sprite,
    SpriteSheet,
    agent_file,
    ground_file,
    monster_file,
)
from tats.errors import UserError

Layer = Literal["background", "cells", "monsters", "agent", "shield"]
LAYERS: tuple[Layer, ...] = get_args(Layer)  # in painting order

# How many cells the picture's middle lies above the level's bottom, for each zoom in use.
_MIDDLE_HEIGHT = {5.5: 5.0, 4.3: 6.5, 5.0: 5.5, 6.0: 4.5}
_CELL_EXTRA = 0.7  # cells are drawn larger than they are, and a little early: no seams show
_CELL_SHIFT = 0.1
_LAVA_EXTRA = 0.5
_LAVA_SPEED = 0.1  # sprite widths a frame
_DYING_FRAMES = 3
_DEAD_SQUASH = 0.8  # share of its height a monster loses while dying
_FADE_FRAMES = 31
_FADE_PER_FRAME = 12
_OPAQUE = 255
_SHIELD_WIDTH, _SHIELD_HEIGHT = 1.15, 2.1  # cells
_SHIELD_DX, _SHIELD_DY = -7 / 1024, 8 / 1024  # of the resolution
# A bounding box leaves out the empty top of a sprite; shares of its width.
_AGENT_BOX_CUT, _SHIELD_BOX_CUT = 0.8, 0.45


@dataclass(frozen=True, slots=True)
class Placement:
    """One sprite on the picture."""

    layer: Layer
    thing: str  # what it is on a semantic map, see ``labels.map_labels``
    sprite: Sprite
    x: int
    y: int
    size: tuple[int, int]  # (width, height)
    columns: tuple[int, int] | None = None  # part of the sprite that is shown
    fade: int = 0  # taken off the picture's alpha, in [0, 255]
    box_cut: int = 0  # rows at the top that a bounding box leaves out


class Camera(NamedTuple):
    """How the maze lies on the picture; it follows the agent in x only."""

    resolution: int
    cell: float  # side of a cell
    centre: int
    dx: float
    dy: float

    @classmethod
    def at(cls, *, game: Game, frame: Frame, resolution: int) -> Camera:
        """Point the camera at the agent.

        Args:
            game: gives zoom and maze width.
            frame: gives the agent's place.
            resolution: side of the picture.

        Returns:
            The camera.

        Raises:
            UserError: the game's zoom has no known camera height.
        """
        if game.zoom not in _MIDDLE_HEIGHT:
            raise UserError(
                f"the game's zoom is {game.zoom}; expected one of "
                f"{', '.join(map(str, sorted(_MIDDLE_HEIGHT)))}: others have no published camera"
            )
        cell = game.zoom * resolution / game.maze_w
        centre = (resolution - 1) // 2
        dx = -cell * frame.agent.x + centre - cell / 2
        dy = -centre + _MIDDLE_HEIGHT[game.zoom] * cell
        return cls(resolution, cell, centre, dx, dy)

    def left(self, x: float) -> float:
        """Pixel column of a maze position."""
        return self.cell * x + self.dx

    def top(self, y: float) -> float:
        """Pixel row of the upper edge of a body one cell high that stands at ``y``."""
        return self.resolution - self.cell * y + self.dy

    def shows(self, x: int, y: int, size: tuple[int, int]) -> bool:
        """Whether any pixel of a placed sprite is on the picture."""
        inside_x = x < self.resolution and x + size[0] > 0
        return inside_x and y < self.resolution and y + size[1] > 0


class _Rect(NamedTuple):
    """A rectangle before it is rounded to pixels."""

    x: float
    y: float
    width: float
    height: float

    def place(self, layer: Layer, thing: str, sprite: Sprite) -> Placement:
        size = (math.ceil(self.width), math.ceil(self.height))
        return Placement(layer, thing, sprite, math.floor(self.x), math.floor(self.y), size)


def background_places(game: Game, camera: Camera) -> Iterator[tuple[int, int, int]]:
    """Give the tiles of the repeated background that are on the picture.

    Args:
        game: gives zooms and maze height.
        camera: where it looks.

    Yields:
        Left, top and side of each square tile.
    """
    step = camera.resolution * game.zoom
    half_level = camera.cell * game.maze_h / 2
    left = camera.centre + game.bgzoom * (camera.dx + half_level) - step / 2
    top = camera.centre + game.bgzoom * (camera.dy - half_level) - step / 2
    side = math.ceil(step)
    for column in (-1, 0, 1, 2):
        for row in (-1, 0, 1):
            x, y = math.floor(step * column + left), math.floor(step * row + top)
            if camera.shows(x, y, (side, side)):
                yield x, y, side


def placements(
    game: Game, frame: Frame, camera: Camera, sheet: SpriteSheet, layers: Collection[Layer]
) -> Iterator[Placement]:
    """Give every sprite in front of the background that is on the picture, back to front.

    Args:
        game: gives maze and themes.
        frame: gives agent and monsters.
        camera: where it looks.
        sheet: gives the sizes of sprites that depend on their files.
        layers: which kinds to give.

    Yields:
        One placement a sprite; flowing lava is two.

    Raises:
        UserError: the file of a sprite is missing.
    """
    if "cells" in layers:
        yield from _cells(game, frame, camera, sheet)
    if "monsters" in layers:
        for monster in frame.monsters:
            yield from _visible(camera, _monster(monster, camera))
    if "agent" in layers:
        yield from _agent(game, frame.agent, camera, sheet)
    if "shield" in layers and frame.agent.power_up_mode:
        yield from _visible(camera, _shield(frame.agent, camera))


def _visible(camera: Camera, place: Placement) -> Iterator[Placement]:
    if camera.shows(place.x, place.y, place.size):
        yield place


def _cells(game: Game, frame: Frame, camera: Camera, sheet: SpriteSheet) -> Iterator[Placement]:
    reach = int(1 + game.maze_w / game.zoom)
    middle_x, middle_y = int(frame.agent.x + 0.5), int(frame.agent.y + 0.5)
    tile = math.ceil(camera.cell + 0.5)
    extent = camera.cell + _CELL_EXTRA
    for y in _clipped(middle_y - reach, middle_y + reach, len(game.maze)):
        top = camera.top(y) - _CELL_SHIFT
        for x in _clipped(middle_x - reach, middle_x + reach, game.columns):
            thing = game.maze[y][x]
            if thing == EMPTY or (x, y) in frame.coins_eaten:
                continue
            rect = _Rect(camera.left(x) - _CELL_SHIFT, top, extent, extent)
            if thing in LAVA:
                flow = _LAVA_SPEED * frame.state_time % 1
                for place in _lava(thing, rect, flow, sheet):
                    yield from _visible(camera, place)
            else:
                sprite = Sprite(_cell_file(game, thing), (tile, tile))
                yield from _visible(camera, rect.place("cells", thing, sprite))


def _clipped(first: int, last: int, length: int) -> range:
    return range(max(first, 0), min(last + 1, length))


def _cell_file(game: Game, thing: str) -> str:
    if thing in GROUND_FILES:
        return ground_file(game.ground_theme, thing)
    if thing not in TILE_FILES:
        known = "".join([EMPTY, *GROUND_FILES, *TILE_FILES])
        raise UserError(f"the game's maze has a cell {thing!r}; expected one of {known}")
    return TILE_FILES[thing]


def _lava(thing: str, rect: _Rect, flow: float, sheet: SpriteSheet) -> Iterator[Placement]:
    """Give the two pieces of a lava cell whose picture has flowed left by a share of its width."""
    sprite = Sprite(TILE_FILES[thing], None)
    width = sheet.source_width(sprite)
    cut = flow * width
    shown = (1 - flow) * rect.width
    front = rect._replace(width=shown + _LAVA_EXTRA)
    yield replace(front.place("cells", thing, sprite), columns=(math.floor(cut), width))
    if flow > 0:
        back = rect._replace(x=rect.x + shown - _LAVA_EXTRA, width=flow * rect.width + _LAVA_EXTRA)
        yield replace(back.place("cells", thing, sprite), columns=(0, math.ceil(cut)))


def _monster(monster: Monster, camera: Camera) -> Placement:
    side = math.ceil(camera.cell)
    sprite = Sprite(monster_file(monster.sprite), (side, side), mirrored=monster.vx > 0)
    rect = _Rect(camera.left(monster.x), camera.top(monster.y), camera.cell, camera.cell)
    if monster.is_dead:
        n_dying = _DYING_FRAMES - max(0, monster.monster_dying_frame_cnt)
        squash = n_dying * _DEAD_SQUASH / _DYING_FRAMES
        rect = rect._replace(y=rect.y + camera.cell * squash, height=camera.cell * (1 - squash))
    return rect.place("monsters", monster.name, sprite)


def _agent(game: Game, agent: Agent, camera: Camera, sheet: SpriteSheet) -> Iterator[Placement]:
    fade = 0
    if agent.is_killed:
        fade = max(_FADE_PER_FRAME * (_FADE_FRAMES - agent.killed_animation_frame_cnt), 0)
        if fade > _OPAQUE:
            return
    path = agent_file(game.agent_theme, agent.pose)
    aspect, cell = sheet.aspect(path), camera.cell
    size = (math.ceil(cell), math.ceil(aspect * cell))
    sprite = Sprite(path, size, mirrored=agent.vx < 0)
    rect = _Rect(camera.left(agent.x), camera.top(agent.y + aspect - 1), cell, aspect * cell)
    place = rect.place("agent", "agent", sprite)
    box_cut = int(_AGENT_BOX_CUT * place.size[0])
    yield from _visible(camera, replace(place, fade=fade, box_cut=box_cut))


def _shield(agent: Agent, camera: Camera) -> Placement:
    cell, resolution = camera.cell, camera.resolution
    size = (math.ceil(_SHIELD_WIDTH * cell), math.ceil(_SHIELD_HEIGHT * cell))
    rect = _Rect(
        camera.left(agent.x) + _SHIELD_DX * resolution,
        camera.top(agent.y + 1) + _SHIELD_DY * resolution,
        _SHIELD_WIDTH * cell,
        _SHIELD_HEIGHT * cell,
    )
    if agent.pose == "duck":
        rect = rect._replace(y=rect.y + math.floor(_SHIELD_DY * resolution))
    place = rect.place("shield", "shield", Sprite(SHIELD_FILE, size))
    return replace(place, box_cut=int(_SHIELD_BOX_CUT * place.size[0]))
