"""The publisher of reports: progress and log messages of running tools, for clients that wait.

How they are throttled: a tool only adds to the bounded queue of its attempt, so it never waits. One thread
per worker process publishes the reports, over a connection of its own; it starts with the first report. At
most 50 reports of a task are published in any second; if more come, only the newest are. If the answer to
PUBLISH says that nobody listens, the thread publishes more and more rarely, down to once a second.

The end of an attempt publishes the reports that still wait, before its outcome is committed. If Redis does
not answer, reports are dropped; progress is recorded all the same, once a second (see `attempt`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from ..domain.errors import StoreUnavailable
from ..domain.limits import Limits
from ..domain.names import task_hash
from ..domain.reports import LogMessage, Report, truncate_report
from ..domain.task import Progress
from ..failpoints import failpoint
from ..store.changes import Reported
from ..store.workers import WorkerStore

logger = logging.getLogger(__name__)

BURST: Final = 10
"""Reports of a task that may be published at once."""

RATE: Final = 40.0
"""Reports of a task per second after that; with `BURST`, at most 50 in any second."""

WAITING_PROGRESS: Final = 8
"""Reports of progress that may wait; several, so that a busy thread does not drop those that come slowly."""

WAITING_MESSAGES: Final = 64
"""Log messages that may wait."""

FIRST_BACKOFF: Final = 0.05
"""Seconds until the next report if nobody listened; doubled each time."""

LONGEST_BACKOFF: Final = 1.0
"""Most seconds between two reports while nobody listens."""

FLUSH_SECONDS: Final = 1.0
"""Most seconds that the end of an attempt waits for a report that is being published."""


class Reports(Protocol):
    """Takes the reports of one attempt."""

    def add(self, report: Report) -> None:
        """Take a report; returns at once."""

    def close(self, *, publish: bool) -> None:
        """Take no more reports; publish those that wait, or drop them."""


class Reporting(Protocol):
    """Takes what the tools of this process report."""

    def queue(self, task_id: str, limits: Limits) -> Reports:
        """What takes the reports of a new attempt.

        Args:
            task_id: The task.
            limits: They say how long a message of progress may be.
        """


class ReportQueue:
    """The reports of one attempt that are not published yet.

    Args:
        task_id: The task.
        limits: The limits; they say how long a message of progress may be.
        publisher: Publishes the reports.
        clock: A clock in seconds; for tests.
    """

    def __init__(
        self,
        task_id: str,
        limits: Limits,
        publisher: ReportPublisher,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._task_id, self._limits, self._publisher, self._clock = task_id, limits, publisher, clock
        self._lock = threading.Lock()
        self._progress: deque[tuple[int, Report]] = deque(maxlen=WAITING_PROGRESS)
        self._messages: deque[tuple[int, Report]] = deque(maxlen=WAITING_MESSAGES)
        self._count = 0
        self._tokens, self._counted = float(BURST), self._clock()
        self._backoff = 0.0
        self._in_flight = self._closed = False
        self.due = 0.0

    def add(self, report: Report) -> None:
        """Add a report; returns at once."""
        with self._lock:
            if self._closed:
                return
            self._count += 1
            waiting = self._progress if isinstance(report, Progress) else self._messages
            waiting.append((self._count, report))
            first = len(self._progress) + len(self._messages) == 1
        if first:
            self._publisher.watch(self)

    def close(self, *, publish: bool) -> None:
        """Take no more reports.

        Args:
            publish: Whether to publish the log messages and the newest progress that wait before this
                returns, unless Redis is slow or down. If not, they are dropped.
        """
        with self._lock:
            self._closed = True
            while len(self._progress) > (1 if publish else 0):
                self._progress.popleft()
            if not publish:
                self._messages.clear()
            unfinished = publish and (self.waits or self._in_flight)
        if unfinished:
            self._publisher.flush(self)
            with self._lock:
                self._progress.clear()
                self._messages.clear()

    def take(self) -> Reported | None:
        """Take the reports that may be published now, oldest first; None if there are none."""
        with self._lock:
            number = len(self._progress) + len(self._messages)
            if not self._closed:
                allowed = self._allowance()
                self.due = self._clock() + (1 - self._tokens + min(number, allowed)) / RATE
                number = min(number, allowed)
            reports = tuple(self._truncated(self._oldest()) for _ in range(number))
            self._tokens -= number
            self._in_flight = bool(reports)
        return Reported(task_hash(self._task_id), reports) if reports else None

    def published(self, reported: Reported, listeners: int) -> None:
        """Note that the taken reports were published, and to how many listeners.

        Progress that nobody received is published again, until it is in the record, where later clients find
        it.
        """
        with self._lock:
            self._in_flight = False
            if listeners:
                self._backoff = 0.0
                return
            if self._backoff < LONGEST_BACKOFF:
                self._put_back(reported)
            self._backoff = min(max(2 * self._backoff, FIRST_BACKOFF), LONGEST_BACKOFF)
            self.due = self._clock() + self._backoff

    def not_published(self, reported: Reported) -> None:
        """Note that the taken reports could not be published; the newest progress among them is kept."""
        with self._lock:
            self._in_flight = False
            self._put_back(reported)
            self.due = self._clock() + LONGEST_BACKOFF

    def _put_back(self, reported: Reported) -> None:
        newest = [report for report in reported.reports if isinstance(report, Progress)][-1:]
        if newest and not self._progress and not self._closed:
            self._progress.append((0, newest[0]))

    @property
    def waits(self) -> bool:
        """Whether reports wait."""
        return bool(self._progress or self._messages)

    def _allowance(self) -> int:
        now = self._clock()
        self._tokens = min(self._tokens + (now - self._counted) * RATE, float(BURST))
        self._counted = now
        return max(int(self._tokens), 0)

    def _oldest(self) -> Report:
        progress, messages = self._progress, self._messages
        queue = progress if progress and (not messages or progress[0] < messages[0]) else messages
        return queue.popleft()[1]

    def _truncated(self, report: Report) -> Report:
        return (
            report
            if isinstance(report, LogMessage)
            else truncate_report(report, self._limits.status_message_bytes)
        )


class ReportPublisher:
    """Publishes the reports of all attempts of this process.

    Args:
        store: A store with a short deadline, and a connection for publishing.
    """

    def __init__(self, store: WorkerStore) -> None:
        self._store = store
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._queues: set[ReportQueue] = set()
        self._thread: threading.Thread | None = None
        self._failing = False

    def queue(self, task_id: str, limits: Limits) -> ReportQueue:
        """See `Reporting.queue`."""
        return ReportQueue(task_id, limits, self)

    def watch(self, queue: ReportQueue) -> None:
        """Publish the reports of a queue that is no longer empty."""
        with self._changed:
            self._queues.add(queue)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tasks-service-reports", daemon=True)
                self._thread.start()
            self._changed.notify()

    def flush(self, queue: ReportQueue) -> None:
        """Publish all reports of a closed queue, unless Redis is slow or down."""
        if not self._sending.acquire(timeout=FLUSH_SECONDS):
            logger.warning("The last reports of a task are dropped: Redis is slow")
            return
        try:
            self._send([queue])
        finally:
            self._sending.release()

    def _run(self) -> None:
        while True:
            try:
                queues = self._due()
                with self._sending:
                    self._send(queues)
            except Exception:
                logger.exception("The report publisher met an error and goes on")
                time.sleep(LONGEST_BACKOFF)

    def _due(self) -> list[ReportQueue]:
        """Wait for reports to publish; return their queues."""
        with self._changed:
            while True:
                now = time.monotonic()
                if due := [queue for queue in self._queues if queue.due <= now]:
                    return due
                next_due = min((queue.due for queue in self._queues), default=None)
                self._changed.wait(None if next_due is None else next_due - now)

    def _send(self, queues: Sequence[ReportQueue]) -> None:
        taken = [(queue, reported) for queue in queues if (reported := queue.take()) is not None]
        if taken:
            self._publish(taken)
        with self._changed:
            self._queues.difference_update([queue for queue in queues if not queue.waits])

    def _publish(self, taken: Sequence[tuple[ReportQueue, Reported]]) -> None:
        try:
            failpoint("Report", "before")
            numbers = self._store.report([reported for _, reported in taken])
            failpoint("Report", "after")
        except StoreUnavailable as error:
            if not self._failing:
                logger.warning("Reports of tools are not published for now: %s", error)
            self._failing = True
            for queue, reported in taken:
                queue.not_published(reported)
        else:
            self._failing = False
            for (queue, reported), listeners in zip(taken, numbers, strict=True):
                queue.published(reported, listeners)
