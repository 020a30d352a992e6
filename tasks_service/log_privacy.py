"""What the log says of tools: with encryption, where something happened, and none of the words of its author.

The message of a tool's exception may hold its arguments, and so may what a tool tells its client. Without
encryption both are in the worker's log, where its operator looks for them. Where records are encrypted, they
are in the record, or go to the client, alone: the log has the class of an exception, and the places in the
code. That goes for everything that this package logs, and for what asyncio says of tasks that a tool has left
behind. What a tool prints, or logs by itself, is its author's.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

from .domain.errors import ConfigurationError, CorruptRecord, StoreUnavailable
from .observability.records import edit_records, edit_records_no_more

_LOGGERS = ("tasks_service", "asyncio")

_OUR_OWN = (ConfigurationError, CorruptRecord, StoreUnavailable)
"""What operators must read, and no author has written."""

_keeps_words_out = False


def keep_words_out_of_logs() -> None:
    """Log nothing that a tool says from now on, in this process."""
    global _keeps_words_out
    _keeps_words_out = True
    edit_records(_without_words)


def put_words_into_logs() -> None:
    """Undo `keep_words_out_of_logs`."""
    global _keeps_words_out
    _keeps_words_out = False
    edit_records_no_more(_without_words)


def shown(error: BaseException, as_text: Callable[[BaseException], str] = repr) -> str:
    """An author's exception as a log line may show it.

    Args:
        error: The exception.
        as_text: How it is shown without encryption.
    """
    return _class_of(error) if _keeps_words_out else as_text(error)


def shown_text(text: str) -> str:
    """What a tool tells its client, as a log line may show it."""
    return f"a message for the client, {len(text.encode())} bytes" if _keeps_words_out else text


def _without_words(record: logging.LogRecord) -> None:
    if record.exc_info and record.name.partition(".")[0] in _LOGGERS:
        record.exc_text = _places_of(record.exc_info[1])
        record.exc_info = None
        if record.name == "asyncio":
            # It shows the task, and with it the exception.
            record.msg, record.args = "What a tool has started has ended with an exception", None


def _places_of(error: BaseException | None) -> str:
    """The traceback of an exception and of its causes, without what any of them says."""
    lines: list[str] = []
    met: set[int] = set()
    while error is not None and id(error) not in met:
        met.add(id(error))
        lines += [line.rstrip() for line in traceback.format_tb(error.__traceback__)]
        says = str(error) if isinstance(error, _OUR_OWN) else "(the record of its task has what it says)"
        lines.append(f"{_class_of(error)}: {says}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n".join(lines)


def _class_of(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"
