"""Reports: the progress and log messages that a running tool sends to clients that wait for it.

A report reaches only clients that wait at that moment. Only progress is recorded too, about once a second
(see `events.Checkpoint`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from .limits import KIB, truncate
from .task import JsonText, Progress

LOG_DATA_BYTES = 8 * KIB
"""Bytes of a log message's data; longer data is truncated."""

LOGGER_BYTES = 128
"""Bytes of a logger's name; a longer one is truncated."""


class LogLevel(StrEnum):
    """The severity of a log message: the severities of RFC 5424, lowest first."""

    DEBUG = "debug"
    INFO = "info"
    NOTICE = "notice"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"
    ALERT = "alert"
    EMERGENCY = "emergency"

    def reaches(self, threshold: LogLevel) -> bool:
        """Whether it is at least as severe as the threshold."""
        return _SEVERITY[self] >= _SEVERITY[threshold]


_SEVERITY = {level: severity for severity, level in enumerate(LogLevel)}


@dataclass(frozen=True, slots=True)
class LogMessage:
    """A log message of a tool; it is not recorded.

    Attributes:
        level: The severity.
        data: The data, as JSON text.
        logger: The name that the tool gave the logger; None if it gave none.
    """

    level: LogLevel
    data: JsonText
    logger: str | None = None


Report = Progress | LogMessage


def truncate_report(progress: Progress, maximum: int) -> Progress:
    """The progress, with its message truncated to `maximum` bytes."""
    if progress.message is None:
        return progress
    return replace(progress, message=truncate(progress.message, maximum))
