"""What clients asked for and were answered, and whether the transition log bears them out.

Each task is an object of its own, and its log is the witness of the order in which events took effect, so
checking is linear: every acknowledged event must be in the log once, a refused one never, one whose outcome
nobody was told at most once; events of a lease lie between its claim and the next move away; and what one
client has seen, no later reader sees undone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tasks_service.domain.limits import Limits
from tasks_service.domain.task import LogEntry, Phase, TaskRecord


class Outcome(StrEnum):
    """What a client was told in the end."""

    OK = "ok"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One operation of one client, from its first try to its last answer.

    Attributes:
        kind: The event's name; `get` for a read.
        began_ns: On the machine's monotonic clock, which all its processes share.
        ended_ns: The same; when the last answer came.
        revision: The revision that the answer showed, if it showed one.
        lease_id: Of a worker's event, and of the claim that drew it.
        until_ms: Of a create: until when the task must be readable.
        attempts: How often it was sent.
    """

    task_id: str
    kind: str
    token: str
    outcome: Outcome
    began_ns: int
    ended_ns: int
    revision: int | None = None
    lease_id: str | None = None
    until_ms: int = 0
    attempts: int = 1


@dataclass
class ClientLog:
    """The operations of all clients; `now_ms` is the store's time at the end."""

    asked: list[Asked] = field(default_factory=list)
    now_ms: int = 0


MUST_LOG = frozenset(
    {"Create", "Claim", "RequestInput", "Sleep", "Retry", "Release", "CompleteWithResult", "FailWithError"}
    | {"Cancel", "Reap"}
)
"""Events that leave a line whenever they are acknowledged."""

Problem = tuple[str, str, str]


def check_history(log: ClientLog, records: Mapping[str, TaskRecord], limits: Limits) -> Iterator[Problem]:
    """Where the store contradicts its clients: (invariant, task id, what)."""
    by_task: dict[str, list[Asked]] = defaultdict(list)
    for asked in log.asked:
        by_task[asked.task_id].append(asked)
    for task_id, operations in by_task.items():
        if (record := records.get(task_id)) is None:
            yield from _lost(task_id, operations, log.now_ms)
            continue
        if record.log and (record.log[0].revision == 0 or len(record.log) < limits.log_entries):
            yield from _tokens(task_id, operations, record.log)
            yield from _fencing(task_id, operations, record.log)
        yield from _reads(task_id, operations)


def _lost(task_id: str, operations: list[Asked], now_ms: int) -> Iterator[Problem]:
    for asked in operations:
        if asked.kind == "Create" and asked.outcome is Outcome.OK and asked.until_ms > now_ms:
            yield "I1", task_id, "its handle was given out, and it is gone before its time"


def _tokens(task_id: str, operations: list[Asked], log: tuple[LogEntry, ...]) -> Iterator[Problem]:
    times = Counter(line.token for line in log)
    for asked in operations:
        seen = times[asked.token]
        if seen > 1:
            yield "I4", task_id, f"{asked.kind} was applied {seen} times"
        elif asked.outcome is Outcome.OK and asked.kind in MUST_LOG and not seen:
            yield "I4", task_id, f"{asked.kind} was acknowledged, and is not in the log"
        elif asked.outcome is Outcome.REFUSED and seen and not _was_moot(asked, log):
            yield "I4", task_id, f"{asked.kind} was refused, and is in the log"


def _was_moot(asked: Asked, log: tuple[LogEntry, ...]) -> bool:
    """A claim also answers "not to be had" if it was applied and the task is no longer the claimer's."""
    line = next(line for line in log if line.token == asked.token)
    return asked.kind == "Claim" and (line.target is Phase.FAILED or line is not log[-1])


def _fencing(task_id: str, operations: list[Asked], log: tuple[LogEntry, ...]) -> Iterator[Problem]:
    asked_by = {asked.token: asked for asked in operations}
    holder: str | None = None
    for line in log:
        asked = asked_by.get(line.token)
        if asked is not None and asked.kind != "Claim" and asked.lease_id not in (None, holder):
            yield "I7", task_id, f"{asked.kind} of a lease that had ended, at {line.revision}"
        is_claim = asked is not None and line.target is Phase.RUNNING
        holder = asked.lease_id if asked is not None and is_claim else None


def _reads(task_id: str, operations: list[Asked]) -> Iterator[Problem]:
    shown = [asked for asked in operations if asked.revision is not None]
    by_end = sorted(shown, key=lambda asked: asked.ended_ns)
    newest, done = -1, 0
    for asked in sorted(shown, key=lambda asked: asked.began_ns):
        while done < len(by_end) and by_end[done].ended_ns < asked.began_ns:
            newest = max(newest, by_end[done].revision or 0)
            done += 1
        if asked.revision is not None and asked.revision < newest:
            yield "I5", task_id, f"{asked.kind} saw {asked.revision} after {newest} had been seen"
