"""The iteration of the Mandelbrot set: how soon a point escapes, and the slope of the potential there."""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

BAILOUT = 100.0
"""The distance at which a point has escaped; large, so that the smooth count has no visible steps."""

STRIDE = 6
"""Iterations between two checks of the distance: from `BAILOUT`, six squarings stay within a float."""


@dataclass(frozen=True, slots=True)
class Escape:
    """The escape of a point.

    Attributes:
        count: The number of iterations, with a fraction that makes it continuous (Vepstas' renormalised
            count).
        slope: The direction of the steepest ascent of the potential, of length 1.
    """

    count: float
    slope: complex


def escape(c: complex, max_iterations: int) -> Escape | None:
    """Iterate z -> z*z + c, with its derivative.

    Args:
        c: The point.
        max_iterations: The iterations after which it counts as a point of the set.

    Returns:
        Its escape; None for a point of the set.
    """
    if _in_cardioid_or_disc(c):
        return None
    z = derivative = 0j
    # A point of the set ends in a cycle; an earlier z that comes again proves it before the last iteration.
    landmark, next_landmark = z, STRIDE
    for n in range(0, max_iterations, STRIDE):
        start = z, derivative
        # Unrolled, because a loop would take twice as long.
        derivative = (z + z) * derivative + 1.0
        z = z * z + c
        derivative = (z + z) * derivative + 1.0
        z = z * z + c
        derivative = (z + z) * derivative + 1.0
        z = z * z + c
        derivative = (z + z) * derivative + 1.0
        z = z * z + c
        derivative = (z + z) * derivative + 1.0
        z = z * z + c
        derivative = (z + z) * derivative + 1.0
        z = z * z + c
        if abs(z) > BAILOUT:
            return _first_outside(*start, c, n)
        if z == landmark:
            return None
        if n >= next_landmark:
            landmark, next_landmark = z, 2 * n
    return None


def _first_outside(z: complex, derivative: complex, c: complex, n: int) -> Escape:
    while abs(z) <= BAILOUT:
        derivative = (z + z) * derivative + 1.0
        z = z * z + c
        n += 1
    slope = z / derivative
    return Escape(n - math.log2(math.log(abs(z))), slope / abs(slope))


def _in_cardioid_or_disc(c: complex) -> bool:
    if abs(c + 1) <= 0.25:
        return True
    root = cmath.sqrt(1 - 4 * c)
    return abs(1 - root) <= 1
