"""Questions before there is a task, asked on the stream of the call that is to make it.

Nothing is recorded meanwhile. The answers may arrive at any front end; they are left in the store for the one
that holds the stream. If that one dies, the client makes the call again and is asked again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pydantic_core

from ...domain.digests import digest
from ...domain.questions import RecordedQuestion
from ...domain.task import new_token
from ...store.sessions import Session, interview_name
from ..core.requests import QuestionWithoutHandle
from ..transport.outgoing import Outgoing
from . import wire
from .session_services import SessionServices


class QuestionsOnStream:
    """The questions of one call, put to one client.

    Args:
        services: Where answers are left, and who says that they are there.
        session: The client's.
        outgoing: The stream of the call.
    """

    def __init__(self, services: SessionServices, session: Session, outgoing: Outgoing) -> None:
        self._services, self._session, self._outgoing = services, session, outgoing

    async def ask(self, questions: Mapping[str, RecordedQuestion]) -> Mapping[str, Any]:
        """Ask, and wait for all answers; they are as the client sent them, unchecked.

        Args:
            questions: By key.

        Raises:
            QuestionWithoutHandle: The client did not answer in time.
            FrontEndStops: The front end stops first.
            StoreUnavailable: The answers cannot be read.
        """
        interview = new_token()
        for key, question in questions.items():
            request = wire.input_request(
                question,
                request_id=self._services.questions.interview_id(self._session.owner, interview, key),
                version=self._session.version,
                task_id=None,
                link_id=digest(f"{interview} {key}"),
            )
            self._outgoing.put(request)
        try:
            async with self._services.stopping.ends_wait(), asyncio.timeout(self._services.timings.answer):
                return await self._answers(interview, len(questions))
        except TimeoutError:
            raise QuestionWithoutHandle from None

    async def _answers(self, interview: str, number: int) -> Mapping[str, Any]:
        with self._services.feed.watch(interview_name(interview)) as waiter:
            while True:
                answers = await self._services.sessions.answers(interview)
                if len(answers) >= number:
                    return {key: pydantic_core.from_json(text) for key, text in answers.items()}
                await waiter.changed()
