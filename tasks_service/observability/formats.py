"""The lines of the log: text for people, JSON for programs. Both have the same fields, under the same names.

Whatever a line says, it is one line: what could end it, or begin another, is escaped. The lines of a
traceback follow theirs, in text, and begin with the task's short name, so that whoever looks for that finds
them.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quote
from typing import Any, Final

from .records import Line, fields_of

FIELDS: Final[Mapping[str, str]] = {
    "time": "when, in UTC (RFC 3339)",
    "level": "`debug`, `info`, `warning`, `error` or `critical`",
    "logger": "which part of the program says it: `tasks_service.transitions`, `tasks_service.requests`, "
    "a library, a tool",
    "message": "what happened, for people",
    "service": "the name of the service",
    "role": "what the process is: `front-end`, `stdio`, `worker`, `beat`, `flower`, `up`, `back-end` or "
    "`command`",
    "pid": "the number of the process",
    "task": "the task's short name; never its id",
    "tool": "the tool",
    "attempt": "which attempt runs, as `ctx.attempt`",
    "claim": "how often the task was claimed until then; never counted anew",
    "owner": "the name of the owner's API key; for others the hash that the audit log has",
    "request": "the request, by an id that the front end draws",
    "trace": "the id of the trace that the client named in its `traceparent`",
    "event": "what a transition was: `created`, `claimed`, `parked`, ...",
    "from": "the phase before it",
    "to": "the phase after it",
    "actor": "whose event it was: `client`, `worker`, `sweep`, `operator` or `repair`",
    "revision": "its number in the task's own log",
    "phase_ms": "how long the task was in the phase before: what a claim has waited, what an attempt has run",
    "queue": "the queue of a task that was created",
    "parent": "the task whose tool has submitted it",
    "worker": "the worker that has claimed it",
    "failure": "why the task failed: `timeout`, `attempts`, `queue_timeout`, ...",
    "outcome": "what became of a request: `ok`, `failed` by its tool, `error`, `refused`, `cancelled`, "
    "`continued` elsewhere; of a completed task, `failed` if its tool says so",
    "method": "what was asked: a method of the protocol, or `submit` and `cancel` of a program",
    "code": "the error's code",
    "count": "how many refusals a line stands for",
    "duration_ms": "how long the request took",
    "celery_task": "the name of a Celery task that is no tool's, in a worker that has such",
    "celery_id": "its id",
    "exception": "the traceback",
}
"""Every field that a line may have, and what it says."""

_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PLAIN: Final = re.compile(r"[^\s\"=\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")

_encode: Final = json.JSONEncoder(separators=(",", ":"), default=str).encode

LEVELS: Final = ("debug", "info", "warning", "error", "critical")
"""The levels, as settings and lines name them."""

_LEVELS: Final = {getattr(logging, name.upper()): name for name in LEVELS}


@dataclass(slots=True)
class Process:
    """What the lines of this process say of it.

    Attributes:
        role: What it is.
        service: The name of its service; empty: none, or several.
    """

    role: str = ""
    service: str = ""


PROCESS: Final = Process()
"""This process."""

_second, _text = -1, ""


def time_of(created: float) -> str:
    """A time of a record in UTC, as RFC 3339 has it, to the millisecond."""
    global _second, _text
    second = int(created)
    if second != _second:
        # In this order: another thread may be here too, and finds either both or neither.
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _second, _text = -1, text
        _second = second
    else:
        text = _text
    return f"{text}.{int((created - second) * 1000):03d}Z"


def _no_more() -> Mapping[str, Any]:
    return {}


class JsonFormatter(logging.Formatter):
    """One JSON object a line.

    Args:
        more: Further fields, for a record that has none of a context.
    """

    def __init__(self, more: Callable[[], Mapping[str, Any]] = _no_more) -> None:
        super().__init__()
        self._more = more

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        if type(record) is Line:
            return self._ours(record)
        message = record.msg if not record.args and type(record.msg) is str else record.getMessage()
        line: dict[str, Any] = {
            "time": time_of(record.created),
            "level": _LEVELS.get(record.levelno) or record.levelname.lower(),
            "logger": record.name,
            "message": message,
        }
        if PROCESS.service:
            line["service"] = PROCESS.service
        line["role"], line["pid"] = PROCESS.role, record.process
        line.update(fields_of(record) or self._more())
        if text := _exception(self, record):
            line["exception"] = text
        return _encode(line)

    def _ours(self, record: Line) -> str:
        """The same for a line of ours, of which all but the time and the fields is the same every time."""
        fields = fields_of(record)
        own_service = "" if "service" in fields else PROCESS.service
        head = _json_head(
            record.levelno, record.name, str(record.msg), own_service, PROCESS.role, record.process
        )
        # What the encoder would make of it costs twice as much.
        told = [f'"{name}":{_json_value(value)}' for name, value in fields.items()]
        return f'{{"time":"{time_of(record.created)}",{head},{",".join(told)}}}'


class TextFormatter(logging.Formatter):
    """A line for people: time, level, process, logger, message, and the fields as `name=value`.

    Args:
        more: See `JsonFormatter`.
    """

    def __init__(self, more: Callable[[], Mapping[str, Any]] = _no_more) -> None:
        super().__init__()
        self._more = more

    def format(self, record: logging.LogRecord) -> str:
        """The line, and those of its traceback."""
        fields = fields_of(record) or self._more()
        level = _LEVELS.get(record.levelno) or record.levelname.lower()
        message = record.msg if type(record) is Line else _escaped(record.getMessage())
        line = (
            f"{time_of(record.created)} {level:<7} {PROCESS.role}[{record.process}] {record.name}: {message}"
        )
        if fields:
            line += "  " + " ".join(f"{name}={_value(value)}" for name, value in fields.items())
        if text := _exception(self, record):
            beginning = f"    {fields['task']} " if "task" in fields else "    "
            line += "".join(f"\n{beginning}{_escaped(each)}" for each in text.splitlines())
        return line


def json_line(role: str, text: str) -> str:
    """A line that another process has printed, as JSON: as it is if it is an object, else as a message.

    Args:
        role: What the other process is.
        text: The line.
    """
    try:
        if isinstance(json.loads(text), dict):
            return text
    except ValueError:
        pass
    said = {"time": time_of(time.time()), "level": "info", "logger": "stdout", "message": text, "role": role}
    return _encode(said)


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if record.exc_info and not record.exc_text:
        record.exc_text = formatter.formatException(record.exc_info)
    stack = formatter.formatStack(record.stack_info) if record.stack_info else ""
    return "\n".join(filter(None, (record.exc_text, stack)))


@lru_cache(maxsize=256)
def _json_head(level: int, logger: str, message: str, service: str, role: str, pid: int | None) -> str:
    """The members of a line of ours between its time and its fields."""
    head: dict[str, Any] = {"level": _LEVELS[level], "logger": logger, "message": message}
    if service:
        head["service"] = service
    return _encode({**head, "role": role, "pid": pid})[1:-1]


def _json_value(value: Any) -> str:
    kind = type(value)
    return quote(value) if kind is str else repr(value) if kind is int or kind is float else _encode(value)


def _value(value: Any) -> str:
    return str(value) if type(value) is int else _quoted(str(value))


@lru_cache(maxsize=4096)
def _quoted(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else _encode(text)


def _escaped(text: str) -> str:
    if _CONTROLS.search(text) is None:
        return text
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


FORMATTERS: Final[Mapping[str, type[JsonFormatter | TextFormatter]]] = {
    "json": JsonFormatter,
    "text": TextFormatter,
}
"""The formatters by the value of `TASKS_LOG_FORMAT`."""
