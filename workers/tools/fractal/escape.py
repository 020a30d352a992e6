"""The Mandelbrot set: how soon a point escapes, and which way the ground slopes there."""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

BAILOUT = 100.0
"""Distance at which a point has escaped: far out, so that the smooth count has no visible steps."""

STRIDE = 6
"""Iterations between two looks at the distance: from `BAILOUT`, six squarings stay within a float."""


@dataclass(frozen=True, slots=True)
class Escape:
    """How a point escapes.

    Attributes:
        count: Iterations, with a fraction that makes it continuous (Vepstas' renormalised count).
        slope: Direction of the steepest ascent of the potential, of length 1.
    """

    count: float
    slope: complex


def escape(c: complex, max_iterations: int) -> Escape | None:
    """Iterate z -> z*z + c, with its derivative.

    Args:
        c: The point.
        max_iterations: When to take it for a point of the set.

    Returns:
        How it escapes; None for a point of the set.
    """
    if _in_cardioid_or_disc(c):
        return None
    z = derivative = 0j
    # A point of the set ends in a cycle; meeting an old z again proves it long before the last iteration.
    landmark, next_landmark = z, STRIDE
    for n in range(0, max_iterations, STRIDE):
        start = z, derivative
        # Written out, because the loop around it would cost as much again.
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
