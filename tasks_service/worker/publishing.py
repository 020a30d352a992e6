"""What running tools say, on its way to whoever waits for them: bounded, and never in the tool's way.

A tool only adds to the queue of its attempt. One thread per worker process publishes what waits there, over a
connection of its own; it starts with the first report of the process. At most 50 reports of a task leave in
any second: of progress that comes faster, the newest leave, of log messages too. If nobody listens, which
PUBLISH answers, the thread tries more and more rarely, down to once a second.

The end of an attempt sends what still waits before its outcome is committed, so that it arrives first. If
Redis does not answer, reports are dropped: progress is recorded all the same (see `keeper`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

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
"""Reports of a task that may leave at once."""

RATE: Final = 40.0
"""Reports of a task that may leave in a second after that; with `BURST`, at most 50 in any second."""

WAITING_PROGRESS: Final = 8
"""Reports of progress that wait; more than one, so that a busy thread does not merge what came slowly."""

WAITING_MESSAGES: Final = 64
"""Log messages that wait."""

FIRST_SILENCE: Final = 0.05
"""Seconds until the next report when nobody listened; doubled each time."""

LONGEST_SILENCE: Final = 1.0
"""Seconds between two reports while nobody listens, at most."""

FLUSH_SECONDS: Final = 1.0
"""How long the end of an attempt waits, at most, for a report that is just being published."""


class ReportQueue:
    """What one attempt has reported and nobody has published yet.

    Args:
        task_id: Whose reports.
        limits: How long a message of progress may be.
        publisher: Publishes them.
        clock: Seconds; for tests.
    """

    def __init__(
        self,
        task_id: str,
        limits: Limits,
        publisher: Publisher,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._task_id, self._limits, self._publisher, self._clock = task_id, limits, publisher, clock
        self._lock = threading.Lock()
        self._progress: deque[tuple[int, Report]] = deque(maxlen=WAITING_PROGRESS)
        self._messages: deque[tuple[int, Report]] = deque(maxlen=WAITING_MESSAGES)
        self._count = 0
        self._tokens, self._counted = float(BURST), self._clock()
        self._silence = 0.0
        self._leaving = self._closed = False
        self.due = 0.0

    def add(self, report: Report) -> None:
        """Let a report be published; returns at once."""
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
        """Take no more.

        Args:
            publish: Publish what still waits, of progress the newest, before this returns; what is just
                being published, too. Given up where Redis is slow or down. Otherwise it is dropped.
        """
        with self._lock:
            self._closed = True
            while len(self._progress) > (1 if publish else 0):
                self._progress.popleft()
            if not publish:
                self._messages.clear()
            unfinished = publish and (self.waits or self._leaving)
        if unfinished:
            self._publisher.flush(self)
            with self._lock:
                self._progress.clear()
                self._messages.clear()

    def take(self) -> Reported | None:
        """What may leave now, oldest first."""
        with self._lock:
            number = len(self._progress) + len(self._messages)
            if not self._closed:
                allowed = self._allowance()
                self.due = self._clock() + (1 - self._tokens + min(number, allowed)) / RATE
                number = min(number, allowed)
            reports = tuple(self._brief(self._oldest()) for _ in range(number))
            self._tokens -= number
            self._leaving = bool(reports)
        return Reported(task_hash(self._task_id), reports) if reports else None

    def heard(self, reported: Reported, listeners: int) -> None:
        """Say how many have heard what was taken.

        Progress that nobody has heard is published again, until it is so old that whoever comes finds it in
        the record.
        """
        with self._lock:
            self._leaving = False
            if listeners:
                self._silence = 0.0
                return
            if self._silence < LONGEST_SILENCE:
                self._offer_again(reported)
            self._silence = min(max(2 * self._silence, FIRST_SILENCE), LONGEST_SILENCE)
            self.due = self._clock() + self._silence

    def unsent(self, reported: Reported) -> None:
        """Say that what was taken could not be published; the newest progress of it is kept."""
        with self._lock:
            self._leaving = False
            self._offer_again(reported)
            self.due = self._clock() + LONGEST_SILENCE

    def _offer_again(self, reported: Reported) -> None:
        newest = [report for report in reported.reports if isinstance(report, Progress)][-1:]
        if newest and not self._progress and not self._closed:
            self._progress.append((0, newest[0]))

    @property
    def waits(self) -> bool:
        """Whether there is something to be published."""
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

    def _brief(self, report: Report) -> Report:
        return (
            report
            if isinstance(report, LogMessage)
            else truncate_report(report, self._limits.status_message_bytes)
        )


class Publisher:
    """Publishes the reports of all attempts of this process.

    Args:
        store: With a short deadline and a connection of its own.
    """

    def __init__(self, store: WorkerStore) -> None:
        self._store = store
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._queues: set[ReportQueue] = set()
        self._thread: threading.Thread | None = None
        self._failing = False

    def watch(self, queue: ReportQueue) -> None:
        """A queue is empty no more."""
        with self._changed:
            self._queues.add(queue)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tasks-service-reports", daemon=True)
                self._thread.start()
            self._changed.notify()

    def flush(self, queue: ReportQueue) -> None:
        """Publish all that waits in a queue that is closed, unless Redis is slow or down."""
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
                logger.exception("The publisher of reports met an error and goes on")
                time.sleep(LONGEST_SILENCE)

    def _due(self) -> list[ReportQueue]:
        """Wait for something to publish."""
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
                logger.warning("What tools report is not published for now: %s", error)
            self._failing = True
            for queue, reported in taken:
                queue.unsent(reported)
        else:
            self._failing = False
            for (queue, reported), listeners in zip(taken, numbers, strict=True):
                queue.heard(reported, listeners)
