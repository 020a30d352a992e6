"""Finding tasks that nobody works on any more: of lost workers, past their deadlines, beside free slots."""

from __future__ import annotations

import logging
import time

from ...domain.events import DeadlinePassed, Expire, GrantSlot, Reap
from ...domain.indexes import Due
from ...store.maintenance import MaintenanceStore
from .settling import BATCH, BUDGET, settle, settle_all, settle_found

logger = logging.getLogger(__name__)


def reap_stale_tasks(store: MaintenanceStore, *, lease_ms: int) -> int:
    """Do all that is in this module; how many tasks were moved."""
    return reap_lost_leases(store, lease_ms=lease_ms) + end_overdue_phases(store) + grant_free_slots(store)


def reap_lost_leases(store: MaintenanceStore, *, lease_ms: int) -> int:
    """Give the tasks whose lease has run out to other workers, or fail them; how many there were.

    The round is marked after the leases were read: so an outage or a failover in between is noticed, in which
    living workers could not renew.

    Args:
        store: Whose tasks.
        lease_ms: How long nothing is reaped after such an outage.
    """
    reaped, left, until = 0, 0, time.monotonic() + BUDGET
    while True:
        due = store.due(Due.LEASES, limit=BATCH, skip=left)
        mark = store.mark_sweep(lease_ms=lease_ms)
        if mark.alarm:
            logger.warning("Nothing is reaped for one lease: %s", mark.alarm)
        if not mark.may_reap:
            return reaped
        moved = settle_all(store, due, Reap)
        reaped, left = reaped + moved, left + len(due) - moved
        if len(due) < BATCH or time.monotonic() > until:
            return reaped


def end_overdue_phases(store: MaintenanceStore) -> int:
    """Write down which deadlines have passed; how many tasks that moved.

    One whose whole time is over since is removed instead.
    """
    moved, left, until = 0, 0, time.monotonic() + BUDGET
    while True:
        due = store.due(Due.OVERDUE, limit=BATCH, skip=left)
        ended = sum(_end_overdue_phase(store, name) for name in due)
        moved, left = moved + ended, left + len(due) - ended
        if len(due) < BATCH or time.monotonic() > until:
            return moved


def _end_overdue_phase(store: MaintenanceStore, name: str) -> bool:
    return settle(store, name, DeadlinePassed()) or settle(store, name, Expire())


def grant_free_slots(store: MaintenanceStore) -> int:
    """Grant the slots that nobody granted: whoever had given one back has died, or could not write."""
    # Who could not be granted one stays first: then the rest has time until the next round.
    granted = settle_found(
        store, lambda left: [] if left else store.waiting_for_slots(limit=BATCH), GrantSlot
    )
    if granted:
        logger.info("%d tasks were granted a slot that nobody had granted them", granted)
    return granted
