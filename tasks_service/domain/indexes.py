"""Which index holds a task: the rules that every store follows."""

from __future__ import annotations

from .decide import Applied
from .events import Call, Event, Redispatch
from .task import Phase, Task, Turn


def awaits_first_message(task: Task) -> bool:
    """Whether a pending task comes due, or came due, without a message ever having been made for it."""
    return task.due_ms > task.updated_ms and task.redispatches == 0 and task.turn is None


def awaits_worker(task: Task) -> bool:
    """Whether a pending task has a message out, or will have one when it is due: no turn stands before it."""
    return task.phase is Phase.PENDING and task.turn is not Turn.AWAITED


def is_sent(applied: Applied, event: Event, now_ms: int) -> bool:
    """Whether a message goes out with what an event did."""
    task = applied.task
    moved = bool(applied.log) or isinstance(event, Redispatch | Call)
    return moved and task is not None and awaits_worker(task) and task.due_ms <= now_ms


def why_not(task: Task) -> str:
    """Why a task that a worker came for is not to be had, in a few words."""
    if task.turn is Turn.AWAITED:
        return "it waits for its turn"
    return task.status_message or "not to be had"


def has_seat(task: Task) -> bool:
    """Whether it counts among what its owner may run."""
    return task.turn is Turn.TAKEN and not task.status.is_final


def frees_seat(before: Task | None, after: Task | None) -> bool:
    """Whether a seat was given back, so that whoever did it must look who is next in the lane."""
    return before is not None and has_seat(before) and not (after is not None and has_seat(after))
