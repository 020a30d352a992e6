"""Sweeps: writing down what time has decided, and sending again what was lost.

Nothing depends on a sweep having run (every read and event sees the effective state); a sweep makes it
durable and tells those who wait. Every worker process sweeps, under a short lock so that one of them does at
a time, and beat asks for it too. Every step is idempotent: two sweeps at once do no harm.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..broker.dispatcher import Dispatcher
from ..domain.errors import CorruptRecord, InvalidTransition, StoreFull, StoreUnavailable, TaskNotFound
from ..domain.events import DeadlinePassed, Expire, GrantSlot, Reap, Redispatch, SweepEvent
from ..domain.task import SECOND, Policy
from ..failpoints import failpoint
from ..store.maintenance import Due, TaskStoreMaintenance

logger = logging.getLogger(__name__)

BATCH = 500
"""Tasks that are taken from an index at a time."""

BUDGET = 1.0
"""Seconds that one index may take in one sweep; the rest waits for the next."""

OVERTAKEN_SWEEPS = 3
"""Sweeps for which a message must stay overtaken before it counts as lost."""

EMPTY_SWEEPS = 1
"""Sweeps for which a queue must stay empty before the messages of its pending tasks count as lost."""

AUDIT_INTERVAL_MS = 600 * SECOND
"""Between two audits of all records against their indexes."""

AUDIT_BUDGET = 10.0
"""Seconds that an audit may take."""

ZOMBIE_MS = 60 * SECOND
"""How long after its lease or its deadline a task that no sweep has moved is reported."""

_LEASE_MS = Policy().lease_ms

_EVENTS: tuple[tuple[Due, Callable[[], SweepEvent]], ...] = (
    (Due.TIMERS, Redispatch),
    (Due.OVERDUE, DeadlinePassed),
    (Due.EXPIRED, Expire),
)


@dataclass(slots=True)
class Swept:
    """How many tasks a sweep moved, by what it did to them."""

    timers: int = 0
    overdue: int = 0
    leases: int = 0
    expired: int = 0
    called: int = 0
    redispatched: int = 0


class Sweeper:
    """Sweeps a store.

    Args:
        store: What is swept.
        dispatcher: Knows how long queues are.
        interval: Seconds between two sweeps.
        lease_ms: How long nothing is reaped after nobody has swept for that long, or after the server is
            another than it was: workers that could not renew get the time to do so.
    """

    def __init__(
        self,
        store: TaskStoreMaintenance,
        dispatcher: Dispatcher,
        *,
        interval: float = 2.0,
        lease_ms: int = _LEASE_MS,
    ) -> None:
        self._store, self._dispatcher = store, dispatcher
        self._interval_ms, self._lease_ms = round(interval * 1000), lease_ms

    def sweep(self) -> Swept | None:
        """One pass, unless another process has just made one.

        A store that is full takes nothing but the removal of what has expired; the rest waits.

        Returns:
            What was done; None if it was not our turn.

        Raises:
            StoreUnavailable: No answer in time; what was done so far is done.
        """
        swept = Swept()
        try:
            if not self._store.try_lock("sweep", for_ms=max(self._interval_ms * 4 // 5, 1)):
                return None
            failpoint("Sweep", "before")
            swept.leases = self._reap()
        except StoreFull as error:
            # Not even a lock can be written; but that two sweeps remove the same does no harm.
            swept.expired = self._settle_due(Due.EXPIRED, Expire)
            logger.warning("%s; %d expired tasks were removed, the rest waits", error, swept.expired)
            return swept
        for index, event in _EVENTS:
            setattr(swept, index.value, self._settle_due(index, event))
        swept.called = self._call()
        for queue in self._store.queues():
            swept.redispatched += self._redispatch(queue)
        failpoint("Sweep", "after")
        return swept

    def audit(self) -> int | None:
        """Compare every record with its indexes, and report what is wrong; repairs nothing.

        Returns:
            How many problems were found; None if it is not time for an audit.
        """
        try:
            if not self._store.try_lock("audit", for_ms=AUDIT_INTERVAL_MS):
                return None
        except StoreFull:
            return None
        problems, until = 0, time.monotonic() + AUDIT_BUDGET
        for name in self._store.task_names():
            found = self._problems(name) and self._problems(name)  # twice: tasks move meanwhile
            for problem in found:
                logger.warning("Audit: task %s: %s", name, problem)
            problems += len(found)
            if time.monotonic() > until:
                break
        return problems

    def _reap(self) -> int:
        """Give the tasks of lost workers to others.

        The sweep is marked after the leases were read: so an outage or a failover in between is noticed, in
        which living workers could not renew.
        """
        reaped, until = 0, time.monotonic() + BUDGET
        while True:
            due = self._store.due(Due.LEASES, limit=BATCH)
            mark = self._store.mark_sweep(lease_ms=self._lease_ms)
            if mark.alarm:
                logger.warning("Nothing is reaped for one lease: %s", mark.alarm)
            if not mark.may_reap:
                return reaped
            moved = self._settle_all(due, Reap)
            reaped += moved
            if len(due) < BATCH or not moved or time.monotonic() > until:
                return reaped

    def _settle_due(self, index: Due, event: Callable[[], SweepEvent]) -> int:
        return self._apply_found(lambda: self._store.due(index, limit=BATCH), event)

    def _call(self) -> int:
        """Give the turns that nobody gave: whoever had given the slot back has died, or could not write."""
        called = self._apply_found(lambda: self._store.waiting_for_slots(limit=BATCH), GrantSlot)
        if called:
            logger.info("%d tasks were called whose turn nobody had given them", called)
        return called

    def _apply_found(self, find: Callable[[], list[str]], event: Callable[[], SweepEvent]) -> int:
        settled, until = 0, time.monotonic() + BUDGET
        while True:
            due = find()
            moved = self._settle_all(due, event)
            settled += moved
            if len(due) < BATCH or not moved or time.monotonic() > until:
                return settled

    def _settle_all(self, names: Iterable[str], event: Callable[[], SweepEvent]) -> int:
        return sum(self._settle(name, event()) for name in names)

    def _settle(self, name: str, event: SweepEvent) -> bool:
        try:
            self._store.apply_sweep(name, event)
        except (TaskNotFound, InvalidTransition) as refusal:
            logger.debug("Task %s: %s", name, refusal)
            return False
        except CorruptRecord as error:
            logger.warning("Task %s is left alone: %s", name, error)
            return False
        if isinstance(event, Reap | DeadlinePassed):
            logger.info("Task %s: %s", name, type(event).__name__.lower())
        return True

    def _redispatch(self, queue: str) -> int:
        """Send again what seems lost: messages that others overtook, or that an empty queue lacks."""
        now_ms = self._store.now_ms()
        lost: dict[str, None] = {}
        if self._dispatcher.queue_length(queue) == 0:
            waiting = self._store.pending(queue, until_ms=now_ms, limit=BATCH)
            lost.update(self._lost(waiting, now_ms, EMPTY_SWEEPS))
        if overtaken_ms := self._store.overtaken_ms(queue):
            overtaken = self._store.pending(queue, until_ms=overtaken_ms, limit=BATCH)
            lost.update(self._lost(overtaken, now_ms, OVERTAKEN_SWEEPS))
        sent = self._settle_all(lost, Redispatch)
        if sent:
            logger.info("%d messages for queue %r seem lost and were sent again", sent, queue)
        return sent

    def _lost(self, names: list[str], now_ms: int, sweeps: int) -> Iterable[tuple[str, None]]:
        if not names:
            return []
        not_before = self._store.mark_suspected(names, not_before_ms=now_ms + sweeps * self._interval_ms)
        pairs = zip(names, not_before, strict=True)
        return [(name, None) for name, at_ms in pairs if at_ms <= now_ms]

    def _problems(self, name: str) -> list[str]:
        try:
            problems = self._store.index_problems(name)
            task, now_ms = self._store.inspect(name).task, self._store.now_ms()
        except TaskNotFound:
            return []
        except CorruptRecord as error:
            return [str(error)]
        if task.lease is not None and now_ms > task.lease.until_ms + ZOMBIE_MS:
            problems.append("it is running, and its lease ran out long ago")
        if not task.status.is_final and now_ms > task.deadline_ms + ZOMBIE_MS:
            problems.append("the deadline of its phase passed long ago")
        return problems


class SweepThread:
    """Sweeps again and again, in a thread of a worker's main process.

    Args:
        make: Makes the sweeper, in the thread.
        interval: Seconds between two sweeps.
    """

    def __init__(self, make: Callable[[], Sweeper], *, interval: float) -> None:
        self._make, self._interval = make, interval
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tasks-service-sweeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Sweep no more; returns at once."""
        self._stopped.set()

    def _run(self) -> None:
        sweeper = self._make()
        while not self._stopped.wait(self._interval):
            try:
                if sweeper.sweep() is not None:
                    sweeper.audit()
            except StoreUnavailable as error:
                logger.warning("The sweep is put off: %s", error)
            except Exception:
                logger.exception("The sweep met an error and goes on")
