"""Attending a task on behalf of one stream: what the stream's client hears of it, and is asked.

Three kinds of stream do so: that of a plain call, that of a blocked `tasks/result`, and a session's own. They
differ in what they report and how soon they ask, see `Listener`.
"""

from __future__ import annotations

import json
import logging
import math
import time
from dataclasses import dataclass

import pydantic_core

from ..domain.errors import InvalidTransition, StoreUnavailable
from ..domain.events import Return
from ..domain.task import InputRequest, Task, TaskStatus, new_token
from ..store.base import AsyncTaskStore, TaskView
from ..store.sessions import FLOOR_SECONDS, Session, SessionStore
from .asking import Questions
from .calls import digest
from .preflight import asked_again
from .push import HEAL_SECONDS, ChangeFeed
from .streams import Outgoing
from .wire import v2025_11_25 as wire

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 1.0
"""How often progress is looked for; a task records it no more often."""

MOST_REFUSALS = 8
"""How often one stream asks the same again; a client that cannot answer would be asked for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Who hears of a task.

    Attributes:
        session: Whose stream it is.
        outgoing: The stream.
        can_be_asked: Whether requests reach the client on it.
        names_task: Whether the client knows the task, so that messages say whose they are.
        reports: Whether changes of status are reported.
        progress_token: The client's name for reports of progress; None if it wants none.
        resumed: Whether the stream follows one that may have reported what is so now.
        patience: Seconds that a question is left to other streams.
    """

    session: Session
    outgoing: Outgoing
    can_be_asked: bool = True
    names_task: bool = True
    reports: bool = False
    progress_token: str | int | None = None
    resumed: bool = False
    patience: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What attending needs of the front end."""

    store: AsyncTaskStore
    sessions: SessionStore
    questions: Questions
    feed: ChangeFeed


class Attendance:
    """One task, attended to for one listener.

    Args:
        desk: What attending needs.
        task_id: A task of the session's owner.
        listener: Who hears of it.
    """

    def __init__(self, desk: Desk, task_id: str, listener: Listener) -> None:
        self._desk, self._task_id, self._listener = desk, task_id, listener
        self._name = new_token()
        self._askable = json.loads(listener.session.capabilities or "[]") if listener.can_be_asked else []
        self._reported: tuple[TaskStatus, str | None] | None = None
        self._progress = float("-inf")
        self._opened: dict[str, float] = {}
        self._asked: dict[str, str] = {}
        self._refusals: dict[str, int] = {}

    async def run(self, patience: float | None = None) -> TaskView:
        """Attend to the task until it has ended; how it did.

        Args:
            patience: Seconds after which it is enough, not counting those in which the client is being asked;
                so is a question that it cannot be asked. None: there is never enough.

        Returns:
            The task at its end, or as it is when it is enough.

        A store that does not answer for a while is waited for.

        Raises:
            TaskNotFound: Unknown, foreign or expired.
        """
        enough = math.inf if patience is None else time.monotonic() + patience
        with self._desk.feed.watch(self._task_id) as watcher:
            try:
                while True:
                    view = await self._view()
                    if view is not None:
                        await self._stay(view.task)
                        self._report(view.task)
                        if view.task.status.is_final:
                            self._withdraw(view.task)
                            return view
                        await self._ask(view.task)
                        if patience is not None and self._asked:
                            enough = time.monotonic() + patience
                        if time.monotonic() >= enough or (patience is not None and self._is_stuck(view.task)):
                            return view
                    left = enough - time.monotonic()
                    await watcher.changed(min(self._pause(view), left if left > 0 else math.inf))
            finally:
                await self._leave()

    async def _view(self) -> TaskView | None:
        hidden = not self._listener.names_task
        try:
            return await self._desk.store.get(self._listener.session.owner, self._task_id, hidden=hidden)
        except StoreUnavailable as error:
            logger.warning("A stream cannot read its task for now: %s", error)
            return None

    def _is_stuck(self, task: Task) -> bool:
        """Whether the task asks, and nothing of it can be asked here."""
        kinds = [pydantic_core.from_json(question.request)["kind"] for question in task.inputs.values()]
        return bool(kinds) and not set(kinds) & set(self._askable)

    async def _stay(self, task: Task) -> None:
        """Say that somebody waits, if another caller of the same execution has left."""
        if not task.return_by_ms or task.status.is_final:
            return
        try:
            await self._desk.store.act(task.owner, task.task_id, Return(), hidden=True)
        except InvalidTransition:
            return
        except StoreUnavailable as error:
            logger.warning("A waiting call cannot write to its task for now: %s", error)

    # --- reports ---

    def _report(self, task: Task) -> None:
        first = self._reported is None
        state = (task.status, task.status_message)
        news = task.status is not TaskStatus.WORKING if first else state != self._reported
        self._reported = state
        if news and self._listener.reports:
            self._listener.outgoing.put(wire.status_notification(task), instead_of=f"status {self._task_id}")
        self._report_progress(task, silently=first and self._listener.resumed)

    def _report_progress(self, task: Task, *, silently: bool) -> None:
        """Strictly increasing, and not after a task has ended (2025-11-25, progress)."""
        token, progress = self._listener.progress_token, task.progress
        over = self._listener.names_task and task.status.is_final
        if token is None or progress is None or progress.current <= self._progress or over:
            return
        self._progress = progress.current
        if not silently:
            message = wire.progress_notification(token, progress, self._related)
            self._listener.outgoing.put(message, instead_of=f"progress {self._task_id}")

    @property
    def _related(self) -> str | None:
        return self._task_id if self._listener.names_task else None

    # --- questions ---

    async def _ask(self, task: Task) -> None:
        """Ask what is open and nobody else asks."""
        now = time.monotonic()
        self._asked = {key: asked for key, asked in self._asked.items() if key in task.inputs}
        for key, question in task.inputs.items():
            opened = self._opened.setdefault(key, now)
            if now - opened >= self._listener.patience:
                await self._ask_one(task, key, question)

    async def _ask_one(self, task: Task, key: str, question: InputRequest) -> None:
        recorded = pydantic_core.from_json(question.request)
        if recorded["kind"] not in self._askable or self._refusals.get(key, 0) > MOST_REFUSALS:
            return
        try:
            floor = await self._desk.sessions.take_floor(self._task_id, key, self._name)
        except StoreUnavailable as error:
            logger.warning("A question cannot be asked for now: %s", error)
            return
        if not floor.mine:
            self._asked.pop(key, None)
            return
        if key in self._asked and not floor.problem:
            return
        self._refusals[key] = self._refusals.get(key, 0) + bool(floor.problem)
        self._asked[key] = self._desk.questions.request_id(task.owner, self._task_id, key)
        request = wire.input_request(
            asked_again(recorded, floor.problem),
            request_id=self._asked[key],
            version=self._listener.session.version,
            task_id=self._related,
            link_id=digest(f"{self._task_id} {key}"),
        )
        self._listener.outgoing.put(request)

    def _withdraw(self, task: Task) -> None:
        """Say that nobody waits for answers any more."""
        if task.status is not TaskStatus.COMPLETED:
            for asked in self._asked.values():
                self._listener.outgoing.put(wire.cancelled_notification(asked, "The task has ended."))
        self._asked.clear()

    async def _leave(self) -> None:
        for key in self._asked:
            try:
                await self._desk.sessions.leave_floor(self._task_id, key, self._name)
            except StoreUnavailable as error:
                logger.warning("A question is asked elsewhere only in a while: %s", error)

    def _pause(self, view: TaskView | None) -> float:
        """Seconds until something is to be looked at again, woken or not."""
        if view is None:
            return PROGRESS_SECONDS
        if view.task.inputs and self._askable:
            now, patience = time.monotonic(), self._listener.patience
            waits = [self._opened[key] + patience - now for key in view.task.inputs]
            return min([FLOOR_SECONDS / 3, *(wait for wait in waits if wait > 0)])
        return HEAL_SECONDS if self._listener.progress_token is None else PROGRESS_SECONDS
