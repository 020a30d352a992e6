"""One task of a tool, run by the engine of the workers on a store in memory."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ..authoring.tool import Tool
from ..domain.events import AnswerInput, Cancel, Create, DeadlinePassed
from ..domain.limits import DEFAULT_LIMITS
from ..domain.names import new_task_id, task_hash
from ..domain.questions import parse
from ..domain.task import (
    ClientCapability,
    Failure,
    InputRequest,
    JournalEntry,
    Owner,
    Phase,
    Progress,
    TaskRecord,
    TaskStatus,
    new_token,
)
from ..durable.questions import check_answer
from ..service import TaskService
from ..store.changes import Change, Reported
from ..store.memory import MemoryTaskStore
from ..worker.execution import Executor
from ..worker.exposed import exposed_body
from ..worker.interrupts import Interrupter
from ..worker.lease_keeper import LeaseKeeper
from ..worker.loop import AsyncLoop
from ..worker.report_publisher import ReportPublisher
from ..worker.shutdown_deadline import ShutdownDeadline

OWNER = Owner("tester")

ALL_CAPABILITIES = frozenset(ClientCapability) - {ClientCapability.MODEL}


class ToolRun:
    """A task of one tool, from its call to wherever it has come.

    Making one calls the tool and runs it until it ends or asks a question. Sleeps and retries take no time:
    the clock of the store is put forward. After each question the tool runs again from the top, with its
    journal, as it does in a worker.

    Args:
        service: Where the tool is registered.
        tool: Its name.
        arguments: As a client would send them.
        client_can: What the client says it can be asked: `form`, `url`, `sampling`, `roots`.

    Raises:
        UnknownTool: The service has no tool of that name.
        InvalidArguments: The arguments do not match the tool's schema.
    """

    def __init__(
        self,
        service: TaskService,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        client_can: Collection[str] = ALL_CAPABILITIES,
    ) -> None:
        self._tool: Tool = service.tools.find(tool)
        self._now_ms = time.time_ns() // 1_000_000
        self._store = _TestStore(clock=lambda: self._now_ms)
        self._executor, self._app = _executor(self._store), service.celery
        self._task_id = new_task_id(OWNER)
        self._store.create(
            Create(
                task_id=self._task_id,
                owner=OWNER,
                tool=tool,
                queue=self._tool.definition.queue,
                arguments=self._tool.check_arguments(arguments or {}),
                policy=self._tool.definition.policy,
                capabilities=frozenset(map(ClientCapability, client_can)),
            )
        )
        self._go_on()

    @property
    def status(self) -> TaskStatus:
        """Where the task is, as a client sees it."""
        return self._record.task.status

    @property
    def questions(self) -> Mapping[str, InputRequest]:
        """The questions that are open, by key."""
        return self._record.task.inputs

    @property
    def result(self) -> Any:
        """What the tool returned, as structured content; its text where it has none; None before the end."""
        if self._record.result is None:
            return None
        result = json.loads(self._record.result)
        structured = result.get("structuredContent")
        if structured is None:
            return "".join(block.get("text", "") for block in result["content"])
        return structured["result"] if self._tool.definition.wraps_output else structured

    @property
    def is_error(self) -> bool:
        """Whether the tool ended with an error that its caller reads (`ToolError`)."""
        return self._record.task.is_error

    @property
    def failure(self) -> Failure | None:
        """Why the task failed; None if it did not."""
        return self._record.task.failure

    @property
    def progress(self) -> Progress | None:
        """What the tool said last of its progress: `current`, `total`, `message`."""
        return self._record.task.progress

    @property
    def journal(self) -> tuple[JournalEntry, ...]:
        """What was recorded: results of steps, answers, sleeps, in their order."""
        return self._record.journal

    @property
    def attempts(self) -> int:
        """How often the tool has been run."""
        return self._record.task.claims

    def answer(self, key: str, answer: Mapping[str, Any]) -> None:
        """Answer a question as a client does, and run on.

        Args:
            key: Which question.
            answer: For a form: `{"action": "accept", "content": {...}}`, or another action.

        Raises:
            KeyError: No such question is open.
            AnswerRefused: The answer does not match the question's schema.
        """
        checked = check_answer(key, parse(self.questions[key].request), answer)
        self._store.apply(OWNER, self._task_id, AnswerInput(answers={key: checked}))
        self._go_on()

    def accept(self, key: str, /, **content: Any) -> None:
        """Fill in and accept a form; see `answer`."""
        self.answer(key, {"action": "accept", "content": content})

    def decline(self, key: str) -> None:
        """Decline a question; see `answer`."""
        self.answer(key, {"action": "decline"})

    def cancel(self) -> None:
        """Cancel the task, as its client may."""
        self._store.apply(OWNER, self._task_id, Cancel())

    @property
    def _record(self) -> TaskRecord:
        return self._store.inspect(self._task_id)

    def _go_on(self) -> None:
        while (task := self._record.task).phase is Phase.PENDING:
            if task.due_ms >= task.deadline_ms:  # it asked for more time than it has
                self._now_ms = max(self._now_ms, task.deadline_ms)
                self._store.apply_sweep(self._task_id, DeadlinePassed())
                return
            self._now_ms = max(self._now_ms, task.due_ms)
            original, celery_id = self._tool.celery_name, f"{task_hash(self._task_id)}.{task.claims + 1}"
            self._executor.run(
                self._tool,
                self._task_id,
                lease_id=new_token(),
                worker="test",
                dispatched_ms=self._now_ms,
                body=None if original is None else exposed_body(self._app, original, celery_id),
            )


class _TestStore(MemoryTaskStore):
    """The store in memory, where nobody listens."""

    def changes(self, *, poll: float = 1.0) -> Iterator[Change | None]:
        """None at each poll: nothing changes that the test does not change itself."""
        while True:
            time.sleep(poll)
            yield None

    def report(self, reported: Sequence[Reported]) -> list[int]:
        """Nobody hears what the tool reports."""
        return [0] * len(reported)

    def close(self) -> None:
        """Nothing is open."""


def _executor(store: _TestStore) -> Executor:
    interrupter = Interrupter()
    keeper = LeaseKeeper(store, ShutdownDeadline(), interrupter)
    return Executor(store, keeper, interrupter, AsyncLoop(), ReportPublisher(store), DEFAULT_LIMITS)
