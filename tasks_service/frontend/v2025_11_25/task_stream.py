"""One task on one stream: the client is told of it, and asked what it asks.

Three kinds of stream do so: that of a plain call, that of a blocked `tasks/result`, and a session's own. They
differ in what they report and how soon they ask, see `StreamPolicy`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass
from functools import partial

from ...domain.errors import StoreUnavailable
from ...domain.questions import RecordedQuestion, open_questions
from ...domain.task import Phase, Task, TaskStatus, new_token
from ...store.clients import AsyncClientStore, TaskView
from ...store.sessions import ASK_LOCK_SECONDS, REPORTS_SECONDS, Session, SessionStore
from ..core.answers import asked_again
from ..core.change_feed import ChangeFeed
from ..core.reports import Reporting, Threshold
from ..core.requests import digest
from ..core.task_watch import watch_task
from ..core.waiting_calls import WaitingCalls
from ..timings import Timings
from ..transport.outgoing import Outgoing
from . import wire
from .question_requests import QuestionRequests
from .resumption import SHORTEST_ABSENCE_MS, PollLater, ResumePoints

logger = logging.getLogger(__name__)

MOST_REFUSALS = 8
"""How often one stream asks the same again; a client that cannot answer would be asked for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPolicy:
    """What a stream reports of a task, and whether it asks.

    Attributes:
        session: Whose stream it is.
        outgoing: The stream.
        can_be_asked: Whether requests reach the client on it.
        names_task: Whether the client knows the task, so that messages say whose they are.
        reports: Whether changes of status are reported.
        reporting: Takes what the tool says; None if the client wants none of it here.
        takes_reports: Whether it reports instead of the session's own stream while it is open.
        resumed: Whether the stream follows one that may have reported what is so now.
        may_poll_later: Whether the client is let go while the task sleeps, to come back when it wakes.
        leave_to_others: Seconds that a question is left to other streams.
    """

    session: Session
    outgoing: Outgoing
    can_be_asked: bool = True
    names_task: bool = True
    reports: bool = False
    reporting: Reporting | None = None
    takes_reports: bool = False
    resumed: bool = False
    may_poll_later: bool = False
    leave_to_others: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionServices:
    """What sessions need of the front end.

    Attributes:
        store: Where tasks are.
        sessions: Where sessions are.
        questions: Makes the requests that ask questions, and records the answers.
        feed: Says when something has changed.
        resume_points: Make the ids of events that a stream can go on from.
        waiting_calls: Lets calls wait.
    """

    store: AsyncClientStore
    sessions: SessionStore
    questions: QuestionRequests
    feed: ChangeFeed
    resume_points: ResumePoints
    waiting_calls: WaitingCalls

    @property
    def timings(self) -> Timings:
        """How long to wait for what."""
        return self.feed.timings


