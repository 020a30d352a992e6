"""Streams of `subscriptions/listen`, on which clients of 2026-07-28 are told of changes.

A stream says first what of the client's wishes will be met, then how each task is now, then what changes. A
change is read from the record, so that a frame says what `tasks/get` would say; a wake-up that was lost is
made up for by reading again every few seconds. A task is read when what came before was taken: a slow reader
gets the latest state of each, and holds up the memory of one.

Source: 2026-07-28, basic/utilities, subscriptions; SEP-2663, notifications; docs/protocol.md, "listening".
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Coroutine, Iterable
from dataclasses import replace
from typing import Any, Final

from ...authoring.library import Library
from ...domain.errors import QuotaExceeded, StoreUnavailable, TaskNotFound, UnknownResource
from ...domain.names import task_hash
from ...domain.task import Owner
from ...store.announcements import Listed, list_name, resource_name
from ...store.clients import AsyncClientStore, TaskView
from ..core.change_feed import ChangeFeed, Waiter
from ..core.requests import Caller, RequestScope, Wanted
from ..core.resource_finder import ResourceFinder
from . import wire

logger = logging.getLogger(__name__)

STREAMS: Final = 2_000
"""Streams that one process keeps open."""

STREAMS_OF_OWNER: Final = 100
"""Of these, those of one owner."""

READS: Final = 8
"""Tasks of one stream that are read at the same time."""


class Subscriptions:
    """The streams of a process.

    Args:
        store: Where tasks are.
        feed: Says when they change.
        results: Says how they look.
        library: What else clients may hear of: only of what there is.
        tools_changed: The name that is woken when the tools have changed by themselves.
        streams: The open streams of the process by their owners, at all its paths.

    Attributes:
        heal_seconds: After how many seconds a stream reads its tasks again, woken or not.
    """

    def __init__(
        self,
        *,
        store: AsyncClientStore,
        feed: ChangeFeed,
        results: wire.Results,
        library: Library,
        tools_changed: str,
        streams: Counter[Owner],
    ) -> None:
        self._tools_changed = tools_changed
        self._store, self._feed, self._results, self._library = store, feed, results, library
        self._finder = ResourceFinder(library.resources)
        self.heal_seconds = feed.timings.heal
        self._open = streams
        self._end = asyncio.Event()

    def __len__(self) -> int:
        """The number of open streams."""
        return self._open.total()

    def end(self) -> None:
        """End all streams in order, and let no other begin; clients begin again elsewhere."""
        self._end.set()

    async def listen(self, scope: RequestScope, wanted: Wanted, subscription: str | int) -> None:
        """Tell a client what it wants to be told, until the service stops or the client's proof runs out.

        A client that has had enough hangs up: then this is cancelled, and nothing else is.

        Args:
            scope: Who asks, and its stream.
            wanted: What it wants to be told.
            subscription: Names the stream, on every message.

        Raises:
            QuotaExceeded: Too many streams.
            StoreUnavailable: The tasks cannot be read.
        """
        owner = scope.caller.owner
        self._admit(owner)
        self._open[owner] += 1
        try:
            with self._feed.watch(*_names(wanted), *self.list_names(wanted.lists)) as waiter:
                stream = _Stream(self, scope, subscription, waiter)
                await self._until_over(stream.run(wanted), scope.caller)
        finally:
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]

    async def _until_over(self, stream: Coroutine[Any, Any, None], caller: Caller) -> None:
        telling = asyncio.create_task(stream)
        works: set[asyncio.Task[Any]] = {telling, asyncio.create_task(self._end.wait())}
        if caller.may_end:
            works.add(asyncio.create_task(caller.proof_ended(self._feed.timings.recheck)))
        try:
            await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                telling.result()
        finally:
            for work in works:
                work.cancel()
            await asyncio.wait(works)

    def _admit(self, owner: Owner) -> None:
        for what, maximum, actual in (
            ("open subscriptions of this service", STREAMS, len(self)),
            ("open subscriptions", STREAMS_OF_OWNER, self._open[owner]),
        ):
            if actual >= maximum:
                raise QuotaExceeded(what, maximum=maximum, actual=actual + 1, unit="streams")

    def list_names(self, lists: Iterable[Listed]) -> dict[str, Listed]:
        """The lists, by each name that is woken when one has changed."""
        names = {list_name(listed): listed for listed in lists}
        if Listed.TOOLS in lists:
            names[self._tools_changed] = Listed.TOOLS
        return names

    def met(self, wanted: Wanted, found: Iterable[str]) -> Wanted:
        """The wishes that are met: of tasks, those of the caller that exist."""
        lists = {Listed.TOOLS: True, Listed.PROMPTS: len(self._library.prompts) > 0}
        lists[Listed.RESOURCES] = len(self._library.resources) > 0
        return replace(
            wanted,
            task_ids=None if wanted.task_ids is None else tuple(found),
            lists=tuple(listed for listed in wanted.lists if lists[listed]),
            resources=tuple(uri for uri in wanted.resources if self._has(uri)),
        )

    def _has(self, uri: str) -> bool:
        try:
            self._finder.find(uri)
        except UnknownResource:
            return False
        return True

    async def read(self, owner: Owner, task_ids: Iterable[str]) -> dict[str, TaskView]:
        """Read those of the tasks that exist.

        Raises:
            StoreUnavailable: No answer in time.
        """
        limit = asyncio.Semaphore(READS)

        async def one(task_id: str) -> TaskView | None:
            async with limit:
                try:
                    return await self._store.get(owner, task_id)
                except TaskNotFound:
                    return None

        names = list(task_ids)
        views = await asyncio.gather(*map(one, names))
        return {name: view for name, view in zip(names, views, strict=True) if view is not None}

    def frame(self, view: TaskView, subscription: str | int) -> dict[str, object]:
        """A task as it is, as a message."""
        return wire.task_notification(self._results.task(view), subscription)


class _Stream:
    """A stream of one client."""

    def __init__(
        self, subscriptions: Subscriptions, scope: RequestScope, subscription: str | int, waiter: Waiter
    ) -> None:
        self._subscriptions, self._subscription, self._waiter = subscriptions, subscription, waiter
        self._owner, self._outgoing = scope.caller.owner, scope.outgoing
        self._heal = subscriptions.heal_seconds
        self._told: dict[str, tuple[int, str, int]] = {}
        self._open: dict[str, str] = {}  # ids by names

    async def run(self, wanted: Wanted) -> None:
        """Tell of changes until cancelled."""
        found = list(await self._subscriptions.read(self._owner, wanted.task_ids or ()))
        met = self._subscriptions.met(wanted, found)
        self._outgoing.put(wire.acknowledged(met, self._subscription))
        self._open = {task_hash(task_id): task_id for task_id in found}
        lists = self._subscriptions.list_names(met.lists)
        resources = {resource_name(uri): uri for uri in met.resources}
        due, heal_at = dict.fromkeys(found), time.monotonic() + self._heal
        while True:
            woken = await self._waiter.changed(0.0 if due else heal_at - time.monotonic())
            for name in woken:
                if name in lists:
                    message = wire.list_changed(lists[name], self._subscription)
                    self._outgoing.put(message, instead_of=list_name(lists[name]))
                elif name in resources:
                    message = wire.resource_updated(resources[name], self._subscription)
                    self._outgoing.put(message, instead_of=name)
            due |= dict.fromkeys(self._open[name] for name in woken & self._open.keys())
            if time.monotonic() >= heal_at:
                due |= dict.fromkeys(self._open.values())
                heal_at = time.monotonic() + self._heal
            if due:
                await self._outgoing.emptied()
                await self._look_at(next(iter(due)))
                del due[next(iter(due))]

    async def _look_at(self, task_id: str) -> None:
        try:
            view = (await self._subscriptions.read(self._owner, [task_id])).get(task_id)
        except StoreUnavailable as error:
            logger.warning("A subscription cannot read a task for now: %s", error)
            return
        if view is None or view.task.status.is_final:
            self._open.pop(task_hash(task_id), None)
        if view is None:
            return
        # Time changes the status of a task before a sweep writes it down as a revision; and a store that went
        # back to an earlier truth gives a revision out again.
        state = (view.task.revision, view.task.status.value, view.task.updated_ms)
        if self._told.get(task_id) != state:
            self._told[task_id] = state
            self._outgoing.put(self._subscriptions.frame(view, self._subscription))


def _names(wanted: Wanted) -> list[str]:
    return [
        *map(task_hash, wanted.task_ids or ()),
        *map(resource_name, wanted.resources),
    ]
