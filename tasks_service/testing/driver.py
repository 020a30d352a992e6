"""What drives the task of a run: its attempts, in their time, and what happens to them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from ..domain.decide import next_due_ms
from ..domain.errors import AttemptEnded, HistoryMismatch, InvalidTransition
from ..domain.events import AnswerInput, Cancel, DeadlinePassed, Sleep, WorkerEvent
from ..domain.questions import parse
from ..domain.task import EntryKind, JournalEntry, Phase, Task, TaskRecord
from ..durable.journal import Call, Journal
from ..durable.questions import check_answer
from ..service import TaskService
from .answers import as_sent
from .clock import Clock
from .engine import End, Engine, WatchedStore, is_step
from .explanations import not_deterministic, warn_of_reads
from .failures import RunError
from .interruptions import (
    RESULT,
    Cancellation,
    Crash,
    Interruption,
    Interruptions,
    Moment,
    Shutdown,
    recorded_names,
)
from .reads import Read
from .replay import Calls, Difference, Replay, difference_of
from .reports import ReportRecorder


class Group:
    """A task and those that were submitted for it, which one clock moves on together.

    Args:
        clock: The clock.
        sleep_at_once: Whether it is moved on when all that can go on by themselves sleep.
        replay: Whether each attempt is replayed.
    """

    def __init__(self, clock: Clock, *, sleep_at_once: bool, replay: bool) -> None:
        self.clock, self.replay = clock, replay
        self._sleep_at_once = sleep_at_once
        self._drivers: list[Driver] = []
        self.is_driving = False
        """Whether it is driven on now."""

    def add(self, driver: Driver) -> None:
        """Drive one more, from now on."""
        self._drivers.append(driver)
        self.clock.follow(driver)

    def go_on(self) -> None:
        """Drive all to their ends, or to where they wait for something that only the test does."""
        if self.is_driving:
            return
        self.is_driving = True
        try:
            while any(driver.acts() for driver in list(self._drivers)) or self._sleeps():
                pass
        finally:
            self.is_driving = False
        for driver in self._drivers:
            driver.check_at_the_end()

    def _sleeps(self) -> bool:
        """Move the clock to where somebody wakes; False if nobody does by themselves."""
        moments = [at_ms for driver in self._drivers if (at_ms := driver.wakes_ms()) is not None]
        if not moments or not self._sleep_at_once:
            return False
        self.clock.move_to(min(moments))
        return True


class Driver:
    """Drives one task to wherever it comes by itself; watches its tool, and follows the clock.

    Args:
        service: Where the tool is registered.
        task: The task, as it was recorded.
        store: Where it is recorded.
        group: The task, and those that were submitted for it.
        answers: Answers to questions that will be asked, by key.
        interruptions: What happens to its attempts.
    """

    def __init__(
        self,
        service: TaskService,
        task: Task,
        store: WatchedStore,
        group: Group,
        *,
        answers: Mapping[str, Any] | None = None,
        interruptions: Sequence[Interruption] = (),
    ) -> None:
        self.service, self.tool = service, service.tools.find(task.tool)
        self.clock, self._store, self._group = group.clock, store, group
        self._owner, self.task_id = task.owner, task.task_id
        self._limits = service.settings.limits
        self.answers = dict(answers or {})
        self.interruptions = Interruptions(interruptions)
        self.reports = ReportRecorder()
        self.engine = Engine(service.celery, self.clock, self._limits, self, self.reports, store=store)
        self.children: list[Driver] = []
        self.raised: BaseException | None = None
        """What the tool raised last."""
        self._calls = Calls()
        self._differences: list[Difference] = []
        self._before: TaskRecord | None = None
        self._before_end: tuple[TaskRecord, End] | None = None
        self._warned: set[Read] = set()
        store.watch(self.task_id, self)
        group.add(self)

    @property
    def record(self) -> TaskRecord:
        """The task, with everything that is recorded of it."""
        return self._store.inspect(self.task_id)

    @property
    def due(self) -> datetime | None:
        """When the tool runs again, while it sleeps or waits to be tried again; None if it does not."""
        task = self.record.task
        is_waiting = task.phase is Phase.PENDING and task.due_ms > self.clock.now_ms
        return datetime.fromtimestamp(task.due_ms / 1000, self.clock.now.tzinfo) if is_waiting else None

    def send(self, answers: Mapping[str, Any]) -> None:
        """Answer open questions, and drive on.

        Raises:
            RunError: One is not open.
            AnswerRefused: One does not fit.
        """
        self._send(answers)
        self.go_on()

    def cancel(self) -> None:
        """Cancel the task.

        Raises:
            InvalidTransition: It has ended.
        """
        self._store.apply(self._owner, self.task_id, Cancel(), hidden=True)
        self.engine.keeper.renew_all()

    def deploy(self, service: TaskService) -> None:
        """Let another release of the tool take over.

        Raises:
            UnknownTool: The service has none of that name.
        """
        self.service, self.tool = service, service.tools.find(self.tool.name)

    def go_on(self) -> None:
        """Drive the task, and those that belong to it, as far as they go by themselves."""
        self._group.go_on()

    def check_at_the_end(self) -> None:
        """Check, if the task has ended, that all has happened that was planned."""
        if self.record.task.status.is_final:
            self.check_interruptions()

    def check_interruptions(self) -> None:
        """Check that every planned interruption has happened; this is also done when the run ends.

        Raises:
            RunError: One has not, or not as often as planned.
        """
        if left := self.interruptions.left:
            came_to = ", ".join(map(repr, self.interruptions.passed)) or "nothing that has a name"
            raise RunError(f"{left[0]} has not happened. The run came to: {came_to}. {self.where()}")

    # --- for the clock: see `Follower` --------------------------------------------------------------------

    def next_due_ms(self) -> int | None:
        """See `Follower.next_due_ms`."""
        task = self.record.task
        if self._group.is_driving or task.status.is_final:
            return None
        return (
            min(self._due_ms(task), next_due_ms(task)) if task.phase is Phase.PENDING else next_due_ms(task)
        )

    def time_has_passed(self) -> None:
        """See `Follower.time_has_passed`."""
        self.engine.keeper.tick()
        self.go_on()

    # --- for the engine: see `Watcher` --------------------------------------------------------------------

    def recording(self, event: WorkerEvent) -> None:
        """See `Watcher.recording`."""
        self._before = self.record
        if names := recorded_names(event):
            if not _is_of_a_step(event):
                self._interrupt(Moment.BEFORE, names)
            self._interrupt(Moment.BEFORE_RECORDING, names)

    def recorded(self, event: WorkerEvent) -> None:
        """See `Watcher.recorded`."""
        if isinstance(event, End) and self._before is not None:
            self._before_end = self._before, event
        if names := recorded_names(event):
            self._interrupt(Moment.AFTER, names)

    def goes_on(self, calls: Sequence[Call]) -> None:
        """See `Watcher.goes_on`."""
        self._calls.add(calls)
        if is_step(calls):
            self._interrupt(Moment.BEFORE, [call.name for call in calls])
            if (attempt := self.engine.attempt) is not None:
                attempt.check()

    def goes_along(self, journal: Journal) -> None:
        """See `Watcher.goes_along`."""

    def submitted(self, task: Task) -> None:
        """See `Watcher.submitted`."""
        self.children.append(Driver(self.service, task, self._store, self._group))

    def differs(self, calls: Sequence[Call], entry: JournalEntry | None, mismatch: HistoryMismatch) -> None:
        """See `Watcher.differs`."""
        recorded = self.engine.journal.since(0)
        self._differences.append(difference_of(self._calls, calls, entry, recorded))

    # --- how it goes on -----------------------------------------------------------------------------------

    def acts(self) -> bool:
        """Do what is due now; False if nothing is but what the test does."""
        task, now_ms = self.record.task, self.clock.now_ms
        if task.status.is_final:
            return False
        if now_ms >= next_due_ms(task):
            self._store.apply_sweep(self.task_id, DeadlinePassed())
            return True
        if task.phase is Phase.PARKED:
            given = {key: answer for key, answer in self.answers.items() if key in task.inputs}
            self._send(given)
            return bool(given)
        if now_ms < self._due_ms(task):
            return False
        self._attempt()
        return True

    def wakes_ms(self) -> int | None:
        """When its sleep ends; None if it does not sleep."""
        task = self.record.task
        return min(self._due_ms(task), next_due_ms(task)) if task.phase is Phase.PENDING else None

    def _due_ms(self, task: Task) -> int:
        """When a pending task's next attempt begins.

        A tool that waits for others looks at them every few seconds. Here it looks when one has ended, when
        a time is over that it set, and before it would have waited too long.
        """
        if not self._waits_for_others:
            return task.due_ms
        timers = [int(entry.value) for entry in self.record.journal if entry.kind is EntryKind.TIMER]
        moments = [until_ms for until_ms in timers if until_ms > task.updated_ms]
        return max(min([*moments, next_due_ms(task) - 1]), task.due_ms)

    @property
    def _waits_for_others(self) -> bool:
        """Whether the tool waits for a task that it has submitted, and that has not ended."""
        end = None if self._before_end is None else self._before_end[1]
        return isinstance(end, Sleep) and end.timer is None and bool(self._open_children)

    @property
    def _open_children(self) -> list[Driver]:
        return [child for child in self.children if not child.record.task.status.is_final]

    def _attempt(self) -> None:
        self._differences, self._before_end = [], None
        self.engine.run(self.tool, self.record.task)
        raised = self.engine.raised
        if raised is not None and not isinstance(raised, AttemptEnded):
            self.raised = raised
            _let_through(raised)
        if self.engine.went_on:
            raise RunError(
                f"The tool {self.tool.name!r} went on after it had asked or slept, and returned: something "
                "catches the end of its run. Do not write a bare `except:` or `except BaseException:` around "
                "calls of the context, and never swallow CancelledError."
            )
        self._compare()

    def _compare(self) -> None:
        """Raise what the attempt did otherwise than those before, and replay it."""
        if self._differences:
            raise not_deterministic(self.tool, self._differences[0], ()) from self.engine.raised
        if self._group.replay and self._before_end is not None:
            self._replay(*self._before_end)

    def _replay(self, record: TaskRecord, end: End) -> None:
        declared = len(self.tool.ask)
        if len(record.journal) <= declared and recorded_names(end) == [RESULT]:
            return  # there is nothing to come to
        replay = Replay(self.tool, self._calls, end)
        difference = replay.run(record, self.service.celery, self._limits, self.clock, self._store)
        if difference is not None:
            raise not_deterministic(self.tool, difference, replay.reads)
        warn_of_reads(self.tool, [read for read in replay.reads if read not in self._warned])
        self._warned |= set(replay.reads)

    def _interrupt(self, moment: Moment, names: Sequence[str]) -> None:
        due = self.interruptions.at(moment, names)
        for one in due:
            match one:
                case Crash():
                    self.engine.lose_worker()
                case Cancellation():
                    with suppress(InvalidTransition):  # it has just ended
                        self._store.apply(self._owner, self.task_id, Cancel(), hidden=True)
                case Shutdown():
                    self.engine.stop_worker()
        if due:
            self.engine.keeper.renew_all()

    def _send(self, answers: Mapping[str, Any]) -> None:
        open_now = self.record.task.inputs
        if unknown := [key for key in answers if key not in open_now]:
            known = ", ".join(map(repr, open_now)) or "none"
            raise RunError(f"No question {unknown[0]!r} is open. Open are: {known}. {self.where()}")
        checked = {
            key: check_answer(key, parse(open_now[key].request), as_sent(answer))
            for key, answer in answers.items()
        }
        if checked:
            self._store.apply(self._owner, self.task_id, AnswerInput(answers=checked), hidden=True)

    def where(self) -> str:
        """Where the task is, as a sentence."""
        task, open_now = self.record.task, self.record.task.inputs
        if task.failure is not None:
            return f"Its task failed ({task.failure.kind.value}): {task.failure.message}"
        if task.is_error:
            told = "" if self.raised is None else f" It raised {type(self.raised).__name__}: {self.raised}"
            return f"Its caller reads an error: {text_of(self.record)}{told}"
        if open_now:
            unused = [key for key in self.answers if key not in task.used_keys]
            given = f" Answers were given for {', '.join(map(repr, unused))}." if unused else ""
            return f"It waits for an answer to {', '.join(map(repr, open_now))}.{given}"
        if waiting := self._open_children:
            return f"The task {waiting[0].tool.name!r} that it has submitted: {waiting[0].where()}"
        if (due := self.due) is not None:
            return f"It waits until {due.isoformat()}; the clock says {self.clock.now.isoformat()}."
        return f"Its task is {task.status.value}."


def text_of(record: TaskRecord) -> str:
    """The blocks of text of a recorded result."""
    blocks = json.loads(record.result or '{"content":[]}')["content"]
    return "\n".join(block["text"] for block in blocks if block["type"] == "text")


def _is_of_a_step(event: WorkerEvent) -> bool:
    step = getattr(event, "step", None)
    return step is not None and step.kind is EntryKind.STEP


def _let_through(raised: BaseException) -> None:
    """Let the outcomes of pytest reach it: what a fake that a tool calls has skipped or failed on purpose."""
    if any(str(base.__module__).startswith("_pytest.") for base in type(raised).__mro__):
        raise raised
