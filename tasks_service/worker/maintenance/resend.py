"""Messages that have come due, and messages that seem lost.

A message counts as lost only if later messages of its queue have been claimed for some time, or if its queue
is empty for some time. A long backlog is therefore not sent again and again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ...broker.dispatcher import Dispatcher
from ...domain.events import Redispatch
from ...domain.indexes import Due
from ...store.maintenance import MaintenanceStore
from .settling import BATCH, settle_all, settle_due

logger = logging.getLogger(__name__)

OVERTAKEN_SWEEPS = 3
"""Sweeps for which a message must stay overtaken before it counts as lost."""

EMPTY_SWEEPS = 1
"""Sweeps for which a queue must stay empty before the messages of its pending tasks count as lost."""


def send_due_messages(store: MaintenanceStore) -> int:
    """Send the messages of tasks whose sleep or retry's delay is over; how many there were."""
    return settle_due(store, Due.TIMERS, Redispatch)


def resend_lost_messages(store: MaintenanceStore, dispatcher: Dispatcher, *, interval_ms: int) -> int:
    """Send again what seems lost, in every queue; how many messages that was.

    A message that seems lost is noted, and sent again if it still seems so when it is looked at once more,
    one or three intervals later.

    Args:
        store: Whose tasks.
        dispatcher: Knows how long queues are.
        interval_ms: Between two sweeps of the workers.
    """
    return sum(_resend(store, dispatcher, queue, interval_ms) for queue in store.queues())


def _resend(store: MaintenanceStore, dispatcher: Dispatcher, queue: str, interval_ms: int) -> int:
    now_ms = store.now_ms()
    lost: dict[str, None] = {}
    if dispatcher.queue_length(queue) == 0:
        waiting = store.pending(queue, until_ms=now_ms, limit=BATCH)
        lost.update(_lost(store, waiting, now_ms, EMPTY_SWEEPS * interval_ms))
    if overtaken_ms := store.overtaken_ms(queue):
        overtaken = store.pending(queue, until_ms=overtaken_ms, limit=BATCH)
        lost.update(_lost(store, overtaken, now_ms, OVERTAKEN_SWEEPS * interval_ms))
    sent = settle_all(store, lost, Redispatch)
    if sent:
        logger.info("%d messages for queue %r seem lost and were sent again", sent, queue)
    return sent


def _lost(store: MaintenanceStore, names: list[str], now_ms: int, wait_ms: int) -> Iterable[tuple[str, None]]:
    if not names:
        return []
    not_before = store.mark_suspected(names, not_before_ms=now_ms + wait_ms)
    return [(name, None) for name, at_ms in zip(names, not_before, strict=True) if at_ms <= now_ms]
