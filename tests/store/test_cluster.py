"""What the Redis store promises on a cluster: slots that move, many nodes, and no EXEC without its WATCH."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice

import pytest
import redis
from redis.cluster import ClusterNode
from redis.crc import key_slot

from tasks_service.domain.errors import LeaseLost, StoreFull, StoreUnavailable
from tasks_service.domain.events import Cancel, Checkpoint, Claim, CompleteWithResult, Create, Expire
from tasks_service.domain.indexes import Due
from tasks_service.domain.names import new_task_id, task_hash
from tasks_service.domain.reports import LogLevel
from tasks_service.domain.task import ClientCapability, JsonText, Owner, Phase, new_token
from tasks_service.store.findings import Finding, Severity
from tasks_service.store.maintenance import SweepMark
from tasks_service.store.redis import AsyncRedisTaskStore, RedisTaskStore, Role
from tasks_service.store.redis.connection import client_findings
from tasks_service.store.sessions import Session
from tests.kit.audit import audit, told
from tests.kit.factories import ALICE, RESULT, Clock, creation
from tests.kit.groups import ClusterServers
from tests.kit.proxy import CuttingProxy, Verdict
from tests.kit.secrets import secrets_problems
from tests.kit.store_adapter import AsyncWorkerStore, counts
from tests.kit.stored import ids_of
from tests.kit.waiting import PATIENCE, quickest, wait_until


@pytest.fixture(scope="module")
def running() -> Iterator[ClusterServers]:
    with closing(ClusterServers(3)) as servers:
        yield servers


@pytest.fixture
def cluster(running: ClusterServers) -> Iterator[ClusterServers]:
    """Three nodes, empty now; audited when the test ends."""
    running.flush()
    for proxy in running.proxies:
        proxy.judge = lambda packet: Verdict.PASS
    yield running
    violations = audit(running.url)
    assert not violations, told(violations)


@pytest.fixture
def store(cluster: ClusterServers) -> Iterator[RedisTaskStore]:
    with closing(RedisTaskStore(cluster.url)) as store:
        yield store


def test_front_ends_with_different_secrets_are_told_apart(cluster: ClusterServers) -> None:
    assert secrets_problems(cluster.url, "first") == []
    (problem,) = secrets_problems(cluster.url, "second")
    assert "another secret" in problem


def created(store: RedisTaskStore, owner: Owner = ALICE) -> str:
    event: Create = creation(owner, task_id=new_task_id(owner, 16))
    return store.create(event).task.task_id


def claimed(store: RedisTaskStore) -> tuple[str, str]:
    task_id, lease_id = created(store), new_token()
    store.claim(task_id, Claim(lease_id=lease_id, worker="w"))
    return task_id, lease_id


# --- an EXEC goes over the connection that watched, or nowhere ----------------------------------------------


def rival_before_a_cut_exec(proxies: list[CuttingProxy], rival: Callable[[], object], mark: bytes) -> None:
    """Let a rival write just before an EXEC that then never arrives."""
    met = threading.Event()

    def judge(packet: bytes) -> Verdict:
        if b"\r\nEXEC\r\n" not in packet or mark not in packet or met.is_set():
            return Verdict.PASS
        met.set()
        rival()
        return Verdict.CUT_BEFORE

    for proxy in proxies:
        proxy.judge = judge


def test_redis_pys_own_cluster_client_overwrites_what_a_rival_has_written(cluster: ClusterServers) -> None:
    """The trap that the store's own routing avoids. If this fails, redis-py has fixed it."""
    nodes = [ClusterNode("127.0.0.1", proxy.port) for proxy in cluster.proxies]
    with redis.RedisCluster(startup_nodes=nodes) as client, redis.RedisCluster(startup_nodes=nodes) as other:
        client.set("state", "working", px=60_000)
        rival_before_a_cut_exec(cluster.proxies, lambda: other.set("state", "cancelled"), b"completed")
        with client.pipeline(transaction=True) as pipe:
            pipe.watch("state")
            assert pipe.get("state") == b"working"
            pipe.multi()
            pipe.set("state", "completed")
            pipe.execute()
        assert client.get("state") == b"completed"
        client.delete("state")


