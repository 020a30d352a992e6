"""Log messages of tools: checked, cut to size, and written to the worker's own log too."""

from __future__ import annotations

import logging
from typing import Any, Final, Literal

from ..domain.limits import MIB, size, to_json, truncate
from ..domain.reports import LOG_DATA_BYTES, LOGGER_BYTES, LogLevel, LogMessage
from ..domain.task import JsonText

Level = Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]
"""How grave a log message is; see `LogLevel`."""

TOOL_LOGGERS: Final = "tasks_service.tools."
"""In front of a tool's name, the name of its logger in Python's logging."""

MOST_BYTES: Final = MIB
"""Data that is too large even to be cut."""

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
    """A log message as it is published.

    Raises:
        NotJson: The data cannot be written as JSON.
        LimitExceeded: It is nested too deeply, or far too large.
        ValueError: There is no such level.
    """
    try:
        grave = LogLevel(level)
    except ValueError:
        raise ValueError(f"level: expected one of {', '.join(LogLevel)}, got {level!r}") from None
    name = None if logger is None else truncate(logger, LOGGER_BYTES)
    return LogMessage(grave, _data(data), name)


def _data(data: Any) -> JsonText:
    """As JSON; what is too large, the beginning of it as text."""
    if not isinstance(data, str):
        text = to_json("log data", data, maximum=MOST_BYTES)
        if size(text) <= LOG_DATA_BYTES:
            return text
        data = text
    return to_json("log data", truncate(data, LOG_DATA_BYTES), maximum=MOST_BYTES)


def write_log(message: LogMessage, data: Any, name: str) -> None:
    """Write a message to the worker's own log.

    Args:
        message: What is published.
        data: What it says.
        name: The logger, unless the message names one.
    """
    text = data if isinstance(data, str) else message.data
    logging.getLogger(message.logger or name).log(_PYTHON_LEVELS[message.level], "%s", text)
