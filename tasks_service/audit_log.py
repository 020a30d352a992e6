"""The audit log: who did what to which task, when, from where, with which outcome; one JSON object a line.

Everything that asks something of the service passes `audited`, which writes the line when it has ended, and
one of the service's own log. What is done to a task notes the task on the way (`observability.context`). A
line names tasks by their short names and owners by their hashes, and has nothing that a caller chose: no
arguments, results, ids, keys, or names of what there is not.

Lines are formatted and written by a thread of their own. Where it cannot keep up, lines are dropped, and
counted in the log; nobody waits.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

from .domain.errors import ConfigurationError
from .observability import requests
from .observability.context import Context, Source, current, new_request_id, within
from .observability.requests import level_of, log_request

NAME: Final = "tasks_service.audit"
"""The name of the logger."""

VARIABLE: Final = "TASKS_AUDIT_LOG"

QUEUED: Final = 10_000
"""Lines that may wait to be written; further ones are dropped and counted."""

REFUSAL_SECONDS: Final = 60.0
"""The shortest time between two lines about refusals of one kind; those in between are counted."""

REFUSAL_KINDS: Final = 1_000
"""How many kinds of refusals are told apart, by owner and address; the rest are counted together."""

GATHER_SECONDS: Final = 0.1
"""How long lines are gathered before they are written."""

FLUSH_SECONDS: Final = 5.0
"""How often counts are looked at that nobody has added to."""

_STREAMS: Final = ("stderr", "stdout")

logger = logging.getLogger(NAME)
if logger.level == logging.NOTSET:
    logger.setLevel(logging.CRITICAL)  # off, until it is opened, or an application sets a level itself


@dataclass(slots=True)
class Entry:
    """A line.

    Attributes:
        action: What was asked: a method of the protocol, or a name of ours.
        context: Who asked, and about which task.
        outcome: `ok`; `failed`, by a tool; `error`, as the protocol has it; `refused`; `cancelled`, by
            whoever asked, or because they left; `continued`, elsewhere, by the same client.
        code: Of the error.
        status: Of HTTP, for what was refused before any method saw it.
        count: How often it happened.
        begun: When it began, by the monotonic clock.
    """

    action: str
    context: Context = field(default_factory=Context)
    outcome: str = "ok"
    code: int | None = None
    status: int | None = None
    count: int = 1
    begun: float = field(default_factory=time.monotonic)

    def fields(self) -> dict[str, Any]:
        """What the line has, without what is empty."""
        context, source = self.context, self.context.source
        listed = {
            "action": self.action,
            "owner": source.owner,
            "operator": source.operator,
            "address": source.address,
            "task": context.task,
            "tool": context.tool,
            "outcome": self.outcome,
            "code": self.code,
            "status": self.status,
            "count": None if self.count == 1 else self.count,
        }
        return {name: value for name, value in listed.items() if value not in ("", None)}


def is_on() -> bool:
    """Whether lines are written."""
    return bool(_opened) or logger.isEnabledFor(logging.INFO)


class audited:  # noqa: N801 - it is used as a function
    """Write a line about what is done in the block, when it has ended, however that is.

    The service's own log has one too; see `observability.requests`. The block is given the line, and says its
    outcome.

    Args:
        action: See `Entry`.
        source: Who asks; None: as `asked_by` has it.
    """

    __slots__ = ("_block", "_entry")

    def __init__(self, action: str, source: Source | None = None) -> None:
        outer = current()
        request = "" if outer is None else outer.request
        asks = source or (Source() if outer is None else outer.source)
        self._entry = Entry(action, Context(asks, request or new_request_id()))
        self._block = within(self._entry.context)

    def __enter__(self) -> Entry:
        self._block.__enter__()
        return self._entry

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        entry = self._entry
        if kind is not None:
            if issubclass(kind, asyncio.CancelledError | KeyboardInterrupt):
                entry.outcome = "cancelled"
            elif entry.outcome == "ok":
                entry.outcome = "error"
        self._block.__exit__()
        if is_on():
            entry.context.source.lines += 1
            write(entry)
        _tell(entry)


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
    for writer in _opened.values():
        writer.put(entry)
    if logger.isEnabledFor(logging.INFO):
        logger.info("%s", entry.action, extra={"audit": entry.fields()})


def _tell(entry: Entry) -> None:
    """Write a line of the service's own log; of refusals at a bounded rate."""
    if not requests.logger.isEnabledFor(level_of(entry.context)):
        return
    for due in _told_refusals.add(entry) if entry.outcome == "refused" else (entry,):
        log_request(
            due.action,
            due.context,
            outcome=due.outcome,
            code=due.code,
            count=due.count,
            seconds=time.monotonic() - due.begun,
        )


