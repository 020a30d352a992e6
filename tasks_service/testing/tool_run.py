"""One task of a tool, run by the engine of the workers in the test's own process."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal

from ..domain.decide import next_due_ms
from ..domain.errors import AttemptEnded, HistoryMismatch, InvalidTransition
from ..domain.events import AnswerInput, Cancel, Create, DeadlinePassed, WorkerEvent
from ..domain.names import new_task_id
from ..domain.questions import parse
from ..domain.task import (
    ClientCapability,
    EntryKind,
    Failure,
    JournalEntry,
    Owner,
    Phase,
    Progress,
    TaskRecord,
    TaskStatus,
)
from ..durable.journal import Call, Journal
from ..durable.questions import Declined, check_answer, question_digest
from ..frontend.v2026_07_28.structured_results import bare_schema, complete_result
from ..service import TaskService
from ..store.announcements import Listed, list_name, resource_name
from .answers import Answer, as_sent
from .clock import Clock
from .engine import End, Engine, is_step
from .explanations import not_deterministic, warn_of_reads
from .failures import NoResult, RunError
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
from .questions import OpenQuestion, open_question
from .reads import Read
from .replay import Calls, Difference, Replay, difference_of
from .reports import Logged, ReportRecorder

OWNER = Owner("tester")
"""The owner of every task that is tested."""

ALL_CAPABILITIES = frozenset(ClientCapability) - {ClientCapability.MODEL}
"""What a client can be asked, unless a test says otherwise: everything that a person answers."""

Revision = Literal["2026-07-28", "2025-11-25"]
"""A revision of MCP, of each of the two eras."""


class ToolRun:
    """A task of one tool, from its call to wherever it has come.

    Making one calls the tool, and runs it until it has ended or asks a question that has no answer yet. It is
    run by the workers' own engine, with a store in memory. Sleeps and the delays of retries take no time: the
    clock is moved on. After each question and each sleep the tool runs again from the top, with its journal,
    as in a worker. Each attempt is also replayed at once, to find a tool that makes other calls when it runs
    again; replays stop at the last recorded call, and run no step.

    Args:
        service: Where the tool is registered.
        tool: Its name.
        arguments: As a client would send them.
        interruptions: What happens to its attempts: `Crash`, `Shutdown`, `Cancellation`.
        answers: Answers by the questions' keys, given as soon as a question is asked. Those that the tool
            declares with `ask=` must be among them. See `ANSWERS` for what can be answered.
        client_can: What the client says it can be asked: `form`, `url`, `sampling`, `roots`, and `model`,
            which means that its model may answer what the author lets it answer.
        clock: The clock; by default one of its own, which begins with the time of the machine.
        sleep_at_once: Whether the clock is moved on when the tool sleeps or is to be tried again. If not, the
            test moves it, by `clock.advance`.
        replay: Whether each attempt is replayed.

    Raises:
        UnknownTool: The service has no tool of that name.
        InvalidArguments: The arguments do not match the tool's schema.
        AnswerRefused: An answer does not match its question's schema.
        NotDeterministic: The tool makes other calls when it runs again.
        RunError: It was not given the answers that it needs, or an interruption has never happened.
    """

    def __init__(
        self,
        service: TaskService,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *interruptions: Interruption,
        answers: Mapping[str, Any] | None = None,
        client_can: Collection[str] = ALL_CAPABILITIES,
        clock: Clock | None = None,
        sleep_at_once: bool = True,
        replay: bool = True,
    ) -> None:
        if isinstance(arguments, Interruption):
            raise RunError(f"{arguments} stands where the arguments are: write None, or {{}}, before it")
        self.clock = clock or Clock()
        self._service, self._tool = service, service.tools.find(tool)
        self._limits = service.settings.limits
        self._interruptions = Interruptions(interruptions)
        self._answers = dict(answers or {})
        self._sleeps_at_once, self._replays = sleep_at_once, replay
        self._reports = ReportRecorder()
        self._engine = Engine(service.celery, self.clock, self._limits, self, self._reports)
        self._store = self._engine.store
        self._calls = Calls()
        self._differences: list[Difference] = []
        self._before: TaskRecord | None = None
        self._before_end: tuple[TaskRecord, End] | None = None
        self._warned: set[Read] = set()
        self._raised: BaseException | None = None
        self._is_driving = False
        self._task_id = new_task_id(OWNER)
        definition = self._tool.definition
        self._store.create(
            Create(
                task_id=self._task_id,
                owner=OWNER,
                tool=tool,
                queue=definition.queue,
                arguments=self._tool.check_arguments(arguments or {}, self._limits),
                policy=definition.policy,
                capabilities=frozenset(map(ClientCapability, client_can)),
                service=service.name,
                journal=self._answers_before_the_task(),
            )
        )
        self.clock.follow(self)
        self._go_on()

    # --- what has become of it ----------------------------------------------------------------------------

    @property
    def status(self) -> TaskStatus:
        """Where the task is, as clients see it: `working`, `input_required`, `completed`, `failed`, ..."""
        return self._record.task.status

    @property
    def status_message(self) -> str | None:
        """The sentence beside the status, as clients see it."""
        return self._record.task.status_message

    @property
    def result(self) -> Any:
        """What the tool returned, as clients get it: the structured content, or the text where it has none.

        Raises:
            NoResult: It has returned nothing; the message says what happened instead.
        """
        recorded = self._recorded_result()
        structured = recorded.get("structuredContent")
        if structured is None:
            return self.text
        return structured["result"] if self._tool.definition.wraps_output else structured

    @property
    def text(self) -> str:
        """What a model reads that is shown text alone: the blocks of text, or the error of its call.

        Raises:
            NoResult: The task has not ended.
        """
        if (failure := self.failure) is not None:
            return failure.message
        if self._record.result is None:
            raise self._no_result()
        blocks = json.loads(self._record.result)["content"]
        return "\n".join(block["text"] for block in blocks if block["type"] == "text")

    @property
    def error(self) -> str | None:
        """The sentence that the caller reads if the tool, or its task, has failed; None if not."""
        return self.text if self.failure is not None or self.is_error else None

    @property
    def is_error(self) -> bool:
        """Whether the result reports an error, as of a `ToolError` or of any exception of the tool."""
        return self._record.task.is_error

    @property
    def failure(self) -> Failure | None:
        """Why the task failed (`kind`, `message`, `code`, `data`); None if it did not."""
        return self._record.task.failure

    @property
    def exception(self) -> BaseException | None:
        """What the tool raised last, whatever became of it; clients never see it."""
        return self._raised

    def call_result(self, revision: Revision = "2026-07-28") -> dict[str, Any]:
        """The `CallToolResult` that clients of a revision get.

        They differ where the structured content is no object: 2026-07-28 shows it as it is, 2025-11-25 in an
        object, under `result`.

        Raises:
            NoResult: There is none.
        """
        if revision == "2025-11-25":
            return self._recorded_result(of_errors=True)
        self._recorded_result(of_errors=True)
        is_bare = bare_schema(self._tool.definition) is not None
        return complete_result(self._record.result or "", bare=is_bare)

    # --- what it has done ---------------------------------------------------------------------------------

    @property
    def questions(self) -> Mapping[str, OpenQuestion]:
        """The questions that wait for an answer, by key."""
        return {key: open_question(asked) for key, asked in self._record.task.inputs.items()}

    @property
    def progress(self) -> Progress | None:
        """What the tool said last of its progress: `current`, `total`, `message`."""
        return self._reports.progress[-1] if self._reports.progress else None

    @property
    def all_progress(self) -> Sequence[Progress]:
        """All that the tool said of its progress, in all attempts."""
        return tuple(self._reports.progress)

    @property
    def logs(self) -> Sequence[Logged]:
        """The log messages of the tool, in all attempts."""
        return tuple(self._reports.logs)

    @property
    def variables(self) -> Mapping[str, Any]:
        """The task's variables, as clients see them."""
        return {name: json.loads(text) for name, text in self._record.task.variables.items()}

    @property
    def steps(self) -> Mapping[str, Any]:
        """The recorded results of steps, as JSON has them, in the order in which they were recorded."""
        return {entry.name: json.loads(entry.value) for entry in self.journal if entry.kind is EntryKind.STEP}

    @property
    def journal(self) -> tuple[JournalEntry, ...]:
        """What was recorded: results of steps, answers, sleeps, in their order."""
        return self._record.journal

    def has_announced(self, changed: Literal["tools", "prompts", "resources"]) -> bool:
        """Whether the tool has called `service.announce` for a list."""
        return list_name(Listed(changed)) in self._engine.announced

    def has_announced_resource(self, uri: str) -> bool:
        """Whether the tool has called `service.announce_resource` for a resource."""
        return resource_name(uri) in self._engine.announced

    @property
    def attempts(self) -> int:
        """How often the tool has been run; replays are not counted."""
        return self._record.task.claims

    @property
    def due(self) -> datetime | None:
        """When the tool runs again, while it sleeps or waits to be tried again; None if it does not."""
        task = self._record.task
        is_waiting = task.phase is Phase.PENDING and task.due_ms > self.clock.now_ms
        return datetime.fromtimestamp(task.due_ms / 1000, self.clock.now.tzinfo) if is_waiting else None

    @property
    def task_id(self) -> str:
        """The task's id, as the tool and its clients know it."""
        return self._task_id

    # --- what the test does -------------------------------------------------------------------------------

    def answer(self, key: str, answer: Answer) -> None:
        """Answer a question as a client does, and run on.

        Args:
            key: Which question.
            answer: A model or a mapping of values for a form; see `ANSWERS` for the others.

        Raises:
            RunError: No such question is open.
            AnswerRefused: The answer does not match the question's schema; the question stays open.
        """
        self.answer_all({key: answer})

    def answer_all(self, answers: Mapping[str, Any]) -> None:
        """Answer several questions in one request; see `answer`."""
        self._send(answers)
        self._go_on()

    def accept(self, key: str, /, **values: Any) -> None:
        """Fill in and accept a form; see `answer`."""
        self.answer(key, values)

    def decline(self, key: str) -> None:
        """Say no to a question; see `answer`."""
        self.answer(key, Declined())

    def cancel(self) -> None:
        """Cancel the task, as its client may.

        Raises:
            InvalidTransition: It has ended.
        """
        self._store.apply(OWNER, self._task_id, Cancel())
        self._engine.keeper.renew_all()

    def interrupt(self, *interruptions: Interruption) -> None:
        """Plan what happens to the attempts that are still to come."""
        self._interruptions.plan(interruptions)

    def check_interruptions(self) -> None:
        """Check that every planned interruption has happened; this is also done when the run ends.

        Raises:
            RunError: One has not, or not as often as planned.
        """
        if left := self._interruptions.left:
            came_to = ", ".join(map(repr, self._interruptions.passed)) or "nothing that has a name"
            raise RunError(f"{left[0]} has not happened. The run came to: {came_to}. {self._where()}")

    def deploy(self, service: TaskService) -> None:
        """Let a newer release of the tool take over, for the attempts that are still to come.

        Args:
            service: A service with a tool of the same name.

        Raises:
            UnknownTool: It has none.
        """
        self._tool = service.tools.find(self._tool.name)
        self._service = service

    # --- for the clock: see `Follower` --------------------------------------------------------------------

    def next_due_ms(self) -> int | None:
        """See `Follower.next_due_ms`."""
        task = self._record.task
        if self._is_driving or task.status.is_final:
            return None
        return min(task.due_ms, next_due_ms(task)) if task.phase is Phase.PENDING else next_due_ms(task)

    def time_has_passed(self) -> None:
        """See `Follower.time_has_passed`."""
        self._engine.keeper.tick()
        if not self._is_driving:
            self._go_on()

    # --- for the engine: see `Watcher` --------------------------------------------------------------------

    def recording(self, event: WorkerEvent) -> None:
        """See `Watcher.recording`."""
        self._before = self._record
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
            if (attempt := self._engine.attempt) is not None:
                attempt.check()

    def goes_along(self, journal: Journal) -> None:
        """See `Watcher.goes_along`."""

    def differs(self, calls: Sequence[Call], entry: JournalEntry | None, mismatch: HistoryMismatch) -> None:
        """See `Watcher.differs`."""
        recorded = self._engine.journal.since(0)
        self._differences.append(difference_of(self._calls, calls, entry, recorded))

    # --- how it goes on -----------------------------------------------------------------------------------

    @property
    def _record(self) -> TaskRecord:
        return self._store.inspect(self._task_id)

    def _go_on(self) -> None:
        self._is_driving = True
        try:
            while self._has_more_to_do():
                pass
        finally:
            self._is_driving = False
        if self.status.is_final:
            self.check_interruptions()

    def _has_more_to_do(self) -> bool:
        """Do the next thing; False if there is none but what the test does."""
        task, now_ms = self._record.task, self.clock.now_ms
        if task.status.is_final:
            return False
        if now_ms >= next_due_ms(task):
            self._store.apply_sweep(self._task_id, DeadlinePassed())
            return True
        if task.phase is Phase.PARKED:
            given = {key: answer for key, answer in self._answers.items() if key in task.inputs}
            self._send(given)
            return bool(given)
        if now_ms < task.due_ms:
            if self._sleeps_at_once:
                self.clock.move_to(min(task.due_ms, next_due_ms(task)))
            return self._sleeps_at_once
        self._attempt()
        return True

    def _attempt(self) -> None:
        self._differences, self._before_end = [], None
        self._engine.run(self._tool, self._record.task)
        raised = self._engine.raised
        if raised is not None and not isinstance(raised, AttemptEnded):
            self._raised = raised
            _let_through(raised)
        if self._engine.went_on:
            raise RunError(
                f"The tool {self._tool.name!r} went on after it had asked or slept, and returned: something "
                "catches the end of its run. Do not write a bare `except:` or `except BaseException:` around "
                "calls of the context, and never swallow CancelledError."
            )
        self._compare()

    def _compare(self) -> None:
        """Raise what the attempt did otherwise than those before, and replay it."""
        if self._differences:
            raise not_deterministic(self._tool, self._differences[0], ()) from self._engine.raised
        if self._replays and self._before_end is not None:
            self._replay(*self._before_end)

    def _replay(self, record: TaskRecord, end: End) -> None:
        declared = len(self._tool.ask)
        if len(record.journal) <= declared and recorded_names(end) == [RESULT]:
            return  # there is nothing to come to
        replay = Replay(self._tool, self._calls, end)
        difference = replay.run(record, self._service.celery, self._limits, self.clock)
        if difference is not None:
            raise not_deterministic(self._tool, difference, replay.reads)
        warn_of_reads(self._tool, [read for read in replay.reads if read not in self._warned])
        self._warned |= set(replay.reads)

    def _interrupt(self, moment: Moment, names: Sequence[str]) -> None:
        due = self._interruptions.at(moment, names)
        for one in due:
            match one:
                case Crash():
                    self._engine.lose_worker()
                case Cancellation():
                    with suppress(InvalidTransition):  # it has just ended
                        self._store.apply(OWNER, self._task_id, Cancel())
                case Shutdown():
                    self._engine.stop_worker()
        if due:
            self._engine.keeper.renew_all()

    def _send(self, answers: Mapping[str, Any]) -> None:
        open_now = self._record.task.inputs
        if unknown := [key for key in answers if key not in open_now]:
            known = ", ".join(map(repr, open_now)) or "none"
            raise RunError(f"No question {unknown[0]!r} is open. Open are: {known}. {self._where()}")
        checked = {
            key: check_answer(key, parse(open_now[key].request), as_sent(answer))
            for key, answer in answers.items()
        }
        if checked:
            self._store.apply(OWNER, self._task_id, AnswerInput(answers=checked))

    def _answers_before_the_task(self) -> tuple[JournalEntry, ...]:
        """The answers to the questions that the tool declares, which are the beginning of its journal."""
        entries = []
        for key, asked in self._tool.ask.items():
            if key not in self._answers:
                raise RunError(
                    f"The tool {self._tool.name!r} asks {key!r} before its task: give "
                    f"answers={{{key!r}: ...}}"
                )
            question = asked.recorded()
            value = check_answer(key, question, as_sent(self._answers.pop(key)))
            digest = question_digest(question)
            entries.append(JournalEntry(kind=EntryKind.ANSWER, name=key, digest=digest, value=value))
        return tuple(entries)

    def _recorded_result(self, *, of_errors: bool = False) -> dict[str, Any]:
        record = self._record
        if record.result is None or (record.task.is_error and not of_errors):
            raise self._no_result()
        recorded: dict[str, Any] = json.loads(record.result)
        return recorded

    def _no_result(self) -> NoResult:
        error = NoResult(f"The tool {self._tool.name!r} has no result. {self._where()}")
        error.__cause__ = self._raised
        return error

    def _where(self) -> str:
        """Where the task is, as a sentence."""
        task, open_now = self._record.task, self._record.task.inputs
        if task.failure is not None:
            return f"Its task failed ({task.failure.kind.value}): {task.failure.message}"
        if task.is_error:
            told = "" if self._raised is None else f" It raised {type(self._raised).__name__}: {self._raised}"
            return f"Its caller reads an error: {self.text}{told}"
        if open_now:
            unused = [key for key in self._answers if key not in task.used_keys]
            given = f" Answers were given for {', '.join(map(repr, unused))}." if unused else ""
            return f"It waits for an answer to {', '.join(map(repr, open_now))}.{given}"
        if (due := self.due) is not None:
            return f"It waits until {due.isoformat()}; the clock says {self.clock.now.isoformat()}."
        return f"Its task is {task.status.value}."


def _is_of_a_step(event: WorkerEvent) -> bool:
    step = getattr(event, "step", None)
    return step is not None and step.kind is EntryKind.STEP


def _let_through(raised: BaseException) -> None:
    """Let the outcomes of pytest reach it: what a fake that a tool calls has skipped or failed on purpose."""
    if any(str(base.__module__).startswith("_pytest.") for base in type(raised).__mro__):
        raise raised
