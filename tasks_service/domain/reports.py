"""What a running tool says to whoever waits for it: progress, and log messages.

A report reaches those who wait while it is made, and is gone: only progress is recorded, and that not often
(see `events.Checkpoint`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from .limits import KIB, truncate
from .task import JsonText, Progress

LOG_DATA_BYTES = 8 * KIB
"""Largest data of a log message; more is cut."""

LOGGER_BYTES = 128
"""Longest name of a logger; a longer one is cut."""


class LogLevel(StrEnum):
    """How grave a log message is: the severities of RFC 5424, least grave first."""

    DEBUG = "debug"
    INFO = "info"
    NOTICE = "notice"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"
    ALERT = "alert"
    EMERGENCY = "emergency"

    def reaches(self, threshold: LogLevel) -> bool:
        """Whether it is as grave as the threshold, or graver."""
        return _GRAVITY[self] >= _GRAVITY[threshold]


_GRAVITY = {level: severity for severity, level in enumerate(LogLevel)}


@dataclass(frozen=True, slots=True)
class LogMessage:
    """Something that a tool wants known, and nobody records.

    Attributes:
        level: How grave it is.
        data: A text or an object, as JSON.
        logger: Who says so, in the tool's own terms; None leaves that open.
    """

    level: LogLevel
    data: JsonText
    logger: str | None = None


Report = Progress | LogMessage


def truncate_report(progress: Progress, maximum: int) -> Progress:
    """Progress whose message is at most so many bytes long."""
    if progress.message is None:
        return progress
    return replace(progress, message=truncate(progress.message, maximum))
