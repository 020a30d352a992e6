"""Questions of tasks as requests to clients, and the responses as answers.

A question of a task is a request that the server sends. The id of that request is sealed: it names owner,
task and question, so that whichever front end receives the answer can record it, and nobody can forge one.
One stream asks a question at a time; when it dies, another asks.
"""

from __future__ import annotations

import logging
from typing import Any

from ...crypto.keys import KeyRing
from ...crypto.sealing import SealBroken, Sealer
from ...domain.errors import LimitExceeded, NotJson, TaskNotFound
from ...domain.limits import Limits, to_json
from ...domain.questions import open_questions
from ...domain.task import JsonText, Owner
from ...store.clients import AsyncClientStore
from ...store.sessions import SessionStore
from ..core.answers import check_answers, record_answers
from ..transport.jsonrpc import Response

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
        self, store: AsyncClientStore, sessions: SessionStore, ring: KeyRing, *, limits: Limits
    ) -> None:
        self._sealer = Sealer(ring, "question")
        self._store, self._sessions, self._limits = store, sessions, limits

    def request_id(self, owner: Owner, task_id: str, key: str) -> str:
        """A new id for a request that asks a question."""
        return self._sealer.seal([_TASK, task_id, key], owner)

    def interview_id(self, owner: Owner, interview: str, key: str) -> str:
        """A new id for a request that asks a question before there is a task."""
        return self._sealer.seal([_INTERVIEW, interview, key], owner)

    async def receive(self, owner: Owner, response: Response) -> None:
        """Record a client's JSON-RPC response as the answer that it is.

        What nobody asked, or what is not asked any more, is dropped. What does not fit is
        asked again, with the reason. An error is an answer too; the tool meets it.

        Args:
            owner: Who sent it.
            response: What it sent.

        Raises:
            StoreUnavailable: It may not have been recorded; the client may send it again.
        """
        asked = self._asked(owner, response.id)
        if asked is None:
            return
        whose, name, key = asked
        if whose == _INTERVIEW:
            await self._leave(name, key, response.answer)
        else:
            await self._answer(owner, name, key, response.answer, str(response.id))

    async def _leave(self, interview: str, key: str, answer: Any) -> None:
        """Leave an answer for the call that checks it; one that cannot be kept is left as null."""
        try:
            text = to_json("answer", answer, maximum=self._limits.answers_bytes, depth=self._limits.depth)
        except (LimitExceeded, NotJson):
            text = JsonText("null")
        await self._sessions.leave_answer(interview, key, text)

    async def _answer(self, owner: Owner, task_id: str, key: str, answer: Any, request_id: str) -> None:
        try:
            questions = open_questions((await self._store.get(owner, task_id, hidden=True)).task)
            if key not in questions:
                return
            checked = check_answers({key: questions[key]}, {key: answer}, self._limits)
            for problem in checked.problems.values():
                await self._sessions.refuse(task_id, key, problem)
            if checked.fitting:
                await self._sessions.attribute(task_id, key, request_id)
                await record_answers(self._store, owner, task_id, checked.fitting, hidden=True)
        except TaskNotFound:
            logger.debug("an answer to a task that is gone was dropped")

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
