"""Log records that say what they belong to: each that is made in a context carries its fields.

They are in one attribute, `record.tasks_service`, a dict (see `Context.fields`); a record that is made
outside of every context has no such attribute. So it does not matter who logs, by which logger and handler: a
tool's own `logging` calls carry their task, under a configuration of the author's too. It is one attribute
because `logging` refuses `extra` of a name that a record has already.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from .context import current

ATTRIBUTE: Final = "tasks_service"

Edit = Callable[[logging.LogRecord], None]
"""Changes a record that was just made."""

_edits: list[Edit] = []
_made_by: Callable[..., logging.LogRecord] | None = None


def carry_context() -> None:
    """Let all records of this process carry their context from now on."""
    global _made_by
    if _made_by is None:
        _made_by = logging.getLogRecordFactory()
        logging.setLogRecordFactory(_record)


def edit_records(edit: Edit) -> None:
    """Have each record changed by a function when it is made, from now on."""
    carry_context()
    if edit not in _edits:
        _edits.append(edit)


def edit_records_no_more(edit: Edit) -> None:
    """Undo `edit_records`."""
    if edit in _edits:
        _edits.remove(edit)


def _record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = (_made_by or logging.LogRecord)(*args, **kwargs)
    if (context := current()) is not None and (fields := context.fields()):
        record.tasks_service = fields
    for edit in _edits:
        edit(record)
    return record


def fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """The fields that a record carries; none if it was made outside of every context."""
    fields: Mapping[str, Any] = getattr(record, ATTRIBUTE, None) or {}
    return fields


class Line(logging.LogRecord):
    """A record of ours, of which it matters only what it says; made at a third of the cost.

    An ordinary record looks up its thread, its process, and the line of code that it comes from.

    Args:
        logger: The name of the logger.
        level: The level.
        message: A text that is the same for all records of its kind.
        fields: What it carries, in place of the fields of the context.
    """

    def __init__(self, logger: str, level: int, message: str, fields: Mapping[str, Any]) -> None:
        now = time.time()
        self.__dict__.update(
            _SAME_IN_ALL,
            name=logger,
            levelno=level,
            levelname=logging.getLevelName(level),
            msg=message,
            created=now,
            msecs=float(int((now - int(now)) * 1000)),
            process=os.getpid(),
            tasks_service=fields,
        )


_SAME_IN_ALL: Final[Mapping[str, Any]] = {
    **vars(logging.LogRecord("", 0, __file__, 0, "", None, None)),
    "thread": 0,
    "threadName": "",
    "relativeCreated": 0.0,
}


def emit(logger: logging.Logger, level: int, message: str, fields: Mapping[str, Any]) -> None:
    """Log a line with these fields, in place of those of the context; the level must be on.

    Args:
        logger: One of ours.
        level: The level.
        message: See `Line`.
        fields: What it carries.
    """
    if _made_by in (None, logging.LogRecord) and logging.getLogRecordFactory() in _KNOWN:
        record: logging.LogRecord = Line(logger.name, level, message, fields)
    else:  # somebody's handlers may need what their factory adds
        record = logging.getLogRecordFactory()(logger.name, level, __file__, 0, message, None, None)
        record.tasks_service = fields
    logger.handle(record)


_KNOWN: Final = (logging.LogRecord, _record)
