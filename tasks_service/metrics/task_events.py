"""What is counted of an event that was applied to a task: read from the lines that it added to its log."""

from __future__ import annotations

from collections.abc import Sequence

from ..domain.decide import Applied, Replayed
from ..domain.events import Event, Reap, Redispatch, Release, Retry
from ..domain.indexes import has_message
from ..domain.task import LogEntry, Phase, Task, TaskStatus
from . import series
from .counting import is_on
from .series import LeaseLoss, Outcome, Resent


def count_event(event: Event, before: Task | None, applied: Applied, *, sends: bool) -> None:
    """Count what an event has done.

    Args:
        event: What happened.
        before: The task as it was stored; None if there was none.
        applied: What `decide` said.
        sends: Whether a message went out with it.
    """
    after = applied.task
    if after is None or not is_on():
        return
    if sends:
        _count_message(event, before, after)
    since_ms = 0 if before is None else _since_ms(before)
    for line in applied.log:
        _count_move(line, since_ms, after)
        since_ms = line.at_ms
    if applied.log:
        _count_end_of_attempt(event, after)


def count_replayed(event: Event, replayed: Replayed, log: Sequence[LogEntry]) -> None:
    """Count what was applied by an earlier try, of which no answer came.

    Args:
        event: What happened.
        replayed: What `decide` said: the line that the earlier try has added.
        log: The task's log.
    """
    line, task = replayed.entry, replayed.task
    if line is None or task is None or not is_on():
        return
    earlier = [entry.at_ms for entry in log if entry.revision < line.revision]
    _count_move(line, max(earlier, default=line.at_ms), task)
    _count_end_of_attempt(event, task)


def _since_ms(task: Task) -> int:
    """When its phase began; while it is pending, when it was due."""
    return max(task.due_ms, task.updated_ms) if task.phase is Phase.PENDING else task.updated_ms


def _count_move(line: LogEntry, since_ms: int, task: Task) -> None:
    """Count one line of a log; `task` is what has become of the task."""
    labels = task.service, task.tool
    seconds = (line.at_ms - since_ms) / 1000
    if line.source is None:
        series.CREATED.add(*labels)
    elif line.source is Phase.PENDING and line.target is Phase.RUNNING:
        series.WAITING.observe(seconds, *labels)
    elif line.source is Phase.RUNNING and line.target is not Phase.RUNNING:
        series.RUNNING.observe(seconds, *labels)
    ended = line.target in _FINAL and line.source not in _FINAL
    if ended:
        series.DURATION.observe((line.at_ms - task.created_ms) / 1000, *labels)
        series.FINISHED.add(*labels, _outcome(task))
        if task.failure is not None:
            series.FAILED.add(*labels, task.failure.kind)


_FINAL = frozenset({Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED})


def _outcome(task: Task) -> Outcome:
    if task.status is TaskStatus.COMPLETED:
        return Outcome.TOOL_ERROR if task.is_error else Outcome.COMPLETED
    return Outcome.FAILED if task.status is TaskStatus.FAILED else Outcome.CANCELLED


def _count_end_of_attempt(event: Event, after: Task) -> None:
    labels = after.service, after.tool
    if isinstance(event, Retry) and not after.status.is_final:
        series.RETRIES.add(*labels)
    elif isinstance(event, Reap):
        series.LEASES_LOST.add(*labels, LeaseLoss.EXPIRED)
    elif isinstance(event, Release) and event.lost:
        series.LEASES_LOST.add(*labels, LeaseLoss.CHILD)


def _count_message(event: Event, before: Task | None, after: Task) -> None:
    series.MESSAGES.add(after.queue)
    if isinstance(event, Redispatch) and before is not None and has_message(before):
        series.RESENT.add(after.queue, Resent.DROPPED if event.dropped_ms else Resent.LOST)
