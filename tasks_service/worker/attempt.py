"""The engine's side of one attempt at a task: its writes to the record, its reports, and its end.

Several threads use it: the one that runs the tool, the lease keeper, and the handler of a signal. The one
that finds that the attempt must end requests a stop; the tool notices at its next call on the context.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NoReturn

from ..domain.errors import (
    AttemptEnded,
    AttemptLost,
    AttemptTimedOut,
    HistoryMismatch,
    JournalRolledBack,
    LeaseLost,
    NotJson,
    Parked,
    StoreUnavailable,
    TaskCancelled,
    TaskNotFound,
    WorkerStopping,
)
from ..domain.events import Checkpoint, RequestInput, Sleep, WorkerEvent
from ..domain.events import Question as Asked
from ..domain.limits import Limits, to_json, valid_text
from ..domain.names import task_hash
from ..domain.questions import headline, parse
from ..domain.reports import LogMessage, Report
from ..domain.task import NOT_RECORDED, Identity, JournalEntry, Phase, Progress, Task
from ..durable.clock import SYSTEM_CLOCK, Clock
from ..durable.journal import Journal
from ..durable.questions import Question, question_digest
from ..store.redis.backoff import full_jitter
from ..store.workers import WorkerStore
from .report_publisher import Reporting

PROGRESS_INTERVAL = 1.0
"""Seconds between two writes of progress to the record."""

LONGEST_PAUSE = 1.0
"""Most seconds between two tries of a commit while the store does not answer."""

STOPPING_COMMIT = 5.0
"""Seconds for which a stopping worker repeats a commit."""

logger = logging.getLogger(__name__)

_SENTENCES: Mapping[type[AttemptEnded], str] = {
    TaskCancelled: "The task was cancelled.",
    AttemptLost: "The task went to another worker, or ended otherwise.",
    AttemptTimedOut: "The tool ran longer than its timeout.",
    Parked: "The task waits; its tool runs again from the top.",
    WorkerStopping: "The worker stops; the task runs again elsewhere.",
}


class RunningAttempt:
    """An attempt that runs; implements `durable.attempt.Attempt`.

    Args:
        task: The task as of the claim.
        lease_id: The id of the lease, with which each write proves that the attempt holds the task.
        store: The store.
        limits: The limits of what it writes.
        started: Monotonic time just before the claim, so that local deadlines are never late.
        caller: Who has called.
        journal: The entries of earlier attempts; empty for the first.
        ask: The questions that the tool declared; their answers are the journal's first entries.
        wake: Called when progress is due to be written.
        publisher: Takes reports; None: they are dropped.
        clock: Measures the attempt's time.
    """

    def __init__(
        self,
        task: Task,
        *,
        lease_id: str,
        store: WorkerStore,
        limits: Limits,
        started: float,
        caller: Identity = NOT_RECORDED,
        journal: Journal | None = None,
        ask: Mapping[str, Question] | None = None,
        wake: Callable[[], None] = lambda: None,
        publisher: Reporting | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._task, self._caller = task, caller
        self.lease_id = lease_id
        self.started = started
        self.deadline = started + max(task.deadline_ms - task.updated_ms, 0) / 1000
        self._store, self._limits, self._wake = store, limits, wake
        self._clock = clock
        self._reports = None if publisher is None else publisher.queue(task.task_id, limits)
        self._lock = threading.Lock()
        self._stop_reason: type[AttemptEnded] | None = None
        self.stop_requested_at: float | None = None
        self.outcome: Task | None = None
        self._on_stop: list[Callable[[], None]] = []
        self._shields = 0
        self._unsent: Progress | None = None
        self._progress_written = float("-inf")
        self._variables = dict(task.variables)
        self._values: dict[str, Any] | None = None
        self._recording = threading.Lock()
        self._flushing = threading.Lock()
        self._journal = Journal((), ordered=True) if journal is None else journal
        self._ask = ask or {}
        digests = {name: question_digest(asked.recorded()) for name, asked in self._ask.items()}
        self._declared_answers = self._journal.take_answers(digests)

    # --- what the tool sees -------------------------------------------------------------------------------

    @property
    def task(self) -> Task:
        """See `Attempt.task`."""
        return self._task

    @property
    def caller(self) -> Identity:
        """See `Attempt.caller`."""
        return self._caller

    @property
    def cancelled(self) -> bool:
        """See `Attempt.cancelled`."""
        return self._stop_reason is not None

    @property
    def variables(self) -> Mapping[str, Any]:
        """See `Attempt.variables`."""
        if self._values is None:
            self._values = {name: json.loads(text) for name, text in self._variables.items()}
        return self._values

    def check(self) -> None:
        """See `Attempt.check`."""
        if self._stop_reason is not None:
            raise self.end_error()

    def progress(self, progress: Progress) -> None:
        """See `Attempt.progress`; the lease keeper writes it."""
        with self._lock:
            self._unsent = progress
        if self.progress_due <= self._clock.monotonic():
            self._wake()
        self._report(progress)

    def log(self, message: LogMessage) -> None:
        """See `Attempt.log`."""
        self._report(message)

    def _report(self, report: Report) -> None:
        if self._reports is not None:
            self._reports.add(report)

    def write_variables(self, changes: Mapping[str, Any]) -> None:
        """See `Attempt.write_variables`; progress that waits is written in the same transaction."""
        for name in changes:
            if not isinstance(name, str) or valid_text(name) != name:
                raise NotJson("variables", f"a name is a text, not {name!r}")
        maximum, depth = self._limits.variables_bytes, self._limits.depth
        texts = {
            name: None if value is None else to_json("variables", value, maximum=maximum, depth=depth)
            for name, value in changes.items()
        }
        with self.shielded(), self._recording:
            event = Checkpoint(lease_id=self.lease_id, variables=texts, progress=self._take_progress())
            written = self._write(event).variables
            known = {**self._variables, **texts}
            self._variables = {name: text for name, text in known.items() if text is not None}
            self._values = None
            if self._variables != written:
                logger.warning("The store lost variables of task %s; they are written again", self._name)
                deleted = dict.fromkeys(written.keys() - self._variables.keys())
                self._write(Checkpoint(lease_id=self.lease_id, variables={**self._variables, **deleted}))

    @property
    def journal(self) -> Journal:
        """See `Attempt.journal`."""
        return self._journal

    @property
    def answers(self) -> Mapping[str, Any]:
        """See `Attempt.answers`.

        Raises:
            HistoryMismatch: The tool declared other questions when the task was created.
        """
        given = self._declared_answers
        if missing := [name for name in self._ask if name not in given]:
            raise HistoryMismatch(len(given), f"its question {missing[0]!r}", "something else")
        return {name: self._ask[name].read(json.loads(entry.value)) for name, entry in given.items()}

    @property
    def clock(self) -> Clock:
        """See `Attempt.clock`."""
        return self._clock

    def now_ms(self) -> int:
        """See `Attempt.now_ms`; never behind the store's clock."""
        return self._task.updated_ms + round((self._clock.monotonic() - self.started) * 1000)

    def record(self, entry: JournalEntry) -> None:
        """See `Attempt.record`; progress that waits is written in the same transaction."""
        with self.shielded(), self._recording:
            index, progress = len(self._journal), self._take_progress()
            self._write(Checkpoint(lease_id=self.lease_id, step=entry, step_index=index, progress=progress))
            self._journal.add(entry)

    def park(self, questions: Mapping[str, Asked]) -> NoReturn:
        """See `Attempt.park`."""
        message = next((headline(parse(asked.request)) for asked in questions.values()), None)
        self._end_with(RequestInput(lease_id=self.lease_id, inputs=questions, message=message))

    def suspend(self, delay_ms: int, timer: JournalEntry | None) -> NoReturn:
        """See `Attempt.suspend`."""
        self._end_with(Sleep(lease_id=self.lease_id, delay_ms=delay_ms, timer=timer))

    def _end_with(self, event: RequestInput | Sleep) -> NoReturn:
        with self.shielded():
            self.close_reports()
            self.flush_progress()
            self._write(event)
            self.request_stop(Parked)
        raise self.end_error()

    # --- what the engine does -----------------------------------------------------------------------------

    @property
    def stop_reason(self) -> type[AttemptEnded] | None:
        """Why the attempt must end; None while it need not."""
        return self._stop_reason

    def end_error(self) -> AttemptEnded:
        """The exception that ends the attempt."""
        kind = self._stop_reason or AttemptLost
        return kind(_SENTENCES[kind])

    def request_stop(self, kind: type[AttemptEnded]) -> None:
        """Make the attempt stop. The first reason stays, but `WorkerStopping` is replaced by any other."""
        with self._lock:
            if self._stop_reason is not None and self._stop_reason is not WorkerStopping:
                return
            if self._stop_reason is None:
                self.stop_requested_at = self._clock.monotonic()
            self._stop_reason = kind
            callbacks, self._on_stop = self._on_stop, []
        for callback in callbacks:
            callback()

    def lease_lost(self, refusal: LeaseLost) -> None:
        """Make the attempt stop because the store says that its lease is no longer valid."""
        self.request_stop(TaskCancelled if refusal.current == Phase.CANCELLED else AttemptLost)

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Call back when a stop is requested; at once if it has been."""
        with self._lock:
            if self._stop_reason is None:
                self._on_stop.append(callback)
                return
        callback()

    def close_reports(self, *, publish: bool = True) -> None:
        """Take no more reports, at the end of the attempt; publish those that wait, or drop them."""
        if self._reports is not None:
            self._reports.close(publish=publish)

    @property
    def progress_due(self) -> float:
        """The monotonic time at which progress may be written; infinite if there is none to write."""
        if self._unsent is None:
            return float("inf")
        return self._progress_written + PROGRESS_INTERVAL

    def flush_progress(self) -> None:
        """Write the progress that waits, if any.

        Raises:
            StoreUnavailable: The store did not answer in time; the progress still waits.
        """
        with self._flushing:  # whoever ends the attempt waits for the keeper, which may be writing the last
            progress = self._take_progress()
            if progress is None:
                return
            try:
                self._write(Checkpoint(lease_id=self.lease_id, progress=progress))
            except AttemptEnded:
                return
            except StoreUnavailable:
                with self._lock:
                    self._unsent = self._unsent or progress
                raise

    def _take_progress(self) -> Progress | None:
        with self._lock:
            progress, self._unsent = self._unsent, None
            if progress is not None:
                self._progress_written = self._clock.monotonic()
            return progress

    def commit(self, event: WorkerEvent) -> Task:
        """Commit an event once, with repetitions of the same event while the store does not answer.

        If the store has lost recent writes, journal entries that this attempt knows are recorded again first,
        so that no journal has a gap.

        Raises:
            StoreUnavailable: It did not answer before the attempt's deadline, or the end of the shutdown.
            LeaseLost, LimitExceeded, InvalidTransition, TaskNotFound: See `WorkerStore.commit`.
        """
        return self._commit(replace(event, journal_length=len(self._journal)))

    def _commit(self, event: WorkerEvent) -> Task:
        tries = 0
        while True:
            try:
                return self._store.commit(self._task.task_id, event)
            except JournalRolledBack as behind:
                self._record_again(behind.kept)
            except StoreUnavailable as error:
                if self._clock.monotonic() > self._commit_deadline:
                    raise
                logger.warning("A write of task %s is tried again: %s", self._name, error)
                self._clock.sleep(full_jitter(tries, first=0.05, most=LONGEST_PAUSE))
                tries += 1

    def _record_again(self, kept: int) -> None:
        entries = self._journal.since(kept)
        logger.warning(
            "The store lost %d steps of task %s; they are recorded again", len(entries), self._name
        )
        for index, entry in enumerate(entries, start=kept):
            self._commit(
                Checkpoint(lease_id=self.lease_id, step=entry, step_index=index, journal_length=index)
            )

    @property
    def _commit_deadline(self) -> float:
        if self._stop_reason is WorkerStopping and self.stop_requested_at is not None:
            return self.stop_requested_at + STOPPING_COMMIT
        return self.deadline

    @property
    def _name(self) -> str:
        return task_hash(self._task.task_id)

    def _write(self, event: WorkerEvent) -> Task:
        try:
            return self.commit(event)
        except LeaseLost as refusal:
            self.lease_lost(refusal)
            raise self.end_error() from None
        except TaskNotFound:
            self.request_stop(AttemptLost)
            raise self.end_error() from None

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Protect the code here from interruption by a signal; raise a requested stop at the end instead."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
        self.check()

    @property
    def is_shielded(self) -> bool:
        """Whether a signal must not interrupt now."""
        return self._shields > 0
