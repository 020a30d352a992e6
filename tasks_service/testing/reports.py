"""What a tool reports while it runs: progress and log messages, all of them, as they come."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..domain.limits import Limits
from ..domain.reports import LogMessage, Report, truncate_report
from ..domain.task import Progress


@dataclass(frozen=True, slots=True)
class Logged:
    """A log message, as clients get it.

    Attributes:
        level: `debug`, `info`, `notice`, `warning`, `error`, `critical`, `alert` or `emergency`.
        data: A sentence, or any JSON value.
        logger: The name that the tool gave the logger; None if it gave none.
    """

    level: str
    data: Any
    logger: str | None = None


class ReportRecorder:
    """`Reporting` for tests: keeps everything, of all attempts, in order."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.logs: list[Logged] = []

    def queue(self, task_id: str, limits: Limits) -> RecordedReports:
        """See `Reporting.queue`."""
        return RecordedReports(self, limits)


class RecordedReports:
    """The reports of one attempt."""

    def __init__(self, recorder: ReportRecorder, limits: Limits) -> None:
        self._recorder, self._limits = recorder, limits
        self._closed = False

    def add(self, report: Report) -> None:
        """See `Reports.add`."""
        if self._closed:
            return
        if isinstance(report, LogMessage):
            logged = Logged(report.level.value, json.loads(report.data), report.logger)
            self._recorder.logs.append(logged)
        else:
            self._recorder.progress.append(truncate_report(report, self._limits.status_message_bytes))

    def close(self, *, publish: bool) -> None:
        """See `Reports.close`."""
        self._closed = True
