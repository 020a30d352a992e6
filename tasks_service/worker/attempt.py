"""One attempt at a task, as the engine sees it: who it is, what it wrote, and whether it must end.

Several threads meet here: the one that runs the tool, the keeper that renews the lease, and the handler of a
signal. Whoever finds that the attempt must end *flags* it; the tool notices at its next call on the context.
"""

from __future__ import annotations

import json
import logging
import threading
import time
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
    Parked,
    StoreUnavailable,
    TaskCancelled,
    TaskNotFound,
    WorkerStopping,
)
from ..domain.events import Checkpoint, RequestInput, Sleep, WorkerEvent
from ..domain.events import Question as Asked
from ..domain.limits import Limits, to_json
from ..domain.names import task_hash
from ..domain.reports import LogMessage, Report
from ..domain.task import JournalEntry, Phase, Progress, Task
from ..durable.journal import Journal
from ..durable.questions import Question, headline, question_digest
from ..store.redis.backoff import full_jitter
from ..store.workers import WorkerStore
from .publishing import Publisher, ReportQueue

PROGRESS_INTERVAL = 1.0
"""Seconds between two writes of progress to the record."""

LONGEST_PAUSE = 1.0
"""Seconds between two tries to write while the store does not answer."""

STOPPING_COMMIT = 5.0
"""Seconds that a stopping worker goes on trying."""

logger = logging.getLogger(__name__)

_SENTENCES: Mapping[type[AttemptEnded], str] = {
    TaskCancelled: "The client cancelled the task.",
    AttemptLost: "The task went to another worker, or ended otherwise.",
    AttemptTimedOut: "The tool ran longer than it may.",
    Parked: "The task waits; its tool runs again from the top.",
    WorkerStopping: "The worker stops; the task runs again elsewhere.",
}


