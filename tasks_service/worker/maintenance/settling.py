"""Moving one task after another, each in a transaction of its own, within a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from ...domain.errors import CorruptRecord, InvalidTransition, TaskNotFound
from ...domain.events import SweepEvent
from ...domain.indexes import Due
from ...domain.names import is_name
from ...observability.context import of_task
from ...store.maintenance import MaintenanceStore

logger = logging.getLogger(__name__)

BATCH = 500
"""Tasks that are taken from an index at a time."""

BUDGET = 1.0
"""Seconds that one index may take at a time; the rest waits for the next round."""


def settle_due(store: MaintenanceStore, index: Due, event: Callable[[], SweepEvent]) -> int:
    """Apply an event to every task that an index says is due; how many it moved."""
    return settle_found(store, lambda skip: store.due(index, limit=BATCH, skip=skip), event)


def settle_found(
    store: MaintenanceStore, find: Callable[[int], list[str]], event: Callable[[], SweepEvent]
) -> int:
    """Apply an event to whatever is found, until nothing is, or the time is over; how many it moved.

    Args:
        store: Whose tasks.
        find: Finds some, and passes over so many that could not be moved: damaged ones are no reason to leave
            those behind them.
        event: Makes the event.
    """
    settled, left, until = 0, 0, time.monotonic() + BUDGET
    while True:
        found = find(left)
        moved = settle_all(store, found, event)
        settled, left = settled + moved, left + len(found) - moved
        if len(found) < BATCH or time.monotonic() > until:
            return settled


def settle_all(store: MaintenanceStore, names: Iterable[str], event: Callable[[], SweepEvent]) -> int:
    """Apply an event to these tasks; how many it moved."""
    return sum(settle(store, name, event()) for name in names)


def settle(store: MaintenanceStore, name: str, event: SweepEvent) -> bool:
    """Apply an event to a task; whether it moved. One that cannot be read is left alone.

    Raises:
        StoreUnavailable: No answer in time.
        StoreFull: Nothing can be written.
    """
    with of_task(name):
        try:
            store.apply_sweep(name, event)
        except (TaskNotFound, InvalidTransition) as refusal:
            if not is_name(name):
                logger.warning("An index named %a, which is the name of no task; it was taken out", name)
            logger.debug("Task %a: %s", name, refusal)
            return False
        except CorruptRecord as error:
            logger.warning("Task %s is left alone: %s", name, error)
            return False
    return True
