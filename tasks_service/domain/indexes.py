"""Which index holds a task: the rules that every store follows."""

from __future__ import annotations

from .decide import Applied
from .events import Event, GrantSlot, Redispatch
from .task import Phase, Slot, Task


def awaits_first_message(task: Task) -> bool:
    """Whether a pending task comes due, or came due, without a message ever having been made for it."""
    return task.due_ms > task.updated_ms and task.redispatches == 0 and task.slot is None


def awaits_worker(task: Task) -> bool:
    """Whether a pending task has a message out, or will have one when it is due: no turn stands before it."""
    return task.phase is Phase.PENDING and task.slot is not Slot.WAITING


def is_sent(applied: Applied, event: Event, now_ms: int) -> bool:
    """Whether a message goes out with what an event did."""
    task = applied.task
    moved = bool(applied.log) or isinstance(event, Redispatch | GrantSlot)
    return moved and task is not None and awaits_worker(task) and task.due_ms <= now_ms


def refusal_reason(task: Task) -> str:
    """Why a task that a worker came for is not to be had, in a few words."""
    if task.slot is Slot.WAITING:
        return "it waits for a slot"
    return task.status_message or "not to be had"


def holds_slot(task: Task) -> bool:
    """Whether it counts among what its owner may run."""
    return task.slot is Slot.HELD and not task.status.is_final


def frees_slot(before: Task | None, after: Task | None) -> bool:
    """Whether a slot was given back, so that whoever did it must look who waits for it."""
    return before is not None and holds_slot(before) and not (after is not None and holds_slot(after))
