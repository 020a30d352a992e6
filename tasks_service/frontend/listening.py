"""What clients of 2026-07-28 are told without asking: `subscriptions/listen`.

A stream says first what of the client's wishes will be met, then how each task is now, then what changes. A
change is read from the record, so that a frame says what `tasks/get` would say; a wake-up that was lost is
made up for by reading again now and then. A reader that is slow gets the latest of each task, not all of them
(see `streams.Outgoing`).

Source: 2026-07-28, basic/utilities, subscriptions; SEP-2663, notifications; docs/protocol.md, "listening".
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from ..domain.errors import QuotaExceeded, StoreUnavailable, TaskNotFound, UnknownResource
from ..domain.task import Owner
from ..library import Library
from ..store.announcements import Listed, list_name, resource_name
from ..store.base import AsyncTaskStore, TaskView
from .calls import Wanted
from .http import Inquiry
from .push import HEAL_SECONDS, ChangeFeed, Watcher
from .wire import v2026_07_28 as wire

logger = logging.getLogger(__name__)

STREAMS: Final = 2_000
"""Streams that one process keeps open."""

STREAMS_OF_OWNER: Final = 100
"""Of these, those of one owner."""

READS: Final = 8
"""Tasks of one stream that are read at the same time."""


class Listeners:
    """All streams of a process.

    Args:
        store: Where tasks are.
        feed: Says when they change.
        results: Says how they look.
        library: What else clients may hear of: only of what there is.
    """

    def __init__(
        self, *, store: AsyncTaskStore, feed: ChangeFeed, results: wire.Results, library: Library
    ) -> None:
        self._store, self._feed, self._results, self._library = store, feed, results, library
        self._open: Counter[Owner] = Counter()
        self._watchers: set[Watcher] = set()
        self._ended = False

    def __len__(self) -> int:
        """How many streams are open."""
        return self._open.total()

    def end(self) -> None:
        """End all streams in order, and let no other begin; clients begin again elsewhere."""
        self._ended = True
        for watcher in self._watchers:
            watcher.wake()

    async def listen(self, inquiry: Inquiry, wanted: Wanted, subscription: str | int) -> None:
        """Tell a client what it wants to be told, until the service stops or the client's proof runs out.

        A client that has had enough hangs up: then this is cancelled, and nothing else is.

        Args:
            inquiry: Who asks, and its stream.
            wanted: What it wants to be told.
            subscription: Names the stream, on every message.

        Raises:
            QuotaExceeded: Too many streams.
            StoreUnavailable: The tasks cannot be read.
        """
        owner = inquiry.caller.owner
        self._admit(owner)
        self._open[owner] += 1
        try:
            with self._feed.watch(*_names(wanted)) as watcher:
                self._watchers.add(watcher)
                try:
                    await _Stream(self, inquiry, subscription, watcher).run(wanted)
                finally:
                    self._watchers.discard(watcher)
        finally:
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]

    @property
    def ended(self) -> bool:
        """Whether all streams are to end."""
        return self._ended

    def _admit(self, owner: Owner) -> None:
        for what, maximum, actual in (
            ("open subscriptions of this service", STREAMS, len(self)),
            ("open subscriptions", STREAMS_OF_OWNER, self._open[owner]),
        ):
            if actual >= maximum:
                raise QuotaExceeded(what, maximum=maximum, actual=actual + 1, unit="streams")

    def met(self, wanted: Wanted, found: Iterable[str]) -> Wanted:
        """What of the wishes is met: of tasks, those of the caller that there are."""
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
            self._library.resources.find(uri)
        except UnknownResource:
            return False
        return True

    async def read(self, owner: Owner, task_ids: Iterable[str]) -> dict[str, TaskView]:
        """The tasks that there are.

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
    """One stream."""

    def __init__(
        self, listeners: Listeners, inquiry: Inquiry, subscription: str | int, watcher: Watcher
    ) -> None:
        self._listeners, self._subscription, self._watcher = listeners, subscription, watcher
        self._owner, self._until = inquiry.caller.owner, inquiry.caller.expires_at
        self._outgoing = inquiry.outgoing
        self._told: dict[str, tuple[int, str]] = {}
        self._open: set[str] = set()

    async def run(self, wanted: Wanted) -> None:
        views = await self._listeners.read(self._owner, wanted.task_ids or ())
        met = self._listeners.met(wanted, views)
        self._open = set(met.task_ids or ())
        self._outgoing.put(wire.acknowledged(met, self._subscription))
        self._tell(views)
        lists = {list_name(listed): listed for listed in met.lists}
        resources = {resource_name(uri): uri for uri in met.resources}
        while not self._listeners.ended and (left := self._left()) > 0:
            woken = await self._watcher.changed(left)
            for name in woken:
                if name in lists:
                    message = wire.list_changed(lists[name], self._subscription)
                    self._outgoing.put(message, instead_of=name)
                elif name in resources:
                    message = wire.resource_updated(resources[name], self._subscription)
                    self._outgoing.put(message, instead_of=name)
            await self._look_at(woken & self._open if woken else self._open)

    def _left(self) -> float:
        return HEAL_SECONDS if self._until is None else min(HEAL_SECONDS, self._until - time.time())

    async def _look_at(self, task_ids: Iterable[str]) -> None:
        asked = list(task_ids)
        try:
            views = await self._listeners.read(self._owner, asked)
        except StoreUnavailable as error:
            logger.warning("A subscription cannot read its tasks for now: %s", error)
            return
        self._open.difference_update(set(asked) - views.keys())
        self._tell(views)

    def _tell(self, views: dict[str, TaskView]) -> None:
        for task_id, view in views.items():
            # Time changes the status of a task before a sweep writes it down as a revision.
            state = (view.task.revision, view.task.status.value)
            if self._told.get(task_id) != state:
                self._told[task_id] = state
                frame = self._listeners.frame(view, self._subscription)
                self._outgoing.put(frame, instead_of=f"task {task_id}")
            if view.task.status.is_final:
                self._open.discard(task_id)


def _names(wanted: Wanted) -> list[str]:
    return [
        *(wanted.task_ids or ()),
        *map(list_name, wanted.lists),
        *map(resource_name, wanted.resources),
    ]