@pytest.mark.parametrize("face", ["blocking", "asyncio"])
def test_a_cut_completion_never_overwrites_a_rivals_cancellation(
    cluster: ClusterServers, store: RedisTaskStore, face: str
) -> None:
    task_id, lease_id = claimed(store)
    with closing(RedisTaskStore(cluster.url)) as rival:
        rival_before_a_cut_exec(
            cluster.proxies, lambda: rival.apply(ALICE, task_id, Cancel()), new := new_token().encode()
        )
        event = CompleteWithResult(lease_id=lease_id, result=JsonText(f'"{new.decode()}"'))
        with pytest.raises(LeaseLost):
            if face == "blocking":
                store.commit(task_id, event)
            else:
                asyncio.run(committed(cluster.url, task_id, event))
    record = store.inspect(task_id)
    assert record.task.phase is Phase.CANCELLED
    assert record.result is None


async def committed(url: str, task_id: str, event: CompleteWithResult) -> None:
    store = AsyncWorkerStore(url, deadline=PATIENCE)
    try:
        await store.commit(task_id, event)
    finally:
        await store.aclose()


def test_a_store_that_is_closed_between_watch_and_exec_writes_nothing_unwatched(
    cluster: ClusterServers, store: RedisTaskStore
) -> None:
    task_id, lease_id = claimed(store)
    met = threading.Event()

    def meanwhile(server_ms: int) -> int:
        """The clock is read where the transition is decided: after WATCH, before EXEC."""
        if not met.is_set():
            met.set()
            store.apply(ALICE, task_id, Cancel())
            deciding.close()
        return server_ms

    deciding = RedisTaskStore(cluster.url, clock=meanwhile)
    with closing(deciding), pytest.raises(LeaseLost):
        deciding.commit(task_id, CompleteWithResult(lease_id=lease_id, result=RESULT))
    assert store.inspect(task_id).task.phase is Phase.CANCELLED


def test_a_client_that_repeats_writes_by_itself_is_refused(store: RedisTaskStore) -> None:
    stock = redis.ConnectionPool(retry=redis.Redis().get_retry())
    (finding,) = client_findings(stock.connection_kwargs)
    assert finding.severity is Severity.ERROR
    assert [found for found in store.check() if found.severity is Severity.ERROR] == []


# --- nodes and slots --------------------------------------------------------------------------------------


def test_a_transition_takes_two_round_trips_and_a_poll_takes_one(
    cluster: ClusterServers, store: RedisTaskStore
) -> None:
    created(store)
    packets: list[bytes] = []
    for proxy in cluster.proxies:
        proxy.judge = lambda packet: packets.append(packet) or Verdict.PASS  # type: ignore[func-returns-value]
    task_id = created(store)
    assert len(packets) == 2
    store.get(ALICE, task_id)
    assert len(packets) == 3


def test_tasks_spread_over_the_nodes_and_are_counted_swept_and_repaired_on_all_of_them(
    cluster: ClusterServers, store: RedisTaskStore
) -> None:
    owners = [Owner(f"owner-{number}") for number in range(40)]
    ids = {created(store, owner) for owner in owners}
    assert set(ids_of(store)) == ids
    assert counts(store).total == counts(store).pending == 40
    assert set(store.pending("q", until_ms=store.now_ms() + 1000, limit=100)) == set(map(task_hash, ids))
    assert list(store.repair()) == []
    for server in cluster.servers:
        with server.client() as client:
            assert client.keys("*:t:*")
            for key in client.keys("*:overdue"):
                client.delete(key)
    fixed = list(store.repair())
    assert {repair.task for repair in fixed if repair.fixed} == set(map(task_hash, ids))
    assert list(store.repair()) == []


