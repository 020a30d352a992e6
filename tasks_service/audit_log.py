"""The audit log: who did what to which task, when, from where, with which outcome; one JSON object a line.

Everything that asks something of the service passes `audited`, which writes the line when it has ended. What
is done to a task notes the task on the way (`note_task`). A line names tasks by their short names and owners
by their hashes, and has nothing that a caller chose: no arguments, results, ids, keys, or names of what there
is not.

Lines are formatted and written by a thread of their own. Where it cannot keep up, lines are dropped, and
counted in the log; nobody waits.
"""

from __future__ import annotations

import asyncio
import atexit
import getpass
import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, Final, TextIO

from .domain.errors import ConfigurationError
from .domain.names import task_hash

NAME: Final = "tasks_service.audit"
"""The name of the logger."""

VARIABLE: Final = "TASKS_AUDIT_LOG"

QUEUED: Final = 10_000
"""Lines that may wait to be written; further ones are dropped and counted."""

REFUSAL_SECONDS: Final = 60.0
"""The shortest time between two lines about refusals of one kind; those in between are counted."""

REFUSAL_KINDS: Final = 1_000
"""How many kinds of refusals are told apart, by owner and address; the rest are counted together."""

FLUSH_SECONDS: Final = 5.0
"""How often counts are looked at that nobody has added to."""

_STREAMS: Final = ("stderr", "stdout")

logger = logging.getLogger(NAME)
if logger.level == logging.NOTSET:
    logger.setLevel(logging.CRITICAL)  # off, until it is opened, or an application sets a level itself


@dataclass(slots=True)
class Source:
    """Whoever asks.

    Attributes:
        owner: Its hash; empty: not known, or nobody.
        address: The IP address; empty: none.
        operator: Who ran a command, as the system names them.
        lines: How many lines were written of what it asks now.
    """

    owner: str = ""
    address: str = ""
    operator: str = ""
    lines: int = 0


@dataclass(slots=True)
class Entry:
    """A line.

    Attributes:
        action: What was asked: a method of the protocol, or a name of ours.
        source: Who asked.
        task: The short name of the task; empty: none.
        tool: The tool; empty: none, or one that there is not.
        outcome: `ok`; `failed`, by a tool; `error`, as the protocol has it; `refused`; `cancelled`, by
            whoever asked, or because they left; `continued`, elsewhere, by the same client.
        code: Of the error.
        status: Of HTTP, for what was refused before any method saw it.
        count: How often it happened.
    """

    action: str
    source: Source
    task: str = ""
    tool: str = ""
    outcome: str = "ok"
    code: int | None = None
    status: int | None = None
    count: int = 1

    def fields(self) -> dict[str, Any]:
        """What the line has, without what is empty."""
        source = self.source
        listed = {
            "action": self.action,
            "owner": source.owner,
            "operator": source.operator,
            "address": source.address,
            "task": self.task,
            "tool": self.tool,
            "outcome": self.outcome,
            "code": self.code,
            "status": self.status,
            "count": None if self.count == 1 else self.count,
        }
        return {name: value for name, value in listed.items() if value not in ("", None)}


_source: ContextVar[Source | None] = ContextVar("audit source", default=None)
_entry: ContextVar[Entry | None] = ContextVar("audit entry", default=None)


def is_on() -> bool:
    """Whether lines are written."""
    return logger.isEnabledFor(logging.INFO)


@contextmanager
def asked_by(source: Source) -> Iterator[Source]:
    """Say who asks for what is done in the block, and in asyncio tasks that are begun in it."""
    token = _source.set(source)
    try:
        yield source
    finally:
        _source.reset(token)


@contextmanager
def audited(action: str, source: Source | None = None) -> Iterator[Entry]:
    """Write a line about what is done in the block, when it has ended, however that is.

    Args:
        action: See `Entry`.
        source: Who asks; None: as `asked_by` has it.

    Yields:
        The line; the block says its outcome.
    """
    entry = Entry(action, source or _source.get() or Source())
    if not is_on():
        yield entry
        return
    token = _entry.set(entry)
    try:
        yield entry
    except (asyncio.CancelledError, KeyboardInterrupt):
        entry.outcome = "cancelled"
        raise
    except BaseException:
        if entry.outcome == "ok":
            entry.outcome = "error"
        raise
    finally:
        _entry.reset(token)
        entry.source.lines += 1
        write(entry)


def note_task(task_id: str, tool: str = "") -> None:
    """Say which task it is about; of several, the first is kept.

    Args:
        task_id: Its id, or what was asked for as one.
        tool: The tool that it is of, if that is known to exist.
    """
    if (entry := _entry.get()) is not None:
        if not entry.task and task_id:
            entry.task = task_hash(task_id)
        entry.tool = entry.tool or tool


