"""Our own pictures of the level: ground, crates, lava, ladder, coin, gem, shield, backgrounds."""

from __future__ import annotations

import math
import random
import zlib
from pathlib import PurePosixPath

from PIL import Image

from tats.data.mugen.drawing import Colour, Pen, Point, shade

TILE = 128  # units and pixels of a square sprite
_BACKGROUND = 1024

_GROUND_COLOURS: dict[str, tuple[Colour, Colour]] = {  # (soil, crust)
    "Dirt": ((150, 104, 66), (196, 146, 90)),
    "Grass": ((140, 98, 62), (104, 178, 70)),
    "Planet": ((110, 92, 132), (206, 120, 160)),
    "Sand": ((206, 164, 96), (240, 212, 140)),
    "Snow": ((128, 150, 176), (240, 248, 255)),
    "Stone": ((112, 112, 120), (162, 164, 172)),
}
_SKIES: dict[str, tuple[Colour, Colour, Colour]] = {  # (top of the sky, horizon, hills)
    "meadow": ((120, 196, 240), (214, 240, 250), (146, 208, 140)),
    "dusk": ((250, 160, 120), (255, 226, 180), (170, 120, 150)),
    "dunes": ((150, 210, 220), (250, 240, 200), (226, 190, 120)),
    "night": ((40, 50, 100), (110, 110, 170), (60, 70, 120)),
    "frost": ((170, 200, 225), (236, 242, 250), (200, 216, 230)),
}
_WOOD: Colour = (196, 140, 80)
_GOLD: Colour = (250, 204, 50)
_LAVA_RED: Colour = (226, 76, 30)
_LAVA_GLOW: Colour = (255, 170, 50)


