"""What every worker process does by itself: what cannot wait for beat, and all of it while beat is away."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from ...broker.dispatcher import Dispatcher
from ...domain.errors import StoreFull, StoreUnavailable
from ...domain.task import SECOND, Policy
from ...failpoints import failpoint
from ...metrics.series import MAINTENANCE_FAILURES, Maintenance
from ...store.maintenance import MaintenanceStore
from . import audit, expire, reap, resend
from .counting import count_done
from .schedule import AUDIT, EXPIRE, RESEND, SECONDS, left_to_workers
from .waits import WaitExplainer

logger = logging.getLogger(__name__)

LEASE_MS = Policy().lease_ms
"""The lease of a tool that does not say otherwise."""


@dataclass(slots=True)
class Swept:
    """How many tasks a sweep moved, by what it did to them."""

    timers: int = 0
    overdue: int = 0
    leases: int = 0
    expired: int = 0
    called: int = 0
    redispatched: int = 0
    explained: int = 0


class Sweeper:
    """Sweeps a store, for a worker process.

    Always: tasks of lost workers, timers that are due, passed deadlines, free slots, what tasks wait for, and
    a second look at messages that seem lost. What else beat has on its schedule: only while it is late.

    Args:
        store: What is swept.
        dispatcher: Knows how long queues are.
        interval: Seconds between two sweeps.
        lease_ms: How long nothing is reaped after nobody has swept for that long, or after the server is
            another than it was: workers that could not renew get the time to do so.
    """

    def __init__(
        self,
        store: MaintenanceStore,
        dispatcher: Dispatcher,
        *,
        interval: float = 2.0,
        lease_ms: int = LEASE_MS,
    ) -> None:
        self._store, self._dispatcher = store, dispatcher
        self._waits = WaitExplainer(store, dispatcher)
        self._interval_ms, self._lease_ms = round(interval * SECOND), lease_ms

    def sweep(self) -> Swept | None:
        """Sweep once, unless another worker process has just done so.

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
            swept.leases = reap.reap_lost_leases(self._store, lease_ms=self._lease_ms)
        except StoreFull as error:
            # Not even a lock can be written; but that two processes remove the same does no harm.
            swept.expired = expire.expire_in_full_store(self._store)
            logger.warning("%s; %d expired tasks were removed, the rest waits", error, swept.expired)
            return swept
        swept.timers = resend.send_due_messages(self._store)
        swept.overdue = reap.end_overdue_phases(self._store)
        swept.called = reap.grant_free_slots(self._store)
        swept.explained = self._waits.explain()
        count_done(Maintenance.SWEEP, swept.timers + swept.overdue + swept.leases + swept.called)
        self._stand_in_for_beat(swept)
        failpoint("Sweep", "after")
        return swept

    def audit(self) -> int | None:
        """Audit, if beat is late with that and no other worker process has done so for its interval.

        Returns:
            How many problems were found; None if it was not our turn.
        """
        try:
            is_due = AUDIT in left_to_workers(self._store.beat_ages_ms())
            if not is_due or not self._store.try_lock("audit", for_ms=round(SECONDS[AUDIT] * SECOND)):
                return None
        except StoreFull:
            return None
        problems = audit.audit_records(self._store)
        count_done(AUDIT, problems)
        return problems

    def _stand_in_for_beat(self, swept: Swept) -> None:
        left = left_to_workers(self._store.beat_ages_ms())
        if EXPIRE in left:
            swept.expired = expire.expire_finished_tasks(self._store)
            count_done(EXPIRE, swept.expired)
        if RESEND in left or self._store.has_due_suspects():
            swept.redispatched = resend.resend_lost_messages(
                self._store, self._dispatcher, interval_ms=self._interval_ms
            )
            count_done(RESEND, swept.redispatched)


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
                MAINTENANCE_FAILURES.add(Maintenance.SWEEP)
                logger.warning("The sweep is put off: %s", error)
            except Exception:
                MAINTENANCE_FAILURES.add(Maintenance.SWEEP)
                logger.exception("The sweep met an error and goes on")
