"""The indexes that lead sweeps to tasks, and the rules by which every store indexes tasks and sends messages.

Their keys in Redis are in `store/redis/layout.py`. A sleeping task is in `Due.TIMERS`.
"""

from __future__ import annotations

from enum import StrEnum

from .decide import Applied
from .events import Event, ExplainWait, GrantSlot, Redispatch
from .limits import BLOCK_BYTES, Limits
from .task import Phase, Slot, Task


def awaits_first_message(task: Task) -> bool:
    """Whether a pending task was recorded with a later due time, and no message has been made for it yet."""
    return task.due_ms > task.updated_ms and task.redispatches == 0 and task.slot is None


def awaits_worker(task: Task) -> bool:
    """Whether a pending task has a message, or gets one when it is due, because it waits for no slot."""
    return task.phase is Phase.PENDING and task.slot is not Slot.WAITING


def has_message(task: Task) -> bool:
    """Whether a message of a pending task was made: it waits for a worker, and nothing else."""
    return awaits_worker(task) and not awaits_first_message(task)


def is_sent(applied: Applied, event: Event, now_ms: int) -> bool:
    """Whether a message must be sent with the write of an event."""
    task = applied.task
    moved = event.sends if isinstance(event, ExplainWait) else bool(applied.log)
    moved = moved or isinstance(event, Redispatch | GrantSlot)
    return moved and task is not None and awaits_worker(task) and task.due_ms <= now_ms


def refusal_reason(task: Task) -> str:
    """Why a task cannot be claimed, in a few words."""
    if task.slot is Slot.WAITING:
        return "it waits for a slot"
    return task.status_message or "it cannot be claimed"


def holds_slot(task: Task) -> bool:
    """Whether a task counts against its owner's concurrency limit."""
    return task.slot is Slot.HELD and not task.status.is_final


def may_open_slot(limits: Limits, before: Task | None, after: Task | None) -> bool:
    """Whether a task that waits may have a slot after a write, so that the writer must look.

    Where owners take turns: if a slot was freed, if a message left the queue, or if a task has begun to wait,
    for what it waits for may have come meanwhile.
    """
    task = before or after
    if task is None:
        return False
    if limits.concurrency_limit(task.queue) is not None:
        return _frees_slot(before, after)
    if not task.takes_turns:
        return False
    had_message = before is not None and has_message(before)
    left_queue = had_message and not (after is not None and has_message(after))
    return left_queue or _frees_slot(before, after) or (_waits(after) and not _waits(before))


def _waits(task: Task | None) -> bool:
    return task is not None and task.slot is Slot.WAITING


def _frees_slot(before: Task | None, after: Task | None) -> bool:
    return before is not None and holds_slot(before) and not (after is not None and holds_slot(after))


class Due(StrEnum):
    """The indexes that a sweep works off."""

    EXPIRED = "expired"
    """Final, and past `expires_ms`."""
    OVERDUE = "overdue"
    """Past the deadline of their phase."""
    LEASES = "leases"
    """Past their lease."""
    TIMERS = "timers"
    """To be sent when a sleep or a retry's delay is over. They have no message yet: `Redispatch` makes it."""


def blocks_beyond_first(task: Task | None) -> int:
    """How many blocks are counted of what is stored of a task, beside the one that each task has."""
    return 0 if task is None else task.stored_bytes // BLOCK_BYTES
