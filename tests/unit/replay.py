"""A task in memory that lives through several attempts, with the engine's real attempt behind each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from tasks_service import AsyncTaskContext
from tasks_service.domain.events import AnswerInput, Claim, Create, Release
from tasks_service.domain.limits import DEFAULT_LIMITS
from tasks_service.domain.names import new_task_id
from tasks_service.domain.questions import open_questions
from tasks_service.domain.task import (
    ClientCapability,
    EntryKind,
    JournalEntry,
    JsonText,
    Owner,
    Phase,
    Task,
    new_token,
)
from tasks_service.durable.journal import Journal
from tasks_service.durable.questions import Question, check_answer, question_digest
from tasks_service.store.memory import MemoryTaskStore
from tasks_service.worker.attempt import RunningAttempt

OWNER = Owner("tester")


class Life:
    """A task in memory, and its attempts one after the other.

    Args:
        capabilities: What the client can be asked.
        ask: The questions that the tool declares.
        given: The answers to them.
        store: Where the task is.
    """

    def __init__(
        self,
        *,
        capabilities: Collection[ClientCapability] = (ClientCapability.FORM,),
        ask: Mapping[str, Question] | None = None,
        given: Mapping[str, Any] | None = None,
        store: Callable[..., MemoryTaskStore] = MemoryTaskStore,
    ) -> None:
        self.now_ms = 1_700_000_000_000
        self.store = store(clock=lambda: self.now_ms)
        self.task_id = new_task_id(OWNER)
        self.store.create(
            Create(
                task_id=self.task_id,
                owner=OWNER,
                tool="tool",
                queue="tasks",
                arguments=JsonText("{}"),
                capabilities=frozenset(capabilities),
                journal=tuple(
                    _given(name, question, (given or {})[name]) for name, question in (ask or {}).items()
                ),
            )
        )

    def attempt(self, *, is_async: bool = False, ask: Mapping[str, Question] | None = None) -> RunningAttempt:
        """Claim the task."""
        lease_id = new_token()
        claimed = self.store.claim(self.task_id, Claim(lease_id=lease_id, worker="here"))
        return RunningAttempt(
            claimed.task,
            lease_id=lease_id,
            store=self.store,
            limits=DEFAULT_LIMITS,
            started=time.monotonic(),
            journal=Journal(claimed.journal, ordered=not is_async),
            ask=ask,
        )

    def answer(self, answers: Mapping[str, Any]) -> None:
        """The client answers; `asked` names what can be answered."""
        checked = {
            name: check_answer(name, open_questions(self.task)[name], answer)
            for name, answer in answers.items()
        }
        self.store.apply(OWNER, self.task_id, AnswerInput(answers=checked))

    def accept(self, name: str, /, **content: Any) -> None:
        """The client accepts one question."""
        self.answer({name: {"action": "accept", "content": content}})

    def lose(self, attempt: RunningAttempt) -> None:
        """The worker of an attempt dies."""
        self.lose_lease(attempt.lease_id)

    def lose_lease(self, lease_id: str) -> None:
        """Whoever holds this lease dies."""
        self.store.commit(self.task_id, Release(lease_id=lease_id, lost=True))

    @property
    def task(self) -> Task:
        return self.store.inspect(self.task_id).task

    @property
    def phase(self) -> Phase:
        return self.task.phase

    @property
    def journal(self) -> tuple[JournalEntry, ...]:
        return self.store.inspect(self.task_id).journal

    @property
    def asked(self) -> set[str]:
        return set(self.task.inputs)


async def until_parked(
    attempt: RunningAttempt, tool: Callable[[AsyncTaskContext], Coroutine[Any, Any, Any]]
) -> None:
    """Run an async tool until its attempt has ended, and end it then, as the loop of a worker does."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    attempt.on_stop(lambda: loop.call_soon_threadsafe(ended.set))
    running = asyncio.ensure_future(tool(AsyncTaskContext(attempt)))
    running.add_done_callback(lambda _: ended.set())
    async with asyncio.timeout(10):
        await ended.wait()
    assert not running.done(), running
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def _given(name: str, question: Question, answer: Any) -> JournalEntry:
    recorded = question.recorded()
    value = check_answer(name, recorded, answer)
    return JournalEntry(kind=EntryKind.ANSWER, name=name, digest=question_digest(recorded), value=value)
