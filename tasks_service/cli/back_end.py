"""`tasks-service back-end`: Redis, worker and beat for `tasks-service stdio`.

For each data directory one process at a time runs them: the one that started its Redis. Others wait; when the
first ends, for whatever reason, one of them starts Redis again on the same data.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import click

from ..domain.errors import ConfigurationError, StoreUnavailable
from ..local.procfile import STOP_SECONDS, environment
from ..local.redis_server import STOP_SECONDS as REDIS_STOP_SECONDS
from ..local.redis_server import EmbeddedRedis
from ..local.supervisor import CHECK_SECONDS, Supervisor
from ..settings import Settings
from .application import app_option, load_service, open_store
from .own_processes import own_processes, queues_option

if TYPE_CHECKING:
    from ..service import TaskService

#: The processes of the default Procfile that this command runs.
BACK_END_PROCESSES = ("worker", "beat")
#: Seconds between two checks whether the other process still runs Redis.
WAIT_SECONDS = 0.5
#: Seconds that everything may take to stop.
ALL_STOP_SECONDS = STOP_SECONDS["worker"] + REDIS_STOP_SECONDS + 5.0


@click.command("back-end", hidden=True)
@app_option
@queues_option
def back_end(app: str, queues: tuple[str, ...]) -> None:
    """Run Redis, worker and beat in TASKS_DATA_DIR; wait while another process does."""
    settings = Settings()
    if settings.redis_url is not None:
        raise ConfigurationError("TASKS_REDIS_URL is set: run worker and beat of that deployment instead.")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    redis = EmbeddedRedis(settings.data_dir)
    service = load_service(app)
    try:
        while not stop.is_set():
            redis.start()
            if redis.owned:
                _run(redis, app, queues, stop)
            is_ours = False
            while redis.runs and not redis.owned and not stop.wait(WAIT_SECONDS):
                # Another process runs the back end, with a worker for its own service alone.
                is_ours = is_ours or _runs_for(service, redis, settings)
    finally:
        redis.stop()


def _runs_for(service: TaskService, redis: EmbeddedRedis, settings: Settings) -> bool:
    """Whether the back end that another process runs has workers of a service; False while it has none.

    Raises:
        ConfigurationError: It has those of another service.
    """
    names = {service.name, *service.former_names}
    shared = settings.model_copy(update={"redis_url": redis.url})
    try:
        with open_store(shared) as store:
            views = [store.registry.read(name) for name in store.registry.services()]
    except StoreUnavailable:
        return False
    running = {view.service for view in views if view.workers}
    if running and not running & names:
        raise ConfigurationError(
            f"The service {min(running)!r} uses {settings.data_dir} already, and its worker has none of the "
            f"tools of {service.name!r}. Set TASKS_DATA_DIR to another directory for {service.name!r}."
        )
    return bool(running)


def _run(redis: EmbeddedRedis, app: str, queues: tuple[str, ...], stop: threading.Event) -> None:
    """Run worker and beat until `stop` is set, or Redis has ended."""
    listed, sentences = own_processes(app, queues)
    specs = [spec for spec in listed if spec.name in BACK_END_PROCESSES]
    for sentence in sentences:
        _emit("back-end", sentence)
    supervisor = Supervisor(specs, environment({"TASKS_REDIS_URL": redis.url}), _emit)
    supervisor.start()
    try:
        while redis.runs and not stop.wait(CHECK_SECONDS):
            supervisor.check()
    finally:
        supervisor.stop()


def _emit(name: str, line: str) -> None:
    click.echo(f"{name} | {line}", err=True)
