"""The end of a front end's waits when it stops: whoever waits is answered first, with what it can act on.

A wait that is ended raises `FrontEndStops`. What is answered then is up to whoever waited: a call that can be
handed over is answered with the text that names its task, as if it had waited long enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ...domain.errors import TasksServiceError


class FrontEndStops(TasksServiceError):
    """The front end stops before there is an answer; the client may send its request again at once.

    Args:
        may_have_recorded: Whether an execution was recorded for the request; it has been told that its caller
            left.
        is_kept: Whether the execution goes on for a caller that comes back with its idempotency key.

    Attributes:
        may_have_recorded: See the argument.
        retry_after_ms: After how long another front end, or the next process of this one, should answer.
    """

    def __init__(self, *, may_have_recorded: bool = False, is_kept: bool = False) -> None:
        what = "send the request again"
        if may_have_recorded:
            what = "the call was cancelled, and may be made again"
        if is_kept:
            what = "for the result, call again with the same idempotency key"
        super().__init__(f"This front end stops; {what}")
        self.may_have_recorded = may_have_recorded
        self.retry_after_ms = 1000


class Stopping:
    """Ends the waits of a front end, those that begin later included."""

    def __init__(self) -> None:
        self._over = False
        self._waits: set[asyncio.Timeout] = set()

    def end(self) -> None:
        """End all waits; to be called in the event loop."""
        self._over = True
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            wait.reschedule(now)

    @asynccontextmanager
    async def ends_wait(self) -> AsyncIterator[None]:
        """End what is awaited in the block when the front end stops.

        Raises:
            FrontEndStops: It did, and the block was left.
        """
        limit = asyncio.timeout(0 if self._over else None)
        try:
            async with limit:
                self._waits.add(limit)
                try:
                    yield
                finally:
                    self._waits.discard(limit)
        except TimeoutError:
            if limit.expired():
                raise FrontEndStops from None
            raise
