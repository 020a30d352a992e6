"""Wake-ups: whoever waits hears of changes, and of nothing else, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from tasks_service.frontend.core.change_feed import ChangeFeed, Waiter
from tasks_service.frontend.timings import Timings
from tasks_service.store.changes import Change

NEVER_HEALS = Timings(heal=600.0)
"""Nobody reads again without being woken."""


class Source:
    """Changes as a test says; `None` ends one subscription with an error."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Change | Exception | None] = asyncio.Queue()

    async def changes(self) -> AsyncIterator[Change | None]:
        yield None
        while True:
            change = await self.queue.get()
            if isinstance(change, Exception):
                raise change
            yield change


async def following(feed: ChangeFeed) -> asyncio.Task[None]:
    task = asyncio.create_task(feed.run())
    await asyncio.sleep(0.05)
    return task


async def seconds_until_woken(feed: ChangeFeed, task_id: str, limit: float) -> float:
    with feed.watch(task_id) as watcher:
        began = time.monotonic()
        await watcher.changed(limit)
        return time.monotonic() - began


def test_a_change_wakes_all_who_watch_the_task_and_nobody_else() -> None:
    async def main() -> list[float]:
        source = Source()
        feed = ChangeFeed(source, NEVER_HEALS)
        run = await following(feed)
        limits = (("a", 60.0), ("a", 60.0), ("b", 0.3))
        waits = [asyncio.create_task(seconds_until_woken(feed, name, limit)) for name, limit in limits]
        await asyncio.sleep(0.05)
        await source.queue.put(Change("a", 1))
        took = await asyncio.gather(*waits)
        run.cancel()
        assert len(feed) == 0
        return took

    first, second, other = asyncio.run(main())

    assert max(first, second) < 50
    assert other >= 0.29


def test_a_change_between_registering_and_waiting_is_not_missed() -> None:
    async def main() -> float:
        source = Source()
        feed = ChangeFeed(source, NEVER_HEALS)
        run = await following(feed)
        with feed.watch("a") as watcher:
            await source.queue.put(Change("a", 1))
            await asyncio.sleep(0.05)
            began = time.monotonic()
            await watcher.changed(60.0)
            run.cancel()
            return time.monotonic() - began

    assert asyncio.run(main()) < 50


def test_a_new_connection_wakes_everybody() -> None:
    async def main() -> float:
        source = Source()
        feed = ChangeFeed(source, NEVER_HEALS)
        run = await following(feed)
        wait = asyncio.create_task(seconds_until_woken(feed, "a", 60.0))
        await asyncio.sleep(0.05)
        await source.queue.put(RuntimeError("the subscription broke"))
        took = await wait
        run.cancel()
        return took

    assert asyncio.run(main()) < 50


def test_watching_leaves_nothing_behind() -> None:
    async def main() -> int:
        feed = ChangeFeed(Source())
        for number in range(100):
            with feed.watch(str(number % 10)):
                assert len(feed) == 1
        return len(feed)

    assert asyncio.run(main()) == 0


def test_a_name_that_is_woken_as_the_time_runs_out_is_not_lost() -> None:
    async def main() -> frozenset[str]:
        watcher = Waiter(5.0)
        waiting = asyncio.create_task(watcher.changed(0.0))
        await asyncio.sleep(0)
        watcher.wake("a list")
        return await waiting

    assert asyncio.run(main()) == {"a list"}
