"""The event loop that a worker process runs its async tools on.

One loop in one thread, started with the first async tool of the process, after any fork. A tool's pool slot
waits for its coroutine; so a pool of a hundred threads runs a hundred I/O-bound tools at once on one loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from .attempt import RunningAttempt


class AsyncLoop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, call: Callable[[], Awaitable[Any]], attempt: RunningAttempt) -> Any:
        """Run a coroutine to its end; a requested stop of the attempt cancels it.

        Args:
            call: Creates the awaitable, on the loop.
            attempt: The attempt whose body it is.

        Returns:
            What the coroutine returned.

        Raises:
            BaseException: What the coroutine raised.
        """
        loop = self._running()
        future = asyncio.run_coroutine_threadsafe(_settle(call, attempt, loop), loop)
        value, error = future.result()
        if error is not None:
            raise error
        return value

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=self._loop.run_forever, name="tasks-service-loop", daemon=True
                )
                thread.start()
            return self._loop


async def _settle(
    call: Callable[[], Awaitable[Any]], attempt: RunningAttempt, loop: asyncio.AbstractEventLoop
) -> tuple[Any, BaseException | None]:
    """Return the value or the error of the call; nothing is raised in the loop, which other tools share."""
    body = asyncio.current_task()
    if body is not None:

        def cancel() -> None:
            loop.call_soon_threadsafe(body.cancel)

        attempt.on_stop(cancel)
    try:
        return await call(), None
    except BaseException as error:
        return None, error