def note_owner(owner: str) -> None:
    """Say who asks, once that is known."""
    if (source := _source.get()) is not None:
        source.owner = owner


def operator() -> Source:
    """Whoever runs this process, as a source."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = str(os.geteuid())
    return Source(operator=name)


def write(entry: Entry) -> None:
    """Write a line; refusals at a bounded rate."""
    if not is_on():
        return
    if entry.outcome == "refused":
        for due in _refusals.add(entry):
            _log(due)
    else:
        _log(entry)


def _log(entry: Entry) -> None:
    logger.info("%s", entry.action, extra={"audit": entry.fields()})


class _Refusals:
    """Refusals that are counted, by what was refused, whom, and how."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[tuple[object, ...], tuple[float, Entry | None]] = {}

    def add(self, entry: Entry) -> list[Entry]:
        """Count one; what is to be written now."""
        source, now = entry.source, time.monotonic()
        kind: tuple[object, ...] = (entry.action, entry.code, entry.status, source.owner, source.address)
        with self._lock:
            due = self._due(now)
            if kind not in self._kinds and len(self._kinds) >= REFUSAL_KINDS:
                kind, entry = ("others",), Entry("others", Source(), outcome="refused", status=entry.status)
            if kind not in self._kinds:
                self._kinds[kind] = (now, None)
                return [*due, entry]
            since, counted = self._kinds[kind]
            if counted is None:
                self._kinds[kind] = (since, entry)
            else:
                counted.count += 1
            return due

    def due(self, *, everything: bool = False) -> list[Entry]:
        """The counts whose time is over."""
        with self._lock:
            return self._due(float("inf") if everything else time.monotonic())

    def _due(self, now: float) -> list[Entry]:
        over = [kind for kind, (since, _) in self._kinds.items() if now - since >= REFUSAL_SECONDS]
        due = [counted for kind in over if (counted := self._kinds.pop(kind)[1]) is not None]
        return due


_refusals = _Refusals()


class AuditFormatter(logging.Formatter):
    """Formats a line as JSON, with the time in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields = {"time": at.replace("+00:00", "Z"), **getattr(record, "audit", {})}
        return json.dumps(fields, separators=(",", ":"))


class _File(WatchedFileHandler):
    """A file that only this user may read, opened again when it was moved away."""

    def _open(self) -> Any:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")


class _Writer(logging.Handler):
    """Hands lines to a thread that writes them.

    Args:
        target: Formats and writes.
    """

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self._target = target
        self._dropped = 0
        self._start()
        os.register_at_fork(after_in_child=self._start)

    def _start(self) -> None:
        self._queue: queue.Queue[logging.LogRecord | None] = queue.Queue(QUEUED)
        self._thread = threading.Thread(target=self._run, name="audit log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it as dropped."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what is queued and counted."""
        for entry in _refusals.due(everything=True):
            _log(entry)
        self._queue.put(None)
        self._thread.join(FLUSH_SECONDS)
        self._target.close()
        super().close()

    def _run(self) -> None:
        while True:
            try:
                record = self._queue.get(timeout=FLUSH_SECONDS)
            except queue.Empty:
                for entry in _refusals.due():
                    _log(entry)
                continue
            if record is None:
                return
            self._target.handle(record)
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                lost = Entry("dropped lines", Source(), outcome="error", count=dropped)
                self._target.handle(_record(lost))


def _record(entry: Entry) -> logging.LogRecord:
    return logger.makeRecord(
        NAME, logging.INFO, "", 0, "%s", (entry.action,), None, extra={"audit": entry.fields()}
    )


_opened: dict[str, _Writer] = {}


def open_audit_log(target: str | None) -> None:
    """Begin to write the log, unless this process does so already.

    Args:
        target: `stderr`, `stdout`, or a file; None: no log.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    if target is None or target in _opened:
        return
    try:
        handler = _handler(target)
    except OSError as error:
        raise ConfigurationError(
            f"{VARIABLE}: {target} cannot be written ({error.strerror}). Name a file in a directory that "
            f"this user may write, or one of {' and '.join(_STREAMS)}"
        ) from error
    handler.setFormatter(AuditFormatter())
    if not _opened:
        atexit.register(close_audit_log)
    _opened[target] = _Writer(handler)
    logger.addHandler(_opened[target])
    logger.propagate = False
    logger.setLevel(logging.INFO)


def close_audit_log() -> None:
    """Write what is left, and end the log."""
    for writer in _opened.values():
        writer.close()
        logger.removeHandler(writer)
    if _opened:
        _opened.clear()
        logger.setLevel(logging.CRITICAL)


def _handler(target: str) -> logging.Handler:
    if target in _STREAMS:
        stream: TextIO = getattr(sys, target)
        return logging.StreamHandler(stream)
    return _File(Path(target).absolute(), encoding="utf-8")
