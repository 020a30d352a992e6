"""Concurrency slots in Redis: what a transition reads of them, and who gets the next one.

A transition that takes a slot, or begins to wait because there is none, watches the slots. So never more
tasks run than may, and no task waits beside a free slot. A task that needs no slot, or has one, neither
reads nor watches any. The tasks that wait are not watched: the transition that frees a slot asks in the same
EXEC who they are, and the slot is granted to the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...domain.decide import needs_slot
from ...domain.events import Event
from ...domain.limits import Limits
from ...domain.task import ConcurrencyKey, Task
from ..maintenance import MOST_GRANTED
from .layout import Command, Shard, score_of
from .transaction import Reply


class SlotReads:
    """What a transition reads and watches of the slots of its task's concurrency key.

    Args:
        shard: The task's.
        limits: How many slots there are.
        key: Where slots are needed, if that is known before the record has been read.
    """

    def __init__(self, shard: Shard, limits: Limits, key: ConcurrencyKey | None = None) -> None:
        self._shard, self._limits = shard, limits
        self._key = key if key is not None and limits.concurrency_limit(key.queue) is not None else None

    def lacks(self, task: Task | None, event: Event) -> bool:
        """Whether the decision needs slots that were not read; if so, they are read from now on."""
        if task is None or self._limits.concurrency_limit(task.queue) is None:
            return False
        if task.concurrency_key == self._key or not needs_slot(task, event):
            return False
        self._key = task.concurrency_key
        return True

    def watched(self) -> list[str]:
        """The keys of the slots that are read."""
        return [] if self._key is None else [self._shard.slots(self._key)]

    def commands(self) -> list[Command]:
        """Read the Nth-latest slot deadline, where N is the concurrency limit."""
        if self._key is None or (slots := self._limits.concurrency_limit(self._key.queue)) is None:
            return []
        return [("ZREVRANGE", self._shard.slots(self._key), slots - 1, slots - 1, "WITHSCORES")]

    def until_ms(self, replies: Sequence[Reply]) -> int:
        """What the answers to `commands` say: see `StoreCounts.slots_until_ms`."""
        return next((score_of(last[1]) or 0 for last in replies if last), 0)


class FreeSlots(NamedTuple):
    """How many slots of a concurrency key are free, and who waits for one, longest first."""

    key: ConcurrencyKey
    free: int
    waiting: list[str]


def free_slot_reads(
    shard: Shard, key: ConcurrencyKey, now_ms: int, most: int = MOST_GRANTED
) -> list[Command]:
    """What `free_slots` is made of; a slot whose holder is past its deadline is free."""
    return [
        ("ZCOUNT", shard.slots(key), f"({now_ms}", "+inf"),
        ("ZRANGE", shard.waiting(key), 0, most - 1),
    ]


def free_slots(limits: Limits, key: ConcurrencyKey, replies: Sequence[Reply]) -> FreeSlots:
    """What the answers to `free_slot_reads` say."""
    taken, waiting = replies
    if isinstance(taken, Exception) or isinstance(waiting, Exception):
        return FreeSlots(key, 0, [])  # a key is of a wrong type: nobody knows
    slots = limits.concurrency_limit(key.queue)
    return FreeSlots(key, len(waiting) if slots is None else max(slots - taken, 0), list(waiting))