class RunningAttempt:
    """The engine's side of a context; implements `context.Attempt`.

    Args:
        task: As of the claim.
        lease_id: What proves that the attempt still holds the task.
        store: Where it writes.
        limits: What it may write.
        started: Monotonic time just before the claim, so that local deadlines are never late.
        journal: What earlier attempts recorded; empty for the first.
        ask: The questions that the tool declared; their answers are the journal's first entries.
        wake: Called when there is progress to be written.
        publisher: Brings reports to whoever waits for the task; without one they reach nobody.
    """

    def __init__(
        self,
        task: Task,
        *,
        lease_id: str,
        store: WorkerStore,
        limits: Limits,
        started: float,
        journal: Journal | None = None,
        ask: Mapping[str, Question] | None = None,
        wake: Callable[[], None] = lambda: None,
        publisher: Publisher | None = None,
    ) -> None:
        self._task = task
        self.lease_id = lease_id
        self.started = started
        self.deadline = started + max(task.deadline_ms - task.updated_ms, 0) / 1000
        self._store, self._limits, self._wake = store, limits, wake
        self._reports = None if publisher is None else ReportQueue(task.task_id, limits, publisher)
        self._lock = threading.Lock()
        self._flag: type[AttemptEnded] | None = None
        self.flagged_at: float | None = None
        self.outcome: Task | None = None
        self._on_flag: list[Callable[[], None]] = []
        self._shields = 0
        self._unsent: Progress | None = None
        self._progress_written = float("-inf")
        self._variables = dict(task.variables)
        self._values: dict[str, Any] | None = None
        self._recording = threading.Lock()
        self._journal = journal or Journal((), ordered=True)
        self._ask = ask or {}
        self._given = self._journal.take({name: question_digest(asked) for name, asked in self._ask.items()})

    # --- what the tool sees -------------------------------------------------------------------------------

    @property
    def task(self) -> Task:
        """The task as of the claim."""
        return self._task

    @property
    def cancelled(self) -> bool:
        """Whether the attempt is to stop, for whatever reason."""
        return self._flag is not None

    @property
    def variables(self) -> Mapping[str, Any]:
        """The task's variables as this attempt knows them."""
        if self._values is None:
            self._values = {name: json.loads(text) for name, text in self._variables.items()}
        return self._values

    def check(self) -> None:
        """Raise what ends the attempt, if anything does."""
        if self._flag is not None:
            raise self.ending()

    def progress(self, current: float, total: float | None, message: str | None) -> None:
        """Remember progress; the keeper writes it, and whoever waits for the task is told."""
        progress = Progress(current=current, total=total, message=message)
        with self._lock:
            self._unsent = progress
        if self.progress_due <= time.monotonic():
            self._wake()
        self._report(progress)

    def log(self, message: LogMessage) -> None:
        """Tell whoever waits for the task; nothing is recorded."""
        self._report(message)

    def _report(self, report: Report) -> None:
        if self._reports is not None:
            self._reports.add(report)

    def write_variables(self, changes: Mapping[str, Any]) -> None:
        """Write variables, and any progress that waits, in one transaction."""
        maximum, depth = self._limits.variables_bytes, self._limits.depth
        texts = {
            name: None if value is None else to_json("variables", value, maximum=maximum, depth=depth)
            for name, value in changes.items()
        }
        with self.shielded(), self._recording:
            note = Checkpoint(lease_id=self.lease_id, variables=texts, progress=self._take_progress())
            written = self._note(note).variables
            known = {**self._variables, **texts}
            self._variables = {name: text for name, text in known.items() if text is not None}
            self._values = None
            if self._variables != written:
                logger.warning("The store forgot variables of task %s; they are written again", self._name)
                deleted = dict.fromkeys(written.keys() - self._variables.keys())
                self._note(Checkpoint(lease_id=self.lease_id, variables={**self._variables, **deleted}))

    @property
    def journal(self) -> Journal:
        """What earlier attempts recorded, and this one adds to."""
        return self._journal

    @property
    def answers(self) -> Mapping[str, Any]:
        """The answers to the questions that the tool declared.

        Raises:
            HistoryMismatch: The task was made when the tool declared other questions.
        """
        if missing := [name for name in self._ask if name not in self._given]:
            raise HistoryMismatch(len(self._given), f"its question {missing[0]!r}", "something else")
        return {name: self._ask[name].read(json.loads(entry.value)) for name, entry in self._given.items()}

    def now_ms(self) -> int:
        """The store's clock: as of the claim, and on by our own; never behind."""
        return self._task.updated_ms + round((time.monotonic() - self.started) * 1000)

    def record(self, entry: JournalEntry) -> None:
        """Record a journal entry, and any progress that waits, in one transaction."""
        with self.shielded(), self._recording:
            index, progress = len(self._journal), self._take_progress()
            self._note(Checkpoint(lease_id=self.lease_id, step=entry, step_index=index, progress=progress))
            self._journal.add(entry)

    def park(self, questions: Mapping[str, Asked]) -> NoReturn:
        """Ask, and end the attempt."""
        message = next((headline(asked.request) for asked in questions.values()), None)
        self._rest(RequestInput(lease_id=self.lease_id, inputs=questions, message=message))

    def suspend(self, delay_ms: int, timer: JournalEntry | None) -> NoReturn:
        """Let the task come due again after a while, and end the attempt."""
        self._rest(Sleep(lease_id=self.lease_id, delay_ms=delay_ms, timer=timer))

    def _rest(self, event: RequestInput | Sleep) -> NoReturn:
        with self.shielded():
            self.close_reports()
            self.flush_progress()
            self._note(event)
            self.request_stop(Parked)
        raise self.ending()

    # --- what the engine does -----------------------------------------------------------------------------

    @property
    def stop_reason(self) -> type[AttemptEnded] | None:
        """Why the attempt is to end, if it is."""
        return self._flag

    def ending(self) -> AttemptEnded:
        """The exception that ends the attempt."""
        kind = self._flag or AttemptLost
        return kind(_SENTENCES[kind])

    def request_stop(self, kind: type[AttemptEnded]) -> None:
        """Flag the attempt. The first reason stays, but a stopping worker gives way to any other."""
        with self._lock:
            if self._flag is not None and self._flag is not WorkerStopping:
                return
            if self._flag is None:
                self.flagged_at = time.monotonic()
            self._flag = kind
            callbacks, self._on_flag = self._on_flag, []
        for callback in callbacks:
            callback()

    def lost(self, refusal: LeaseLost) -> None:
        """The store said that the lease is gone: flag what became of the task."""
        self.request_stop(TaskCancelled if refusal.current == Phase.CANCELLED else AttemptLost)

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call back when the attempt is flagged; at once if it is already."""
        with self._lock:
            if self._flag is None:
                self._on_flag.append(callback)
                return
        callback()

    def close_reports(self, *, publish: bool = True) -> None:
        """Tell nobody anything more, but what waits to be told; for the end of the attempt."""
        if self._reports is not None:
            self._reports.close(publish=publish)

    @property
    def progress_due(self) -> float:
        """Monotonic time when progress may be written; never, if there is none to write."""
        if self._unsent is None:
            return float("inf")
        return self._progress_written + PROGRESS_INTERVAL

    def flush_progress(self) -> None:
        """Write the progress that waits, if any; a store that does not answer is left alone.

        Raises:
            StoreUnavailable: The progress waits on.
        """
        progress = self._take_progress()
        if progress is None:
            return
        try:
            self._note(Checkpoint(lease_id=self.lease_id, progress=progress))
        except AttemptEnded:
            return
        except BaseException:
            with self._lock:
                self._unsent = self._unsent or progress
            raise

    def _take_progress(self) -> Progress | None:
        with self._lock:
            progress, self._unsent = self._unsent, None
            if progress is not None:
                self._progress_written = time.monotonic()
            return progress

    def commit(self, event: WorkerEvent) -> Task:
        """Commit an event once: the same event again and again while the store does not answer.

        Steps that this attempt has recorded, and that the store forgot when it went back to an earlier truth,
        are recorded again before: nothing is built upon a journal with a hole.

        Raises:
            StoreUnavailable: It did not answer for as long as it makes sense to try.
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
                if time.monotonic() > self._give_up:
                    raise
                logger.warning("A write of task %s is tried again: %s", self._name, error)
                time.sleep(full_jitter(tries, first=0.05, most=LONGEST_PAUSE))
                tries += 1

    def _record_again(self, kept: int) -> None:
        entries = self._journal.since(kept)
        logger.warning(
            "The store forgot %d steps of task %s; they are recorded again", len(entries), self._name
        )
        for index, entry in enumerate(entries, start=kept):
            self._commit(
                Checkpoint(lease_id=self.lease_id, step=entry, step_index=index, journal_length=index)
            )

    @property
    def _give_up(self) -> float:
        if self._flag is WorkerStopping and self.flagged_at is not None:
            return self.flagged_at + STOPPING_COMMIT
        return self.deadline

    @property
    def _name(self) -> str:
        return task_hash(self._task.task_id)

    def _note(self, event: WorkerEvent) -> Task:
        try:
            return self.commit(event)
        except LeaseLost as refusal:
            self.lost(refusal)
            raise self.ending() from None
        except TaskNotFound:
            self.request_stop(AttemptLost)
            raise self.ending() from None

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """No signal breaks into what happens here; it is raised at the end instead."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
        self.check()

    @property
    def is_shielded(self) -> bool:
        """Whether a signal must wait."""
        return self._shields > 0
