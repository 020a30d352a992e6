"""The event loop that a worker process runs its async tools on.

One loop in one thread, started with the first async tool of the process, after any fork. A tool's pool slot
waits for its coroutine; so a pool of a hundred threads runs a hundred I/O-bound tools at once on one loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from .attempt import RunningAttempt

logger = logging.getLogger(__name__)


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
            if self._loop is None or self._loop.is_closed():
                self._loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=_run_for_ever, args=(self._loop,), name="tasks-service-loop", daemon=True
                )
                thread.start()
            return self._loop


def _run_for_ever(loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop whatever its callbacks do: all async tools of the process depend on it.

    asyncio lets a `SystemExit` or `KeyboardInterrupt` of a task that a tool has started through to here, and
    a tool may call `stop()`.
    """
    while not loop.is_closed():
        try:
            loop.run_forever()
        except BaseException:
            logger.exception("What an async tool has started ended with this; the event loop goes on")


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
