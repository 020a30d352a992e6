"""What the Redis store promises under sentinels: the master that is now, whatever becomes of the last one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from tasks_service.domain.errors import StoreUnavailable
from tasks_service.domain.events import Cancel, Checkpoint, Claim
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import JsonText, Phase, new_token
from tasks_service.store.findings import Severity
from tasks_service.store.redis import AsyncRedisTaskStore, RedisTaskStore
from tests.kit.audit import audit, told
from tests.kit.factories import ALICE, creation
from tests.kit.groups import SentinelGroup, stopped
from tests.kit.secrets import secrets_problems
from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until


@pytest.fixture(scope="module")
def running() -> Iterator[SentinelGroup]:
    with closing(SentinelGroup()) as group:
        yield group


@pytest.fixture
def group(running: SentinelGroup) -> Iterator[SentinelGroup]:
    """A group that is empty now; audited when the test ends."""
    running.flush()
    yield running
    violations = audit(running.url)
    assert not violations, told(violations)


@pytest.fixture
def own_group() -> Iterator[SentinelGroup]:
    """A group for a test that changes who is who: the sentinels take twenty seconds to be whole again."""
    with closing(SentinelGroup()) as group:
        yield group
        violations = audit(group.url)
        assert not violations, told(violations)


@pytest.fixture
def store(group: SentinelGroup) -> Iterator[RedisTaskStore]:
    with closing(RedisTaskStore(group.url)) as store:
        yield store


@pytest.fixture
def own_store(own_group: SentinelGroup) -> Iterator[RedisTaskStore]:
    with closing(RedisTaskStore(own_group.url)) as store:
        yield store


def test_connections_to_the_master_are_bounded_and_work_waits_for_one(group: SentinelGroup) -> None:
    with closing(RedisTaskStore(group.url, pool=3)) as store, group.master.client() as client:
        before = len(client.client_list(_type="normal"))
        with ThreadPoolExecutor(24) as pool:
            list(pool.map(lambda _: store.create(creation()), range(100)))
        assert len(client.client_list(_type="normal")) - before <= 3


def test_front_ends_with_different_secrets_are_told_apart(group: SentinelGroup) -> None:
    assert secrets_problems(group.url, "first") == []
    (problem,) = secrets_problems(group.url, "second")
    assert "another secret" in problem


def test_a_server_that_has_become_a_replica_is_left_by_every_connection(
    group: SentinelGroup, store: RedisTaskStore
) -> None:
    """Demoted behind the sentinels' back, it answers READONLY over connections that stay open."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: store.create(creation()), range(8)))
        master, other = group.master, next(one for one in group.servers if one is not group.master)
        with master.client() as client:
            client.replicaof("127.0.0.1", other.port)
            begun = list(pool.map(lambda _: pool.submit(store.create, creation()), range(4)))
            time.sleep(0.2)
            assert not any(one.done() for one in begun)
            client.replicaof("NO", "ONE")
        for one in begun:
            one.result(30)


def test_no_store_reads_from_a_master_that_has_become_a_replica_and_closed_its_connections(
    group: SentinelGroup, store: RedisTaskStore
) -> None:
    """So do sentinels when another takes over, and a replica answers reads with what was true once."""
    task_id = store.create(creation()).task.task_id
    master, other = group.master, next(one for one in group.servers if one is not group.master)

    async def read() -> str:
        reader = AsyncRedisTaskStore(group.url, deadline=30)
        try:
            return (await reader.get(ALICE, task_id)).task.task_id
        finally:
            await reader.aclose()

    with ThreadPoolExecutor(2) as pool, master.client() as client:
        client.replicaof("127.0.0.1", other.port)
        client.client_kill_filter(_type="normal", skipme=True)
        reads = [pool.submit(store.inspect, task_id), pool.submit(asyncio.run, read())]
        time.sleep(0.3)
        assert not any(one.done() for one in reads)
        client.replicaof("NO", "ONE")
        assert reads[0].result(30).task.task_id == reads[1].result(30) == task_id


def test_the_replica_that_took_over_gets_every_write_of_both_stores(
    own_group: SentinelGroup, own_store: RedisTaskStore
) -> None:
    group, store = own_group, own_store
    task_id, lease_id = store.create(creation()).task.task_id, new_token()
    store.claim(task_id, Claim(lease_id=lease_id, worker="w"))
    before = group.master
    enough = threading.Event()
    written: list[int] = []
    reads: list[int] = []

    def write() -> None:
        with closing(RedisTaskStore(group.url, deadline=60)) as writer:
            while not enough.is_set():
                number = JsonText(str(len(written)))
                writer.commit(task_id, Checkpoint(lease_id=lease_id, variables={"n": number}))
                written.append(len(written))

    async def read() -> None:
        reader = AsyncRedisTaskStore(group.url, deadline=60)
        while not enough.is_set():
            await reader.get(ALICE, task_id)
            await reader.create(creation())
            reads.append(1)
        await reader.aclose()

    threads = [threading.Thread(target=write), threading.Thread(target=lambda: asyncio.run(read()))]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(written) > 20 and len(reads) > 20, "both write")
    group.fail_over()
    writes_then, reads_then = len(written), len(reads)
    wait_until(lambda: len(written) > writes_then + 20 and len(reads) > reads_then + 20, "both go on")
    enough.set()
    for thread in threads:
        thread.join()
    assert group.master is not before
    assert store.inspect(task_id).task.variables["n"] == str(written[-1])


