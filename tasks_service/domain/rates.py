"""Rates: how often callers may do what, over all front ends. What exceeds one is refused, and not recorded.

A rate is a number in a window of time, which begins with the first that is counted in it. So a caller who has
been quiet may do all of a window's number at once; one who was refused gets it in slices for as long as they
do not heed that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from .errors import QuotaExceeded


class Counted(StrEnum):
    """What is counted."""

    CALLS = "calls"
    """Tasks that an owner creates, by calls of tools."""
    LOOKUPS = "lookups"
    """Tasks that an owner asks for, and that are not there."""
    SESSIONS = "sessions"
    """Sessions that an owner begins."""
    SUBSCRIPTIONS = "subscriptions"
    """Resources that sessions of an owner subscribe to."""
    POLLS = "polls"
    """Polls of one task; by each front end for itself, with regard to what its clients were told."""


_NAMES = {
    Counted.CALLS: ("calls of one owner", "calls"),
    Counted.LOOKUPS: ("look-ups of one owner that found no task", "look-ups"),
    Counted.SESSIONS: ("new sessions of one owner", "sessions"),
    Counted.SUBSCRIPTIONS: ("new subscriptions of one owner", "subscriptions"),
    Counted.POLLS: ("polls of one task", "polls"),
}


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something may be done.

    Attributes:
        number: In a window.
        window_ms: How long a window is.
        setting: What the operator raises to allow more; empty if nothing does.
    """

    number: int
    window_ms: int
    setting: str = ""


Rates = Mapping[Counted, Rate]

NO_RATES: Rates = {}
"""Where there is one caller only, who would wait for nobody but themselves."""


class RateExceeded(QuotaExceeded):
    """A caller has done something more often than may be; nothing was recorded.

    Attributes:
        counted: What.
    """

    def __init__(self, counted: Counted, rate: Rate, *, actual: int, retry_after_ms: int) -> None:
        what, things = _NAMES[counted]
        super().__init__(
            what,
            maximum=rate.number,
            actual=actual,
            unit=f"{things} within {rate.window_ms / 1000:g} seconds",
            setting=rate.setting,
            until=f"{-(-retry_after_ms // 1000)} seconds have passed",
            retry_after_ms=retry_after_ms,
        )
        self.counted = counted
