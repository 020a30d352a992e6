"""The colours of a picture: a palette by the points' counts, and light that falls on the slope."""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from .escape import Escape

STEPS = 4096
"""The number of colours of a palette; neighbours cannot be distinguished."""

LIGHT = cmath.rect(1, math.radians(135))
"""The direction of the light: from the upper left."""

LIGHT_HEIGHT = 1.6
"""The height of the light; a lower one makes the relief stronger."""

AMBIENT = 0.25
"""The brightness in full shade."""

EVENNESS = 0.75
"""An exponent; below 1, colours change faster at the beginning of the palette."""

INSIDE = (4, 4, 12)
"""The colour of the set itself."""

Colour = tuple[int, int, int]


class Palette(StrEnum):
    """The palettes, by name."""

    EMBER = "ember"
    GLACIER = "glacier"
    LAGOON = "lagoon"
    DUSK = "dusk"


_STOPS: dict[Palette, Sequence[str]] = {
    Palette.EMBER: ("0b0716", "3b0f3f", "8c1c3a", "d9482b", "f7a340", "fdeec2", "c98a4b", "4a1a3c"),
    Palette.GLACIER: ("020b24", "0b3a7a", "2f86c6", "a6dcef", "fbfdf7", "e9c46a", "8a5a2b", "1a1530"),
    Palette.LAGOON: ("04141f", "06414f", "0b8a84", "6fd6a8", "f3fbd0", "f2b56b", "a8455a", "2a1540"),
    Palette.DUSK: ("0d0a26", "2c1f6b", "6b3fa0", "c55a9b", "f59a86", "fde7c0", "7fa3c9", "27305f"),
}


class Range(NamedTuple):
    """The range of counts that the palette covers, as logarithms."""

    low: float
    high: float


def find_range(counts: Iterable[float]) -> Range:
    """Choose the range for a picture, so that every zoom uses the whole palette.

    Args:
        counts: The counts of the points that escape; may be empty.
    """
    logarithms = sorted(map(_logarithm, counts))
    if not logarithms:
        return Range(0.0, 1.0)
    low = logarithms[len(logarithms) // 500]
    high = logarithms[-1 - len(logarithms) // 500]
    return Range(low, max(high, low + 0.5))


def _logarithm(count: float) -> float:
    return math.log(max(count, 0.0) + 2.0)


class Painter:
    """Computes the colours of one picture's points.

    Args:
        palette: The palette.
        range_: The range of counts that it covers.
    """

    def __init__(self, palette: Palette, range_: Range) -> None:
        self._colours = _gradient(_STOPS[palette])
        self._low = range_.low
        self._step = STEPS / (range_.high - range_.low)

    def paint(self, point: Escape | None) -> Colour:
        """The colour of a point."""
        if point is None:
            return INSIDE
        position = int((_logarithm(point.count) - self._low) * self._step)
        red, green, blue = self._colours[max(0, min(position, STEPS - 1))]
        facing = point.slope.real * LIGHT.real + point.slope.imag * LIGHT.imag + LIGHT_HEIGHT
        light = AMBIENT + (1 - AMBIENT) * max(facing / (1 + LIGHT_HEIGHT), 0.0)
        return round(red * light), round(green * light), round(blue * light)


def mean_colour(colours: Sequence[Colour]) -> Colour:
    """The mean of the colours of several points."""
    reds, greens, blues = zip(*colours, strict=True)
    n = len(colours)
    return round(sum(reds) / n), round(sum(greens) / n), round(sum(blues) / n)


def _gradient(stops: Sequence[str]) -> list[Colour]:
    anchors = [tuple(bytes.fromhex(stop)) for stop in stops]
    colours = []
    for step in range(STEPS):
        # Most of a picture is far from the set; the exponent gives it more than the darkest colours.
        anchor, fraction = divmod((step / STEPS) ** EVENNESS * (len(anchors) - 1), 1)
        # Smoothstep: the gradient has no kink at a stop.
        weight = fraction * fraction * (3 - 2 * fraction)
        here, there = anchors[int(anchor)], anchors[int(anchor) + 1]
        red, green, blue = (round(a + (b - a) * weight) for a, b in zip(here, there, strict=True))
        colours.append((red, green, blue))
    return colours
