"""The change feed: wakes whoever waits for a task when it changes, over one subscription per process.

A waiter registers first, then reads, then waits, so that no change falls between. A wake-up may still be
lost on its way (pub/sub promises nothing), so no wait is longer than `Timings.heal`: the caller reads again
and the loss is healed. A new connection wakes everybody, since anything may have happened without it.

The reports of a running tool (see `domain.reports`) come the same way, for tasks that somebody follows. They
are handed on at once and kept nowhere: a hearer must not wait (see `transport.outgoing`, which bounds what
waits for a slow reader).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from ...domain.names import task_hash
from ...domain.reports import Report
from ...domain.task import Task
from ...failpoints import failpoint
from ...store.changes import Change, ChangeSource, Reported
from ..timings import DEFAULT_TIMINGS, Timings

logger = logging.getLogger(__name__)


class Hearer(Protocol):
    """A receiver of what a tool reports."""

    def report(self, report: Report) -> None:
        """Take a report; must not wait."""


class Waiter:
    """A waiter for changes of some names; it remembers which were woken, not how often.

    Args:
        longest: Seconds that one wait takes at most.

    Attributes:
        names: What it hears of.
    """

    def __init__(self, longest: float) -> None:
        self.names: set[str] = set()
        self._longest = longest
        self._event = asyncio.Event()
        self._woken: set[str] = set()

    def wake(self, name: str = "") -> None:
        """Make the present or next `changed` return at once.

        Args:
            name: What has changed; may be none of the names that are watched, to wake the waiter alone.
        """
        self._woken.add(name)
        self._event.set()

    async def changed(self, timeout: float = math.inf) -> frozenset[str]:  # noqa: ASYNC109 - its purpose
        """Wait until something may have changed since this was last called; at most `timeout` seconds.

        Returns:
            The names that were woken. None of them, if the wait was for nothing: the caller reads again.
        """
        # What is woken in the moment in which the time is up counts too: nobody says it again.
        with suppress(TimeoutError):
            async with asyncio.timeout(min(timeout, self._longest)):
                await self._event.wait()
        woken = frozenset(self._woken)
        self._event.clear()
        self._woken.clear()
        return woken


class _Heard:
    """The hearers of one task, and the latest change whose reports they have all been given."""

    def __init__(self) -> None:
        self.hearers: Counter[Hearer] = Counter()
        self.revision = -1


class ChangeFeed:
    """All waiters of a process, fed by one subscription.

    Args:
        source: The store whose changes are followed.
        timings: How long to wait for it.

    Attributes:
        timings: See the argument.
    """

    def __init__(self, source: ChangeSource, timings: Timings = DEFAULT_TIMINGS) -> None:
        self._source, self.timings = source, timings
        self._waiters: dict[str, set[Waiter]] = {}
        self._heard: dict[str, _Heard] = {}
        self._begun = asyncio.Event()

    def __len__(self) -> int:
        """The number of tasks that are watched."""
        return len(self._waiters)

    @contextmanager
    def watch(self, *names: str) -> Iterator[Waiter]:
        """Watch names for changes while the context is open; read what is watched only after it has opened.

        Args:
            names: Names of tasks, and whatever else is woken by name (see `store.sessions`).
        """
        waiter = Waiter(self.timings.heal)
        for name in names:
            self.add(waiter, name)
        try:
            yield waiter
        finally:
            for name in tuple(waiter.names):
                self.discard(waiter, name)

    def add(self, waiter: Waiter, name: str) -> None:
        """Watch one more name."""
        self._waiters.setdefault(name, set()).add(waiter)
        waiter.names.add(name)

    def discard(self, waiter: Waiter, name: str) -> None:
        """Stop to watch a name."""
        waiters = self._waiters.get(name, set())
        waiters.discard(waiter)
        waiter.names.discard(name)
        if not waiters:
            self._waiters.pop(name, None)

    def wake(self, name: str) -> None:
        """Wake whoever watches a name in this process."""
        for waiter in self._waiters.get(name, ()):
            waiter.wake(name)

    @contextmanager
    def subscribe_reports(self, task_id: str, hearer: Hearer | None) -> Iterator[None]:
        """Give a task's reports to a hearer, as they come, while the context is open.

        Reports are given before a change that came later wakes anybody. A hearer that is subscribed twice is
        told once. No hearer: nothing is subscribed.
        """
        if hearer is None:
            yield
            return
        name = task_hash(task_id)
        heard = self._heard.get(name)
        if heard is None:
            heard = self._heard[name] = _Heard()
            self._source.subscribe_reports(task_id)
        heard.hearers[hearer] += 1
        try:
            yield
        finally:
            heard.hearers[hearer] -= 1
            if not heard.hearers[hearer]:
                del heard.hearers[hearer]
            if not heard.hearers:
                del self._heard[name]
                self._source.unsubscribe_reports(task_id)

    async def catch_up(self, task: Task) -> None:
        """Return when the hearers of a task have been given all reports from before it came to this state.

        A read may overtake what was published before it. Where the change itself has come there is nothing
        to wait for.
        """
        heard = self._heard.get(task_hash(task.task_id))
        if heard is None or heard.revision >= task.revision:
            return
        try:
            async with asyncio.timeout(self.timings.catch_up):
                await self._source.catch_up()
        except TimeoutError:
            logger.warning("The change feed is slow: the last reports of a task may be missing")

    async def begun(self) -> None:
        """Wait until the source is followed; not for long, since it may be down."""
        try:
            async with asyncio.timeout(self.timings.catch_up):
                await self._begun.wait()
        except TimeoutError:
            logger.warning("Nothing that happens in the store is heard yet")

    async def run(self) -> None:
        """Follow the source until cancelled; outlives every outage of it."""
        while True:
            try:
                async for change in self._source.changes():
                    failpoint("Change", "before")
                    self._spread(change)
                    failpoint("Change", "after")
            except Exception:
                logger.exception("The change feed broke; it starts again in %s s", self.timings.retry)
            await asyncio.sleep(self.timings.retry)

    def _spread(self, change: Change | Reported | None) -> None:
        if change is None:
            self._begun.set()
            for name, waiters in self._waiters.items():
                for waiter in waiters:
                    waiter.wake(name)
            return
        heard = self._heard.get(change.name)
        if isinstance(change, Reported):
            for hearer in () if heard is None else tuple(heard.hearers):
                for report in change.reports:
                    hearer.report(report)
            return
        if heard is not None:
            heard.revision = max(heard.revision, change.revision)
        self.wake(change.name)