def test_what_has_expired_is_swept_on_every_node(cluster: ClusterServers) -> None:
    clock = Clock()
    with closing(RedisTaskStore(cluster.url, clock=clock)) as store:
        for number in range(40):
            owner = Owner(f"owner-{number}")
            task_id = created(store, owner)
            store.apply(owner, task_id, Cancel())
        clock.pass_ms(40 * 86_400_000)
        due = store.due(Due.EXPIRED, limit=100)
        assert len(due) == 40
        for task_id in due:
            store.apply_sweep(task_id, Expire())
        assert counts(store).total == 0


def test_locks_and_the_last_sweep_are_one_for_all_nodes(store: RedisTaskStore) -> None:
    assert store.try_lock("sweep", for_ms=60_000)
    assert not store.try_lock("sweep", for_ms=60_000)
    assert store.last_sweep_ms() is None
    for _ in range(2):
        assert store.mark_sweep(lease_ms=60_000) == SweepMark(may_reap=True, alarm="")
    assert store.last_sweep_ms() is not None


def test_sessions_work_wherever_their_keys_are(cluster: ClusterServers) -> None:
    async def scenario() -> None:
        store = AsyncRedisTaskStore(cluster.url, deadline=PATIENCE)
        for number in range(12):
            session = Session(
                session_id=f"session-{number:016}",
                owner=ALICE,
                version="2025-11-25",
                capabilities=frozenset({ClientCapability.FORM}),
                log_level=LogLevel.INFO,
            )
            sessions = store.sessions
            await sessions.create(session)
            assert await sessions.find(ALICE, session.session_id) == session
            await sessions.take_stream(session.session_id, "stream")
            standing = await sessions.standing(session.session_id)
            assert standing is not None and standing.stream == "stream"
            assert (await sessions.take_ask_lock(f"task-{number}", "{question}", "me")).mine
            assert not (await sessions.take_ask_lock(f"task-{number}", "{question}", "you")).mine
            await sessions.remove(session.session_id)
        await store.aclose()

    asyncio.run(scenario())


def test_transitions_on_every_node_are_heard(cluster: ClusterServers, store: RedisTaskStore) -> None:
    changes = store.changes(poll=0.5)
    assert next(changes) is None
    ids = {created(store, Owner(f"owner-{number}")) for number in range(20)}
    # Nodes pass on what was published in their own time, so that something from before may come late.
    names = set(map(task_hash, ids))
    heard = (change.name for change in islice(changes, 200) if change is not None and change.name in names)
    assert set(islice(heard, 20)) == names
    changes.close()  # type: ignore[attr-defined]


def test_a_slot_that_moves_while_it_is_written_to_loses_and_doubles_nothing(
    cluster: ClusterServers, store: RedisTaskStore
) -> None:
    task_id, lease_id = claimed(store)
    enough = threading.Event()
    written: list[int] = []

    def write() -> None:
        with closing(RedisTaskStore(cluster.url, deadline=60)) as writer:
            while not enough.is_set():
                number = len(written)
                variables = {"n": JsonText(str(number)), f"n{number % 50}": JsonText(str(number))}
                writer.commit(task_id, Checkpoint(lease_id=lease_id, variables=variables))
                written.append(number)

    async def read() -> int:
        reader, reads = AsyncRedisTaskStore(cluster.url, deadline=60), 0
        while not enough.is_set():
            assert (await reader.get(ALICE, task_id)).task.phase is Phase.RUNNING
            reads += 1
        await reader.aclose()
        return reads

    reads: list[int] = []
    threads = [
        threading.Thread(target=write),
        threading.Thread(target=lambda: reads.append(asyncio.run(read()))),
    ]
    for thread in threads:
        thread.start()
    slot = key_slot(task_id[:2].encode())
    for target in (0, 1, 2, 0, 1, 2):
        if not cluster.owns(target, slot):
            cluster.move_slot(slot, target)
            before = len(written)
            wait_until(lambda before=before: len(written) > before + 3, "writes go on after a move")
    enough.set()
    for thread in threads:
        thread.join()
    variables = store.inspect(task_id).task.variables
    assert variables["n"] == str(written[-1])
    assert reads[0] > 0


