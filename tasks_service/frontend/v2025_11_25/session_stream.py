"""A session's own stream (HTTP GET), on which its tasks are reported for as long as it is open.

One stream holds a session: the newest. Each message goes to one stream of one session (2025-11-25,
transports), so a task is reported in the session that made it and nowhere else. A
question is asked here only if no `tasks/result` has asked it within `Timings.result_first`.
"""

from __future__ import annotations

import asyncio
import logging

from ...domain.errors import StoreUnavailable, TaskNotFound
from ...domain.task import new_token
from ...store.announcements import Listed, list_name, resource_name
from ...store.sessions import Session, SessionState, SessionTask, session_name
from ..core.change_feed import Waiter
from ..core.reports import Threshold
from ..transport.outgoing import Outgoing
from . import wire
from .session_services import SessionServices, StreamPolicy
from .task_stream import TaskStream, reporting_of

logger = logging.getLogger(__name__)


class SessionStream:
    """Reports the tasks of a session on its stream.

    Args:
        services: What attending to tasks needs.
        session: Whose tasks.
        outgoing: The stream.
    """

    def __init__(self, services: SessionServices, session: Session, outgoing: Outgoing) -> None:
        self._services, self._session, self._outgoing = services, session, outgoing
        self._name = new_token()
        self._attended: dict[SessionTask, asyncio.Task[None]] = {}
        self._resources: dict[str, str] = {}
        self._threshold = Threshold(session.log_level)

    async def run(self) -> None:
        """Report until the session ends, or another stream takes its place.

        Raises:
            StoreUnavailable: The session could not be taken; the client may open another stream.
        """
        session_id = self._session.session_id
        await self._services.sessions.take_stream(session_id, self._name)
        resumed = True
        lists = {list_name(listed): listed for listed in Listed}
        lists[self._services.tools_changed] = Listed.TOOLS
        with self._services.feed.watch(session_name(session_id), *lists) as waiter:
            try:
                while True:
                    try:
                        state = await self._services.sessions.standing(session_id)
                    except StoreUnavailable as error:
                        logger.warning("A session's stream cannot read its session for now: %s", error)
                    else:
                        if state is None or state.stream != self._name:
                            return
                        self._attend(state, resumed=resumed)
                        self._subscribe(state, waiter)
                        resumed = False
                    for name in await waiter.changed():
                        if name in lists:
                            message = wire.list_changed(lists[name])
                            self._outgoing.put(message, instead_of=list_name(lists[name]))
                        elif name in self._resources:
                            self._outgoing.put(wire.resource_updated(self._resources[name]), instead_of=name)
            finally:
                await self._stop()

    def _attend(self, state: SessionState, *, resumed: bool) -> None:
        self._threshold.level = state.log_level
        for enlisted in state.tasks:
            if enlisted not in self._attended:
                attending = self._follow(enlisted, resumed=resumed)
                self._attended[enlisted] = asyncio.create_task(attending)
        listed = set(state.tasks)
        for enlisted in [one for one, task in self._attended.items() if task.done() and one not in listed]:
            del self._attended[enlisted]

    def _subscribe(self, state: SessionState, waiter: Waiter) -> None:
        wanted = {resource_name(uri): uri for uri in state.resources}
        for name in self._resources.keys() - wanted.keys():
            self._services.feed.discard(waiter, name)
        for name in wanted.keys() - self._resources.keys():
            self._services.feed.add(waiter, name)
        self._resources = wanted

    async def _follow(self, enlisted: SessionTask, *, resumed: bool) -> None:
        policy = StreamPolicy(
            session=self._session,
            outgoing=self._outgoing,
            reports=True,
            reporting=reporting_of(
                self._outgoing,
                token=enlisted.progress_token,
                threshold=self._threshold,
                task_id=enlisted.task_id,
            ),
            resumed=resumed,
            leave_to_others=self._services.timings.result_first,
        )
        try:
            try:
                await TaskStream(self._services, enlisted.task_id, policy).run()
            except TaskNotFound:
                logger.debug("a task of a session is gone")
            await self._services.sessions.delist(self._session.session_id, enlisted)
        except StoreUnavailable as error:
            logger.warning("The end of a task may be reported again: %s", error)
        except Exception:
            logger.exception("A session's stream stopped to report one of its tasks")

    async def _stop(self) -> None:
        attended = list(self._attended.values())
        for task in attended:
            task.cancel()
        await asyncio.gather(*attended, return_exceptions=True)
