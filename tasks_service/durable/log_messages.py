"""Log messages of tools: checked, truncated, and written to the worker's own log too."""

from __future__ import annotations

import logging
from typing import Any, Final, Literal

from ..domain.limits import MIB, size, to_json, truncate
from ..domain.reports import LOG_DATA_BYTES, LOGGER_BYTES, LogLevel, LogMessage
from ..domain.task import JsonText
from ..log_privacy import shown_text

Level = Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]
"""The severity of a log message, as an author writes it; see `LogLevel`."""

TOOL_LOGGERS: Final = "tasks_service.tools."
"""The prefix of the names of tools' loggers in Python's logging."""

MOST_BYTES: Final = MIB
"""Bytes of data beyond which a log message is refused instead of truncated."""

_PYTHON_LEVELS: Final = {
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.INFO: logging.INFO,
    LogLevel.NOTICE: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
    LogLevel.CRITICAL: logging.CRITICAL,
    LogLevel.ALERT: logging.CRITICAL,
    LogLevel.EMERGENCY: logging.CRITICAL,
}


def log_message(level: str, data: Any, logger: str | None) -> LogMessage:
    """Make a log message of what a tool passed.

    Raises:
        NotJson: The data cannot be written as JSON.
        LimitExceeded: It is nested too deeply, or larger than `MOST_BYTES`.
        ValueError: There is no such level.
    """
    try:
        severity = LogLevel(level)
    except ValueError:
        raise ValueError(f"level: expected one of {', '.join(LogLevel)}, got {level!r}") from None
    name = None if logger is None else truncate(logger, LOGGER_BYTES)
    return LogMessage(severity, _data(data), name)


def _data(data: Any) -> JsonText:
    """The data as JSON; the beginning of it, as text, if it is larger than `LOG_DATA_BYTES`."""
    if not isinstance(data, str):
        text = to_json("log data", data, maximum=MOST_BYTES)
        if size(text) <= LOG_DATA_BYTES:
            return text
        data = text
    return to_json("log data", truncate(data, LOG_DATA_BYTES), maximum=MOST_BYTES)


def write_log(message: LogMessage, data: Any, name: str) -> None:
    """Write a message to the worker's own log; without what it says, where records are encrypted.

    Args:
        message: The message as it is published.
        data: Its data as the tool passed it.
        name: The logger's name, if the message has none.
    """
    text = data if isinstance(data, str) else message.data
    logging.getLogger(message.logger or name).log(_PYTHON_LEVELS[message.level], "%s", shown_text(text))
