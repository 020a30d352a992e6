"""Questions to clients of revisions with sessions: who may ask, and what becomes of the answer.

A question of a task is a request that the server sends. The id of that request is sealed: it names owner,
task and question, so that whichever front end receives the answer can record it, and nobody can forge one.
One stream asks a question at a time; a stream that dies loses the floor, and another asks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ...crypto.keys import KeyRing
from ...crypto.sealing import SealBroken, Sealer
from ...domain.errors import AnswerRefused, InvalidTransition, LimitExceeded, NotJson, TaskNotFound
from ...domain.events import AnswerInput
from ...domain.limits import Limits, to_json
from ...domain.questions import open_questions
from ...domain.task import JsonText, Owner
from ...durable.questions import check_answer
from ...store.clients import AsyncTaskStore
from ...store.sessions import SessionStore

logger = logging.getLogger(__name__)

_TASK, _INTERVIEW = "task", "interview"


class QuestionRequests:
    """Seals the ids of questions, and records the answers.

    Args:
        store: Where tasks are.
        sessions: Where it is said that a question is to be asked again.
        ring: The deployment's keys, for the ids.
        limits: How large answers may be.
    """

    def __init__(
        self, store: AsyncTaskStore, sessions: SessionStore, ring: KeyRing, *, limits: Limits
    ) -> None:
        self._sealer = Sealer(ring, "question")
        self._store, self._sessions, self._limits = store, sessions, limits

    def request_id(self, owner: Owner, task_id: str, key: str) -> str:
        """A new id for a request that asks a question."""
        return self._sealer.seal([_TASK, task_id, key], owner)

    def interview_id(self, owner: Owner, interview: str, key: str) -> str:
        """A new id for a request that asks a question before there is a task."""
        return self._sealer.seal([_INTERVIEW, interview, key], owner)

    async def receive(self, owner: Owner, response: Mapping[str, Any]) -> None:
        """Record a client's JSON-RPC response as the answer that it is.

        What nobody asked, or what is not asked any more, is dropped. What does not fit is
        asked again, with the reason. An error is an answer too; the tool meets it.

        Args:
            owner: Who sent it.
            response: The whole message.

        Raises:
            StoreUnavailable: It may not have been recorded; the client may send it again.
        """
        asked = self._asked(owner, response.get("id"))
        if asked is None:
            return
        answer = {"error": response["error"]} if "error" in response else response.get("result")
        whose, name, key = asked
        if whose == _INTERVIEW:
            await self._leave(name, key, answer)
        else:
            await self._answer(owner, name, key, answer, response["id"])

    async def _leave(self, interview: str, key: str, answer: Any) -> None:
        """Whoever asks checks the answer, and asks again; what cannot even be kept fits no question."""
        try:
            text = to_json("answer", answer, maximum=self._limits.answers_bytes, depth=self._limits.depth)
        except (LimitExceeded, NotJson):
            text = JsonText("null")
        await self._sessions.leave_answer(interview, key, text)

    async def _answer(self, owner: Owner, task_id: str, key: str, answer: Any, request_id: str) -> None:
        try:
            view = await self._store.get(owner, task_id, hidden=True)
        except TaskNotFound:
            return
        question = open_questions(view.task).get(key)
        if question is None:
            return
        try:
            to_json("answer", answer, maximum=self._limits.answers_bytes, depth=self._limits.depth)
            checked = check_answer(key, question, answer)
        except AnswerRefused as error:
            problem = f"{error.path}: {error.problem}" if error.path else error.problem
            await self._sessions.refuse(task_id, key, problem)
        except (LimitExceeded, NotJson) as error:
            await self._sessions.refuse(task_id, key, str(error))
        else:
            await self._sessions.attribute(task_id, key, request_id)
            await self._record(owner, task_id, AnswerInput(answers={key: checked}))

    async def _record(self, owner: Owner, task_id: str, event: AnswerInput) -> None:
        try:
            await self._store.apply(owner, task_id, event, hidden=True)
        except (InvalidTransition, TaskNotFound):
            logger.debug("an answer to what is not asked any more was dropped")

    def _asked(self, owner: Owner, identity: Any) -> tuple[str, str, str] | None:
        """Who asks, by kind and name, and the key, as a request id of ours says; None if it is another's."""
        if not isinstance(identity, str):
            return None
        try:
            kind, name, key = self._sealer.open(identity, owner)
        except SealBroken as error:
            logger.debug("a response that nobody asked for was dropped: %s", error)
            return None
        return kind, name, key
