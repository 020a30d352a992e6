"""The clock of a test: it stands still unless the test, a sleep or a retry moves it."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Follower(Protocol):
    """Somebody for whom something falls due."""

    def next_due_ms(self) -> int | None:
        """When the next thing falls due, in milliseconds since the epoch; None: nothing does."""

    def time_has_passed(self) -> None:
        """The clock was moved: do what is due."""


class Clock:
    """A clock that is moved by hand, for one run or for several.

    Args:
        start: Where it begins, with a time zone; by default the time of the machine.

    Raises:
        ValueError: `start` has no time zone.
    """

    def __init__(self, start: datetime | None = None) -> None:
        moment = datetime.now(UTC) if start is None else start
        if moment.tzinfo is None:
            raise ValueError(f"Clock: {moment!r} has no time zone; write datetime(2030, 1, 1, tzinfo=UTC)")
        self._now_ms = round(moment.timestamp() * 1000)
        self._followers: list[Follower] = []

    @property
    def now(self) -> datetime:
        """What it says, in UTC."""
        return datetime.fromtimestamp(self._now_ms / 1000, UTC)

    @property
    def now_ms(self) -> int:
        """What it says, in milliseconds since the epoch."""
        return self._now_ms

    def advance(self, duration: timedelta | float) -> None:
        """Move it on; what falls due meanwhile happens at its own time, in order.

        Called by a tool, or by what a tool calls, it is how long that takes: an attempt that has taken longer
        than the tool's `timeout` is told so at its next call on the context.

        Args:
            duration: A timedelta, or seconds.

        Raises:
            ValueError: It is negative.
        """
        seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
        if seconds < 0:
            raise ValueError(f"Clock.advance: {duration!r}: time does not go back")
        self.move_to(self._now_ms + math.ceil(seconds * 1000))

    def move_to(self, at_ms: int) -> None:
        """See `advance`; to a moment, in milliseconds since the epoch."""
        while (due_ms := self._next_due_ms(at_ms)) is not None:
            self._set(due_ms)
        self._set(at_ms)

    def follow(self, follower: Follower) -> None:
        """Tell somebody from now on when it is moved."""
        self._followers.append(follower)

    def _next_due_ms(self, until_ms: int) -> int | None:
        moments = (follower.next_due_ms() for follower in self._followers)
        return min((at for at in moments if at is not None and self._now_ms < at < until_ms), default=None)

    def _set(self, at_ms: int) -> None:
        self._now_ms = max(at_ms, self._now_ms)
        for follower in list(self._followers):
            follower.time_has_passed()

    # --- for the engine -----------------------------------------------------------------------------------

    def monotonic(self) -> float:
        """See `durable.clock.Clock.monotonic`."""
        return self._now_ms / 1000

    def sleep(self, seconds: float) -> None:
        """See `durable.clock.Clock.sleep`: moves the clock, and takes no time."""
        self.advance(max(seconds, 0))

    async def sleep_async(self, seconds: float) -> None:
        """See `durable.clock.Clock.sleep_async`: moves the clock, and lets other coroutines run once."""
        self.advance(max(seconds, 0))
        await asyncio.sleep(0)
