"""The bootstep of a worker's main process: refuses an unworkable setup, announces the worker, sweeps."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

from celery import Celery, bootsteps, signals

from ..authoring.tool import ToolRegistry
from ..broker.app import DRAIN_SECONDS, MAINTENANCE_QUEUE
from ..broker.delivery import consumed_delivery
from ..crypto.core_dumps import forbid_core_dumps
from ..domain.errors import ConfigurationError, StoreUnavailable
from ..store.findings import errors_among
from ..store.neighbours import conflicts
from ..store.redis import Role
from ..unsafe_settings import refuse_listeners
from .announcer import Announcer, Description
from .celery_command import refuse_to_start
from .celery_logging import log_like_other_processes
from .celery_tasks import ToolTask
from .engine import Engine
from .flower import guard_flower
from .hub_timers import forget_cancelled_timers
from .incoming import guard_messages, unsafe_contents
from .maintenance.beat_tasks import register_beat_tasks
from .maintenance.signed import sign_beats_messages
from .maintenance.thread import SweepThread
from .serving_metrics import WORKER_METRICS, hand_on_the_last_counts, serve_beats_metrics
from .unregistered import unregistered_message

logger = logging.getLogger(__name__)

_numbers = itertools.count()

ANNOUNCE_DEADLINE = 2.0
"""Seconds that one word of a worker to the registry may take; it is said again soon."""


def install(
    app: Celery,
    engine: Engine,
    tools: ToolRegistry,
    *,
    version: str,
    instructions: str,
    owns_app: bool,
) -> None:
    """Add to an app what its workers need; nothing runs in processes that are not workers.

    Args:
        app: Ours, or a shop's.
        engine: Runs the tools.
        tools: The tools of the service.
        version: The release that they announce.
        instructions: What the tools are good for, for the model.
        owns_app: Whether the app is ours.
    """
    adopt_flowers_log = log_like_other_processes(app, engine.settings, engine.service, owns_app=owns_app)
    guard_messages(app, engine, tools, owns_app=owns_app)
    sign_beats_messages(app, engine)
    serve_beats_metrics(app, engine.settings)
    hand_on_the_last_counts()
    guard_flower(engine.settings.allowed_hosts, adopt_flowers_log)
    forget_cancelled_timers(app)
    announcers: list[Announcer] = []

    def announcer(worker: Any) -> Announcer:
        describe = Description(worker, engine.service, version, instructions, tools, engine.former_names)
        announcers.append(Announcer(describe, lambda: engine.store(pool=1, deadline=ANNOUNCE_DEADLINE)))
        return announcers[-1]

    def on_shutting_down(how: str = "", **_: Any) -> None:
        engine.stop.set(_drain(app) if how == "Warm" else 0.0)
        for started in announcers:
            started.stop()

    def on_unknown_task(message: Any = None, name: str = "", **_: Any) -> None:
        lacking = unregistered_message(message, name)
        if lacking is not None and engine.settings.redis_url is not None:
            engine.unregistered.put(lacking)

    register_beat_tasks(app, lambda: engine.beat_work)
    app.steps["worker"].add(_step(engine, tools, announcer, owns_app=owns_app))

    signals.worker_shutting_down.connect(on_shutting_down, weak=False)
    signals.task_unknown.connect(on_unknown_task, weak=False)


def _drain(app: Celery) -> float:
    # Celery 5.4 has no such setting.
    return float(app.conf.get("worker_soft_shutdown_timeout") or DRAIN_SECONDS)


def _step(
    engine: Engine, tools: ToolRegistry, announcer: Callable[[Any], Announcer], *, owns_app: bool
) -> type[Any]:
    """A bootstep class for one engine, as Celery takes no instances."""

    class TasksService(bootsteps.StartStopStep):  # type: ignore[misc]
        """Refuses a worker that takes tools' messages and cannot run them; else announces it, and sweeps."""

        requires = ("celery.worker.components:Pool",)
        # Celery keeps one step of each name, and an app may have the tools of several services.
        name = f"{__name__}.TasksService.{next(_numbers)}"
        label = "tasks-service"

        def __init__(self, worker: Any, **options: Any) -> None:
            super().__init__(worker, **options)
            self.thread: SweepThread | None = None
            self.announcer: Announcer | None = None
            if owns_app:
                forbid_core_dumps()
            self.serves = _serves(worker.app, tools)
            if self.serves:
                refuse_unworkable_setup(worker.app, engine, tools)
                prepare_metrics(engine, tools)

        def start(self, worker: Any) -> None:
            if engine.settings.redis_url is not None:
                # Also where it serves nothing yet: a queue of ours can be added while it runs.
                self.announcer = announcer(worker)
                self.announcer.start()
            if self.serves:
                WORKER_METRICS.start()
                self.thread = SweepThread(engine.sweeper, interval=engine.settings.sweep_interval)
                self.thread.start()

        def stop(self, worker: Any) -> None:
            if self.thread is not None:
                self.thread.stop()
            if self.announcer is not None:
                self.announcer.stop()
                self.announcer.join()
            engine.flush_child_losses()
            engine.flush_unregistered()
            WORKER_METRICS.stop()

        terminate = stop

    return TasksService


