"""Callers that have gone: what their executions are told, however long the store is away meanwhile.

An execution that nobody waits for takes a worker from others until its own deadlines end it. So it is told at
once that its caller has left, and if the store does not answer in time, it is tried again for as long as this
process lives.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import NamedTuple

from ...domain.errors import InvalidTransition, StoreUnavailable, TaskNotFound
from ...domain.events import CallerLeft, Cancel
from ...domain.task import Owner
from ...store.clients import AsyncClientStore
from ..timings import Timings

logger = logging.getLogger(__name__)

MOST_KEPT = 10_000
"""Most departures that are kept while the store is away; of more, the executions run on."""

TOLD_AT_ONCE = 8
"""How many kept departures are told to the store at a time, so that they leave connections to others."""

LOOKS_FOR_UNBORN = 3
"""How often it is looked for an execution whose creation was cut off: it may be recorded a moment later."""


class LeftCall(NamedTuple):
    """A call that nobody waits for any more, and what its execution is to be told.

    Attributes:
        owner: Whose it is.
        task_id: Which.
        event: What it is told.
        looks: How often it is looked for if there is no such execution.
    """

    owner: Owner
    task_id: str
    event: Cancel | CallerLeft
    looks: int = 1


class Departures:
    """Tells executions that their callers have gone.

    Args:
        store: Where executions are recorded.
        timings: `abandon` is how long the store may take, `retry` the pause before it is asked again.
    """

    def __init__(self, store: AsyncClientStore, timings: Timings) -> None:
        self._store, self._timings = store, timings
        self._kept: dict[str, LeftCall] = {}
        self._telling: asyncio.Task[None] | None = None

    @property
    def kept(self) -> Collection[str]:
        """The executions that could not be told yet, by their ids."""
        return self._kept.keys()

    async def tell(self, call: LeftCall) -> None:
        """Tell an execution that its caller has gone; if the store does not answer, keep trying."""
        if (rest := await self._tell(call)) is not None:
            self._keep(rest)

    def close(self) -> None:
        """Try no more; what is kept runs on to its deadlines."""
        if self._telling is not None:
            self._telling.cancel()
        if self._kept:
            logger.warning("%d abandoned executions could not be cancelled and run on", len(self._kept))

    def _keep(self, call: LeftCall) -> None:
        if len(self._kept) >= MOST_KEPT and call.task_id not in self._kept:
            logger.warning("An abandoned execution could not be cancelled and runs on: too many wait")
            return
        self._kept[call.task_id] = call
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_kept(), name="departures")

    async def _tell_kept(self) -> None:
        while self._kept:
            await asyncio.sleep(self._timings.retry)
            batch = list(self._kept.values())
            for start in range(0, len(batch), TOLD_AT_ONCE):
                told = batch[start : start + TOLD_AT_ONCE]
                rests = await asyncio.gather(*map(self._tell, told))
                for call, rest in zip(told, rests, strict=True):
                    self._replace(call, rest)
                if all(rest is not None for rest in rests):
                    break  # the store is still away

    def _replace(self, call: LeftCall, rest: LeftCall | None) -> None:
        """Keep what is still to be told, unless there is something newer to be told."""
        if self._kept.get(call.task_id) is not call:
            return
        del self._kept[call.task_id]
        if rest is not None:
            self._kept[call.task_id] = rest  # behind the others

    async def _tell(self, call: LeftCall) -> LeftCall | None:
        """Tell an execution; what is still to be told it."""
        owner, task_id, event, looks = call
        try:
            async with asyncio.timeout(self._timings.abandon):
                await self._store.apply(owner, task_id, event, hidden=True)
        except TaskNotFound:
            return call._replace(looks=looks - 1) if looks > 1 else None
        except InvalidTransition:
            return None
        except (StoreUnavailable, TimeoutError) as error:
            logger.info("An abandoned execution could not be cancelled yet: %s", error)
            return call
        return None
