"""`tasks-service back-end`: Redis, worker and beat for stdio processes, which start and end with their hosts.

One process at a time runs them for a data directory: the one that has started its Redis. Another, started
meanwhile, waits; when the first ends, in whatever way, it starts the same Redis on the same data.
"""

from __future__ import annotations

import signal
import threading

import click

from ..domain.errors import ConfigurationError
from ..local.procfile import DEFAULT_PROCFILE, STOP_SECONDS, environment, parse_procfile
from ..local.redis_server import STOP_SECONDS as REDIS_STOP_SECONDS
from ..local.redis_server import EmbeddedRedis
from ..local.supervisor import LOOK_SECONDS, Supervisor
from ..settings import Settings
from .application import app_option, celery_path

#: The processes that a front end needs behind it.
BEHIND = ("worker", "beat")
#: Seconds between two looks whether whoever runs the Redis still does.
TURN_SECONDS = 0.5
#: Seconds that everything may take to stop.
ALL_STOP_SECONDS = STOP_SECONDS["worker"] + REDIS_STOP_SECONDS + 5.0


@click.command("back-end", hidden=True)
@app_option
def back_end(app: str) -> None:
    """Run Redis, worker and beat in TASKS_DATA_DIR; wait while another process does."""
    settings = Settings()
    if settings.redis_url is not None:
        raise ConfigurationError("TASKS_REDIS_URL is set: run worker and beat of that deployment instead.")
    enough = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: enough.set())
    redis = EmbeddedRedis(settings.data_dir)
    try:
        while not enough.is_set():
            redis.start()
            if redis.owned:
                _run(redis, app, enough)
            while redis.runs and not redis.owned and not enough.wait(TURN_SECONDS):
                """Another process has the turn."""
    finally:
        redis.stop()


def _run(redis: EmbeddedRedis, app: str, enough: threading.Event) -> None:
    """Run what belongs to the Redis until it is enough, or the Redis has ended."""
    listed = DEFAULT_PROCFILE.substitute(app=app, celery_app=celery_path(app))
    specs = [spec for spec in parse_procfile(listed) if spec.name in BEHIND]
    supervisor = Supervisor(specs, environment({"TASKS_REDIS_URL": redis.url}), _emit)
    supervisor.start()
    try:
        while redis.runs and not enough.wait(LOOK_SECONDS):
            supervisor.look()
    finally:
        supervisor.stop()


def _emit(name: str, line: str) -> None:
    click.echo(f"{name} | {line}", err=True)
