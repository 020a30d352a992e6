"""The reports of a running tool, as notifications on one stream.

The rules are the same in every revision that has such notifications (2025-11-25 and 2026-07-28, progress and
logging): the progress of a token only grows, across attempts of the tool too; a log message is sent if it is
grave enough. What they look like is the wire modules' business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...domain.reports import LogLevel, LogMessage, Report
from ...domain.task import Progress
from ..transport.outgoing import Outgoing

Message = Mapping[str, Any]


@dataclass(slots=True)
class Threshold:
    """The severity from which on log messages are sent; shared by the streams that one client set it for.

    Attributes:
        level: None sends none.
    """

    level: LogLevel | None


class Reporting:
    """Sends the reports of one task to one stream, in the order that the revisions demand; never waits.

    Args:
        outgoing: The stream.
        progress: A report of progress as a notification; None if the client wants none.
        message: A log message as a notification.
        threshold: Which log messages the client wants.

    Attributes:
        elsewhere: Another stream reports the same; what is heard meanwhile is taken for sent.
    """

    def __init__(
        self,
        outgoing: Outgoing,
        *,
        progress: Callable[[Progress], Message] | None,
        message: Callable[[LogMessage], Message],
        threshold: Threshold,
    ) -> None:
        self._outgoing, self._progress, self._message = outgoing, progress, message
        self._threshold = threshold
        self._reached = float("-inf")
        self.elsewhere = False

    def report(self, report: Report) -> None:
        """Send a report on, if the client wants it."""
        if isinstance(report, Progress):
            self.advance(report)
        elif (
            not self.elsewhere
            and self._threshold.level is not None
            and report.level.reaches(self._threshold.level)
        ):
            self._outgoing.put(self._message(report), report=True)

    def advance(self, progress: Progress | None, *, silently: bool = False) -> None:
        """Send progress on if it is more than before.

        Args:
            progress: Heard, or read from the record.
            silently: Take it for sent: another stream may have done so.
        """
        if progress is None or progress.current <= self._reached:
            return
        self._reached = progress.current
        if self._progress is not None and not silently and not self.elsewhere:
            self._outgoing.put(self._progress(progress), report=True)
