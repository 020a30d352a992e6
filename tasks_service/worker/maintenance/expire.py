"""Removing tasks whose time is over, with all that is stored of them.

When that is, `domain.decide` says (`_expiry_ms`).
"""

from __future__ import annotations

from ...domain.events import Expire
from ...domain.indexes import Due
from ...store.maintenance import MaintenanceStore
from .settling import settle_due


def expire_finished_tasks(store: MaintenanceStore) -> int:
    """Remove the tasks that have ended and are past their expiry; how many there were.

    Nobody finds them any more by then; this frees their memory, and their place in `stored tasks`.
    """
    return settle_due(store, Due.EXPIRED, Expire)


def expire_in_full_store(store: MaintenanceStore) -> int:
    """Remove also the tasks that ended by a deadline and have expired before anybody wrote the end down.

    A store that is full takes the removal of a task, and no other write: their end cannot be written first.
    """
    return expire_finished_tasks(store) + settle_due(store, Due.OVERDUE, Expire)
