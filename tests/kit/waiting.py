"""How tests wait: for a condition, never for a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

from redis.exceptions import RedisError

PATIENCE = 120.0
"""Seconds until a test gives up: much, because a busy machine takes ten for what else takes one."""

Value = TypeVar("Value")


def wait_until(
    condition: Callable[[], Value], what: str | Callable[[], str] = "", seconds: float = PATIENCE
) -> Value:
    """Wait for something to come true; what it was.

    Args:
        condition: Asked again and again. A Redis that does not answer may do so later.
        what: What is waited for, or what tells why it has not come: a process's log.
        seconds: Until the test fails.
    """
    give_up, trouble = time.monotonic() + seconds, None
    while True:
        try:
            if value := condition():
                return value
        except RedisError as error:
            trouble = error
        if time.monotonic() > give_up:
            raise AssertionError(
                f"waited {seconds} s in vain until {what if isinstance(what, str) else what()}"
            ) from trouble
        time.sleep(0.01)


def quickest(action: Callable[[], float], enough: float, *, seconds: float = 60.0) -> float:
    """The least of what something took, tried again until it is little enough.

    For promises about time: a busy machine makes a single try as slow as it likes, but not each of them. It
    is tried five times at least, and more often while there is time.
    """
    least, tries, give_up = math.inf, 0, time.monotonic() + seconds
    while least >= enough and (tries < 5 or time.monotonic() < give_up):
        least, tries = min(least, action()), tries + 1
    return least
