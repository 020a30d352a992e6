"""`tasks-service stdio`: serve MCP on standard input and output, for desktop hosts."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import click

from ..domain.errors import ConfigurationError, TasksServiceError
from ..frontend.app import FrontEnd
from ..frontend.stdio import opened
from ..local.child_process import ManagedProcess
from ..local.procfile import environment
from ..local.redis_server import START_SECONDS, address
from ..settings import Settings
from .application import app_option, load_service
from .back_end import ALL_STOP_SECONDS
from .own_processes import queues_option

#: Seconds between two checks whether the back end still runs.
CHECK_SECONDS = 0.5


@click.command()
@app_option
@queues_option
def stdio(app: str, queues: tuple[str, ...]) -> None:
    """Serve MCP on stdin and stdout, for a desktop host.

    Without TASKS_REDIS_URL it brings its own Redis, worker and beat, or shares those of another such process
    with the same TASKS_DATA_DIR; on a Celery app of your own they take the tools' queues only. With it, it is
    a front end of that deployment. Logs go to stderr.
    """
    source, sink = _take_standard_streams()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    settings = Settings()
    back_end = None
    wanted = ["--queues", ",".join(queues)] if queues else []
    if settings.redis_url is None:
        url = address(settings.data_dir)
        back_end = ManagedProcess(
            [sys.executable, "-m", "tasks_service", "back-end", "--app", app, *wanted],
            env=environment({}),
            grace=ALL_STOP_SECONDS,
        )
        os.environ["TASKS_REDIS_URL"] = url
    service = load_service(app)
    front_end = service.asgi()
    asyncio.run(_serve(front_end, service.settings, source, sink, back_end))
    sys.stderr.flush()
    # A thread that still runs an author's code must not delay the host. The back end ends with this process.
    os._exit(0)


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


def _take_standard_streams() -> tuple[int, int]:
    """Reserve stdin and stdout for the protocol; other output, our children's too, goes to stderr."""
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return source, sink
