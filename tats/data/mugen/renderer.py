"""Frames and semantic maps of a recorded game.

``scene.placements`` says what lies where and in which order; here it is painted, once as colour
and once as labels. Source: MUGEN (Hayes et al., ECCV 2022), as the published code renders it.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from PIL import Image

from tats.data.mugen.game import Game
from tats.data.mugen.labels import map_labels
from tats.data.mugen.scene import LAYERS, Camera, Layer, Placement, background_places, placements
from tats.data.mugen.sprites import SpriteSheet
from tats.errors import UserError


class Renderer:
    """Paints frames and semantic maps; keeps its sprites, so one renderer serves many games."""

    def __init__(
        self, resolution: int, assets: str | Path | None = None, max_label: int = 18
    ) -> None:
        """Set the size and the look.

        Args:
            resolution: side of the square pictures, at least 1.
            assets: root of MUGEN's sprite files; None means the drawn ones.
            max_label: label set of the maps: 18, 21 or 22.

        Raises:
            UserError: a value is out of range, or the folder is not there.
        """
        if resolution < 1:
            raise UserError(f"--resolution {resolution} must be at least 1 pixel")
        self.resolution = resolution
        self._labels = map_labels(max_label)
        self._sheet = SpriteSheet(assets)

    def agent_themes(self) -> list[str]:
        """Colours the agent can be drawn in, sorted.

        Raises:
            UserError: the user's sprite folder has no agent.
        """
        return self._sheet.agent_themes()

    def frame(self, game: Game, i: int, layers: Collection[Layer] = LAYERS) -> np.ndarray:
        """Paint one frame.

        Args:
            game: the recorded game.
            i: frame number in [0, n_frames).
            layers: what to paint; all by default.

        Returns:
            uint8 (H, W, 3).

        Raises:
            UserError: a sprite is missing, or the game's zoom is unknown.
        """
        canvas = Image.new("RGB", (self.resolution, self.resolution))
        camera = Camera.at(game=game, frame=game.frames[i], resolution=self.resolution)
        if "background" in layers:
            self._paint_background(canvas, game, camera)
        for place in placements(game, game.frames[i], camera, self._sheet, layers):
            picture = self._sheet.picture(place.sprite, place.size, place.columns)
            if place.fade:
                canvas.paste(picture, (place.x, place.y), _faded_alpha(picture, place.fade))
            else:
                canvas.paste(picture, (place.x, place.y), picture)
        return np.array(canvas)  # (H, W, 3)

    def semantic_map(
        self,
        game: Game,
        i: int,
        agent_box: bool = False,
        monster_boxes: bool = False,
        layers: Collection[Layer] = LAYERS,
    ) -> np.ndarray:
        """Paint the labels of one frame; the background is label 0.

        Args:
            game: the recorded game.
            i: frame number in [0, n_frames).
            agent_box: fill the boxes of agent and shield instead of their silhouettes.
            monster_boxes: fill the monsters' boxes instead of their silhouettes.
            layers: what to paint; all by default.

        Returns:
            uint8 (H, W), labels in [0, max_label].

        Raises:
            UserError: a sprite is missing, or the game's zoom or a monster is unknown.
        """
        boxed = {"agent": agent_box, "shield": agent_box, "monsters": monster_boxes}
        canvas = Image.new("L", (self.resolution, self.resolution))
        camera = Camera.at(game=game, frame=game.frames[i], resolution=self.resolution)
        for place in placements(game, game.frames[i], camera, self._sheet, layers):
            label = self._label(place)
            if boxed.get(place.layer, False):
                width, height = place.size
                top = place.y + place.box_cut
                canvas.paste(label, (place.x, top, place.x + width, place.y + height))
            else:
                mask = self._sheet.mask(place.sprite, place.size, place.columns)
                canvas.paste(label, (place.x, place.y), mask)
        return np.array(canvas)  # (H, W)

    def _label(self, place: Placement) -> int:
        if place.thing not in self._labels:
            raise UserError(
                f"the game has a {place.thing!r}, which has no label on a semantic map; expected "
                f"one of {', '.join(self._labels)}"
            )
        return self._labels[place.thing]

    def _paint_background(self, canvas: Image.Image, game: Game, camera: Camera) -> None:
        for x, y, side in background_places(game, camera):
            canvas.paste(self._sheet.background(game.background, side), (x, y))


def _faded_alpha(picture: Image.Image, fade: int) -> Image.Image:
    return picture.getchannel("A").point(lambda alpha: max(alpha - fade, 0))
