"""Calls that wait for their execution: how long they may, and what becomes of it when they leave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from ...domain.errors import ExecutionForgotten, TaskNotFound
from ...domain.events import CallerLeft, Cancel
from ...domain.task import SECOND, Owner, Task
from ...store.clients import AsyncClientStore
from .change_feed import ChangeFeed
from .departures import LOOKS_FOR_UNBORN, Departures, LeftCall
from .reports import Reporting
from .requests import CallTooLong
from .stopping import FrontEndStops, Stopping

logger = logging.getLogger(__name__)

Ended = TypeVar("Ended")


class Departure(Enum):
    """Why a call stops to wait before there is a result."""

    LOST = "lost"
    """Its stream has ended; the client may ask for the rest on another."""
    GONE = "gone"
    """The client is gone."""
    CANCELLED = "cancelled"
    """The client does not want the result any more."""


@dataclass(slots=True)
class WaitingCall:
    """A call that waits.

    Attributes:
        owner: Who calls.
        task_id: The execution that it waits for; of one that is to be created, the id that it would get.
        may_reconnect: Whether the caller has a key to come back with.
        reporting: Takes what the tool says meanwhile.
        task: The execution, once it is known; under an idempotency key it may be another than `task_id` said.
    """

    owner: Owner
    task_id: str
    may_reconnect: bool
    reporting: Reporting | None
    task: Task | None = None

    def found(self, task: Task) -> Task:
        """Note which execution the call waits for."""
        self.task_id, self.task = task.task_id, task
        return task


class WaitingCalls:
    """Lets calls wait, and says to their executions when nobody waits any more.

    Args:
        store: Where executions are recorded.
        feed: Says when they change.
        wait_limit: Seconds that a call may wait.
        reconnect_window: Seconds that an execution is kept for a caller that left and may come back.
        stopping: Ends the waits when the front end stops.

    Attributes:
        wait_limit: See the argument.
        reconnect_ms: The reconnect window.
    """

    def __init__(
        self,
        store: AsyncClientStore,
        feed: ChangeFeed,
        *,
        wait_limit: float,
        reconnect_window: float,
        stopping: Stopping,
    ) -> None:
        self._store, self._feed, self.wait_limit = store, feed, wait_limit
        self._stopping = stopping
        self._departures = Departures(store, feed.timings)
        self.reconnect_ms = round(reconnect_window * SECOND)

    async def hold(
        self,
        call: WaitingCall,
        work: Coroutine[Any, Any, Ended],
        *,
        departure: Callable[[], Departure] = lambda: Departure.GONE,
        too_late: Callable[[Task], Awaitable[Ended]] | None = None,
        at_stop: Callable[[Task], Awaitable[Ended]] | None = None,
    ) -> Ended:
        """Wait for an execution on behalf of a call.

        Args:
            call: Who waits for what.
            work: Begins or finds the execution, and waits; raises `TimeoutError` if that takes too long.
            departure: Why the call leaves, if it is cancelled.
            too_late: What it is answered with then; None if the execution is to be abandoned.
            at_stop: What it is answered with when the front end stops; None: as if it were too late.

        Raises:
            FrontEndStops: It stops, and there is nothing to answer the call with.
            CallTooLong: It has waited enough, and there is nothing to answer it with.
            ExecutionForgotten: The store has lost the execution.
        """
        try:
            # Before there is a task, so that nothing that its tool says is missed.
            with self._feed.subscribe_reports(call.task_id, call.reporting):
                async with self._stopping.ends_wait():
                    return await work
        except TimeoutError:
            if too_late is not None and call.task is not None:
                return await too_late(call.task)
            await self.leave(call)
            raise CallTooLong(self.wait_limit) from None
        except FrontEndStops:
            answer = at_stop or too_late
            if answer is not None and call.task is not None:
                return await answer(call.task)
            await self.leave(call)
            raise FrontEndStops(may_have_recorded=True, is_kept=call.may_reconnect) from None
        except asyncio.CancelledError:
            why = departure()
            if why is not Departure.LOST:
                await self.leave(call, for_good=why is Departure.CANCELLED)
            raise
        except TaskNotFound:
            raise ExecutionForgotten from None

    async def leave(self, call: WaitingCall, *, for_good: bool = False) -> None:
        """Say that a call does not wait any more, unless somebody was given the handle of its task.

        Also for an execution whose creation was cut off.

        Args:
            call: Who waited.
            for_good: Whether the caller will not come back, even if it could.
        """
        if call.task is not None and call.task.visible:
            return
        leaving = Cancel(reason="The caller went away.", unheld=True)
        stays = call.may_reconnect and not for_good
        event = CallerLeft(within_ms=self.reconnect_ms) if stays else leaving
        looks = 1 if call.task is not None else LOOKS_FOR_UNBORN
        await self._departures.tell(LeftCall(call.owner, call.task_id, event, looks))

    def close(self) -> None:
        """Say no more of calls that have gone."""
        self._departures.close()
