"""`tasks-service back-end`: Redis, worker and beat for `tasks-service stdio`.

For each data directory one process at a time runs them: the one that started its Redis. Others wait; when the
first ends, for whatever reason, one of them starts Redis again on the same data.

A first call waits for the worker, so nothing else comes before it or beside it: the worker itself finds out
which queues it takes (`back-end-worker`), and this process is told what it needs of the settings, and loads
the service, to start beat, only later.
"""

from __future__ import annotations

import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..domain.errors import ConfigurationError, StoreUnavailable
from ..local.procfile import STOP_SECONDS, ProcessSpec, environment
from ..local.redis_server import STOP_SECONDS as REDIS_STOP_SECONDS
from ..local.redis_server import EmbeddedRedis
from ..local.supervisor import CHECK_SECONDS, Emit, Supervisor
from ..observability.formats import json_line
from ..observability.setup import log_to_stderr
from .application import app_option, load_service, open_store, queues_option

if TYPE_CHECKING:
    from ..service import TaskService

#: Seconds that the worker has for itself before beat is started. Workers do what beat asks for, too.
BEAT_AFTER_SECONDS = 5.0
#: Seconds between two checks whether the other process still runs Redis.
WAIT_SECONDS = 0.5
#: Seconds that everything may take to stop.
ALL_STOP_SECONDS = STOP_SECONDS["worker"] + REDIS_STOP_SECONDS + 5.0


@click.command("back-end", hidden=True)
@app_option
@queues_option
@click.option("--data-dir", type=click.Path(path_type=Path), required=True)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text")
def back_end(app: str, queues: tuple[str, ...], data_dir: Path, log_format: str) -> None:
    """Run Redis, worker and beat in a data directory; wait while another process does."""
    log_to_stderr(format_name=log_format, level="warning", role="back-end")
    emit = _emit_json if log_format == "json" else _emit
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    redis = EmbeddedRedis(data_dir)
    try:
        while not stop.is_set():
            redis.start()
            if redis.owned:
                _run(redis, app, queues, stop, emit)
            else:
                _wait_for_turn(redis, load_service(app), data_dir, stop)
    finally:
        redis.stop()


@click.command("back-end-worker", hidden=True)
@app_option
@queues_option
def back_end_worker(app: str, queues: tuple[str, ...]) -> None:
    """Be the worker of `back-end`: the one that `up` would start, with the options that fit the app.

    Options are found, and the worker is started, in one process: what loads the service takes as long as all
    the rest of a start.
    """
    from .own_processes import own_processes  # not at the top: it imports Celery

    listed, sentences = own_processes(app, queues)
    for sentence in sentences:
        click.echo(sentence, err=True)
    (worker,) = (spec for spec in listed if spec.name == "worker")
    sys.argv = shlex.split(worker.command)
    from celery.__main__ import main

    main()


def _wait_for_turn(redis: EmbeddedRedis, service: TaskService, data_dir: Path, stop: threading.Event) -> None:
    """Wait while another process runs the back end, with a worker for its own service alone."""
    is_ours = False
    while redis.runs and not stop.wait(WAIT_SECONDS):
        is_ours = is_ours or _runs_for(service, redis.url, data_dir)


def _runs_for(service: TaskService, redis_url: str, data_dir: Path) -> bool:
    """Whether the back end that another process runs has workers of a service; False while it has none.

    Raises:
        ConfigurationError: It has those of another service.
    """
    shared = service.settings.model_copy(update={"redis_url": redis_url})
    try:
        with open_store(shared) as store:
            views = [store.registry.read(name) for name in store.registry.services()]
    except StoreUnavailable:
        return False
    running = [view for view in views if view.workers]
    if running and not any(
        service.name in view.names or view.service in service.former_names for view in running
    ):
        raise ConfigurationError(
            f"The service {running[0].service!r} uses {data_dir} already, and its worker has none "
            f"of the tools of {service.name!r}. Set TASKS_DATA_DIR to another directory for {service.name!r}."
        )
    return bool(running)


def _run(redis: EmbeddedRedis, app: str, queues: tuple[str, ...], stop: threading.Event, emit: Emit) -> None:
    """Run worker and beat until `stop` is set, or Redis has ended."""
    supervisor = Supervisor([_worker(app, queues)], environment({"TASKS_REDIS_URL": redis.url}), emit)
    supervisor.start()
    beat_at = time.monotonic() + BEAT_AFTER_SECONDS
    try:
        while redis.runs and not stop.wait(CHECK_SECONDS):
            supervisor.check()
            if time.monotonic() >= beat_at:
                beat_at = float("inf")
                _start_beat(supervisor, app, queues)
    finally:
        supervisor.stop()


def _worker(app: str, queues: tuple[str, ...]) -> ProcessSpec:
    command = [sys.executable, "-m", "tasks_service", "back-end-worker", "--app", app]
    if queues:
        command += ["--queues", ",".join(queues)]
    return ProcessSpec(name="worker", command=shlex.join(command))


def _start_beat(supervisor: Supervisor, app: str, queues: tuple[str, ...]) -> None:
    """Start beat, unless nobody here takes what it asks for."""
    from .own_processes import own_processes  # not at the top: it imports Celery

    listed, _ = own_processes(app, queues)
    for spec in listed:
        if spec.name == "beat":
            supervisor.add(spec)


def _emit_json(name: str, line: str) -> None:
    click.echo(json_line(name, line), err=True)


def _emit(name: str, line: str) -> None:
    click.echo(f"{name} | {line}", err=True)
