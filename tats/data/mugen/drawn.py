"""Our own sprite set: answers to the file names of MUGEN's sprite folder with drawn pictures."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import get_args

from PIL import Image

from tats.data.mugen.drawn_figures import AGENT_COLOURS, MonsterState, draw_agent, draw_monster
from tats.data.mugen.drawn_level import (
    draw_background,
    draw_coin,
    draw_crate,
    draw_gem,
    draw_ground,
    draw_ladder,
    draw_lava,
    draw_shield,
)
from tats.errors import UserError


def draw(path: str) -> Image.Image:
    """Draw the picture that stands for a sprite file.

    Args:
        path: path under the assets' root, for example ``kenneyLarge/Items/gemRed.png``. A path
            that is no known sprite is taken for a background.

    Returns:
        The picture, RGBA; backgrounds RGB.

    Raises:
        UserError: a monster of that name has no drawing.
    """
    *folders, _ = parts = PurePosixPath(path).parts
    name = PurePosixPath(path).stem
    if path in _SINGLE:
        return _SINGLE[path]()
    if folders[:2] == ["kenney", "Ground"] and len(parts) == 4:
        return draw_ground(folders[2], name.removeprefix(folders[2].lower()))
    if folders == ["kenney", "Tiles"] and name.startswith("boxCrate"):
        return draw_crate(name)
    if folders[:2] == ["kenneyLarge", "Players"]:
        return draw_agent(folders[-1], name.rsplit("_", 1)[1])
    if folders == ["kenneyLarge", "Enemies"]:
        return _draw_enemy(name)
    return draw_background(path)


def drawn_agent_themes() -> list[str]:
    """Colours the agent is drawn in, sorted."""
    return sorted(AGENT_COLOURS)


def _draw_enemy(sprite_name: str) -> Image.Image:
    name, _, suffix = sprite_name.partition("_")
    state: MonsterState = "rest"
    for known in get_args(MonsterState):
        if suffix == known:
            state = known
    image = draw_monster(name, state)
    if image is None:
        raise UserError(
            f"there is no drawn sprite for the monster {name!r}; pass --coinrun_assets with a "
            "folder that has one"
        )
    return image


_SINGLE = {
    "kenney/Tiles/lava.png": lambda: draw_lava(surface=False),
    "kenney/Tiles/lavaTop_low.png": lambda: draw_lava(surface=True),
    "kenney/Tiles/ladderMid.png": draw_ladder,
    "kenneyLarge/Items/coinGold.png": draw_coin,
    "kenneyLarge/Items/gemRed.png": draw_gem,
    "bubble_shield.png": draw_shield,
}
