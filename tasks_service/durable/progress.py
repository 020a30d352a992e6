"""What a tool says of its progress, made into what can be recorded and sent."""

from __future__ import annotations

import math
import operator
from typing import Any

from ..domain.limits import valid_text
from ..domain.task import Progress


def progress_of(current: Any, total: Any, message: Any) -> Progress:
    """A report of progress.

    Args:
        current: A number of any kind: `int`, `float`, `Decimal`, `Fraction`, one of NumPy.
        total: Another, or None.
        message: Anything that `str` makes a sentence of, or None.

    Raises:
        TypeError: One is no number.
        ValueError: A number is NaN, infinite, or larger than a float can be.
    """
    return Progress(
        current=finite("current", current),
        total=None if total is None else finite("total", total),
        message=None if message is None else valid_text(str(message)),
    )


def finite(what: str, value: Any) -> float:
    """A number that JSON can write; whole numbers stay whole.

    Raises:
        TypeError: It is no number.
        ValueError: It is NaN, infinite, or larger than a float can be.
    """
    try:
        number = _number(value)
        if math.isfinite(number):
            return number
    except (OverflowError, ValueError):  # what a Decimal has of its own: sNaN
        pass
    except TypeError:
        raise TypeError(f"progress: {what}: expected a number, not {type(value).__name__}") from None
    raise ValueError(f"progress: {what}: expected a finite number, not {value!r}")


def _number(value: Any) -> float:
    if hasattr(type(value), "__index__"):
        return operator.index(value)
    if not hasattr(type(value), "__float__"):
        raise TypeError
    return float(value)
