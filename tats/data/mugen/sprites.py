"""Sprite files of a MUGEN game: where each lies, how it is loaded, sized, mirrored and kept.

The folder layout is that of Kenney's sprite packs as MUGEN uses them. Without a folder the
pictures come from ``tats.data.mugen.drawn``, which answers to the same names.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from tats.data.mugen.drawn import draw, drawn_agent_themes
from tats.errors import UserError

GROUND_FILES = {"A": "Center", "S": "Mid", "a": "Cliff_left", "b": "Cliff_right"}
TILE_FILES = {
    "#": "kenney/Tiles/boxCrate.png",
    "$": "kenney/Tiles/boxCrate_double.png",
    "&": "kenney/Tiles/boxCrate_single.png",
    "%": "kenney/Tiles/boxCrate_warning.png",
    "|": "kenney/Tiles/lava.png",
    "^": "kenney/Tiles/lavaTop_low.png",
    "=": "kenney/Tiles/ladderMid.png",
    "1": "kenneyLarge/Items/coinGold.png",
    "2": "kenneyLarge/Items/gemRed.png",
}
LAVA = "|^"
SHIELD_FILE = "bubble_shield.png"
_ENEMIES = "kenneyLarge/Enemies"
_PLAYERS = "kenneyLarge/Players/128x256_no_helmet"
_OPAQUE = 255
# Backgrounds are megabytes each and a data set has dozens; everything else is small.
_N_KEPT_BACKGROUNDS = 8
_N_KEPT_SPRITES = 4096

Size = tuple[int, int]


class Sprite(NamedTuple):
    """A picture as it is loaded: file, size and direction.

    ``size`` (width, height) is None where the file's own size is kept.
    """

    path: str
    size: Size | None
    mirrored: bool = False


class SpriteSheet:
    """Loads sprites once and keeps them, and their resized copies, for the next frames."""

    def __init__(self, assets: str | Path | None = None) -> None:
        """Choose where sprites come from.

        Args:
            assets: folder of the user's sprite files; None means the drawn ones.

        Raises:
            UserError: the folder is not there.
        """
        self._root = None if assets is None else Path(assets)
        if self._root is not None and not self._root.is_dir():
            raise UserError(
                f"--coinrun_assets {assets} is not a folder; expected the root of the sprite "
                "files (it holds kenney/ and kenneyLarge/); leave the flag out for drawn sprites"
            )
        keep_some = functools.lru_cache(maxsize=_N_KEPT_SPRITES)
        self.background = functools.lru_cache(maxsize=_N_KEPT_BACKGROUNDS)(self._background)
        self.aspect = keep_some(self._aspect)
        self.picture = keep_some(self._picture)
        self.mask = keep_some(self._mask)
        self._load = keep_some(self._load_sprite)

    def __reduce__(self) -> tuple[type[SpriteSheet], tuple[Path | None]]:
        # Another process fills its own caches.
        return SpriteSheet, (self._root,)

    def agent_themes(self) -> list[str]:
        """Colours the agent can be drawn in, sorted.

        Raises:
            UserError: the user's folder has no agent.
        """
        if self._root is None:
            return drawn_agent_themes()
        stands = self._root.glob(f"{_PLAYERS}/*/alien*_stand.png")
        themes = sorted({stand.parent.name for stand in stands})
        if not themes:
            raise UserError(
                f"--coinrun_assets {self._root} has no agent; expected {_PLAYERS}/COLOUR/"
                "alienCOLOUR_stand.png and its other poses"
            )
        return themes

    def _background(self, path: str, side: int) -> Image.Image:
        """Background as RGB, ``side`` pixels square."""
        return self._read(path).resize((side, side)).convert("RGB")

    def _aspect(self, path: str) -> float:
        """Height over width of a sprite's file."""
        width, height = self._read(path).size
        return height / width

    def _picture(self, sprite: Sprite, size: Size, columns: Size | None = None) -> Image.Image:
        """Sprite as RGBA in the size it is drawn, cut to columns [first, stop) beforehand."""
        image = self._cut(sprite, columns)
        return image if image.size == size else image.resize(size)

    def _mask(self, sprite: Sprite, size: Size, columns: Size | None = None) -> Image.Image:
        """Sprite's silhouette (mode L, 0 or 255) in the size it is drawn."""
        alpha = self._cut(sprite, columns).getchannel("A")
        return alpha if alpha.size == size else alpha.resize(size, Image.Resampling.NEAREST)

    def _cut(self, sprite: Sprite, columns: Size | None) -> Image.Image:
        image = self._load(sprite)
        if columns is None:
            return image
        first, stop = columns
        return image.crop((first, 0, stop, image.height))

    def source_width(self, sprite: Sprite) -> int:
        """Width in pixels of a sprite as loaded."""
        return self._load(sprite).width

    def _load_sprite(self, sprite: Sprite) -> Image.Image:
        image = self._read(sprite.path).convert("RGBA")
        if sprite.size is not None:
            image = image.resize(sprite.size)
        if sprite.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        # The published renderer has no half-transparent sprites: map and picture must agree.
        image.putalpha(image.getchannel("A").point(lambda alpha: _OPAQUE if alpha else 0))
        return image

    def _read(self, path: str) -> Image.Image:
        if self._root is None:
            return draw(path)
        file = self._root / path
        # Not every monster has a picture for each of its states.
        if not file.is_file() and "_" in file.stem:
            file = file.with_stem(file.stem.rsplit("_", 1)[0])
        try:
            with Image.open(file) as image:
                image.load()
                return image
        except FileNotFoundError as error:
            raise UserError(
                f"--coinrun_assets {self._root} has no file {path}; expected MUGEN's sprite "
                "files; leave the flag out for drawn sprites"
            ) from error
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(f"sprite file {file} cannot be read as a picture: {error}") from error


def ground_file(theme: str, cell: str) -> str:
    """Path of a ground cell's sprite.

    Args:
        theme: ground theme, for example ``Planet``.
        cell: one of ``ASab``.

    Returns:
        Path under the assets' root.
    """
    return f"kenney/Ground/{theme}/{theme.lower()}{GROUND_FILES[cell]}.png"


def monster_file(sprite_name: str) -> str:
    """Path of a monster's sprite.

    Args:
        sprite_name: name and state, for example ``bee_move``.

    Returns:
        Path under the assets' root.
    """
    return f"{_ENEMIES}/{sprite_name}.png"


def agent_file(theme: str, pose: str) -> str:
    """Path of the agent's sprite.

    Args:
        theme: agent theme, for example ``Yellow``.
        pose: for example ``walk1``.

    Returns:
        Path under the assets' root.
    """
    return f"{_PLAYERS}/{theme}/alien{theme}_{pose}.png"