def test_a_cluster_that_does_not_answer_is_reported_within_the_deadline() -> None:
    nowhere = RedisTaskStore("redis+cluster://127.0.0.1:1,127.0.0.1:2", deadline=0.3)

    def seconds_to_fail() -> float:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="refused"):
            nowhere.get(ALICE, new_task_id(ALICE, 16))
        return time.monotonic() - began

    with closing(nowhere):
        assert quickest(seconds_to_fail, 0.4) < 0.4


# --- health -----------------------------------------------------------------------------------------------


def errors(store: RedisTaskStore) -> list[Finding]:
    return [finding for finding in store.check() if finding.severity is Severity.ERROR]


def test_every_primary_is_examined(cluster: ClusterServers, store: RedisTaskStore) -> None:
    with cluster.servers[2].client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        (error,) = errors(store)
        client.config_set("maxmemory-policy", "noeviction")
    assert error.what.startswith(f"127.0.0.1:{cluster.proxies[2].port}: ")
    assert "allkeys-lru" in error.what
    assert errors(store) == []


def test_rights_are_asked_where_the_keys_are_and_asking_writes_nothing(
    cluster: ClusterServers, store: RedisTaskStore
) -> None:
    assert [store.check_permissions(role) for role in Role] == [[], [], []]
    for server in cluster.servers:
        with server.client() as client:
            assert client.dbsize() == 0
            client.execute_command("ACL", "SETUSER", "default", "-hset")
    try:
        (finding,) = store.check_permissions(Role.WORKER)
    finally:
        for server in cluster.servers:
            with server.client() as client:
                client.execute_command("ACL", "SETUSER", "default", "+hset")
    assert "may not run HSET" in finding.what


def test_primaries_without_a_replica_are_told(store: RedisTaskStore) -> None:
    assert sum("No replica" in finding.what for finding in store.check()) == 3


def test_slots_that_nobody_serves_are_an_error() -> None:
    with closing(ClusterServers(1)) as servers, closing(RedisTaskStore(servers.url)) as store:
        assert errors(store) == []
        with servers.servers[0].client() as client:
            client.config_set("cluster-require-full-coverage", "no")
            client.execute_command("CLUSTER DELSLOTSRANGE", 0, 99)
        (error,) = errors(store)
    assert "16284 of 16384 slots" in error.what


def test_another_number_of_shards_than_the_stores_is_refused(
    cluster: ClusterServers, store: RedisTaskStore
) -> None:
    assert errors(store) == []
    with closing(RedisTaskStore(cluster.url, shards=8)) as other:
        (error,) = errors(other)
    assert "laid out with 16 shards" in error.what
    assert "TASKS_SHARDS=16" in error.fix


def test_the_memory_that_is_told_is_that_of_the_fullest_node(
    cluster: ClusterServers, store: RedisTaskStore
) -> None:
    assert store.memory() is None
    with cluster.servers[1].client() as client:
        client.config_set("maxmemory", 1 << 30)
        memory = store.memory()
        client.config_set("maxmemory", 0)
    assert memory is not None and memory.maximum == 1 << 30


def test_creates_are_refused_where_the_node_is_nearly_full_and_nowhere_else(cluster: ClusterServers) -> None:
    async def refused() -> dict[str, bool]:
        told_: dict[str, bool] = {}
        store = AsyncRedisTaskStore(cluster.url, deadline=PATIENCE)
        for number in range(40):
            owner = Owner(f"owner-{number}")
            event = creation(owner, task_id=new_task_id(owner, 16))
            try:
                await store.create(event)
            except StoreFull:
                told_[event.task_id[:2]] = True
            else:
                told_[event.task_id[:2]] = False
        await store.aclose()
        return told_

    with cluster.servers[1].client() as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.1))
        by_shard = asyncio.run(refused())
        client.config_set("maxmemory", 0)
    slots = {shard: key_slot(shard.encode()) for shard in by_shard}
    assert by_shard == {shard: cluster.owns(1, slot) for shard, slot in slots.items()}
    assert set(by_shard.values()) == {True, False}
