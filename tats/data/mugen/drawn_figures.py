"""Our own pictures of the figures: monsters (facing left) and the agent (facing right)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from PIL import Image

from tats.data.mugen.drawing import Colour, Pen, shade

MonsterState = Literal["rest", "move", "dead"]

_TILE = 128
_AGENT_HEIGHT = 256
_INK: Colour = (50, 40, 50)
AGENT_COLOURS: dict[str, Colour] = {
    "Beige": (226, 190, 140),
    "Blue": (110, 170, 230),
    "Green": (120, 200, 110),
    "Pink": (240, 150, 190),
    "Yellow": (250, 206, 80),
}


def draw_monster(name: str, state: MonsterState) -> Image.Image | None:
    """Draw a monster.

    Args:
        name: for example ``bee``.
        state: standing, the other picture of its walk, or dead.

    Returns:
        RGBA, square, facing left; None for a name that has no picture.
    """
    if name not in _MONSTERS:
        return None
    pen = Pen(_TILE, _TILE)
    _MONSTERS[name](pen, state)
    return pen.finish()


def draw_agent(theme: str, pose: str) -> Image.Image:
    """Draw the agent.

    Args:
        theme: a colour's name; unknown names are drawn in grey.
        pose: see ``tats.data.mugen.game.Pose``.

    Returns:
        RGBA, twice as high as wide, facing right, feet at the bottom.
    """
    colour = AGENT_COLOURS.get(theme, (190, 190, 190))
    pen = Pen(_TILE, _AGENT_HEIGHT)
    low = 34 if pose == "duck" else 0  # a ducking body is that much lower
    _agent_limbs(pen, pose, shade(colour, 0.8), low)
    body_top = 162 + low
    pen.box((36, body_top, 92, 236), colour, radius=24, outline=4)
    pen.box((50, body_top + 18, 78, 228), shade(colour, 1.6), radius=12)
    _agent_head(pen, pose, colour, 126 + low)
    return pen.finish()


def _agent_head(pen: Pen, pose: str, colour: Colour, y: float) -> None:
    for x in (42, 86):  # antennae
        pen.line([(64 + (x - 64) * 0.5, y - 34), (x, y - 54)], shade(colour, 0.6), 5)
        pen.ellipse(x, y - 56, 7, 7, colour, outline=3)
    pen.ellipse(64, y, 46, 42, colour, outline=4)
    if pose in ("climb1", "climb2"):  # seen from behind
        pen.ellipse(64, y - 6, 30, 24, shade(colour, 0.88))
        return
    for x in (58, 92):
        pen.eye(x, y - 6, 12, dead=pose == "hit", look=0.35)
    if pose == "hit":
        pen.ellipse(74, y + 22, 8, 9, _INK)
    elif pose == "jump":
        pen.pie(76, y + 14, 14, (0, 180), _INK)
    else:
        pen.line([(64, y + 20), (76, y + 25), (88, y + 19)], _INK, 4)


def _agent_limbs(pen: Pen, pose: str, colour: Colour, low: float) -> None:
    hands, feet = {
        "stand": (((26, 206), (102, 206)), ((50, 246), (80, 246))),
        "walk1": (((22, 196), (104, 214)), ((34, 242), (94, 246))),
        "walk2": (((30, 216), (98, 196)), ((58, 246), (72, 240))),
        "jump": (((14, 158), (114, 158)), ((38, 238), (92, 228))),
        "duck": (((20, 226), (108, 226)), ((40, 246), (90, 246))),
        "climb1": (((22, 130), (106, 190)), ((48, 236), (82, 248))),
        "climb2": (((22, 190), (106, 130)), ((48, 248), (82, 236))),
        "hit": (((10, 150), (118, 170)), ((36, 244), (98, 236))),
    }[pose]
    shoulder, hip = 182 + low * 0.8, 226
    for x, hand in zip((42, 86), hands, strict=True):
        pen.line([(x, shoulder), hand], colour, 14)
    for x, (foot_x, foot_y) in zip((52, 76), feet, strict=True):
        pen.line([(x, hip), (foot_x, foot_y)], colour, 16)
        pen.ellipse(foot_x + 4, foot_y, 15, 9, shade(colour, 0.75), outline=3)


def _step(state: MonsterState) -> float:
    return 6 if state == "move" else 0


def _worm(pen: Pen, state: MonsterState) -> None:
    pink: Colour = (244, 150, 180)
    hump = 22 if state == "move" else 6  # it crawls by arching its back
    for i in range(6, -1, -1):
        y = 104 - hump * math.sin(math.pi * i / 6)
        pen.ellipse(26 + i * 13, y, 18, 20, shade(pink, 1 - 0.05 * (i % 2)), outline=3)
    pen.eye(20, 98, 8, dead=state == "dead")


def _ladybug(pen: Pen, state: MonsterState) -> None:
    red: Colour = (220, 60, 50)
    for x in (38, 62, 86):
        pen.line([(x, 100), (x + _step(state) - 4, 124)], _INK, 7)
    pen.ellipse(26, 88, 22, 22, _INK)
    pen.pie(72, 104, 52, (180, 360), shade(red, 0.5))
    pen.pie(72, 103, 47, (180, 360), red)
    for x, y, r in ((52, 84, 8), (78, 70, 9), (98, 90, 8), (72, 94, 6)):
        pen.ellipse(x, y, r, r, _INK)
    pen.eye(20, 84, 9, dead=state == "dead")


def _snail(pen: Pen, state: MonsterState) -> None:
    skin: Colour = (200, 190, 120)
    pen.box((8 - _step(state) / 2, 102, 118 + _step(state), 126), skin, radius=12, outline=3)
    pen.box((8, 62, 32, 122), skin, radius=12, outline=3)
    if state != "dead":
        pen.line([(24, 64), (30, 44)], shade(skin, 0.6), 4)
    pen.eye(18, 78, 9, dead=state == "dead")
    shell: Colour = (178, 104, 70)
    for r, tone in ((42, 1.0), (29, 1.3), (16, 1.0), (6, 1.3)):
        pen.ellipse(76, 76, r, r, shade(shell, tone), outline=3)


def _mouse(pen: Pen, state: MonsterState) -> None:
    grey: Colour = (150, 150, 160)
    pen.line([(100, 112), (116, 100), (124, 112 - 2 * _step(state))], (230, 160, 160), 6)
    for x in (44, 88):
        pen.ellipse(x - _step(state), 122, 12, 6, (230, 160, 160))
    pen.ellipse(66, 96, 46, 28, grey, outline=3)
    pen.ellipse(58, 66, 17, 17, grey, outline=3)
    pen.ellipse(58, 66, 9, 9, (230, 170, 170))
    pen.polygon([(38, 80), (4, 104), (40, 116)], grey)
    pen.ellipse(8, 102, 7, 7, (220, 110, 120))
    pen.eye(36, 90, 8, dead=state == "dead")


def _slime_blue(pen: Pen, state: MonsterState) -> None:
    blue: Colour = (90, 150, 230)
    wide, top = (60, 66) if state == "move" else (50, 52)
    pen.ellipse(64, 104, wide, 24, blue, outline=3)
    pen.ellipse(64, 92, wide * 0.8, 92 - top, blue, outline=3)
    pen.ellipse(64, 104, wide - 4, 20, blue)
    pen.ellipse(84, 76, 8, 5, shade(blue, 1.6))
    for x in (42, 66):
        pen.eye(x, 88, 9, dead=state == "dead")


def _slime_block(pen: Pen, state: MonsterState) -> None:
    green: Colour = (110, 190, 90)
    lean = _step(state)
    pen.polygon([(16 - lean, 44), (108 - lean, 44), (116, 126), (10, 126)], green, outline=5)
    pen.polygon(
        [(22 - lean, 50), (102 - lean, 50), (104 - lean, 64), (20 - lean, 64)], shade(green, 1.4)
    )
    for x in (40, 72):
        pen.eye(x - lean, 84, 12, dead=state == "dead")
    pen.line([(40, 110), (76, 110)], shade(green, 0.45), 5)


def _bee(pen: Pen, state: MonsterState) -> None:
    yellow: Colour = (250, 206, 60)
    wing_y = 60 if state == "move" else 34
    for x in (64, 88):
        pen.ellipse(x, wing_y, 14, 24, (216, 236, 250), outline=3)
    pen.polygon([(106, 72), (126, 80), (106, 88)], _INK)
    pen.ellipse(68, 80, 46, 32, yellow, outline=4)
    for x, half in ((70, 29), (90, 25)):
        pen.box((x, 80 - half, x + 9, 80 + half), _INK, radius=4)
    pen.eye(40, 74, 11, dead=state == "dead")
    pen.line([(32, 92), (42, 96)], _INK, 4)


def _saw(pen: Pen, state: MonsterState) -> None:
    steel: Colour = (190, 196, 206)
    turn = math.pi / 10 if state == "move" else 0
    teeth = [
        (64 + r * math.cos(a), 126 - r * math.sin(a))
        for i in range(21)
        for r, a in [((58 if i % 2 else 46), math.pi * i / 20 + turn * (i not in (0, 20)))]
    ]
    pen.polygon([(x, min(y, 127)) for x, y in teeth], steel, outline=3)
    pen.pie(64, 126, 34, (180, 360), shade(steel, 0.8))
    pen.pie(64, 126, 14, (180, 360), (200, 70, 60) if state == "dead" else _INK)


def _barnacle(pen: Pen, state: MonsterState) -> None:
    purple: Colour = (150, 110, 180)
    pen.polygon([(10, 126), (30, 60), (98, 60), (118, 126)], purple, outline=4)
    gape = 20 if state == "move" else 12
    pen.ellipse(64, 62, 38, gape, _INK)
    for x in (38, 56, 74, 92):
        pen.polygon([(x - 8, 62), (x + 8, 62), (x, 62 - gape - 14)], (250, 246, 230), outline=2)
    for x in (48, 80):
        pen.eye(x, 98, 10, dead=state == "dead")


def _frog(pen: Pen, state: MonsterState) -> None:
    green: Colour = (90, 170, 80)
    stretch = 14 if state == "move" else 0
    for x in (28, 100):
        pen.ellipse(x, 116, 22, 10, shade(green, 0.8), outline=3)
    pen.ellipse(64, 94 - stretch, 48, 30 + stretch * 0.6, green, outline=4)
    pen.ellipse(60, 104 - stretch, 30, 14, shade(green, 1.6))
    for x in (36, 72):
        pen.ellipse(x, 62 - stretch, 17, 17, green, outline=3)
        pen.eye(x, 60 - stretch, 11, dead=state == "dead")
    pen.line([(24, 90 - stretch), (52, 98 - stretch)], shade(green, 0.4), 4)


_MONSTERS: dict[str, Callable[[Pen, MonsterState], None]] = {
    "wormPink": _worm,
    "ladybug": _ladybug,
    "snail": _snail,
    "mouse": _mouse,
    "slimeBlue": _slime_blue,
    "slimeBlock": _slime_block,
    "bee": _bee,
    "sawHalf": _saw,
    "barnacle": _barnacle,
    "frog": _frog,
}
