"""The engine of the workers, on a store in memory, a clock that is moved by hand, and no threads.

Everything that decides what a tool may do and what becomes of it is the workers' own: `Executor`, `Journal`,
the contexts, `decide`. What is here only watches: which calls the tool makes, what is recorded, and where an
interruption is due.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NoReturn, Protocol

from celery import Celery
from celery.app.task import Context

from ..authoring.results import gathered
from ..authoring.tool import Tool
from ..crypto.keys import Fingerprints
from ..domain.errors import HistoryMismatch, InvalidTransition, Parked, WorkerStopping
from ..domain.events import (
    CompleteWithResult,
    Create,
    FailWithError,
    Release,
    RequestInput,
    Retry,
    Sleep,
    WorkerEvent,
)
from ..domain.limits import Limits
from ..domain.names import task_hash
from ..domain.task import EntryKind, JournalEntry, Task, TaskRecord, new_token
from ..durable.journal import Call, Journal
from ..store.changes import Change
from ..store.clients import Created
from ..store.findings import Finding
from ..store.memory import MemoryTaskStore
from ..submission.process_store import standing_in
from ..worker.attempt import RunningAttempt
from ..worker.engine import announcing_to
from ..worker.execution import Executor
from ..worker.exposed_run import Body, run_exposed
from ..worker.interrupts import Interrupter
from ..worker.lease_keeper import LeaseKeeper
from ..worker.loop import AsyncLoop
from ..worker.outcome import cause_of
from ..worker.report_publisher import Reporting
from ..worker.shutdown_deadline import ShutdownDeadline
from .clock import Clock

WORKER = "test"
"""The name of the worker, in the record."""

LOOP = AsyncLoop()
"""The event loop of all async tools that are tested: one for the process, as in a worker."""

End = RequestInput | Sleep | CompleteWithResult | FailWithError | Retry
"""What an attempt ends with by itself."""


class Watcher(Protocol):
    """Is told of what a tool does, before it does it."""

    def recording(self, event: WorkerEvent) -> None:
        """An event is about to be recorded."""

    def recorded(self, event: WorkerEvent) -> None:
        """An event was recorded."""

    def goes_on(self, calls: Sequence[Call]) -> None:
        """The tool makes calls of which nothing is recorded: it runs a step, asks or sleeps."""

    def goes_along(self, journal: Journal) -> None:
        """The tool has made a call that is recorded, and gets its outcome."""

    def submitted(self, task: Task) -> None:
        """The tool has submitted a task."""

    def differs(self, calls: Sequence[Call], entry: JournalEntry | None, mismatch: HistoryMismatch) -> None:
        """The tool makes other calls than it did: none, where it has ended."""


class WatchedStore(MemoryTaskStore):
    """A store in memory that tells, for each task, a watcher of what a worker records and submits."""

    def __init__(self, clock: Callable[[], int], limits: Limits) -> None:
        super().__init__(limits=limits, clock=clock)
        self._watchers: dict[str, Watcher] = {}

    def watch(self, task_id: str, watcher: Watcher) -> None:
        """Tell somebody from now on what happens to a task."""
        self._watchers[task_hash(task_id)] = watcher

    def commit(self, reference: str, event: WorkerEvent) -> Task:
        """See `WorkerStore.commit`."""
        watcher = self._watchers[task_hash(reference)]
        watcher.recording(event)
        task = super().commit(reference, event)
        watcher.recorded(event)
        return task

    def create(self, event: Create) -> Created:
        """See `ClientStore.create`."""
        created = super().create(event)
        if not created.replayed and (parent := self._watchers.get(event.parent)) is not None:
            parent.submitted(created.task)
        return created

    def hold(self, record: TaskRecord) -> None:
        """Begin with a record of another store."""
        self._records[task_hash(record.task.task_id)] = record

    def check_secrets(self, secrets: Fingerprints) -> list[Finding]:
        """Nothing: there is no front end that could have others."""
        return []

    def changes(self, *, poll: float = 1.0) -> Iterator[Change | None]:
        """None at each poll; nobody listens, since no thread runs."""
        while True:
            time.sleep(poll)
            yield None


class WatchedJournal(Journal):
    """A journal that tells a watcher of the calls of a tool."""

    def __init__(self, entries: Sequence[JournalEntry], *, ordered: bool, watcher: Watcher) -> None:
        super().__init__(entries, ordered=ordered)
        self._watcher = watcher

    def match(self, calls: Sequence[Call]) -> list[JournalEntry] | None:
        """See `Journal.match`."""
        try:
            found = super().match(calls)
        except HistoryMismatch as mismatch:
            self._watcher.differs(calls, self._entry(mismatch), mismatch)
            raise
        if found is None:
            self._watcher.goes_on(calls)
        else:
            self._watcher.goes_along(self)
        return found

    def finish(self) -> None:
        """See `Journal.finish`."""
        try:
            super().finish()
        except HistoryMismatch as mismatch:
            self._watcher.differs((), self._entry(mismatch), mismatch)
            raise

    def _entry(self, mismatch: HistoryMismatch) -> JournalEntry | None:
        return next(iter(self.since(mismatch.index)), None)


class Engine:
    """Runs the attempts of one task, one after the other.

    Args:
        app: The Celery app, for exposed tasks.
        clock: The clock.
        limits: The service's limits.
        watcher: Is told of what the tool does.
        reporting: Takes what the tool reports.
        store: Where the task is; the watcher is told of it by `WatchedStore.watch`.
        others: Where the tasks are that the tool submits; by default in the same store.
    """

    def __init__(
        self,
        app: Celery,
        clock: Clock,
        limits: Limits,
        watcher: Watcher,
        reporting: Reporting,
        *,
        store: WatchedStore,
        others: WatchedStore | None = None,
    ) -> None:
        self._app, self._clock = app, clock
        self.store, self._others = store, others or store
        interrupter = Interrupter()
        self.keeper = LeaseKeeper(self.store, ShutdownDeadline(), interrupter, clock=clock, by_hand=True)

        self.journal: Journal = Journal((), ordered=True)
        """The journal of the newest attempt."""

        def journal(entries: Sequence[JournalEntry], *, ordered: bool) -> Journal:
            self.journal = WatchedJournal(entries, ordered=ordered, watcher=watcher)
            return self.journal

        self._executor = Executor(
            self.store, self.keeper, interrupter, LOOP, reporting, limits, clock=clock, journal=journal
        )
        self.announced: list[str] = []
        """The names that the tool has announced; see `store.announcements`."""
        self.raised: BaseException | None = None
        """What the tool raised in the newest attempt."""
        self.went_on = False
        """Whether the tool has returned in the newest attempt, although it had to end."""

    @property
    def attempt(self) -> RunningAttempt | None:
        """The attempt that runs now."""
        return next(iter(self.keeper.attempts), None)

    def run(self, tool: Tool, task: Task) -> None:
        """Make one attempt."""
        self.raised, self.went_on = None, False

        def execute(body: Body) -> Task | None:
            return self._executor.run(
                tool,
                task.task_id,
                lease_id=new_token(),
                worker=WORKER,
                dispatched_ms=self._clock.now_ms,
                body=self._watched(body),
            )

        with announcing_to(self.announced.append), standing_in(self._others):
            if tool.exposed is None:
                execute(self._executor.body_of(tool))
            else:
                message = Context(id=f"{task_hash(task.task_id)}.{task.claims + 1}", hostname=WORKER)
                run_exposed(self._app, tool.exposed.name, message, execute)

    def lose_worker(self) -> None:
        """Let the worker die of the attempt that runs now: its task is handed back by whoever notices."""
        if (attempt := self.attempt) is not None:
            with suppress(InvalidTransition):  # the attempt has ended, and nothing is lost with the worker
                self.store.commit(attempt.task.task_id, Release(lease_id=attempt.lease_id, lost=True))

    def stop_worker(self) -> None:
        """Let the worker be stopped of the attempt that runs now: it hands its task back."""
        if (attempt := self.attempt) is not None:
            attempt.request_stop(WorkerStopping)

    def end_attempt(self) -> NoReturn:
        """End the attempt that runs now as if it had asked a question.

        Raises:
            AttemptEnded: Always.
        """
        attempt = self.attempt
        if attempt is None:
            raise Parked
        attempt.request_stop(Parked)
        raise attempt.end_error()

    def _watched(self, body: Body) -> Body:
        def watched(attempt: RunningAttempt, arguments: dict[str, Any]) -> Any:
            try:
                value = gathered(body(attempt, arguments))
            except BaseException as error:
                self.raised = cause_of(error)
                raise
            self.went_on = attempt.stop_reason is Parked
            return value

        return watched


def is_step(calls: Sequence[Call]) -> bool:
    """Whether calls are a step; only steps come alone and are run by the attempt that makes them."""
    return bool(calls) and calls[0].kind is EntryKind.STEP
