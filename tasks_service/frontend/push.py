"""Wake-ups: whoever waits for a task hears of its changes, over one subscription per process.

A waiter registers first, then reads, then waits, so that no change falls between. A wake-up may still be
lost on its way (pub/sub promises nothing), so no wait is longer than `HEAL_SECONDS`: the caller reads again
and the loss is healed. A new connection wakes everybody, since anything may have happened without it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Protocol

from ..store.base import Change

logger = logging.getLogger(__name__)

HEAL_SECONDS = 5.0
"""Longest wait before a waiter reads again, whether or not it was woken."""

RESTART_SECONDS = 1.0
"""Pause before a subscription that failed is tried again."""


class ChangeSource(Protocol):
    """Where changes come from: a store."""

    def changes(self) -> AsyncIterator[Change | None]:
        """Changes as they are committed; None when the subscription was made (again)."""


class Watcher:
    """One waiter's ear for some names; remembers which were woken, so any number of changes costs the same.

    Attributes:
        names: What it hears of.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        self._event = asyncio.Event()
        self._woken: set[str] = set()

    def wake(self, name: str = "") -> None:
        """Let the next, or the present, `changed` return at once.

        Args:
            name: What has changed; may be none of the names that are watched, to wake the waiter alone.
        """
        self._woken.add(name)
        self._event.set()

    async def changed(self, timeout: float) -> frozenset[str]:  # noqa: ASYNC109 - the wait is the purpose
        """Wait until something may have changed since this was last called; at most `timeout` seconds.

        Returns:
            The names that were woken. None of them, if the wait was for nothing: the caller reads again.
        """
        try:
            async with asyncio.timeout(min(timeout, HEAL_SECONDS)):
                await self._event.wait()
        except TimeoutError:
            return frozenset()
        else:
            return frozenset(self._woken)
        finally:
            self._event.clear()
            self._woken.clear()


class ChangeFeed:
    """All watchers of a process, fed by one subscription.

    Args:
        source: The store whose changes are followed.
    """

    def __init__(self, source: ChangeSource) -> None:
        self._source = source
        self._watchers: dict[str, set[Watcher]] = {}

    def __len__(self) -> int:
        """How many tasks are watched."""
        return len(self._watchers)

    @contextmanager
    def watch(self, *names: str) -> Iterator[Watcher]:
        """Hear of changes while the context is open; read what is watched only after it has opened.

        Args:
            names: Ids of tasks, and whatever else is woken by name (see `store.sessions`).
        """
        watcher = Watcher()
        for name in names:
            self.add(watcher, name)
        try:
            yield watcher
        finally:
            for name in tuple(watcher.names):
                self.discard(watcher, name)

    def add(self, watcher: Watcher, name: str) -> None:
        """Let a watcher hear of one name more."""
        self._watchers.setdefault(name, set()).add(watcher)
        watcher.names.add(name)

    def discard(self, watcher: Watcher, name: str) -> None:
        """Let a watcher hear of a name no more."""
        watchers = self._watchers.get(name, set())
        watchers.discard(watcher)
        watcher.names.discard(name)
        if not watchers:
            self._watchers.pop(name, None)

    async def run(self) -> None:
        """Follow the source until cancelled; outlives every outage of it."""
        while True:
            try:
                async for change in self._source.changes():
                    self._spread(change)
            except Exception:
                logger.exception("The change feed broke; it starts again in %s s", RESTART_SECONDS)
            await asyncio.sleep(RESTART_SECONDS)

    def _spread(self, change: Change | None) -> None:
        if change is None:
            for name, watchers in self._watchers.items():
                for watcher in watchers:
                    watcher.wake(name)
            return
        for watcher in self._watchers.get(change.task_id, ()):
            watcher.wake(change.task_id)
