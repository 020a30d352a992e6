"""The questions of a running task on their way to the client of a session.

Each question goes out on one stream at a time: the stream that holds its lock asks, the others wait.
"""

from __future__ import annotations

import logging
import math
import time

from ...domain.digests import digest
from ...domain.errors import StoreUnavailable
from ...domain.questions import RecordedQuestion, open_questions
from ...domain.task import Task
from ...store.sessions import ASK_LOCK_SECONDS
from ..core.answers import asked_again
from . import wire
from .session_services import SessionServices, StreamPolicy

logger = logging.getLogger(__name__)

MOST_REFUSALS = 8
"""How often one stream asks the same again; a client that cannot answer would be asked for ever."""


class TaskQuestions:
    """Asks the questions of one task on one stream.

    Args:
        services: What sessions need.
        task_id: A task of the session's owner.
        policy: The stream's.
        stream: The stream's name, under which it holds the locks of questions.

    Attributes:
        asked: The id of the request by which each question is asked here, by key.
    """

    def __init__(self, services: SessionServices, task_id: str, policy: StreamPolicy, *, stream: str) -> None:
        self._services, self._task_id, self._policy, self._stream = services, task_id, policy, stream
        self._askable = policy.session.capabilities if policy.can_be_asked else frozenset()
        self._opened: dict[str, float] = {}
        self._refusals: dict[str, int] = {}
        self.asked: dict[str, str] = {}

    def cannot_be_asked(self, task: Task) -> bool:
        """Whether the task asks, and the client can be asked none of its questions here."""
        kinds = {question.kind for question in open_questions(task).values()}
        return bool(kinds) and kinds.isdisjoint(self._askable)

    async def ask(self, task: Task) -> None:
        """Ask what is open and nobody else asks."""
        now = time.monotonic()
        for key in [key for key in self.asked if key not in task.inputs]:
            await self._cancel_question(key, self.asked.pop(key), "The question was answered elsewhere.")
        for key, question in open_questions(task).items():
            opened = self._opened.setdefault(key, now)
            if now - opened >= self._policy.leave_to_others:
                await self._ask_one(task, key, question)

    async def _ask_one(self, task: Task, key: str, question: RecordedQuestion) -> None:
        if question.kind not in self._askable or self._refusals.get(key, 0) > MOST_REFUSALS:
            return
        try:
            lock = await self._services.sessions.take_ask_lock(self._task_id, key, self._stream)
        except StoreUnavailable as error:
            logger.warning("A question cannot be asked for now: %s", error)
            return
        if not lock.mine:
            if (asked := self.asked.pop(key, None)) is not None:
                self._policy.outgoing.put(wire.cancelled_notification(asked, "It is asked elsewhere."))
            return
        if key in self.asked and not lock.problem:
            return
        self._refusals[key] = self._refusals.get(key, 0) + bool(lock.problem)
        self.asked[key] = self._services.questions.request_id(task.owner, self._task_id, key)
        related = self._task_id if self._policy.names_task else None
        request = wire.input_request(
            asked_again(question, lock.problem),
            request_id=self.asked[key],
            version=self._policy.session.version,
            task_id=related,
            link_id=digest(f"{self._task_id} {key}"),
        )
        self._policy.outgoing.put(request)

    async def _cancel_question(self, key: str, asked: str, reason: str) -> None:
        """Cancel a question that is not open any more, unless the client's own response closed it."""
        try:
            by = await self._services.sessions.attribution(self._task_id, key)
        except StoreUnavailable:
            return
        if by != asked:
            self._policy.outgoing.put(wire.cancelled_notification(asked, reason))

    async def withdraw(self, reason: str) -> None:
        """Cancel all questions that were asked here."""
        for key, asked in self.asked.items():
            await self._cancel_question(key, asked, reason)
        self.asked.clear()

    async def leave(self) -> None:
        """Give the locks of the questions back, so that another stream asks at once."""
        for key in self.asked:
            try:
                await self._services.sessions.leave_ask_lock(self._task_id, key, self._stream)
            except StoreUnavailable as error:
                logger.warning("A question is asked elsewhere only in a while: %s", error)

    def next_look(self, task: Task) -> float:
        """Return the seconds until the task must be looked at again, woken or not."""
        if task.inputs and self._askable:
            now, leave = time.monotonic(), self._policy.leave_to_others
            waits = [self._opened[key] + leave - now for key in task.inputs]
            return min([ASK_LOCK_SECONDS / 3, *(wait for wait in waits if wait > 0)])
        return math.inf
