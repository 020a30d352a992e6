"""One task of a tool, run by the engine of the workers in the test's own process."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from ..authoring.tool import Tool
from ..domain.events import Create
from ..domain.names import new_task_id
from ..domain.task import (
    ClientCapability,
    EntryKind,
    Failure,
    Identity,
    JournalEntry,
    Owner,
    Progress,
    TaskRecord,
    TaskStatus,
)
from ..durable.questions import Declined, check_answer, question_digest
from ..frontend.v2026_07_28.structured_results import bare_schema, complete_result
from ..service import TaskService
from ..store.announcements import Listed, list_name, resource_name
from .answers import Answer, as_sent
from .clock import Clock
from .driver import Driver, Group, text_of
from .engine import WatchedStore
from .failures import NoResult, RunError
from .interruptions import (
    Interruption,
)
from .questions import OpenQuestion, open_question
from .reports import Logged

OWNER = Owner("tester")
"""The owner of every task that is tested."""

TESTER = Identity(issuer="test", subject="tester")
"""The caller of every tool that is tested, unless a test says otherwise."""

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
        caller: What the tool finds in `ctx.caller`; by default a user whom no scopes limit.
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
        caller: Identity = TESTER,
        clock: Clock | None = None,
        sleep_at_once: bool = True,
        replay: bool = True,
    ) -> None:
        if isinstance(arguments, Interruption):
            raise RunError(f"{arguments} stands where the arguments are: write None, or {{}}, before it")
        clock, limits = clock or Clock(), service.settings.limits
        found, given = service.tools.find(tool), dict(answers or {})
        store = WatchedStore(lambda: clock.now_ms, limits)
        created = store.create(
            Create(
                task_id=new_task_id(OWNER),
                owner=OWNER,
                tool=tool,
                queue=found.definition.queue,
                arguments=found.check_arguments(arguments or {}, limits),
                policy=found.definition.policy,
                capabilities=frozenset(map(ClientCapability, client_can)),
                service=service.name,
                journal=_answers_before_the_task(found, given),
                caller=caller,
            )
        )
        group = Group(clock, sleep_at_once=sleep_at_once, replay=replay)
        self._driver = Driver(service, created.task, store, group, answers=given, interruptions=interruptions)
        self._driver.go_on()

    @classmethod
    def _of(cls, driver: Driver) -> ToolRun:
        run = cls.__new__(cls)
        run._driver = driver
        return run

    @property
    def clock(self) -> Clock:
        """The clock of the run, and of all that share it."""
        return self._driver.clock

    @property
    def children(self) -> Sequence[ToolRun]:
        """The runs of the tasks that the tool has submitted, in their order; they run after its attempts."""
        return tuple(ToolRun._of(child) for child in self._driver.children)

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
        return structured["result"] if self._driver.tool.definition.wraps_output else structured

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
        return text_of(self._record)

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
        return self._driver.raised

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
        is_bare = bare_schema(self._driver.tool.definition) is not None
        return complete_result(self._record.result or "", bare=is_bare)

    # --- what it has done ---------------------------------------------------------------------------------

    @property
    def questions(self) -> Mapping[str, OpenQuestion]:
        """The questions that wait for an answer, by key."""
        return {key: open_question(asked) for key, asked in self._record.task.inputs.items()}

    @property
    def progress(self) -> Progress | None:
        """What the tool said last of its progress: `current`, `total`, `message`."""
        return self._driver.reports.progress[-1] if self._driver.reports.progress else None

    @property
    def all_progress(self) -> Sequence[Progress]:
        """All that the tool said of its progress, in all attempts."""
        return tuple(self._driver.reports.progress)

    @property
    def logs(self) -> Sequence[Logged]:
        """The log messages of the tool, in all attempts."""
        return tuple(self._driver.reports.logs)

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
        return list_name(Listed(changed)) in self._driver.engine.announced

    def has_announced_resource(self, uri: str) -> bool:
        """Whether the tool has called `service.announce_resource` for a resource."""
        return resource_name(uri) in self._driver.engine.announced

    @property
    def attempts(self) -> int:
        """How often the tool has been run; replays are not counted."""
        return self._record.task.claims

    @property
    def due(self) -> datetime | None:
        """When the tool runs again, while it sleeps or waits to be tried again; None if it does not."""
        return self._driver.due

    @property
    def task_id(self) -> str:
        """The task's id, as the tool and its clients know it."""
        return self._driver.task_id

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
        self._driver.send(answers)

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
        self._driver.cancel()

    def interrupt(self, *interruptions: Interruption) -> None:
        """Plan what happens to the attempts that are still to come."""
        self._driver.interruptions.plan(interruptions)

    def check_interruptions(self) -> None:
        """Check that every planned interruption has happened; this is also done when the run ends.

        Raises:
            RunError: One has not, or not as often as planned.
        """
        self._driver.check_interruptions()

    def deploy(self, service: TaskService) -> None:
        """Let a newer release of the tool take over, for the attempts that are still to come.

        Args:
            service: A service with a tool of the same name.

        Raises:
            UnknownTool: It has none.
        """
        self._driver.deploy(service)

    @property
    def _record(self) -> TaskRecord:
        return self._driver.record

    def _recorded_result(self, *, of_errors: bool = False) -> dict[str, Any]:
        record = self._record
        if record.result is None or (record.task.is_error and not of_errors):
            raise self._no_result()
        recorded: dict[str, Any] = json.loads(record.result)
        return recorded

    def _no_result(self) -> NoResult:
        error = NoResult(f"The tool {self._driver.tool.name!r} has no result. {self._driver.where()}")
        error.__cause__ = self._driver.raised
        return error


def _answers_before_the_task(tool: Tool, answers: dict[str, Any]) -> tuple[JournalEntry, ...]:
    """Take the answers to the questions that the tool declares: they are the beginning of its journal."""
    entries = []
    for key, asked in tool.ask.items():
        if key not in answers:
            raise RunError(
                f"The tool {tool.name!r} asks {key!r} before its task: give answers={{{key!r}: ...}}"
            )
        question = asked.recorded()
        value = check_answer(key, question, as_sent(answers.pop(key)))
        digest = question_digest(question)
        entries.append(JournalEntry(kind=EntryKind.ANSWER, name=key, digest=digest, value=value))
    return tuple(entries)