class _Refusals:
    """Refusals that are counted, by what was refused, whom, and how."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget all counts, as a forked process must: they are its parent's."""
        self._lock = threading.Lock()
        self._kinds: dict[tuple[object, ...], tuple[float, Entry | None]] = {}

    def add(self, entry: Entry) -> list[Entry]:
        """Count one; what is to be written now."""
        source, now = entry.context.source, time.monotonic()
        kind: tuple[object, ...] = (entry.action, entry.code, entry.status, source.owner, source.address)
        with self._lock:
            due = self._due(now)
            if kind not in self._kinds and len(self._kinds) >= REFUSAL_KINDS:
                kind, entry = ("others",), Entry("others", outcome="refused", status=entry.status)
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


_refusals, _told_refusals = _Refusals(), _Refusals()
os.register_at_fork(after_in_child=_refusals.begin_anew)
os.register_at_fork(after_in_child=_told_refusals.begin_anew)


class AuditFormatter(logging.Formatter):
    """Formats the logger's records as the lines of the log, for applications with handlers of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return _line(record.created, getattr(record, "audit", {}))


def _line(at: float, fields: Mapping[str, Any]) -> str:
    time_ = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return _encode({"time": time_.replace("+00:00", "Z"), **fields})


_encode = json.JSONEncoder(separators=(",", ":")).encode


class _File:
    """A file that only this user may read, opened again when it was moved away."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = self._open()

    def _open(self) -> TextIO:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")

    def write(self, text: str) -> None:
        """Write lines."""
        try:
            there = os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            there = False
        if not there:
            self._file.close()
            self._file = self._open()
        self._file.write(text)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Stream:
    """One of the streams of the process, which is not ours to close."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write lines."""
        self._stream.write(text)
        self._stream.flush()

    def close(self) -> None:
        """Leave it open."""


class _Writer:
    """Hands lines to a thread that writes many at once, which costs the others least.

    Args:
        target: Where to.
    """

    def __init__(self, target: _File | _Stream) -> None:
        self._target = target
        self._failed_at = float("-inf")
        self._start()
        os.register_at_fork(after_in_child=self._start)

    def _start(self) -> None:
        self._lines: deque[tuple[float, Entry]] = deque()
        self._dropped, self._ends, self._some = 0, False, threading.Event()
        self._writing = threading.Lock()  # a lock that another thread held at a fork is held for ever
        self._thread = threading.Thread(target=self._run, name="audit log", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Queue a line, or count it as dropped; without a lock, since appending needs none."""
        if len(self._lines) < QUEUED:
            self._lines.append((time.time(), entry))
        else:
            self._dropped += 1
        if not self._some.is_set():
            self._some.set()

    def flush(self) -> None:
        """Write what is queued, now."""
        with self._writing:
            self._write()

    def close(self) -> None:
        """Write what is queued, and end the thread."""
        self._ends = True
        self._some.set()
        self._thread.join(FLUSH_SECONDS)
        self.flush()
        self._target.close()

    def _run(self) -> None:
        while not self._ends:
            if self._some.wait(FLUSH_SECONDS) and not self._ends:
                time.sleep(GATHER_SECONDS)
            self._some.clear()
            for entry in _refusals.due():
                _log(entry)
            self.flush()

    def _write(self) -> None:
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        dropped, self._dropped = self._dropped, 0
        if dropped:
            lost = Entry("dropped lines", outcome="error", count=dropped)
            lines.append((time.time(), lost))
        if not lines:
            return
        try:
            self._target.write("".join(f"{_line(at, entry.fields())}\n" for at, entry in lines))
        except (OSError, ValueError) as error:  # a full disk; a stream that was closed
            self._dropped += len(lines) - bool(dropped) + dropped
            if time.monotonic() - self._failed_at >= REFUSAL_SECONDS:
                self._failed_at = time.monotonic()
                logging.getLogger(__name__).warning("The audit log cannot be written: %s", error)


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
        opened = _Stream(getattr(sys, target)) if target in _STREAMS else _File(Path(target).absolute())
    except OSError as error:
        raise ConfigurationError(
            f"{VARIABLE}: {target} cannot be written ({error.strerror}). Name a file in a directory that "
            f"this user may write, or one of {' and '.join(_STREAMS)}"
        ) from error
    if not _opened:
        atexit.register(close_audit_log)
    _opened[target] = _Writer(opened)


def flush_audit_log() -> None:
    """Write what is queued and counted, before a process may end without a further word."""
    for entry in _refusals.due(everything=True):
        _log(entry)
    for writer in _opened.values():
        writer.flush()


def close_audit_log() -> None:
    """Write what is left, and end the log."""
    flush_audit_log()
    for writer in _opened.values():
        writer.close()
    _opened.clear()
