"""What `tasks-service stdio` is once its back end is starting: a front end at the other end of two pipes.

All that takes long to import is imported here, so that the back end starts beside it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from ..domain.errors import ConfigurationError, TasksServiceError
from ..frontend.app import FrontEnd
from ..frontend.stdio import opened
from ..local.child_process import ManagedProcess
from ..local.redis_server import START_SECONDS
from ..observability.formats import PROCESS
from ..settings import Settings
from .application import load_service

#: Seconds between two checks whether the back end still runs.
CHECK_SECONDS = 0.5


def serve(app: str, source: int, sink: int, back_end: ManagedProcess | None) -> None:
    """Serve a client until its input ends, or a signal comes.

    Args:
        app: Where the service is.
        source: The descriptor that the client writes to.
        sink: The descriptor that the client reads.
        back_end: The process that runs Redis and the worker; None: they run elsewhere.

    Raises:
        ConfigurationError: There is no such service, it cannot serve, or the back end has ended by itself.
    """
    service = load_service(app)
    PROCESS.service = service.name
    asyncio.run(_serve(service.asgi(), service.settings, source, sink, back_end))


async def _serve(
    front_end: FrontEnd, settings: Settings, source: int, sink: int, back_end: ManagedProcess | None
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    store_timeout = 0.0 if back_end is None else START_SECONDS
    async with opened(
        front_end, source=source, sink=sink, limits=settings.limits, store_timeout=store_timeout
    ) as front:
        guards = [
            asyncio.create_task(guard)
            for guard in (
                _stop_on_error(stop, _watch_back_end(back_end)),
                _stop_on_error(stop, front.refuse_unworkable()),
            )
        ]
        await front.run(stop)
        for guard in guards:
            guard.cancel()
        await asyncio.gather(*guards, return_exceptions=True)
    failed = [error for guard in guards if not guard.cancelled() and (error := guard.exception())]
    if failed:
        raise failed[0]


async def _stop_on_error(stop: asyncio.Event, guard: Coroutine[Any, Any, None]) -> None:
    """Stop serving if a guard finds an error."""
    try:
        await guard
    except TasksServiceError:
        stop.set()
        raise


async def _watch_back_end(back_end: ManagedProcess | None) -> None:
    """Wait until the back end ends by itself; raises `ConfigurationError` then."""
    status = None
    while status is None:
        await asyncio.sleep(CHECK_SECONDS)
        status = None if back_end is None else back_end.returncode
    raise ConfigurationError(f"The back end ended with exit status {status}; its last lines above say why.")
