"""Many processes create and list the tasks of one owner: its quota is exact, its list leaves nothing out."""

from __future__ import annotations

import multiprocessing
import multiprocessing.pool
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier, Event

import pytest
import redis

from tasks_service.domain.errors import QuotaExceeded
from tasks_service.domain.events import Cancel, Expire
from tasks_service.domain.limits import Limits
from tasks_service.domain.task import HOUR, Policy
from tasks_service.store.redis import RedisTaskStore
from tests.kit.audit import audit, told
from tests.kit.factories import ALICE, creation

CREATORS = 8
EACH = int(os.environ.get("TASKS_TEST_CREATES", "60"))
LISTINGS = int(os.environ.get("TASKS_TEST_LISTINGS", "10"))
LIVE = f"ts:{{00}}:live:{ALICE}"
SPAWN = multiprocessing.get_context("spawn")
_shared: list[tuple[Barrier, Event]] = []
"""In a process of a pool: where it meets the others, and how it learns that it is over."""

Measured = Callable[[str, str], None]


def _share(barrier: Barrier, over: Event) -> None:
    _shared.append((barrier, over))


@pytest.fixture(scope="module")
def over() -> Event:
    return SPAWN.Event()


@pytest.fixture(scope="module")
def pool(over: Event) -> Iterator[multiprocessing.pool.Pool]:
    """Eight processes that meet before they begin."""
    with SPAWN.Pool(CREATORS, _share, (SPAWN.Barrier(CREATORS), over)) as pool:
        yield pool
        pool.close()
        pool.join()


def create(url: str, limit: int, each: int) -> tuple[int, int]:
    """Create as many as one may: how many were accepted, how many refused."""
    store = RedisTaskStore(url, limits=Limits(live_per_owner=limit))
    accepted = refused = 0
    _shared[0][0].wait(60)
    for _ in range(each):
        try:
            store.create(creation())
            accepted += 1
        except QuotaExceeded:
            refused += 1
    store.close()
    return accepted, refused


def create_and_cancel(url: str, limit: int, each: int) -> tuple[int, int]:
    """Hold two tasks at most, and cancel the older one for a new one: how many were accepted and refused."""
    store = RedisTaskStore(url, limits=Limits(live_per_owner=limit))
    held: list[str] = []
    accepted = refused = 0
    _shared[0][0].wait(60)
    for _ in range(each):
        try:
            held.append(store.create(creation()).task.task_id)
            accepted += 1
        except QuotaExceeded:
            refused += 1
        if len(held) > 1:
            store.apply(ALICE, held.pop(0), Cancel())
    for task_id in held:
        store.apply(ALICE, task_id, Cancel())
    store.close()
    return accepted, refused


class Waiter:
    """Looks at the quota again and again, and remembers the most that it ever was."""

    def __init__(self, url: str) -> None:
        self.most = self.looks = 0
        self._url, self._over = url, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Waiter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _look(self) -> None:
        with redis.Redis.from_url(self._url) as client:
            while not self._over.is_set():
                self.most = max(self.most, int(client.scard(LIVE)))
                self.looks += 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("limit", [20, 300], ids=["watched-from-the-start", "watched-when-it-is-near"])
def test_eight_racing_creators_get_exactly_what_the_quota_allows(
    pool: multiprocessing.pool.Pool, redis_url: str, limit: int, measured: Measured
) -> None:
    with Waiter(redis_url) as watcher:
        told_ = pool.starmap(create, [(redis_url, limit, EACH)] * CREATORS, chunksize=1)

    accepted = sum(one for one, _ in told_)
    assert accepted == min(limit, CREATORS * EACH)
    assert watcher.most <= limit
    assert not (found := audit(redis_url, limits=Limits(live_per_owner=limit))), told(found)
    measured("R15", f"quota {limit}: {accepted} of {CREATORS * EACH} creates by {CREATORS} processes, 0 over")


@pytest.mark.timeout(300)
def test_a_quota_that_is_freed_and_taken_at_once_is_never_exceeded(
    pool: multiprocessing.pool.Pool, redis_url: str, measured: Measured
) -> None:
    limit = CREATORS // 2
    with Waiter(redis_url) as watcher:
        told_ = pool.starmap(create_and_cancel, [(redis_url, limit, EACH)] * CREATORS, chunksize=1)

    accepted, refused = (sum(side) for side in zip(*told_, strict=True))
    assert refused > 0, "the creators never met the quota"
    assert watcher.most <= limit
    with redis.Redis.from_url(redis_url) as client:
        assert client.scard(LIVE) == 0
    assert not (found := audit(redis_url, limits=Limits(live_per_owner=limit))), told(found)
    measured(
        "R15",
        f"quota {limit} under create and cancel: {accepted} accepted, {refused} refused; "
        f"at most {watcher.most} in {watcher.looks} looks",
    )


def churn(url: str) -> int:
    """Create tasks and let them go, until it is over: how many."""
    policy = Policy(ttl_ms=1, retention_ms=1)
    gone = RedisTaskStore(url, clock=lambda server_ms: server_ms + 40 * 24 * HOUR)
    store = RedisTaskStore(url)
    barrier, over = _shared[0]
    barrier.wait(60)
    made = 0
    while not over.is_set():
        task = store.create(creation(policy=policy)).task
        store.apply(ALICE, task.task_id, Cancel())
        if made % 2:
            gone.apply_sweep(task.task_id, Expire())
        made += 1
    store.close()
    gone.close()
    return made


def listed(store: RedisTaskStore) -> list[str]:
    """All pages of the owner's list."""
    found: list[str] = []
    after = None
    while True:
        page = store.page(ALICE, after=after, limit=23)
        found += [task.task_id for task in page.tasks]
        if (after := page.last) is None:
            return found


@pytest.mark.timeout(300)
def test_a_list_under_churn_repeats_nothing_and_misses_nobody_who_stayed(
    pool: multiprocessing.pool.Pool, over: Event, redis_url: str, measured: Measured
) -> None:
    store = RedisTaskStore(redis_url)
    over.clear()
    stay = {store.create(creation()).task.task_id for _ in range(200)}
    churning = pool.starmap_async(churn, [(redis_url,)] * CREATORS, chunksize=1)
    time.sleep(0.2)
    seen, twice, missing = 0, 0, 0
    for _ in range(LISTINGS):
        stay |= {store.create(creation()).task.task_id for _ in range(5)}
        found = listed(store)
        seen += len(found)
        twice += sum(count - 1 for count in Counter(found).values())
        missing += len(stay - set(found))
    over.set()
    made = sum(churning.get(60))
    for task_id in stay:
        assert store.get(ALICE, task_id)
    store.close()
    assert (twice, missing) == (0, 0)
    measured(
        "R15",
        f"{LISTINGS} listings, {seen} entries, while {made} tasks came and went: 0 twice, 0 of those that "
        "stayed missing",
    )