def _serves(app: Celery, tools: ToolRegistry) -> bool:
    """Whether a worker consumes from a queue of ours; other workers of the app need no store."""
    ours = {MAINTENANCE_QUEUE, *(tool.definition.queue for tool in tools.values())}
    return not ours.isdisjoint(app.amqp.queues.consume_from)


def refuse_unworkable_setup(app: Celery, engine: Engine, tools: ToolRegistry) -> None:
    """Check a worker's setup before it takes work.

    Raises:
        SystemExit: It cannot work; the message says why and how to fix it.
    """
    try:
        refuse_listeners(engine.settings)
        _refuse_unworkable_store(app, engine, tools)
        _refuse_taken_names(app, tools)
        _refuse_unreadable_messages(app)
        _tell_of_unsigned_messages(engine)
    except ConfigurationError as error:
        refuse_to_start(error)


def prepare_metrics(engine: Engine, tools: ToolRegistry) -> None:
    """Begin to count, before the pool is forked.

    Raises:
        SystemExit: The metrics cannot be served where the settings say; the message says why.
    """
    try:
        WORKER_METRICS.prepare(engine.settings, engine.service, tools)
    except ConfigurationError as error:
        refuse_to_start(error)


def _refuse_unworkable_store(app: Celery, engine: Engine, tools: ToolRegistry) -> None:
    store = engine.store(pool=1, deadline=engine.settings.store_deadline)
    try:
        # Without the permissions, the other checks would not be permitted either.
        errors = errors_among(
            store.check_permissions(Role.WORKER)
            or [*store.check(), *store.check_secrets(engine.fingerprints(as_worker=True), notes=True)]
        )
        if not errors:
            definitions = {name: tool.definition for name, tool in tools.items()}
            views = [store.registry.read(service) for service in store.registry.services()]
            names = engine.service, engine.former_names
            errors = list(conflicts(*names, definitions, consumed_delivery(app), views))
    except StoreUnavailable as error:
        logger.warning("Starting without a store: %s", error.for_operators)
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


def _refuse_unreadable_messages(app: Celery) -> None:
    accepted = set(app.conf.accept_content or ())
    if not accepted & {"json", "application/json"}:
        raise ConfigurationError(
            f"Messages of tools are JSON, and this Celery app accepts only {', '.join(sorted(accepted))}. "
            "Add 'json' to its setting accept_content."
        )
    if unsafe := unsafe_contents(app):
        logger.warning(
            "This Celery app accepts %s: whoever can write to its queues can run any code in its workers. "
            "Queues that only tools use take JSON all the same; for the others, set accept_content to "
            "['json'].",
            " and ".join(unsafe),
        )


def _tell_of_unsigned_messages(engine: Engine) -> None:
    if engine.signer is None:
        logger.warning(
            "Messages are not signed: whoever can write to the broker can make this worker look for work. "
            "Set TASKS_MESSAGE_SECRET for all processes (docs/upgrading.md)."
        )
