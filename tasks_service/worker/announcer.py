"""Announces a worker and its tools in the registry, for as long as it takes messages.

A thread of the worker's main process does it, whatever the pool is. It looks every second at what the worker
really consumes, which `celery control add_consumer` and `cancel_consumer` change, and says so at once; else
it says again what it said, every ten seconds. Tools are read once: they do not change while a worker runs,
except that more are registered.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from ..authoring.tool import ToolRegistry
from ..broker.app import MAINTENANCE_QUEUE
from ..broker.delivery import consumed_delivery
from ..domain.errors import StoreUnavailable
from ..domain.task import new_token
from ..store.redis import RedisTaskStore
from ..store.registry import REFRESH_SECONDS, AnnouncedTools, WorkerAnnouncement, WorkerRegistry

logger = logging.getLogger(__name__)

LIBRARY_VERSION = version("tasks-service")
"""The release of this library."""

Described = tuple[WorkerAnnouncement, AnnouncedTools]
"""What a worker is, and the tools that it has."""

LOOK_SECONDS = 1.0
"""Seconds between two looks at what the worker consumes."""

START_SECONDS = 0.1
"""The same, until the worker takes messages for the first time."""

WITHDRAW_SECONDS = 2.0
"""Seconds that a stopping worker waits at most for its withdrawal."""


class Announcements:
    """Keeps the registry true to what a worker is.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._described: Described | None = None
        self._announced: WorkerAnnouncement | None = None
        self._refresh_at = 0.0
        self._since_ms = 0
        self._is_cut_off = False

    def keep(self, registry: WorkerRegistry, described: Described | None) -> None:
        """Say what has changed, or that nothing has if it is time for that; withdraw what takes no messages.

        Args:
            registry: Where.
            described: What the worker is now; None if it takes no messages.

        Raises:
            StoreUnavailable: No answer in time; to be called again.
        """
        if described is None:
            self.withdraw(registry)
        elif described != self._described or not self._still_counts(registry):
            self._announce(registry, described)
        if self._is_cut_off:
            self._is_cut_off = False
            logger.info("The worker is announced again")

    def withdraw(self, registry: WorkerRegistry) -> None:
        """Say that the worker takes no more messages, if it ever did.

        Raises:
            StoreUnavailable: No answer in time.
        """
        if self._announced is not None:
            registry.withdraw(self._announced)
            self._announced = self._described = None

    def missed(self, error: StoreUnavailable) -> None:
        """Note that the store did not answer; told once for each outage."""
        if not self._is_cut_off:
            logger.warning("The worker cannot be announced, and tries again: %s", error)
        self._is_cut_off = True

    def _still_counts(self, registry: WorkerRegistry) -> bool:
        if self._announced is None or self._described is None:
            return False
        if self._clock() < self._refresh_at:
            return True
        if not registry.refresh(self._announced, self._described[1]):
            return False
        self._refresh_at = self._clock() + REFRESH_SECONDS
        return True

    def _announce(self, registry: WorkerRegistry, described: Described) -> None:
        worker, tools = described
        self._announced = registry.announce(replace(worker, since_ms=self._since_ms), tools)
        self._described, self._since_ms = described, self._announced.since_ms
        self._refresh_at = self._clock() + REFRESH_SECONDS * random.uniform(0.8, 1.0)  # noqa: S311 - not all at once


class Announcer:
    """The thread that announces a worker.

    Args:
        describe: What the worker is and has now; None while it takes no message of ours. The thread asks.
        connect: Makes a store of its own for the thread.
    """

    def __init__(
        self,
        describe: Callable[[], Described | None],
        connect: Callable[[], RedisTaskStore],
    ) -> None:
        self._describe, self._connect = describe, connect
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tasks-service-announcer", daemon=True)

    def start(self) -> None:
        """Begin; the worker is announced when it takes messages."""
        self._thread.start()

    def stop(self) -> None:
        """Withdraw the worker soon; returns at once."""
        self._stopped.set()

    def join(self) -> None:
        """Wait until it is withdrawn, for at most `WITHDRAW_SECONDS`."""
        self._thread.join(WITHDRAW_SECONDS)

    def _run(self) -> None:
        announcements, store = Announcements(), None
        while not self._stopped.wait(START_SECONDS if store is None else LOOK_SECONDS):
            try:
                described = self._describe()
                if store is None and described is not None:
                    store = self._connect()
                if store is not None:
                    announcements.keep(store.registry, described)
            except StoreUnavailable as error:
                announcements.missed(error)
            except Exception:
                logger.exception("The worker could not be announced, and tries again")
        if store is not None:
            with closing(store), suppress(StoreUnavailable):
                announcements.withdraw(store.registry)


class Description:
    """What a Celery worker is, as it announces itself.

    Args:
        worker: Celery's worker, in whose process this is.
        service: The name of the service.
        version: Its release.
        instructions: What its tools are good for, for the model.
        tools: Its tools.
        former_names: Names that the service had before.
    """

    def __init__(
        self,
        worker: Any,
        service: str,
        version: str,
        instructions: str,
        tools: ToolRegistry,
        former_names: frozenset[str] = frozenset(),
    ) -> None:
        self._worker, self._service, self._version, self._tools = worker, service, version, tools
        self._instructions, self._delivery = instructions, consumed_delivery(worker.app)
        self._former_names = former_names
        self._instance = new_token()
        self._announced_tools = AnnouncedTools.of(())
        self._queues: frozenset[str] = frozenset()

    def __call__(self) -> Described | None:
        """What it is now; None while it takes messages from no queue of the service."""
        self._queues = self._consumed()
        ours = {MAINTENANCE_QUEUE, *(tool.definition.queue for tool in self._tools.values())}
        if ours.isdisjoint(self._queues):
            return None
        if len(self._announced_tools.tools) != len(self._tools):
            self._announced_tools = AnnouncedTools.of(tool.definition for tool in self._tools.values())
        worker = self._worker
        announcement = WorkerAnnouncement(
            service=self._service,
            node=str(worker.hostname),
            tools=self._announced_tools.digest,
            queues=self._queues,
            version=self._version,
            library_version=LIBRARY_VERSION,
            instructions=self._instructions,
            delivery=self._delivery,
            former_names=self._former_names,
            pool=_pool(worker),
            slots=_slots(worker),
            instance=self._instance,
        )
        return announcement, self._announced_tools

    def _consumed(self) -> frozenset[str]:
        """The queues that the worker takes messages from; the last ones while it connects again."""
        consumer = getattr(self._worker.consumer, "task_consumer", None)
        if consumer is None:
            return self._queues
        try:
            return frozenset(queue.name for queue in consumer.queues)
        except RuntimeError:  # the worker's own thread has just added one
            return self._queues


def _pool(worker: Any) -> str:
    """The kind of a worker's pool, by the name of its module in `celery.concurrency`."""
    name = type(worker.pool).__module__.rpartition(".")[2]
    return "threads" if name == "thread" else name


def _slots(worker: Any) -> int:
    """How many tools a worker runs at a time, at most if that changes with the load."""
    return int((worker.max_concurrency if worker.autoscale else 0) or worker.pool.limit or worker.concurrency)
