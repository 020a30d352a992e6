"""What the Redis store promises beyond the common behaviour: cost, lost connections, races, outages."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any

import pytest
import redis

from tasks_service.domain.errors import CorruptRecord, InvalidTransition, QuotaExceeded, StoreUnavailable
from tasks_service.domain.events import (
    CallerLeft,
    Cancel,
    Checkpoint,
    Claim,
    CompleteWithResult,
    Create,
    Release,
)
from tasks_service.domain.limits import BLOCK_BYTES, Limits
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import JsonText, Phase, Task, TaskStatus, new_token
from tasks_service.store.changes import Change
from tasks_service.store.findings import Severity
from tasks_service.store.redis import AsyncRedisTaskStore, RedisTaskStore
from tests.kit.factories import ALICE, RESULT, RecordingOutbox, creation
from tests.kit.proxy import CuttingProxy, Verdict
from tests.kit.servers import RedisServer, free_port
from tests.kit.store_adapter import counts
from tests.kit.stored import ids_of
from tests.kit.waiting import PATIENCE, quickest


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisTaskStore]:
    store = RedisTaskStore(redis_url)
    yield store
    store.close()


@pytest.fixture
def proxy(redis_server: RedisServer, redis_url: str) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(redis_server.port)
    yield proxy
    proxy.close()


def run_to_completion(store: RedisTaskStore) -> Task:
    task = store.create(creation()).task
    lease_id = new_token()
    store.claim(task.task_id, Claim(lease_id=lease_id, worker="w", dispatched_ms=task.created_ms))
    return store.commit(task.task_id, CompleteWithResult(lease_id=lease_id, result=RESULT))


class Packets:
    """Counts what a client sends through a proxy."""

    def __init__(self, proxy: CuttingProxy) -> None:
        self.seen: list[bytes] = []
        proxy.judge = self._judge

    def _judge(self, packet: bytes) -> Verdict:
        self.seen.append(packet)
        return Verdict.PASS

    def during(self, action: Callable[[], Any]) -> int:
        self.seen.clear()
        action()
        return len(self.seen)


# --- cost -----------------------------------------------------------------------------------------------


def test_a_transition_takes_two_round_trips_and_a_poll_takes_one(proxy: CuttingProxy) -> None:
    store = RedisTaskStore(proxy.url)
    run_to_completion(store)
    packets = Packets(proxy)
    event = creation()
    lease_id = new_token()
    task_id = event.task_id
    claim = Claim(lease_id=lease_id, worker="w", dispatched_ms=1)
    assert packets.during(lambda: store.create(event)) == 2
    assert packets.during(lambda: store.claim(task_id, claim)) == 2
    note = Checkpoint(lease_id=lease_id, variables={"n": JsonText("1")})
    assert packets.during(lambda: store.commit(task_id, note)) == 2
    assert packets.during(lambda: store.get(ALICE, task_id)) == 1
    done = CompleteWithResult(lease_id=lease_id, result=RESULT)
    assert packets.during(lambda: store.commit(task_id, done)) == 2
    assert packets.during(lambda: store.get(ALICE, task_id)) == 1
    store.close()


def test_a_poll_is_two_commands_and_writes_nothing(store: RedisTaskStore, redis_server: RedisServer) -> None:
    task = run_to_completion(store)
    with redis_server.client() as client:
        client.config_resetstat()
        for _ in range(10):
            store.get(ALICE, task.task_id)
        calls = {name: stat["calls"] for name, stat in client.info("commandstats").items()}
    calls.pop("cmdstat_config|resetstat", None)
    assert calls == {"cmdstat_time": 10, "cmdstat_hmget": 10}


def test_a_finished_task_costs_at_most_three_keys_and_two_kilobytes(
    store: RedisTaskStore, redis_server: RedisServer
) -> None:
    run_to_completion(store)
    with redis_server.client() as client:
        client.memory_purge()
        before, keys = client.info("memory")["used_memory_dataset"], client.dbsize()
        for _ in range(1000):
            run_to_completion(store)
        used = (client.info("memory")["used_memory_dataset"] - before) / 1000
        assert (client.dbsize() - keys) / 1000 <= 3
    assert used <= 2048


# --- lost connections -------------------------------------------------------------------------------------

CUTS = [Verdict.CUT_BEFORE, Verdict.CUT_AFTER]


@pytest.mark.parametrize("verdict", CUTS)
@pytest.mark.parametrize("operation", ["create", "claim", "note", "complete", "cancel", "release"])
def test_an_operation_whose_exec_is_cut_is_applied_exactly_once(
    proxy: CuttingProxy, redis_url: str, operation: str, verdict: Verdict
) -> None:
    store, witness = RedisTaskStore(proxy.url), RedisTaskStore(redis_url)
    event, lease_id = creation(), new_token()
    claim = Claim(lease_id=lease_id, worker="w")
    steps: dict[str, Callable[[], Any]] = {
        "create": lambda: store.create(event),
        "claim": lambda: store.claim(event.task_id, claim),
        "note": lambda: store.commit(
            event.task_id, Checkpoint(lease_id=lease_id, variables={"n": JsonText("1")})
        ),
        "complete": lambda: store.commit(event.task_id, CompleteWithResult(lease_id=lease_id, result=RESULT)),
        "cancel": lambda: store.apply(ALICE, event.task_id, Cancel()),
        "release": lambda: store.commit(event.task_id, Release(lease_id=lease_id)),
    }
    for name in ("create", "claim"):
        if name != operation:
            steps[name]()
        if operation == "create":
            break
    revisions = len(witness.inspect(event.task_id).log) if operation != "create" else 0
    proxy.cut_exec(verdict)
    steps[operation]()
    record = witness.inspect(event.task_id)
    assert len(record.log) == revisions + (operation != "note")
    assert len({line.token for line in record.log}) == len(record.log)
    assert witness.index_problems(event.task_id) == []
    store.close()
    witness.close()


@pytest.mark.parametrize("verdict", CUTS)
def test_the_asyncio_face_settles_a_cut_exec_as_well(
    proxy: CuttingProxy, redis_url: str, verdict: Verdict
) -> None:
    async def scenario() -> Task:
        store = AsyncRedisTaskStore(proxy.url, deadline=PATIENCE)
        event = creation()
        proxy.cut_exec(verdict)
        await store.create(event)
        proxy.cut_exec(verdict)
        task = await store.apply(ALICE, event.task_id, Cancel())
        await store.aclose()
        return task

    task = asyncio.run(scenario())
    witness = RedisTaskStore(redis_url)
    assert [line.target for line in witness.inspect(task.task_id).log] == [Phase.PENDING, Phase.CANCELLED]
    witness.close()


def test_a_commit_is_recognised_although_another_writer_moved_the_task_meanwhile(
    proxy: CuttingProxy, redis_url: str
) -> None:
    store, rival = RedisTaskStore(proxy.url), RedisTaskStore(redis_url)
    event, lease_id = creation(), new_token()
    store.create(event)
    store.claim(event.task_id, Claim(lease_id=lease_id, worker="w"))

    def judge(packet: bytes) -> Verdict:
        if b"\r\nEXEC\r\n" not in packet:
            return Verdict.PASS
        proxy.judge = reread
        return Verdict.CUT_AFTER

    def reread(packet: bytes) -> Verdict:
        # The rival moves the task between the ambiguous commit and our second look at it.
        if b"WATCH" in packet:
            proxy.judge = lambda packet: Verdict.PASS
            rival.claim(event.task_id, Claim(lease_id=new_token(), worker="rival"))
        return Verdict.PASS

    proxy.judge = judge
    assert store.commit(event.task_id, Release(lease_id=lease_id)).phase is Phase.RUNNING
    log = rival.inspect(event.task_id).log
    assert [line.target for line in log] == [Phase.PENDING, Phase.RUNNING, Phase.PENDING, Phase.RUNNING]
    store.close()
    rival.close()


def test_the_message_goes_out_in_the_same_write_as_the_task(
    redis_url: str, redis_server: RedisServer
) -> None:
    store = RedisTaskStore(redis_url, outbox=RecordingOutbox())
    event, lease_id = creation(), new_token()
    store.create(event)
    store.claim(event.task_id, Claim(lease_id=lease_id, worker="w"))
    store.commit(event.task_id, Release(lease_id=lease_id))
    with redis_server.client() as client:
        messages = client.lrange(RecordingOutbox.KEY, 0, -1)
    assert [message.split()[:2] for message in messages] == [[event.task_id, "1"], [event.task_id, "0"]]
    store.close()


# --- races ------------------------------------------------------------------------------------------------


def test_of_many_workers_that_claim_at_once_exactly_one_wins(store: RedisTaskStore) -> None:
    for _ in range(20):
        task = store.create(creation()).task

        def claim(number: int, task_id: str = task.task_id) -> bool:
            try:
                store.claim(task_id, Claim(lease_id=new_token(), worker=f"w{number}"))
            except InvalidTransition:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(claim, range(8))) == 1


def test_of_a_cancel_and_a_completion_exactly_one_wins_and_the_other_is_told(store: RedisTaskStore) -> None:
    for _ in range(50):
        task, lease_id = store.create(creation()).task, new_token()
        store.claim(task.task_id, Claim(lease_id=lease_id, worker="w"))
        barrier = threading.Barrier(2)

        def race(action: Callable[[], Any], barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            try:
                action()
            except InvalidTransition:
                return False
            return True

        done = CompleteWithResult(lease_id=lease_id, result=RESULT)
        actions: list[Callable[[], Any]] = [
            lambda t=task: store.apply(ALICE, t.task_id, Cancel()),  # type: ignore[misc]
            lambda t=task, d=done: store.commit(t.task_id, d),  # type: ignore[misc]
        ]
        with ThreadPoolExecutor(2) as pool:
            cancelled, completed = pool.map(race, actions)
        assert cancelled != completed
        expected = TaskStatus.CANCELLED if cancelled else TaskStatus.COMPLETED
        assert store.get(ALICE, task.task_id).task.status is expected


@pytest.mark.parametrize("limits", [Limits(live_per_owner=20), Limits(stored_per_owner=20 * BLOCK_BYTES)])
def test_the_quota_of_an_owner_is_exact_among_racing_creators(redis_url: str, limits: Limits) -> None:
    stores = [RedisTaskStore(redis_url, limits=limits) for _ in range(4)]

    def create(number: int) -> bool:
        try:
            stores[number % 4].create(creation())
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(create, range(120))) == 20
    assert counts(stores[0]).live == 20
    for store in stores:
        store.close()


def test_a_record_of_a_release_that_did_not_count_is_read_and_counts_what_is_added(redis_url: str) -> None:
    with closing(RedisTaskStore(redis_url)) as store, redis.Redis.from_url(redis_url) as client:
        large = JsonText('"' + "a" * 2 * BLOCK_BYTES + '"')
        task, key = store.create(creation(arguments=large)).task, f"ts:{{00}}:blocks:{ALICE}"
        assert client.scard(key) == 2
        record = f"ts:{{00}}:t:{task_hash(task.task_id)}"
        state = json.loads(client.hget(record, "state") or "")
        assert state.pop("bytes") == len(large)
        client.hset(record, "state", json.dumps(state))
        client.delete(key)

        lease_id = new_token()
        assert store.claim(task.task_id, Claim(lease_id=lease_id, worker="w")).task.stored_bytes == 0
        done = store.commit(task.task_id, CompleteWithResult(lease_id=lease_id, result=large))

        assert done.stored_bytes == len(large)
        assert client.scard(key) == 2


def test_a_repair_finds_the_blocks_that_an_older_release_left_behind_and_those_that_are_lost(
    redis_url: str,
) -> None:
    with closing(RedisTaskStore(redis_url)) as store, redis.Redis.from_url(redis_url) as client:
        large = JsonText('"' + "a" * 3 * BLOCK_BYTES + '"')
        name = task_hash(store.create(creation(arguments=large)).task.task_id)
        key, removed = f"ts:{{00}}:blocks:{ALICE}", task_hash(creation().task_id)
        client.srem(key, f"{name}:0", f"{name}:2")
        client.sadd(key, f"{removed}:0", f"{name}:3", "odd")

        told = {found.what for found in store.repair(dry_run=True)}
        assert told == {
            f"{key}: lacks 2 blocks of it",
            f"{key}: counts the block '{removed}:0', which is stored of no task",
            f"{key}: counts the block '{name}:3', which is stored of no task",
            f"{key}: counts the block 'odd', which is stored of no task",
        }
        assert all(found.fixed for found in store.repair())
        assert client.smembers(key) == {f"{name}:{number}".encode() for number in range(3)}
        assert client.pttl(key) > 0
        assert not list(store.repair())


# --- outages ------------------------------------------------------------------------------------------------


def test_an_unreachable_redis_is_reported_within_the_deadline() -> None:
    store = RedisTaskStore(f"redis://127.0.0.1:{free_port()}/0", deadline=0.3)

    def seconds_to_fail() -> float:
        event, started = creation(), time.monotonic()
        with pytest.raises(StoreUnavailable) as unavailable:
            store.create(event)
        assert unavailable.value.token == event.token
        return time.monotonic() - started

    assert quickest(seconds_to_fail, 1.0) < 1.0
    store.close()


def test_the_asyncio_store_reports_a_redis_that_accepts_and_never_answers(redis_url: str) -> None:
    async def scenario() -> float:
        async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        server = await asyncio.start_server(swallow, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        store = AsyncRedisTaskStore(f"redis://127.0.0.1:{port}/0", deadline=0.3)
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.get(ALICE, "00x")
        elapsed = time.monotonic() - started
        await store.aclose()
        server.close()
        return elapsed

    assert quickest(lambda: asyncio.run(scenario()), 1.0) < 1.0


def test_a_store_that_comes_back_is_used_again() -> None:
    server = RedisServer("--appendonly", "yes", "--appendfsync", "always")
    store = RedisTaskStore(server.url, deadline=5.0)
    task = store.create(creation()).task
    server.kill()
    starting = threading.Timer(0.3, server.start)
    starting.start()
    assert store.get(ALICE, task.task_id).task == task
    starting.join()
    store.close()
    server.close()


def test_a_full_redis_refuses_with_a_hint_and_changes_nothing(
    store: RedisTaskStore, redis_server: RedisServer
) -> None:
    task = store.create(creation()).task
    with redis_server.client() as client:
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreUnavailable, match="out of memory"):
                store.create(creation())
            assert store.get(ALICE, task.task_id).task == task
        finally:
            client.config_set("maxmemory", "0")
    assert counts(store).total == 1
    assert store.create(creation()).task.phase is Phase.PENDING


@pytest.mark.damages
def test_a_key_of_the_wrong_type_is_reported_as_damage(
    store: RedisTaskStore, redis_server: RedisServer
) -> None:
    event = creation()
    with redis_server.client() as client:
        client.set(f"ts:{{00}}:t:{task_hash(event.task_id)}", "not a hash")
    with pytest.raises(CorruptRecord):
        store.get(ALICE, event.task_id)
    with pytest.raises(CorruptRecord):
        store.create(event)


@pytest.mark.damages
def test_a_record_of_another_schema_version_is_not_guessed_at(
    store: RedisTaskStore, redis_server: RedisServer
) -> None:
    task = store.create(creation()).task
    with redis_server.client() as client:
        client.hset(f"ts:{{00}}:t:{task_hash(task.task_id)}", "v", "99")
    with pytest.raises(CorruptRecord, match="schema version"):
        store.get(ALICE, task.task_id)


def test_a_record_from_before_callers_could_leave_is_read_as_one_that_nobody_left(
    store: RedisTaskStore, redis_server: RedisServer
) -> None:
    task = store.create(creation(visible=False)).task
    with redis_server.client() as client:
        state = client.hget(f"ts:{{00}}:t:{task_hash(task.task_id)}", "state")
    assert state is not None
    assert "return_by_ms" not in state

    assert store.get(task.owner, task.task_id, hidden=True).task.return_by_ms == 0
    left = store.apply(task.owner, task.task_id, CallerLeft(within_ms=60_000), hidden=True)
    assert store.inspect(task.task_id).task == left


def test_a_task_that_was_removed_is_not_brought_back_by_a_late_write(
    store: RedisTaskStore, redis_server: RedisServer
) -> None:
    task, lease_id = store.create(creation()).task, new_token()
    store.claim(task.task_id, Claim(lease_id=lease_id, worker="w"))
    with redis_server.client() as client:
        client.flushall()
        with pytest.raises(Exception, match="not found"):
            store.commit(task.task_id, CompleteWithResult(lease_id=lease_id, result=RESULT))
        assert client.dbsize() == 0


# --- push, health, shards -----------------------------------------------------------------------------------


def test_every_logged_transition_is_published(store: RedisTaskStore, redis_url: str) -> None:
    listener = RedisTaskStore(redis_url)
    changes = listener.changes(poll=0.2)
    assert next(changes) is None
    task = run_to_completion(store)
    seen = [change for change in islice(changes, 3) if change is not None]
    assert seen == [Change(task_hash(task.task_id), revision) for revision in range(3)]
    changes.close()  # type: ignore[attr-defined]
    listener.close()


def test_the_asyncio_subscription_says_when_it_was_made_again(
    redis_url: str, redis_server: RedisServer
) -> None:
    async def scenario() -> list[Change | None]:
        store = AsyncRedisTaskStore(redis_url, deadline=PATIENCE)
        changes = store.changes()
        seen = [await anext(changes)]
        event = creation()
        await store.create(event)
        seen.append(await anext(changes))
        with redis_server.client() as client:
            client.client_kill_filter(_type="pubsub")
        seen.append(await asyncio.wait_for(anext(changes), 5))
        await changes.aclose()  # type: ignore[attr-defined]
        await store.aclose()
        return seen

    first, change, again = asyncio.run(scenario())
    assert first is None and again is None
    assert change is not None and change.revision == 0


def test_an_evicting_redis_is_an_error_that_says_how_to_mend_it(
    store: RedisTaskStore, redis_server: RedisServer
) -> None:
    with redis_server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            worst = store.check()[0]
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert worst.severity is Severity.ERROR
    assert "noeviction" in worst.fix
    assert all(finding.severity is Severity.WARNING for finding in store.check())


def test_each_owner_keeps_to_one_shard_and_all_shards_are_swept(redis_url: str) -> None:
    from tasks_service.domain.names import new_task_id
    from tasks_service.domain.task import Owner

    store = RedisTaskStore(redis_url, shards=8)
    owners = [Owner(f"owner-{number}") for number in range(40)]
    for owner in owners:
        event: Create = creation(owner, task_id=new_task_id(owner, 8))
        store.create(event)
        assert store.get(owner, event.task_id).task.owner == owner
        assert store.index_problems(event.task_id) == []
    assert len(ids_of(store)) == 40
    assert len({task_id[:2] for task_id in ids_of(store)}) > 4
    store.close()


def test_connections_are_bounded_and_work_waits_for_one(redis_url: str, redis_server: RedisServer) -> None:
    store = RedisTaskStore(redis_url, pool=3)
    with redis_server.client() as client:
        before = len(client.client_list())
        with ThreadPoolExecutor(24) as pool:
            list(pool.map(lambda _: run_to_completion(store), range(100)))
        assert len(client.client_list()) - before <= 3
    store.close()


@pytest.mark.parametrize("face", ["blocking", "asyncio"])
def test_a_connection_that_answers_readonly_is_given_up_for_a_new_one(face: str) -> None:
    """As behind an address that another server takes over, while old connections still lead to the first."""
    first, second = RedisServer(), RedisServer()
    with closing(first), closing(second), closing(CuttingProxy(first.port)) as proxy:

        def demote() -> None:
            with first.client() as client:
                client.replicaof("127.0.0.1", 1)
            proxy.target = second.port

        async def scenario() -> None:
            store = AsyncRedisTaskStore(proxy.url, pool=1, deadline=PATIENCE)
            await store.create(creation())
            demote()
            await store.create(creation())
            await store.aclose()

        if face == "asyncio":
            asyncio.run(scenario())
        else:
            with closing(RedisTaskStore(proxy.url, pool=1)) as store:
                store.create(creation())
                demote()
                store.create(creation())
        with closing(RedisTaskStore(second.url)) as witness:
            assert counts(witness).total == 1


def test_the_librarys_own_retries_are_off(redis_url: str) -> None:
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.retry import Retry

    from tasks_service.store.redis.connection import connection_options
    from tasks_service.store.redis.redis_py import retries

    for kind in (Retry, AsyncRetry):
        options = connection_options(kind)
        assert retries(options["retry"]) == 0
    assert retries(redis.Redis(**connection_options(Retry)).get_retry()) == 0


@pytest.mark.parametrize("packed", [("PING",), ("SET", "k\u00e4se", 1, 1.5, b"\xff\x00", -3), ("ECHO", 1e22)])
def test_a_command_is_packed_without_hiredis_as_hiredis_packs_it(packed: Any) -> None:
    hiredis = pytest.importorskip("hiredis")
    from tasks_service.store.redis.redis_py import pack_in_python

    assert pack_in_python(packed) == hiredis.pack_command(packed)
