"""The Celery tasks that beat sends, and how each is done."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

from celery import Celery

from ...broker.dispatcher import Dispatcher
from ...domain.errors import StoreFull, StoreUnavailable
from ...failpoints import failpoint
from ...metrics.children import flush
from ...metrics.series import MAINTENANCE_FAILURES
from ...store.maintenance import MaintenanceStore
from ..own_task import OwnTask
from . import audit, expire, reap, resend
from .counting import count_done
from .schedule import AUDIT, CELERY_TASKS, EXPIRE, REAP, RESEND

logger = logging.getLogger(__name__)

_REGISTERED: weakref.WeakSet[Celery] = weakref.WeakSet()


class BeatWork:
    """Does what beat asks for, and marks in the store that it was done.

    Its locks are its own: a worker that sweeps by itself never holds one of them. They keep what two beats
    ask for at once from being done twice.

    Args:
        store: What is kept in order.
        dispatcher: Knows how long queues are.
        interval_ms: Between two sweeps of the workers; the same work is not done more often.
        lease_ms: See `reap.reap_lost_leases`.
    """

    def __init__(
        self, store: MaintenanceStore, dispatcher: Dispatcher, *, interval_ms: int, lease_ms: int
    ) -> None:
        self._store, self._dispatcher = store, dispatcher
        self._interval_ms, self._lease_ms = interval_ms, lease_ms

    def expire(self) -> int | None:
        """Remove finished tasks whose time is over; None if it has just been done."""
        try:
            return self._do(EXPIRE, lambda: expire.expire_finished_tasks(self._store))
        except StoreFull as error:
            removed = expire.expire_in_full_store(self._store)
            logger.warning("%s; %d expired tasks were removed", error, removed)
            return removed

    def reap(self) -> int | None:
        """Move tasks that nobody works on any more; None if it has just been done."""
        return self._do(REAP, lambda: reap.reap_stale_tasks(self._store, lease_ms=self._lease_ms))

    def resend(self) -> int | None:
        """Send messages that are due, and again those that seem lost; None if it has just been done."""
        return self._do(
            RESEND,
            lambda: (
                resend.send_due_messages(self._store)
                + resend.resend_lost_messages(self._store, self._dispatcher, interval_ms=self._interval_ms)
            ),
        )

    def audit(self) -> int | None:
        """Report records that disagree with their indexes; None if it has just been done."""
        return self._do(AUDIT, lambda: audit.audit_records(self._store))

    def _do(self, kind: str, work: Callable[[], int]) -> int | None:
        if not self._store.try_lock(f"beat:{kind}", for_ms=max(self._interval_ms * 4 // 5, 1)):
            return None
        failpoint("Sweep", "before")
        try:
            done = work()
            self._store.mark_beat(kind)
        except Exception:
            MAINTENANCE_FAILURES.add(kind)
            flush()
            raise
        count_done(kind, done)
        failpoint("Sweep", "after")
        return done


def register_beat_tasks(app: Celery, work: Callable[[], BeatWork]) -> None:
    """Register the Celery tasks that beat sends; once, however many services an app has.

    They send no events: Flower's page of tasks is for the author's. An outage of the store is no news either.

    Args:
        app: Ours, or a shop's.
        work: Makes what does it, in the process that runs the task.
    """
    if app in _REGISTERED:
        return
    _REGISTERED.add(app)

    def task(kind: str) -> Any:
        return app.task(
            name=CELERY_TASKS[kind],
            shared=False,
            base=OwnTask,
            ignore_result=True,
            acks_late=False,
            typing=False,
            serializer="json",
            send_events=False,
            throws=(StoreUnavailable,),
        )

    @task(EXPIRE)  # type: ignore[untyped-decorator]
    def expire_finished_tasks() -> None:
        """Remove tasks that have ended and are past their expiry, with all that is stored of them."""
        work().expire()

    @task(REAP)  # type: ignore[untyped-decorator]
    def reap_stale_tasks() -> None:
        """Take tasks from lost workers, end what is past its deadline, grant free slots."""
        work().reap()

    @task(RESEND)  # type: ignore[untyped-decorator]
    def resend_lost_messages() -> None:
        """Send messages of tasks that have come due, and again those that seem lost."""
        work().resend()

    @task(AUDIT)  # type: ignore[untyped-decorator]
    def audit_records() -> None:
        """Compare records with their indexes, and log what disagrees."""
        work().audit()
