"""How a record is spread over the fields of its hash, and how what stands beside it is written.

    v          schema version of the record, all fields together
    status     see `schema.STATUSES`
    rev        revision
    state      JSON: everything else that a decision depends on, see `schema.TASK`
    vars       JSON: name to JSON text
    inputs     JSON: key to an object, see `schema.INPUT_REQUEST`
    failure    JSON: the error of a failed task, see `schema.FAILURE`
    arguments  JSON text of the call
    caller     JSON: who has called, for the tool, see `schema.IDENTITY`
    result     JSON text of the result
    exception  JSON: what the tool raised, for operators, see `schema.TOOL_EXCEPTION`
    j:<n>      JSON: the nth journal entry, see `schema.JOURNAL_ENTRY`

The small numbers share one field, because a hash field of its own costs Redis 70 bytes and a poll a lookup
each; what operators grep for stands alone. A hash field that is not listed here is a newer release's: nothing
ever writes it or takes it away.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence

from ...domain.decide import IdempotencyRecord
from ...domain.errors import CorruptRecord
from ...domain.names import is_name, task_hash
from ...domain.reports import Report
from ...domain.task import (
    NOT_RECORDED,
    Identity,
    JournalEntry,
    LogEntry,
    Progress,
    Task,
    TaskStatus,
    ToolException,
)
from ..maintenance import DroppedMessages, SweepRecord
from . import schema
from .documents import StoredFields, dumps

logger = logging.getLogger(__name__)

STATE_FIELDS = ("v", "status", "rev", "state", "vars", "inputs", "failure")
"""What a transition reads."""

VIEW_FIELDS = (*STATE_FIELDS, "result")
"""What a poll reads."""

DAMAGES = (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError)
"""What reading raises over something that none of our releases has written."""

_BESIDE = ("vars", "inputs", "failure")
"""The parts of a record that have a JSON field of their own, and none while they are empty."""


def _refuse_error(reference: str, reply: object) -> None:
    """Refuse what Redis answers where a key is of a wrong type."""
    if isinstance(reply, Exception):
        raise CorruptRecord(reference, str(reply))


def _refuse_no_text(*values: str | None) -> None:
    """Refuse bytes that are no text: see `connection.NO_TEXT_BYTES`."""
    for value in values:
        if value is not None and not value.isascii():
            value.encode()


def encode(task: Task) -> dict[str, str]:
    """The hash fields of a task, as `STATE_FIELDS`; an empty text means that the field is not stored."""
    versions = schema.RECORD_VERSIONS
    stored = versions.lower(schema.TASK.write(task))
    fields = {"v": str(versions.written), "status": stored.pop("status"), "rev": str(stored.pop("rev"))}
    beside = {name: dumps(stored.pop(name)) if name in stored else "" for name in _BESIDE}
    return {**fields, "state": dumps(stored), **beside}


def decode(reference: str, values: Sequence[str | None], as_of_ms: int = 0) -> Task | None:
    """The task of a record read as `STATE_FIELDS`.

    Args:
        reference: The id or the name that led to the record.
        values: What was read there.
        as_of_ms: When it was read, for whoever asks what time has made of it.

    Returns:
        The task; None if there is no record, or if it is that of another id of the same hash.

    Raises:
        RecordTooNew: A newer release has written it.
        CorruptRecord: It is damaged.
    """
    _refuse_error(reference, values)
    version, status, revision, state, *beside = values
    if state is None and status is None:
        return None
    try:
        _refuse_no_text(*values)
        stored: StoredFields = json.loads(state or "")
        stored["status"], stored["rev"] = status, int(revision or "")
        for name, text in zip(_BESIDE, beside, strict=True):
            if text:
                stored[name] = json.loads(text)
        lifted = schema.RECORD_VERSIONS.lift(stored, int(version or ""), reference)
        task = schema.TASK.read(lifted, as_of_ms=as_of_ms)
        if not (task.owner and task.tool and task.queue):
            raise ValueError("its owner, its tool or its queue has no name")
        is_asked = task.status is TaskStatus.INPUT_REQUIRED
        if is_asked and not task.inputs.keys() <= set(task.used_keys):
            raise ValueError("a question is open that was never asked")
    except DAMAGES as error:
        raise CorruptRecord(reference, f"{type(error).__name__}: {error}") from error
    if task.task_id == reference:
        return task
    if not is_name(reference):
        return None
    if (name := task_hash(task.task_id)) != task_hash(reference):
        raise CorruptRecord(reference, f"it is the record of task {name}")
    return task


def encode_entry(entry: JournalEntry) -> str:
    """A journal entry as its hash field."""
    return schema.JOURNAL_ENTRY.text(entry)


def encode_caller(caller: Identity) -> str:
    """Who has called, as its hash field."""
    return schema.IDENTITY.text(caller)


def decode_caller(reference: str, text: str | None) -> Identity:
    """Who has called, out of a record.

    Raises:
        RecordTooNew: A newer release has written it.
        CorruptRecord: It is damaged.
    """
    if text is None:
        return NOT_RECORDED
    try:
        return schema.IDENTITY.value(text, reference)
    except DAMAGES as error:
        raise CorruptRecord(reference, f"who has called is damaged: {error}") from error


def encode_exception(exception: ToolException) -> str:
    """An exception as its hash field."""
    return schema.TOOL_EXCEPTION.text(exception)


def decode_exception(reference: str, text: str | None) -> ToolException | None:
    """The exception out of a record; None if there is none.

    Raises:
        RecordTooNew: A newer release has written it.
        CorruptRecord: It is damaged.
    """
    if text is None:
        return None
    try:
        return schema.TOOL_EXCEPTION.value(text, reference)
    except DAMAGES as error:
        raise CorruptRecord(reference, f"the exception of its tool is damaged: {error}") from error


def decode_entry(reference: str, number: int, record: Mapping[str, str]) -> JournalEntry:
    """The nth journal entry out of the whole hash.

    Raises:
        RecordTooNew: A newer release has written it.
        CorruptRecord: It is missing or damaged.
    """
    try:
        return schema.JOURNAL_ENTRY.value(record[f"j:{number}"], reference)
    except DAMAGES as error:
        raise CorruptRecord(reference, f"journal entry {number} is missing or damaged") from error


def decode_journal(task: Task, record: Mapping[str, str]) -> tuple[JournalEntry, ...]:
    """The journal out of the whole hash; raises as `decode_entry` does."""
    name = task_hash(task.task_id) if task.journal_length else ""
    return tuple(decode_entry(name, number, record) for number in range(task.journal_length))


def encode_line(line: LogEntry) -> str:
    """A line of the transition log."""
    return schema.LOG_ENTRY.text(line)


def decode_log(reference: str, lines: Sequence[str]) -> tuple[LogEntry, ...]:
    """The transition log, read back.

    Raises:
        RecordTooNew: A newer release has written to it.
        CorruptRecord: A line is damaged.
    """
    try:
        _refuse_error(reference, lines)
        _refuse_no_text(*lines)
        return schema.LOG_ENTRY.values(lines, reference)
    except DAMAGES as error:
        raise CorruptRecord(reference, f"its transition log is damaged: {error}") from error


def encode_sweep(sweep: SweepRecord) -> str:
    """The last sweep, as the store keeps it."""
    return schema.SWEEP.text(sweep)


def decode_sweep(text: str | Exception | None) -> SweepRecord | None:
    """The last sweep, read back; None if there was none, or if it cannot be read."""
    if not isinstance(text, str):
        return None
    try:
        return schema.SWEEP.value(text)
    except DAMAGES as error:
        logger.warning("The mark of the last sweep cannot be read, and is written anew: %r", error)
        return None


def encode_dropped(dropped: DroppedMessages) -> str:
    """What was dropped from a queue, as the store keeps it."""
    return schema.DROPPED.text(dropped)


def decode_dropped(text: str | None) -> DroppedMessages | None:
    """What was dropped from a queue, read back; None if it cannot be read: it is only a number for people."""
    try:
        return schema.DROPPED.value(text or "")
    except DAMAGES:
        return None


def encode_remembered(remembered: IdempotencyRecord) -> str:
    """What an idempotency key stands for, as its value."""
    return schema.IDEMPOTENCY.text(remembered)


def decode_remembered(text: str | None) -> IdempotencyRecord | None:
    """The value of an idempotency key, read back; None where there is none.

    Raises:
        RecordTooNew: A newer release has written it.
        CorruptRecord: It was not written by us.
    """
    if text is None:
        return None
    _refuse_error("", text)
    try:
        remembered = schema.IDEMPOTENCY.value(text)
    except DAMAGES as error:
        raise CorruptRecord("", f"an idempotency key holds {text!r:.80}") from error
    if not remembered.task_id:
        raise CorruptRecord("", f"an idempotency key leads to no task: {text!r:.80}")
    return remembered


def encode_reports(reports: Sequence[Report]) -> str:
    """Reports as they are published."""
    return dumps([_report(report) for report in reports])


def _report(report: Report) -> StoredFields:
    if isinstance(report, Progress):
        return schema.PROGRESS.write(report)
    return schema.LOG_MESSAGE.write(report)


def decode_reports(text: str) -> tuple[Report, ...]:
    """Reports, read back.

    Raises:
        ValueError: Whoever published it was not one of ours, or is a newer release.
    """
    try:
        return tuple(
            schema.LOG_MESSAGE.read(stored) if "level" in stored else schema.PROGRESS.read(stored)
            for stored in json.loads(text)
        )
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not a list of reports: {error}") from error
