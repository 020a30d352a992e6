"""How a record is written: domain values to hash fields and back, and nothing else.

    v          schema version of the record
    status     as in `TaskStatus`
    rev        revision
    state      JSON: everything else that a decision depends on
    vars       JSON: name to JSON text
    inputs     JSON: key to [request, deadline, default, digest]
    failure    JSON: the error of a failed task
    arguments  JSON text of the call
    result     JSON text of the result
    j:<n>      JSON: the nth journal entry

The small numbers share one field, because a hash field of its own costs Redis 70 bytes and a poll a lookup
each; what operators grep for stands alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from typing import Any

from ...domain.decide import IdempotencyRecord
from ...domain.errors import CorruptRecord
from ...domain.reports import LogLevel, LogMessage, Report
from ...domain.task import (
    EntryKind,
    Failure,
    FailureKind,
    InputRequest,
    JournalEntry,
    JsonText,
    Lease,
    LogEntry,
    Owner,
    Phase,
    Policy,
    Progress,
    Slot,
    Task,
    TaskStatus,
)
from ..maintenance import SweepRecord

SCHEMA_VERSION = "1"

STATE_FIELDS = ("v", "status", "rev", "state", "vars", "inputs", "failure")
"""What a transition reads."""

VIEW_FIELDS = (*STATE_FIELDS, "result")
"""What a poll reads."""

_PLAIN = (
    "owner",
    "tool",
    "queue",
    "created_ms",
    "updated_ms",
    "due_ms",
    "deadline_ms",
    "expires_ms",
    "status_message",
    "claims",
    "attempts",
    "dispatched_ms",
    "redispatches",
    "visible",
    "return_by_ms",
    "resumable_until_ms",
    "reconnect_ms",
    "slot",
    "era",
    "capabilities",
    "trace",
    "is_error",
    "journal_length",
    "journal_bytes",
    "idempotency",
)
_OMITTED = {field.name: field.default for field in fields(Task) if field.name in _PLAIN}
"""A field that has its default is not written; a field without a default always is."""


def encode(task: Task) -> dict[str, str]:
    """The hash fields of a task; an empty text means that the field is not stored."""
    return {
        "v": SCHEMA_VERSION,
        "status": task.status.value,
        "rev": str(task.revision),
        "state": _state(task),
        "vars": _dumps(dict(task.variables)) if task.variables else "",
        "inputs": _dumps({key: _input(asked) for key, asked in task.inputs.items()}) if task.inputs else "",
        "failure": _dumps(_failure(task.failure)) if task.failure else "",
    }


def _state(task: Task) -> str:
    state: dict[str, Any] = {}
    for name in _PLAIN:
        value = getattr(task, name)
        if value != _OMITTED[name]:
            state[name] = value
    state["policy"] = astuple(task.policy)
    if task.lease is not None:
        state["lease"] = astuple(task.lease)
    if task.progress is not None:
        state["progress"] = astuple(task.progress)
    if task.used_keys:
        state["used_keys"] = task.used_keys
    return _dumps(state)


def _input(asked: InputRequest) -> list[Any]:
    return [asked.request, asked.deadline_ms, asked.default, asked.digest]


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        "kind": failure.kind.value,
        "message": failure.message,
        "code": failure.code,
        "data": failure.data,
    }


def decode(task_id: str, values: Sequence[str | None]) -> Task | None:
    """The task of a record read as `STATE_FIELDS`; None if there is no record.

    Raises:
        CorruptRecord: It is of another schema version, or damaged.
    """
    version, status, revision, state, variables, inputs, failure = values
    if state is None and status is None:
        return None
    if version != SCHEMA_VERSION:
        raise CorruptRecord(task_id, f"schema version {version!r}, this service reads {SCHEMA_VERSION!r}")
    try:
        return _decode(task_id, status or "", revision or "", state or "", variables, inputs, failure)
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptRecord(task_id, f"{type(error).__name__}: {error}") from error


def _decode(
    task_id: str,
    status: str,
    revision: str,
    state: str,
    variables: str | None,
    inputs: str | None,
    failure: str | None,
) -> Task:
    known: dict[str, Any] = json.loads(state)
    known["policy"] = _policy(known["policy"])
    known["owner"] = Owner(known["owner"])
    if "slot" in known:
        known["slot"] = Slot(known["slot"])
    if "lease" in known:
        lease_id, until_ms, worker = known["lease"]
        known["lease"] = Lease(lease_id=lease_id, until_ms=until_ms, worker=worker)
    if "progress" in known:
        current, total, message = known["progress"]
        known["progress"] = Progress(current=current, total=total, message=message)
    if "used_keys" in known:
        known["used_keys"] = tuple(known["used_keys"])
    if variables:
        known["variables"] = json.loads(variables)
    if inputs:
        known["inputs"] = {key: _decode_input(asked) for key, asked in json.loads(inputs).items()}
    if failure:
        known["failure"] = _decode_failure(json.loads(failure))
    return Task(task_id=task_id, status=TaskStatus(status), revision=int(revision), **known)


_POLICY_NAMES = tuple(field.name for field in fields(Policy))
_policies: dict[tuple[int, ...], Policy] = {}


def _policy(values: list[int]) -> Policy:
    """Few policies exist, one per tool; each is made once."""
    key = tuple(values)
    if (policy := _policies.get(key)) is None:
        policy = _policies.setdefault(key, Policy(**dict(zip(_POLICY_NAMES, key, strict=True))))
    return policy


def _decode_input(values: list[Any]) -> InputRequest:
    request, deadline_ms, default, digest = values
    return InputRequest(request=request, deadline_ms=deadline_ms, default=default, digest=digest)


def _decode_failure(values: dict[str, Any]) -> Failure:
    return Failure(
        kind=FailureKind(values["kind"]),
        message=values["message"],
        code=values["code"],
        data=values["data"],
    )


def encode_entry(entry: JournalEntry) -> str:
    """A journal entry as its hash field."""
    return _dumps([entry.kind.value, entry.name, entry.digest, entry.value])


def decode_journal(task: Task, record: Mapping[str, str]) -> tuple[JournalEntry, ...]:
    """The journal out of the whole hash.

    Raises:
        CorruptRecord: An entry is missing.
    """
    entries = []
    for number in range(task.journal_length):
        try:
            kind, name, digest, value = json.loads(record[f"j:{number}"])
        except (KeyError, ValueError) as error:
            raise CorruptRecord(task.task_id, f"journal entry {number} is missing or damaged") from error
        entries.append(JournalEntry(kind=EntryKind(kind), name=name, digest=digest, value=JsonText(value)))
    return tuple(entries)


def encode_line(line: LogEntry) -> str:
    """A line of the transition log."""
    source = "" if line.source is None else line.source.value
    actor = line.actor.replace("|", "/")
    return f"{line.revision}|{source}|{line.target.value}|{line.token}|{actor}|{line.at_ms}"


def decode_line(text: str) -> LogEntry:
    """A line of the transition log, read back."""
    revision, source, target, token, actor, at_ms = text.split("|")
    return LogEntry(
        revision=int(revision),
        source=Phase(source) if source else None,
        target=Phase(target),
        token=token,
        actor=actor,
        at_ms=int(at_ms),
    )


def encode_sweep(sweep: SweepRecord) -> str:
    """The last sweep, as the store keeps it."""
    return "|".join(map(str, sweep))


def decode_sweep(text: str) -> SweepRecord:
    """The last sweep, read back."""
    at_ms, server, reap_from_ms = text.split("|")
    return SweepRecord(int(at_ms), server, int(reap_from_ms))


def encode_remembered(remembered: IdempotencyRecord) -> str:
    """What an idempotency key stands for, as its value."""
    return f"{remembered.task_id}|{remembered.request_digest}"


def decode_remembered(text: str | None) -> IdempotencyRecord | None:
    """The value of an idempotency key, read back; None where there is none.

    Raises:
        CorruptRecord: It was not written by us.
    """
    if text is None:
        return None
    task_id, bar, digest = text.partition("|")
    if not (task_id and bar):
        raise CorruptRecord(task_id, f"its idempotency key holds {text!r}")
    return IdempotencyRecord(task_id=task_id, request_digest=digest)


def encode_reports(reports: Sequence[Report]) -> str:
    """Reports as they are published."""
    return _dumps([_report(report) for report in reports])


def _report(report: Report) -> tuple[Any, ...]:
    if isinstance(report, Progress):
        return (report.current, report.total, report.message)
    return (report.level.value, report.data, report.logger)


def decode_reports(text: str) -> tuple[Report, ...]:
    """Reports, read back.

    Raises:
        ValueError: Whoever published it was not one of ours.
    """
    reports: list[Report] = []
    try:
        for first, second, third in json.loads(text):
            if isinstance(first, str):
                reports.append(LogMessage(LogLevel(first), JsonText(second), third))
            else:
                reports.append(Progress(current=first, total=second, message=third))
    except TypeError as error:
        raise ValueError(f"not a list of reports: {error}") from error
    return tuple(reports)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
