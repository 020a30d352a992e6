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

Where there is encryption, everything that a caller or a tool has written is sealed: from `vars` on, each
field as a whole; the words in `state` together, as `schema.SEALED_WORDS`. What decodes a field opens it, and
`Records` seals what it writes: nothing above the store ever sees a sealed text.

The small numbers share one field, because a hash field of its own costs Redis 70 bytes and a poll a lookup
each; what operators grep for stands alone. A hash field that is not listed here is a newer release's: nothing
ever writes it or takes it away.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ...crypto.envelope import Envelope, TaskSeal, key_name
from ...domain.decide import IdempotencyRecord
from ...domain.errors import CorruptRecord, RecordSealed
from ...domain.names import is_name, task_hash
from ...domain.reports import Report
from ...domain.task import (
    NO_TEXT,
    NOT_RECORDED,
    Identity,
    InputRequest,
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

SEALED_FIELDS = frozenset({*_BESIDE, "arguments", "caller", "result", "exception"})
"""The hash fields that are sealed, beside the journal's."""


class RecordFields(NamedTuple):
    """The state of a record as it is stored.

    Attributes:
        plain: `STATE_FIELDS` by name; what was sealed beside `state` is opened.
        stale: The names of those that would be sealed otherwise now: under a newer key, or at all.
    """

    plain: Mapping[str, str | None]
    stale: frozenset[str] = frozenset()


def is_sealed_field(name: str) -> bool:
    """Whether a hash field is one that is sealed where there is encryption."""
    return name in SEALED_FIELDS or name.startswith("j:")


def _refuse_error(reference: str, reply: object) -> None:
    """Refuse what Redis answers where a key is of a wrong type."""
    if isinstance(reply, Exception):
        raise CorruptRecord(reference, str(reply))


def _refuse_no_text(*values: str | None) -> None:
    """Refuse bytes that are no text: see `connection.NO_TEXT_BYTES`."""
    for value in values:
        if value is not None and not value.isascii():
            value.encode()


def encode(task: Task, seal: TaskSeal | None = None) -> dict[str, str]:
    """The hash fields of a task, as `STATE_FIELDS`; an empty text means that the field is not stored.

    Args:
        task: The task.
        seal: Seals its words in `state`; the fields beside it are plain, to be compared. None: nothing does.
    """
    versions = schema.RECORD_VERSIONS
    stored = versions.lower(schema.TASK.write(task))
    if seal is not None:
        _seal_words(stored, seal)
    fields = {"v": str(versions.written), "status": stored.pop("status"), "rev": str(stored.pop("rev"))}
    beside = {name: dumps(stored.pop(name)) if name in stored else "" for name in _BESIDE}
    return {**fields, "state": dumps(stored), **beside}


def decode(
    envelope: Envelope,
    reference: str,
    values: Sequence[str | None],
    as_of_ms: int = 0,
    *,
    without_keys: bool = False,
) -> Task | None:
    """The task of a record read as `STATE_FIELDS`; see `decode_state`."""
    return decode_state(envelope, reference, values, as_of_ms, without_keys=without_keys)[0]


def decode_state(
    envelope: Envelope,
    reference: str,
    values: Sequence[str | None],
    as_of_ms: int = 0,
    *,
    without_keys: bool = False,
) -> tuple[Task | None, RecordFields]:
    """The task of a record read as `STATE_FIELDS`, and these as they are to be compared with new ones.

    Args:
        envelope: Opens what is sealed.
        reference: The id or the name that led to the record.
        values: What was read there.
        as_of_ms: When it was read, for whoever asks what time has made of it.
        without_keys: Whether a record is read of which a part does not open. That part then stands as if it
            was not there, and the task is good for what needs none of it: to end it, or to take it away.

    Returns:
        The task; None if there is no record, or if it is that of another id of the same hash.

    Raises:
        RecordTooNew: A newer release has written it.
        RecordSealed: A part is sealed under a key that is not there.
        CorruptRecord: It is damaged.
    """
    _refuse_error(reference, values)
    version, status, revision, state, *beside = values
    fields: dict[str, str | None] = dict(zip(STATE_FIELDS, values, strict=True))
    stale: set[str] = set()
    if state is None and status is None:
        return None, RecordFields(fields)
    try:
        _refuse_no_text(*values)
        stored: StoredFields = json.loads(state or "")
        stored["status"], stored["rev"] = status, int(revision or "")
        seal = envelope.of(str(stored.get("owner")), task_hash(reference))
        _open_words(stored, seal, without_keys=without_keys)
        for name, text in zip(_BESIDE, beside, strict=True):
            if text:
                try:
                    plain = seal.open(name, text)
                except RecordSealed:
                    if not without_keys:
                        raise
                    plain = _stand_in(name, stored)
                else:
                    if not envelope.is_current(text):
                        stale.add(name)
                fields[name] = plain
                if plain:
                    stored[name] = json.loads(plain)
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
        return task, RecordFields(fields, frozenset(stale))
    if not is_name(reference):
        return None, RecordFields(fields)
    if (name := task_hash(task.task_id)) != task_hash(reference):
        raise CorruptRecord(reference, f"it is the record of task {name}")
    return task, RecordFields(fields, frozenset(stale))


def _stand_in(name: str, stored: StoredFields) -> str:
    """What stands for a field that does not open, of which nothing is ever written back.

    A question that nobody can read still has its deadline, and no default.
    """
    if name != "inputs" or not stored.get("used_keys"):
        return ""
    asked = schema.INPUT_REQUEST.write(InputRequest(request=NO_TEXT, deadline_ms=int(stored["deadline"])))
    return dumps({stored["used_keys"][-1]: asked})


def _seal_words(stored: StoredFields, seal: TaskSeal) -> None:
    """Seal what a tool or whoever cancelled has said; what a pending task waits for is no secret."""
    words: StoredFields = {}
    if "message" in stored and "waits" not in stored:
        words["message"] = stored["message"]
    if "message" in stored.get("progress", ()):
        words["progress"] = stored["progress"]["message"]
    if not words or (text := dumps(words)) == (sealed := seal.seal(schema.SEALED_WORDS, text)):
        return
    stored[schema.SEALED_WORDS] = sealed
    if "message" in words:
        del stored["message"]
    if "progress" in words:
        stored["progress"] = {name: value for name, value in stored["progress"].items() if name != "message"}


def _open_words(stored: StoredFields, seal: TaskSeal, *, without_keys: bool) -> None:
    sealed = stored.pop(schema.SEALED_WORDS, None)
    if sealed is None:
        if _has_plain_words(stored) and not without_keys:
            seal.open(schema.SEALED_WORDS, "")  # refused, where nothing may be plain
        return
    try:
        words = json.loads(seal.open(schema.SEALED_WORDS, sealed))
    except RecordSealed:
        if not without_keys:
            raise
        return
    if "message" in words:
        stored["message"] = words["message"]
    if "progress" in words:
        stored.setdefault("progress", {})["message"] = words["progress"]


def _has_plain_words(stored: StoredFields) -> bool:
    return ("message" in stored and "waits" not in stored) or "message" in stored.get("progress", ())


def stale_keys(envelope: Envelope, record: Mapping[str, str]) -> frozenset[str]:
    """The names of the keys that a whole record is under, beside the one that seals now; empty: none.

    Raises:
        ValueError, AttributeError: Its state is damaged.
    """
    found = {key_name(text) or "" for name, text in record.items() if is_sealed_field(name) and text}
    if "state" in record:
        stored: StoredFields = json.loads(record["state"])
        if schema.SEALED_WORDS in stored:
            found.add(key_name(stored[schema.SEALED_WORDS]) or "")
        elif _has_plain_words(stored):
            found.add("")
    return frozenset(found - {envelope.sealing_name or ""})


def reencrypted(envelope: Envelope, seal: TaskSeal, record: Mapping[str, str]) -> dict[str, str]:
    """The fields of a whole record that are to be written anew, as they are to be stored.

    Raises:
        RecordSealed: One is sealed under a key that is not there.
        CorruptRecord: One was changed, or belongs elsewhere.
    """
    changed = {
        name: seal.seal(name, open_field(seal, name, text))
        for name, text in record.items()
        if is_sealed_field(name) and text and not envelope.is_current(text)
    }
    try:
        stored: StoredFields = json.loads(record.get("state", "{}"))
        _open_words(stored, seal, without_keys=False)
        _seal_words(stored, seal)
    except DAMAGES as error:
        raise CorruptRecord(seal.task, f"{type(error).__name__}: {error}") from None
    return changed | {"state": dumps(stored)} if "state" in record else changed


def owner_and_key(reference: str, record: Mapping[str, str]) -> tuple[str, str]:
    """The owner of a whole record, and the hash of its idempotency key.

    Raises:
        CorruptRecord: It is damaged.
    """
    try:
        stored: StoredFields = json.loads(record["state"])
        return str(stored["owner"]), str(stored.get("idempotency", ""))
    except DAMAGES as error:
        raise CorruptRecord(reference, f"{type(error).__name__}: {error}") from None


def open_field(seal: TaskSeal, name: str, text: str) -> str:
    """A sealed field of a record, opened.

    Raises:
        RecordSealed: It is sealed under a key that is not there.
        CorruptRecord: It was changed, or belongs elsewhere.
    """
    try:
        return seal.open(name, text)
    except DAMAGES as error:
        raise CorruptRecord(seal.task, str(error)) from None


def encode_entry(entry: JournalEntry) -> str:
    """A journal entry as its hash field."""
    return schema.JOURNAL_ENTRY.text(entry)


def encode_caller(caller: Identity) -> str:
    """Who has called, as its hash field."""
    return schema.IDENTITY.text(caller)


def decode_caller(seal: TaskSeal, text: str | None) -> Identity:
    """Who has called, out of a record; raises as `decode_entry` does."""
    if text is None:
        return NOT_RECORDED
    try:
        return schema.IDENTITY.value(seal.open("caller", text), seal.task)
    except DAMAGES as error:
        raise CorruptRecord(seal.task, f"who has called is damaged: {error}") from error


def encode_exception(exception: ToolException) -> str:
    """An exception as its hash field."""
    return schema.TOOL_EXCEPTION.text(exception)


def decode_exception(seal: TaskSeal, text: str | None) -> ToolException | None:
    """The exception out of a record; None if there is none. Raises as `decode_entry` does."""
    if text is None:
        return None
    try:
        return schema.TOOL_EXCEPTION.value(seal.open("exception", text), seal.task)
    except DAMAGES as error:
        raise CorruptRecord(seal.task, f"the exception of its tool is damaged: {error}") from error


def decode_entry(seal: TaskSeal, number: int, record: Mapping[str, str]) -> JournalEntry:
    """The nth journal entry out of the whole hash.

    Raises:
        RecordTooNew: A newer release has written it.
        RecordSealed: It is sealed under a key that is not there.
        CorruptRecord: It is missing or damaged.
    """
    name = f"j:{number}"
    try:
        return schema.JOURNAL_ENTRY.value(seal.open(name, record[name]), seal.task)
    except DAMAGES as error:
        raise CorruptRecord(seal.task, f"journal entry {number} is missing or damaged") from error


def decode_journal(seal: TaskSeal, length: int, record: Mapping[str, str]) -> tuple[JournalEntry, ...]:
    """The journal out of the whole hash; raises as `decode_entry` does."""
    return tuple(decode_entry(seal, number, record) for number in range(length))


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


def seal_remembered(seal: TaskSeal, remembered: IdempotencyRecord) -> IdempotencyRecord:
    """The record of an idempotency key with its digest sealed: whoever has one can try what was asked."""
    return replace(remembered, request_digest=seal.seal("idempotency", remembered.request_digest))


def open_remembered(seal: TaskSeal, remembered: IdempotencyRecord) -> IdempotencyRecord:
    """The way back; a digest of before there was encryption is taken as it is.

    Raises:
        RecordSealed: It is sealed under a key that is not there.
        CorruptRecord: It was changed, or belongs to another task.
    """
    digest = remembered.request_digest
    if key_name(digest) is None:
        return remembered
    return replace(remembered, request_digest=open_field(seal, "idempotency", digest))


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


def encode_reports(envelope: Envelope, name: str, reports: Sequence[Report]) -> str:
    """Reports of a task as they are published: sealed as what is stored is, though nobody stores them."""
    return envelope.of("", name).seal("reports", dumps([_report(report) for report in reports]))


def _report(report: Report) -> StoredFields:
    if isinstance(report, Progress):
        return schema.PROGRESS.write(report)
    return schema.LOG_MESSAGE.write(report)


def decode_reports(envelope: Envelope, name: str, text: str) -> tuple[Report, ...]:
    """Reports, read back.

    Raises:
        ValueError: Whoever published it was not one of ours, or is a newer release.
        RecordSealed: It is sealed under a key that is not there.
    """
    try:
        text = envelope.of("", name).open("reports", text)
        return tuple(
            schema.LOG_MESSAGE.read(stored) if "level" in stored else schema.PROGRESS.read(stored)
            for stored in json.loads(text)
        )
    except (TypeError, AttributeError) as error:
        raise ValueError(f"not a list of reports: {error}") from error
