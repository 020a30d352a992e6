"""`tasks-service stdio`: serve MCP on standard input and output, for desktop hosts.

A host's user waits for the first call, and most of a start is importing. So what the longest way leads
through begins first: this module imports little and starts the back end, which imports little and starts
Redis and the worker; the front end is imported beside them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from ..extras import require_front_end_packages
from ..local.child_process import ManagedProcess
from ..local.procfile import environment
from ..local.redis_server import address
from .application import app_option, queues_option, settings_of
from .back_end import ALL_STOP_SECONDS


@click.command()
@app_option
@queues_option
def stdio(app: str, queues: tuple[str, ...]) -> None:
    """Serve MCP on stdin and stdout, for a desktop host.

    Without TASKS_REDIS_URL it brings its own Redis, worker and beat, or shares those of another such process
    with the same TASKS_DATA_DIR; on a Celery app of your own they take the tools' queues only. With it, it is
    a front end of that deployment. Logs go to stderr.
    """
    require_front_end_packages("`tasks-service stdio`")
    source, sink = _take_standard_streams()
    settings = settings_of("stdio")
    back_end = None
    if settings.redis_url is None:
        url = address(settings.data_dir)
        back_end = _start_back_end(app, queues, settings.data_dir, settings.log_format)
        os.environ["TASKS_REDIS_URL"] = url
    from .stdio_server import serve  # not at the top: the back end starts while this is imported

    serve(app, source, sink, back_end)
    sys.stderr.flush()
    # A thread that still runs an author's code must not delay the host. The back end ends with this process.
    os._exit(0)


def _start_back_end(app: str, queues: tuple[str, ...], data_dir: Path, log_format: str) -> ManagedProcess:
    options = ["--app", app, "--data-dir", str(data_dir), "--log-format", log_format]
    if queues:
        options += ["--queues", ",".join(queues)]
    return ManagedProcess(
        [sys.executable, "-m", "tasks_service", "back-end", *options],
        env=environment({}),
        grace=ALL_STOP_SECONDS,
    )


def _take_standard_streams() -> tuple[int, int]:
    """Reserve stdin and stdout for the protocol; other output, our children's too, goes to stderr."""
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return source, sink
