"""One task on one stream: the client is told of it, and asked what it asks.

Three kinds of stream do so: that of a plain call, that of a blocked `tasks/result`, and a session's own. They
differ in what they report and how soon they ask, see `StreamPolicy`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial

from ...domain.errors import StoreUnavailable
from ...domain.task import Phase, Task, TaskStatus, Wait, new_token
from ...store.clients import TaskView
from ...store.sessions import REPORTS_SECONDS
from ..core.reports import Reporting, Threshold
from ..core.task_watch import watch_task
from ..transport.outgoing import Outgoing
from . import wire
from .resumption import SHORTEST_ABSENCE_MS, PollLater
from .session_services import SessionServices, StreamPolicy
from .task_questions import TaskQuestions

logger = logging.getLogger(__name__)


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
        self._questions = TaskQuestions(services, task_id, policy, stream=self._name)
        self._reports_due = float("-inf")
        self._reported: tuple[TaskStatus, str | None] | None = None

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
            await self._questions.withdraw("The task has ended.")
            return None
        self._let_go(task)
        await self._questions.ask(task)
        if give_up_after is not None:
            if self._questions.cannot_be_asked(task):
                return None
            if self._questions.asked:
                limit.reschedule(None)
            elif limit.when() is None:
                limit.reschedule(asyncio.get_running_loop().time() + give_up_after)
        return self._questions.next_look(task)

    def _let_go(self, task: Task) -> None:
        sleep_ms = task.due_ms - task.updated_ms if task.phase is Phase.PENDING else 0
        if self._policy.may_poll_later and sleep_ms >= SHORTEST_ABSENCE_MS:
            raise PollLater(task.task_id, sleep_ms)

    # --- reports ---

    def _report(self, task: Task) -> None:
        first = self._reported is None
        # That it waits for a worker, or does so no more, is no news: most tasks do for a moment.
        state = (task.status, None if task.waits is Wait.QUEUED else task.status_message)
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

    async def _leave(self) -> None:
        if self._reports_due > float("-inf"):
            try:
                session_id = self._policy.session.session_id
                await self._services.sessions.leave_reports(session_id, self._task_id, self._name)
            except StoreUnavailable as error:
                logger.warning("A task is reported on its session's stream only in a while: %s", error)
        await self._questions.leave()


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
