"""The engine of a service in its worker processes: the objects that each process creates for itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property

from celery import Celery

from ..broker.dispatcher import Dispatcher
from ..broker.signature import MessageSigner, message_signer, with_messages
from ..crypto.keys import Fingerprints
from ..domain.errors import ConfigurationError
from ..domain.task import SECOND
from ..log_privacy import keep_words_out_of_logs
from ..observability.records import carry_context
from ..settings import Settings
from ..store.redis import RedisTaskStore
from .dropped import DropCounter
from .execution import Executor
from .interrupts import Interrupter
from .lease_keeper import LeaseKeeper
from .loop import AsyncLoop
from .maintenance.beat_tasks import BeatWork
from .maintenance.thread import LEASE_MS, Sweeper
from .report_publisher import ReportPublisher
from .request import ChildLossReporter
from .shutdown_deadline import ShutdownDeadline
from .unregistered import UnregisteredMessages

KEEPER_DEADLINE = 2.0
"""Seconds that a renewal may take: less than its interval, so that a slow one does not cost other leases."""

KEEPER_POOL = 2
"""Connections for renewing leases and for publishing reports, one each; the subscription has its own."""


_Take = Callable[[str], None]

_announced_to: ContextVar[_Take | None] = ContextVar("tasks_service_announced_to", default=None)


@contextmanager
def announcing_to(take: _Take) -> Iterator[None]:
    """Give what the code here announces to somebody else than front ends; for `tasks_service.testing`.

    Args:
        take: Takes the names; see `store.announcements`.
    """
    token = _announced_to.set(take)
    try:
        yield
    finally:
        _announced_to.reset(token)


class Engine:
    """Creates what a process of a worker needs to run tools, on first use, and again after a fork.

    Args:
        app: The Celery app.
        settings: The settings; they say where the store is.
        service: The name of the service.
        former_names: Names that it had before.
    """

    def __init__(
        self, app: Celery, settings: Settings, service: str, former_names: frozenset[str] = frozenset()
    ) -> None:
        self.app = app
        self.settings = settings
        self.service, self.former_names = service, former_names
        if settings.envelope.key_names:
            keep_words_out_of_logs()
        self.stop = ShutdownDeadline()
        self._lock = threading.Lock()
        self._executor: Executor | None = None
        self._child_losses: ChildLossReporter | None = None
        self._unregistered: UnregisteredMessages | None = None
        self._beat_work: BeatWork | None = None
        self._dropped: DropCounter | None = None
        self._announcer: RedisTaskStore | None = None
        os.register_at_fork(after_in_child=self._forget)

    @property
    def executor(self) -> Executor:
        """The executor that runs tools in this process.

        Raises:
            ConfigurationError: No store is configured.
        """
        with self._lock:
            if self._executor is None:
                carry_context()
                store = self.store()
                interrupter = Interrupter()
                kept = self.store(deadline=KEEPER_DEADLINE, pool=KEEPER_POOL)
                keeper = LeaseKeeper(kept, self.stop, interrupter)
                self._executor = Executor(
                    store,
                    keeper,
                    interrupter,
                    AsyncLoop(),
                    ReportPublisher(kept),
                    self.settings.limits,
                    services=self.former_names | {self.service},
                    hand_on=lambda misdirected: self.unregistered.put(misdirected),
                )
            return self._executor

    @property
    def child_losses(self) -> ChildLossReporter:
        """The reporter of lost pool children to the store (main process only)."""
        with self._lock:
            if self._child_losses is None:
                self._child_losses = ChildLossReporter(self.store(pool=1))
            return self._child_losses

    def flush_child_losses(self) -> None:
        """Write the pending events about lost pool children, and end their thread."""
        with self._lock:
            child_losses, self._child_losses = self._child_losses, None
        if child_losses is not None:
            child_losses.close()

    @property
    def dropped(self) -> DropCounter:
        """The counter of messages that were dropped (main process only)."""
        with self._lock:
            if self._dropped is None:
                self._dropped = DropCounter(lambda: self.store(pool=1))
            return self._dropped

    @property
    def unregistered(self) -> UnregisteredMessages:
        """Sends messages again whose tool this worker lacks, or has of another service.

        Raises:
            ConfigurationError: No store is configured.
        """
        with self._lock:
            if self._unregistered is None:
                self._unregistered = UnregisteredMessages(self.store(pool=1))
            return self._unregistered

    def flush_unregistered(self) -> None:
        """Send the messages again that still wait for it, and end their thread."""
        with self._lock:
            unregistered, self._unregistered = self._unregistered, None
        if unregistered is not None:
            unregistered.close()

    def sweeper(self) -> Sweeper:
        """What a worker process does by itself, with a store of its own."""
        dispatcher = self.dispatcher()
        return Sweeper(self.store(dispatcher, pool=2), dispatcher, interval=self.settings.sweep_interval)

    @property
    def beat_work(self) -> BeatWork:
        """Does what beat asks for, in this process."""
        with self._lock:
            if self._beat_work is None:
                dispatcher = self.dispatcher()
                self._beat_work = BeatWork(
                    self.store(dispatcher, pool=2),
                    dispatcher,
                    interval_ms=round(self.settings.sweep_interval * SECOND),
                    lease_ms=LEASE_MS,
                )
            return self._beat_work

    def announce(self, name: str) -> None:
        """Publish an announcement (see `store.announcements`), from any process.

        Raises:
            ConfigurationError: No store is configured.
            StoreUnavailable: No answer in time.
        """
        if (take := _announced_to.get()) is not None:
            take(name)
            return
        with self._lock:
            if self._announcer is None:
                self._announcer = self.store(pool=1, deadline=self.settings.store_deadline)
            announcer = self._announcer
        announcer.announce(name)

    @cached_property
    def signer(self) -> MessageSigner | None:
        """Signs and verifies messages; None: they are not signed.

        Raises:
            ConfigurationError: A secret is too short, or cannot be read.
        """
        return message_signer(self.settings)

    def fingerprints(self, *, as_worker: bool) -> Fingerprints:
        """What this process tells the store of the secrets of its messages.

        Args:
            as_worker: Whether it takes messages.

        Raises:
            ConfigurationError: As `signer`.
        """
        return with_messages(Fingerprints(), self.signer, as_worker=as_worker)

    def dispatcher(self) -> Dispatcher:
        """A dispatcher, which makes the messages of pending tasks."""
        return Dispatcher(
            self.app,
            redis_url=self.settings.redis_url,
            broker_url=self.settings.broker_url,
            signer=self.signer,
        )

    def store(
        self,
        outbox: Dispatcher | None = None,
        *,
        deadline: float = 10.0,
        pool: int | None = None,
        guarded: bool = False,
    ) -> RedisTaskStore:
        """A store for this process.

        Args:
            outbox: Makes messages; a new dispatcher if not given.
            deadline: Seconds that an operation may take.
            pool: The most connections; the settings' number if not given.
            guarded: Whether new tasks are refused while Redis is short of memory.

        Raises:
            ConfigurationError: No store is configured.
        """
        settings = self.settings
        if settings.redis_url is None:
            raise ConfigurationError(
                "This process does not know where the tasks are. Set TASKS_REDIS_URL to the Redis that the "
                "front end uses, or start workers with `tasks-service up`, which starts a private one."
            )
        return RedisTaskStore(
            settings.redis_url,
            prefix=settings.key_prefix,
            shards=settings.shards,
            limits=settings.limits,
            envelope=settings.envelope,
            outbox=outbox or self.dispatcher(),
            pool=pool or settings.pool,
            deadline=deadline,
            guarded=guarded,
        )

    def _forget(self) -> None:
        """Forget everything after a fork, which threads and connections do not survive."""
        self._lock = threading.Lock()
        self._executor = self._child_losses = self._beat_work = self._announcer = self._dropped = None
        self._unregistered = None