class TaskStream:
    """Reports a task on a stream, and asks its questions there.

    Args:
        services: What attending needs.
        task_id: A task of the session's owner.
        policy: Who hears of it.
    """

    def __init__(self, services: SessionServices, task_id: str, policy: StreamPolicy) -> None:
        self._services, self._task_id, self._policy = services, task_id, policy
        self._name = new_token()
        self._askable = policy.session.capabilities if policy.can_be_asked else frozenset()
        self._reports_due = float("-inf")
        self._reported: tuple[TaskStatus, str | None] | None = None
        self._opened: dict[str, float] = {}
        self._asked: dict[str, str] = {}
        self._refusals: dict[str, int] = {}

    async def run(self, give_up_after: float | None = None) -> TaskView:
        """Report and ask until the task has ended.

        Args:
            give_up_after: Seconds to wait, not counting time spent asking the client. Also give up on a
                question that the client cannot be asked. None: wait for the end.

        Returns:
            The task at its end, or with the question that the client cannot be asked.

        Raises:
            TimeoutError: It has not ended in time.
            TaskNotFound: Unknown, foreign or expired.
            PollLater: The task sleeps, and the client need not wait.
        """
        policy, services = self._policy, self._services
        try:
            async with asyncio.timeout(give_up_after) as limit:
                return await watch_task(
                    services.store,
                    services.feed,
                    policy.session.owner,
                    self._task_id,
                    partial(self._look, limit, give_up_after),
                    reporting=policy.reporting,
                    hidden=not policy.names_task,
                )
        finally:
            await self._leave()

    async def _look(self, limit: asyncio.Timeout, give_up_after: float | None, task: Task) -> float | None:
        """Report and ask; see `task_watch.Look`."""
        if not task.status.is_final:
            await self._share_reports()
        self._report(task)
        if task.status.is_final:
            await self._withdraw("The task has ended.")
            return None
        self._let_go(task)
        await self._ask(task)
        if give_up_after is not None:
            if self._is_stuck(task):
                return None
            if self._asked:
                limit.reschedule(None)
            elif limit.when() is None:
                limit.reschedule(asyncio.get_running_loop().time() + give_up_after)
        return self._pause(task)

    def _is_stuck(self, task: Task) -> bool:
        """Whether the task asks, and nothing of it can be asked here."""
        kinds = {question.kind for question in open_questions(task).values()}
        return bool(kinds) and kinds.isdisjoint(self._askable)

    def _let_go(self, task: Task) -> None:
        sleep_ms = task.due_ms - task.updated_ms if task.phase is Phase.PENDING else 0
        if self._policy.may_poll_later and sleep_ms >= SHORTEST_ABSENCE_MS:
            raise PollLater(task.task_id, sleep_ms)

    # --- reports ---

    def _report(self, task: Task) -> None:
        first = self._reported is None
        state = (task.status, task.status_message)
        news = task.status is not TaskStatus.WORKING if first else state != self._reported
        self._reported = state
        if news and self._policy.reports:
            self._policy.outgoing.put(wire.status_notification(task), instead_of=f"status {self._task_id}")
        # What was recorded fixes what was not heard; but nothing is reported of a task that has ended
        # (2025-11-25, progress: notifications MUST stop).
        over = self._policy.names_task and task.status.is_final
        if self._policy.reporting is not None and not over:
            told = (first and self._policy.resumed) or self._policy.takes_reports
            self._policy.reporting.advance(task.progress, silently=told)

    async def _share_reports(self) -> None:
        """Let one of the streams of a session report the task.

        Each message goes to one stream (2025-11-25, transports). In the moment of a change-over both may.
        """
        session_id, now = self._policy.session.session_id, time.monotonic()
        if self._policy.reporting is None or not self._policy.names_task or now < self._reports_due:
            return
        try:
            stream = await self._services.sessions.reports_on(session_id, self._task_id)
            if not self._policy.takes_reports:
                self._policy.reporting.elsewhere = bool(stream)
                return
            first = self._reports_due == float("-inf")
            if mine := first or stream in ("", self._name):
                await self._services.sessions.take_reports(session_id, self._task_id, self._name)
        except StoreUnavailable as error:
            logger.warning("Where a task is reported is not known for now: %s", error)
        else:
            self._policy.reporting.elsewhere = not mine
            self._reports_due = now + REPORTS_SECONDS / 3

    @property
    def _related(self) -> str | None:
        return self._task_id if self._policy.names_task else None

    # --- questions ---

    async def _ask(self, task: Task) -> None:
        """Ask what is open and nobody else asks."""
        now = time.monotonic()
        for key in [key for key in self._asked if key not in task.inputs]:
            await self._cancel_question(key, self._asked.pop(key), "The question was answered elsewhere.")
        for key, question in open_questions(task).items():
            opened = self._opened.setdefault(key, now)
            if now - opened >= self._policy.leave_to_others:
                await self._ask_one(task, key, question)

    async def _ask_one(self, task: Task, key: str, question: RecordedQuestion) -> None:
        if question.kind not in self._askable or self._refusals.get(key, 0) > MOST_REFUSALS:
            return
        try:
            floor = await self._services.sessions.take_floor(self._task_id, key, self._name)
        except StoreUnavailable as error:
            logger.warning("A question cannot be asked for now: %s", error)
            return
        if not floor.mine:
            if (asked := self._asked.pop(key, None)) is not None:
                self._policy.outgoing.put(wire.cancelled_notification(asked, "It is asked elsewhere."))
            return
        if key in self._asked and not floor.problem:
            return
        self._refusals[key] = self._refusals.get(key, 0) + bool(floor.problem)
        self._asked[key] = self._services.questions.request_id(task.owner, self._task_id, key)
        request = wire.input_request(
            asked_again(question, floor.problem),
            request_id=self._asked[key],
            version=self._policy.session.version,
            task_id=self._related,
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

    async def _withdraw(self, reason: str) -> None:
        """Cancel all questions that were asked here."""
        for key, asked in self._asked.items():
            await self._cancel_question(key, asked, reason)
        self._asked.clear()

    async def _leave(self) -> None:
        if self._reports_due > float("-inf"):
            try:
                session_id = self._policy.session.session_id
                await self._services.sessions.leave_reports(session_id, self._task_id, self._name)
            except StoreUnavailable as error:
                logger.warning("A task is reported on its session's stream only in a while: %s", error)
        for key in self._asked:
            try:
                await self._services.sessions.leave_floor(self._task_id, key, self._name)
            except StoreUnavailable as error:
                logger.warning("A question is asked elsewhere only in a while: %s", error)

    def _pause(self, task: Task) -> float:
        """The seconds until the task must be looked at again, woken or not."""
        if task.inputs and self._askable:
            now, leave = time.monotonic(), self._policy.leave_to_others
            waits = [self._opened[key] + leave - now for key in task.inputs]
            return min([ASK_LOCK_SECONDS / 3, *(wait for wait in waits if wait > 0)])
        return math.inf


def reporting_of(
    outgoing: Outgoing, *, token: str | int | None, threshold: Threshold, task_id: str | None
) -> Reporting:
    """Make what takes the reports of a tool for a session's stream.

    Args:
        outgoing: The stream.
        token: The client's name for reports of progress; None if it wants none.
        threshold: Which log messages it wants.
        task_id: The task that the tool runs for, if the client knows it.
    """
    return Reporting(
        outgoing,
        progress=None if token is None else partial(wire.progress_notification, token, task_id=task_id),
        message=partial(wire.log_notification, task_id=task_id),
        threshold=threshold,
    )