def test_both_subscriptions_follow_the_master(own_group: SentinelGroup, own_store: RedisTaskStore) -> None:
    group, store = own_group, own_store
    heard: list[str] = []

    def listen() -> None:
        with closing(RedisTaskStore(group.url)) as listener:
            for change in listener.changes(poll=0.1):
                if enough.is_set():
                    return
                if change is not None:
                    heard.append(f"blocking {change.name}")

    async def listen_on_a_loop() -> None:
        listener = AsyncRedisTaskStore(group.url)
        changes = listener.changes()
        try:
            async for change in changes:
                if change is not None:
                    heard.append(f"asyncio {change[0]}")
                if enough.is_set():
                    return
        finally:
            await changes.aclose()  # type: ignore[attr-defined]
            await listener.aclose()

    def hears() -> bool:
        task_id = store.create(creation()).task.task_id
        time.sleep(0.1)
        return {f"blocking {task_hash(task_id)}", f"asyncio {task_hash(task_id)}"} <= set(heard)

    enough = threading.Event()
    threads = [
        threading.Thread(target=listen),
        threading.Thread(target=lambda: asyncio.run(listen_on_a_loop())),
    ]
    for thread in threads:
        thread.start()
    try:
        wait_until(hears, "both hear the first master")
        group.fail_over()
        wait_until(hears, "both hear the second master")
    finally:
        enough.set()
        store.create(creation())
        for thread in threads:
            thread.join()


def test_a_sentinel_that_is_silent_fails_no_operation(group: SentinelGroup) -> None:
    async def read(task_id: str) -> Phase:
        store = AsyncRedisTaskStore(group.url)
        try:
            return (await store.get(ALICE, task_id)).task.phase
        finally:
            await store.aclose()

    with stopped(group.sentinels[0].process):
        for _ in range(6):  # whichever sentinel a store turns to first
            with closing(RedisTaskStore(group.url, deadline=1.8)) as store:
                task_id = store.create(creation()).task.task_id
            assert asyncio.run(read(task_id)) is Phase.PENDING


def test_an_unknown_service_and_a_server_that_is_no_sentinel_are_told(
    group: SentinelGroup, redis_server: RedisServer
) -> None:
    hosts = f"127.0.0.1:{group.sentinels[0].port}"
    stranger = RedisTaskStore(f"redis+sentinel://{hosts}/0?service=stranger", deadline=0.2)
    with closing(stranger), pytest.raises(StoreUnavailable, match="knows no service 'stranger'"):
        stranger.now_ms()
    single = RedisTaskStore(f"redis+sentinel://127.0.0.1:{redis_server.port}/0?service=tasks", deadline=0.2)
    with closing(single), pytest.raises(StoreUnavailable, match=r"(?i)unknown command"):
        single.now_ms()


def test_a_master_that_would_go_on_alone_is_told_and_refuses_writes_once_it_is_mended(
    group: SentinelGroup, store: RedisTaskStore
) -> None:
    def told_of(what: str) -> list[str]:
        return [finding.fix for finding in store.check() if what in finding.what]

    (fix,) = told_of("min-replicas-to-write is 0")
    assert "CONFIG SET min-replicas-to-write 1" in fix
    assert told_of("No replica") == []
    task_id = store.create(creation()).task.task_id
    with group.master.client() as client:
        client.config_set("min-replicas-to-write", 1)
        assert told_of("min-replicas-to-write") == []
        client.config_set("min-replicas-to-write", 2)
        with closing(RedisTaskStore(group.url, deadline=0.2)) as hasty:
            with pytest.raises(StoreUnavailable, match=r"(?i)good replicas"):
                hasty.apply(ALICE, task_id, Cancel())
            assert hasty.get(ALICE, task_id).task.phase is Phase.PENDING
        client.config_set("min-replicas-to-write", 0)
    assert store.apply(ALICE, task_id, Cancel()).phase is Phase.CANCELLED


def test_sentinels_that_cannot_agree_are_told(own_group: SentinelGroup, own_store: RedisTaskStore) -> None:
    def told_of() -> list[Severity]:
        what = "cannot let a replica take over"
        return [finding.severity for finding in own_store.check() if what in finding.what]

    assert told_of() == []
    for sentinel in own_group.sentinels[1:]:
        sentinel.close()
    wait_until(told_of, "the sentinel that is left says so")
    assert told_of() == [Severity.WARNING]
