"""The time that a running tool sees: this machine's, or, in an author's tests, one that is moved by hand."""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol


class Clock(Protocol):
    """Measures the time of an attempt, and waits."""

    def monotonic(self) -> float:
        """Seconds since some moment; never less than before."""

    def sleep(self, seconds: float) -> None:
        """Wait that many seconds."""

    async def sleep_async(self, seconds: float) -> None:
        """Wait that many seconds, and let other coroutines run meanwhile."""


class SystemClock:
    """The clock of this machine."""

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        time.sleep(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """See `Clock.sleep_async`."""
        await asyncio.sleep(seconds)


SYSTEM_CLOCK: Final[Clock] = SystemClock()