def draw_ground(theme: str, part: str) -> Image.Image:
    """Draw a ground cell.

    Args:
        theme: a known theme's name; any other name gets colours of its own.
        part: ``Center``, ``Mid``, ``Cliff_left`` or ``Cliff_right``.

    Returns:
        RGBA, square.
    """
    soil, crust = _GROUND_COLOURS.get(theme) or _colours_of_name(theme)
    pen = Pen(TILE, TILE)
    pen.box((0, 0, TILE, TILE), soil)
    stones = random.Random(zlib.crc32(f"{theme}{part}".encode()))
    for _ in range(7):
        x, y = stones.uniform(14, TILE - 14), stones.uniform(50, TILE - 12)
        pen.ellipse(x, y, stones.uniform(5, 11), stones.uniform(4, 7), shade(soil, 0.82))
    if part == "Center":
        return pen.finish()
    pen.box((0, 0, TILE, 26), crust)
    for i in range(5):  # the waves meet at the tile's edges
        pen.ellipse(i * TILE / 4, 26, TILE / 8, 12, crust)
    pen.box((0, 0, TILE, 7), shade(crust, 1.4))
    image = pen.finish()
    if part == "Mid":
        return image
    corner = Pen(TILE, TILE)
    corner.box((0, 0, 2 * TILE, 2 * TILE), soil, radius=44)
    if part == "Cliff_right":
        image.putalpha(corner.finish().getchannel("A").transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    else:
        image.putalpha(corner.finish().getchannel("A"))
    return image


def draw_crate(kind: str) -> Image.Image:
    """Draw a crate.

    Args:
        kind: ``boxCrate``, ``boxCrate_double``, ``boxCrate_single`` or ``boxCrate_warning``.

    Returns:
        RGBA, square.
    """
    pen = Pen(TILE, TILE)
    frame, dark = shade(_WOOD, 0.8), shade(_WOOD, 0.5)
    pen.box((0, 0, TILE, TILE), frame, radius=6, outline=4)
    pen.box((18, 18, TILE - 18, TILE - 18), _WOOD, outline=3)
    if kind == "boxCrate_double":
        pen.line([(24, 24), (104, 104)], frame, 16)
        pen.line([(24, 104), (104, 24)], frame, 16)
    elif kind == "boxCrate_single":
        pen.line([(24, 104), (104, 24)], frame, 18)
    elif kind == "boxCrate_warning":
        pen.polygon([(64, 28), (102, 98), (26, 98)], _GOLD, outline=4)
        pen.box((59, 50, 69, 78), (60, 40, 20), radius=4)
        pen.ellipse(64, 88, 6, 6, (60, 40, 20))
    else:
        for x in (45, 64, 83):
            pen.line([(x, 22), (x, 106)], frame, 4)
    for x in (9, TILE - 9):
        for y in (9, TILE - 9):
            pen.ellipse(x, y, 4, 4, dark)
    return pen.finish()


def draw_lava(surface: bool) -> Image.Image:
    """Draw a lava cell whose left edge continues its right edge, because it flows.

    Args:
        surface: whether it is the top, which has waves and air above them.

    Returns:
        RGBA, square.
    """
    pen = Pen(TILE, TILE)

    def wave(x: float) -> float:
        return 62 + 9 * math.sin(2 * math.pi * x / 64)

    top = [(float(x), wave(x) if surface else 0.0) for x in range(0, TILE + 1, 2)]
    pen.polygon([*top, (TILE, TILE), (0, TILE)], _LAVA_RED)
    if surface:
        pen.line(top, _LAVA_GLOW, 10)
    for x, y, r in ((30, 96, 9), (70, 108, 6), (100, 90, 11), (60, 84, 4)):
        pen.ellipse(x, y, r * 1.5, r, _LAVA_GLOW)
    if not surface:
        for x, y, r in ((20, 30, 7), (64, 48, 12), (108, 24, 6)):
            pen.ellipse(x, y, r * 1.5, r, _LAVA_GLOW)
    return pen.finish()


def draw_ladder() -> Image.Image:
    """Draw a piece of ladder that continues above and below.

    Returns:
        RGBA, square.
    """
    pen = Pen(TILE, TILE)
    for y in (16, 58, 100):
        pen.box((20, y, TILE - 20, y + 14), shade(_WOOD, 0.9), radius=3, outline=3)
    for x in (14, TILE - 32):
        pen.box((x, -10, x + 18, TILE + 10), _WOOD, outline=3)
    return pen.finish()


def draw_coin() -> Image.Image:
    """Draw a gold coin.

    Returns:
        RGBA, square.
    """
    pen = Pen(TILE, TILE)
    pen.ellipse(64, 64, 38, 38, _GOLD, outline=5)
    pen.ellipse(64, 64, 26, 26, shade(_GOLD, 0.85))
    pen.ellipse(61, 61, 24, 24, _GOLD)
    pen.line([(64, 48), (64, 80)], shade(_GOLD, 0.6), 9)
    pen.ellipse(48, 46, 7, 5, shade(_GOLD, 1.8))
    return pen.finish()


def draw_gem() -> Image.Image:
    """Draw a red gem.

    Returns:
        RGBA, square.
    """
    red: Colour = (226, 50, 70)
    pen = Pen(TILE, TILE)
    rim: list[Point] = [(64, 106), (22, 58), (40, 30), (88, 30), (106, 58)]
    pen.polygon(rim, red, outline=5)
    pen.polygon([(64, 104), (44, 58), (84, 58)], shade(red, 1.25))
    pen.polygon([(44, 58), (52, 33), (76, 33), (84, 58)], shade(red, 1.5))
    pen.polygon([(26, 58), (42, 33), (50, 33), (43, 58)], shade(red, 1.7))
    pen.line([(24, 58), (104, 58)], shade(red, 0.7), 2)
    return pen.finish()


def draw_shield() -> Image.Image:
    """Draw the bubble around a protected agent: a rim and a glint, the middle clear.

    Returns:
        RGBA, higher than wide.
    """
    blue: Colour = (120, 210, 250)
    pen = Pen(TILE, 234)
    pen.ellipse(64, 130, 63, 102, blue, outline=4)
    pen.erase(64, 130, 54, 93)
    pen.line([(30, 84), (38, 66), (50, 54)], (240, 252, 255), 7)
    return pen.finish()


def draw_background(path: str) -> Image.Image:
    """Draw a landscape; a picture shows only a window of it, a fifth of its width, at mid-height.

    Args:
        path: a known landscape's name, or any other, which always gives the same picture.

    Returns:
        RGB, square; the left edge continues the right edge.
    """
    choice = random.Random(zlib.crc32(path.encode()))
    any_sky = choice.choice(list(_SKIES))
    high, horizon, hills = _SKIES.get(PurePosixPath(path).stem, _SKIES[any_sky])
    side = _BACKGROUND
    image = Image.new("RGB", (1, side))
    for y in range(side):
        share = min(max((y / side - 0.38) / 0.2, 0), 1)
        image.putpixel((0, y), _mix(high, horizon, share))
    image = image.resize((side, side))
    for _ in range(14):
        _stamp_cloud(image, choice, shade(horizon, 1.6))
    for depth in range(3):
        _stamp_hills(image, choice, _mix(horizon, hills, 0.45 + 0.27 * depth), depth)
    return image


def _stamp_cloud(image: Image.Image, choice: random.Random, colour: Colour) -> None:
    width = choice.randrange(48, 100)
    pen = Pen(width, width // 2)
    for x, y, r in ((0.25, 0.32, 0.15), (0.5, 0.24, 0.22), (0.75, 0.34, 0.14)):
        pen.ellipse(x * width, y * width, r * width, r * width, colour)
    cloud = pen.finish()
    x, y = choice.randrange(image.width), choice.randrange(400, 540)
    for shift in (0, -image.width):  # a cloud over the right edge comes in again on the left
        image.paste(cloud, (x + shift, y), cloud)


def _stamp_hills(image: Image.Image, choice: random.Random, colour: Colour, depth: int) -> None:
    waves = [(choice.randrange(4, 14), choice.uniform(0, 6.28), choice.uniform(6, 14))]
    waves += [(choice.randrange(14, 26), choice.uniform(0, 6.28), choice.uniform(2, 6))]
    base = 560 + 30 * depth
    pen = Pen(image.width, image.height - base + 64, oversampling=2)  # it is large
    line = [
        (
            float(x),
            40 - sum(a * math.sin(2 * math.pi * n * x / image.width + p) for n, p, a in waves),
        )
        for x in range(0, image.width + 1, 4)
    ]
    bottom = image.height - base + 64
    pen.polygon([*line, (image.width, bottom), (0, bottom)], colour)
    hills = pen.finish()
    image.paste(hills, (0, base - 40), hills)


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _colours_of_name(theme: str) -> tuple[Colour, Colour]:
    choice = random.Random(zlib.crc32(theme.encode()))
    soil = (choice.randrange(90, 170), choice.randrange(80, 150), choice.randrange(70, 150))
    return soil, shade(soil, 1.5)
