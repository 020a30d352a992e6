"""What a worker's main process does beside running a pool: refuses to start, sweeps, and stops softly."""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery, bootsteps, signals

from ..authoring.tool import ToolRegistry
from ..broker.app import DRAIN_SECONDS, MAINTENANCE_QUEUE
from ..domain.errors import ConfigurationError, StoreUnavailable
from ..store.findings import errors_among
from ..store.redis import Role
from .celery_tasks import ToolTask
from .engine import Engine
from .maintenance.beat_tasks import register_beat_tasks
from .maintenance.thread import SweepThread

logger = logging.getLogger(__name__)


def install(app: Celery, engine: Engine, tools: ToolRegistry) -> None:
    """Add to an app what its workers need; costs processes that are not workers nothing."""
    register_beat_tasks(app, lambda: engine.beat_work)
    app.steps["worker"].add(_step(engine, tools))

    def on_shutting_down(how: str = "", **_: Any) -> None:
        engine.stop.set(_drain(app) if how == "Warm" else 0.0)

    signals.worker_shutting_down.connect(on_shutting_down, weak=False)


def _drain(app: Celery) -> float:
    return float(app.conf.worker_soft_shutdown_timeout or DRAIN_SECONDS)


def _step(engine: Engine, tools: ToolRegistry) -> type[Any]:
    """A bootstep for one engine; Celery wants a class."""

    class TasksService(bootsteps.StartStopStep):  # type: ignore[misc]
        """Sweeps while the worker runs. Refuses a worker that takes tools and cannot run them."""

        requires = ("celery.worker.components:Pool",)
        label = "tasks-service"

        def __init__(self, worker: Any, **options: Any) -> None:
            super().__init__(worker, **options)
            self.thread: SweepThread | None = None
            self.serves = _serves(worker.app, tools)
            if self.serves:
                refuse_what_cannot_work(worker.app, engine, tools)

        def start(self, worker: Any) -> None:
            if self.serves:
                self.thread = SweepThread(engine.sweeper, interval=engine.settings.sweep_interval)
                self.thread.start()

        def stop(self, worker: Any) -> None:
            if self.thread is not None:
                self.thread.stop()
            engine.flush_child_losses()

        terminate = stop

    return TasksService


def _serves(app: Celery, tools: ToolRegistry) -> bool:
    """Whether a worker takes any queue of ours; a shop's plain worker need not know of Redis."""
    ours = {MAINTENANCE_QUEUE, *(tool.queue for tool in tools.values())}
    return not ours.isdisjoint(app.amqp.queues.consume_from)


def refuse_what_cannot_work(app: Celery, engine: Engine, tools: ToolRegistry) -> None:
    """Check a worker's set-up before it takes work.

    Raises:
        SystemExit: With a sentence that says what is wrong and how to fix it.
    """
    try:
        _refuse_unworkable_store(engine)
        _refuse_taken_names(app, tools)
    except ConfigurationError as error:
        raise SystemExit(f"tasks-service: {error}") from None


def _refuse_unworkable_store(engine: Engine) -> None:
    store = engine.store(pool=1, deadline=engine.settings.store_deadline)
    try:
        # Who lacks rights may not ask the rest either.
        errors = errors_among(store.check_permissions(Role.WORKER) or store.check())
    except StoreUnavailable as error:
        logger.warning("Starting without a store: %s", error)
        return
    finally:
        store.close()
    if errors:
        raise ConfigurationError(" ".join(errors))


def _refuse_taken_names(app: Celery, tools: ToolRegistry) -> None:
    for name in tools:
        if not isinstance(app.tasks.get(name), ToolTask):
            raise ConfigurationError(
                f"A Celery task named {name!r} exists already on this app, so that the tool of that name "
                "cannot run. Give the tool another name=."
            )
