"""A pen for drawing small smooth pictures with Pillow: shapes with an outline, in sprite units."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

_OUTLINE = 3  # units


def shade(colour: Colour, factor: float) -> Colour:
    """Darken (factor < 1) or lighten (factor > 1, towards white) a colour.

    Args:
        colour: red, green, blue in [0, 255].
        factor: in [0, 2].

    Returns:
        The new colour.
    """
    if factor <= 1:
        red, green, blue = (round(channel * factor) for channel in colour)
    else:
        red, green, blue = (round(c + (255 - c) * (factor - 1)) for c in colour)
    return red, green, blue


class Pen:
    """Draws on a transparent canvas; lengths are units, of which the canvas is width x height."""

    def __init__(self, width: int, height: int, *, oversampling: int = 4) -> None:
        """Start with nothing drawn.

        Args:
            width: units, and pixels of the finished picture.
            height: units, and pixels of the finished picture.
            oversampling: pixels a unit while drawing; edges get smoother and drawing slower.
        """
        self._size = (width, height)
        self._scale = oversampling
        self._image = Image.new("RGBA", (width * oversampling, height * oversampling))
        self._draw = ImageDraw.Draw(self._image)

    def finish(self) -> Image.Image:
        """Give the picture, RGBA."""
        return self._image.resize(self._size, Image.Resampling.BOX)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, colour: Colour, outline: float = 0
    ) -> None:
        """Fill an ellipse around (x, y); ``outline`` units of a darker rim."""
        self._draw.ellipse(
            self._scaled([(x - rx, y - ry), (x + rx, y + ry)]),
            fill=colour,
            outline=shade(colour, 0.5) if outline else None,
            width=round(outline * self._scale),
        )

    def box(
        self,
        corners: tuple[float, float, float, float],
        colour: Colour,
        radius: float = 0,
        outline: float = 0,
    ) -> None:
        """Fill a rectangle (left, top, right, bottom) with rounded corners."""
        left, top, right, bottom = corners
        self._draw.rounded_rectangle(
            self._scaled([(left, top), (right, bottom)]),
            radius=radius * self._scale,
            fill=colour,
            outline=shade(colour, 0.5) if outline else None,
            width=round(outline * self._scale),
        )

    def polygon(self, points: Sequence[Point], colour: Colour, outline: float = 0) -> None:
        """Fill a polygon."""
        self._draw.polygon(self._scaled(points), fill=colour)
        if outline:
            self.line([*points, points[0]], shade(colour, 0.5), outline)

    def line(self, points: Sequence[Point], colour: Colour, width: float = _OUTLINE) -> None:
        """Draw a line with round joints and ends."""
        self._draw.line(
            self._scaled(points), fill=colour, width=round(width * self._scale), joint="curve"
        )
        for x, y in (points[0], points[-1]):
            self.ellipse(x, y, width / 2, width / 2, colour)

    def pie(
        self, x: float, y: float, r: float, degrees: tuple[float, float], colour: Colour
    ) -> None:
        """Fill a sector of a circle, degrees clockwise from three o'clock."""
        box = self._scaled([(x - r, y - r), (x + r, y + r)])
        self._draw.pieslice(box, degrees[0], degrees[1], fill=colour)

    def erase(self, x: float, y: float, rx: float, ry: float) -> None:
        """Make an ellipse transparent again."""
        self._draw.ellipse(self._scaled([(x - rx, y - ry), (x + rx, y + ry)]), fill=(0, 0, 0, 0))

    def eye(self, x: float, y: float, r: float, *, dead: bool, look: float = -0.3) -> None:
        """Draw an eye that looks aside, or a cross where the owner is dead."""
        if dead:
            for way in (-1, 1):
                ends = [(x - r * 0.7, y - way * r * 0.7), (x + r * 0.7, y + way * r * 0.7)]
                self.line(ends, (40, 30, 30), r * 0.45)
            return
        self.ellipse(x, y, r, r, (255, 255, 255), outline=1.5)
        self.ellipse(x + look * r, y, r * 0.5, r * 0.5, (30, 30, 40))

    def _scaled(self, points: Sequence[Point]) -> list[Point]:
        return [(x * self._scale, y * self._scale) for x, y in points]
