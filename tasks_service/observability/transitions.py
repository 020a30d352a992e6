"""A line for each transition of a task, by the process that has written it, once it is written.

What a task goes through ordinarily (it is created, claimed, waits, is answered, ends) is told at INFO, and
what should not happen at WARNING; what is many lines a task (steps, slots, what it waits for) at DEBUG.
Renewals and progress are no transitions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from ..domain.events import (
    AnswerInput,
    CallerLeft,
    CallerReturned,
    Cancel,
    CancelByOperator,
    Checkpoint,
    Claim,
    CompleteWithResult,
    Create,
    DeadlinePassed,
    Event,
    ExplainWait,
    FailWithError,
    GrantSlot,
    MakeVisible,
    Reap,
    Redispatch,
    Release,
    RepairRecord,
    RequestInput,
    Retry,
    Sleep,
)
from ..domain.names import task_hash
from ..domain.task import LogEntry, Phase, Task
from ..domain.traces import trace_id
from .context import current
from .records import emit

logger = logging.getLogger("tasks_service.transitions")


class _Told(NamedTuple):
    """How a transition is told: the field `event`, the level, and what people read."""

    event: str
    level: int
    message: str


_OF_EVENTS: Final[Mapping[type[Event], _Told]] = {
    Create: _Told("created", logging.INFO, "A task was created"),
    Claim: _Told("claimed", logging.INFO, "A worker has claimed the task"),
    RequestInput: _Told("parked", logging.INFO, "The task waits for answers"),
    AnswerInput: _Told("answered", logging.INFO, "The task was answered"),
    Sleep: _Told("asleep", logging.INFO, "The task sleeps"),
    Retry: _Told("retried", logging.INFO, "The task failed and will run again"),
    Release: _Told("released", logging.INFO, "The task was handed back"),
    CompleteWithResult: _Told("completed", logging.INFO, "The task has completed"),
    FailWithError: _Told("failed", logging.INFO, "The task has failed"),
    Cancel: _Told("cancelled", logging.INFO, "The task was cancelled"),
    CancelByOperator: _Told("cancelled", logging.INFO, "An operator has cancelled the task"),
    Reap: _Told("lost", logging.WARNING, "The task's worker was lost"),
    DeadlinePassed: _Told("answered", logging.INFO, "The task goes on with an answer by default"),
    Redispatch: _Told("sent_again", logging.INFO, "The task's message was sent again"),
    RepairRecord: _Told("repaired", logging.WARNING, "The task's record was repaired"),
    MakeVisible: _Told("handed_over", logging.DEBUG, "The task's handle was given out"),
    CallerLeft: _Told("caller_left", logging.DEBUG, "The task's caller has left"),
    CallerReturned: _Told("caller_returned", logging.DEBUG, "The task's caller has come back"),
    GrantSlot: _Told("slot_granted", logging.DEBUG, "The task was granted a slot"),
    ExplainWait: _Told("waits", logging.DEBUG, "What the task waits for was found"),
    Checkpoint: _Told("recorded", logging.DEBUG, "The tool has recorded something"),
}

_ENDS: Final[Mapping[Phase, _Told]] = {
    Phase.COMPLETED: _OF_EVENTS[CompleteWithResult],
    Phase.FAILED: _OF_EVENTS[FailWithError],
    Phase.CANCELLED: _OF_EVENTS[Cancel],
}

_LOST: Final = _Told("lost", logging.WARNING, "The task's worker process was lost")
_NO_SLOT: Final = _Told("waits", logging.DEBUG, "The task waits for a slot")
_OTHER: Final = _Told("changed", logging.DEBUG, "The task has changed")


def log_transitions(
    event: Event, before: Task | None, after: Task | None, entries: Iterable[LogEntry], owner_name: str = ""
) -> None:
    """Log the transitions that an event was written with.

    Args:
        event: The event.
        before: The task before it, if it was seen.
        after: The task after it; None: it was removed.
        entries: What was written into the task's own log.
        owner_name: The name of the owner's API key, if it is known that it has one.
    """
    if after is None or not logger.isEnabledFor(logging.WARNING):
        return
    since_ms = None if before is None else before.updated_ms
    for entry in entries:
        told = _told(event, entry)
        if logger.isEnabledFor(told.level):
            emit(logger, told.level, told.message, _fields(told, event, after, entry, since_ms, owner_name))
        since_ms = entry.at_ms


def _told(event: Event, entry: LogEntry) -> _Told:
    if entry.source is not entry.target and entry.target in _ENDS:
        return _OF_EVENTS[CancelByOperator] if type(event) is CancelByOperator else _ENDS[entry.target]
    if entry.token != event.token:  # time has done this, before the event
        return _OF_EVENTS[DeadlinePassed]
    if isinstance(event, Release) and event.lost:
        return _LOST
    if isinstance(event, Claim) and entry.target is not Phase.RUNNING:
        return _NO_SLOT
    return _OF_EVENTS.get(type(event), _OTHER)


def _fields(
    told: _Told, event: Event, task: Task, entry: LogEntry, since_ms: int | None, owner_name: str
) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if task.service:
        fields["service"] = task.service
    fields["task"], fields["tool"] = task_hash(task.task_id), task.tool
    if task.claims:
        fields["attempt"], fields["claim"] = task.attempts, task.claims
    context = current()
    if not owner_name and context is not None and context.source.owner == task.owner:
        owner_name = context.source.name
    fields["owner"] = owner_name or task.owner
    if context is not None and context.request:
        fields["request"] = context.request
    if task.trace:
        fields["trace"] = trace_id(task.trace)
    fields["event"] = told.event
    if entry.source is not None:
        fields["from"] = entry.source.value
    # A claim's own entry names the worker.
    actor = event.actor if type(event) is Claim and entry.token == event.token else entry.actor
    fields["to"], fields["actor"], fields["revision"] = entry.target.value, actor, entry.revision
    if since_ms is not None:
        fields["phase_ms"] = max(entry.at_ms - since_ms, 0)
    if type(event) is Create:
        fields["queue"] = task.queue
        if task.parent:
            fields["parent"] = task.parent
    elif type(event) is Claim and entry.target is Phase.RUNNING:
        fields["worker"] = event.worker
    if entry.target is Phase.FAILED and task.failure is not None:
        fields["failure"] = task.failure.kind.value
    elif entry.target is Phase.COMPLETED and task.is_error:
        fields["outcome"] = "failed"
    return fields
