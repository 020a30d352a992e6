"""What is damaged in Redis by a hand: what is beside it goes on, and a repair mends it."""

from __future__ import annotations

from contextlib import closing

import pytest
import redis

from tasks_service.domain.errors import CorruptRecord, StoreDamaged
from tasks_service.domain.events import Claim, Reap
from tasks_service.domain.indexes import Due
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import Phase
from tasks_service.store.redis import RedisTaskStore
from tasks_service.worker.maintenance.reap import reap_lost_leases
from tasks_service.worker.maintenance.settling import BATCH, settle_all
from tests.kit.factories import ALICE, Clock, creation
from tests.kit.waiting import wait_until


def test_one_record_that_cannot_be_read_leaves_the_rest_of_its_owners_list(redis_url: str) -> None:
    store = RedisTaskStore(redis_url)
    tasks = [store.create(creation()).task for _ in range(3)]
    with redis.Redis.from_url(redis_url) as client:
        name = task_hash(tasks[1].task_id)
        state = client.hget(f"ts:{{00}}:t:{name}", "state")
        client.hset(f"ts:{{00}}:t:{name}", "state", b"\xff")
        client.zadd("ts:{00}:owner:alice", {b"\xff": 1})
        listed = {task.task_id for task in store.page(ALICE).tasks}
        client.zrem("ts:{00}:owner:alice", b"\xff")
        client.hset(f"ts:{{00}}:t:{name}", "state", state or b"")
    assert listed == {tasks[0].task_id, tasks[2].task_id}
    store.close()


@pytest.mark.parametrize("text", ['{"task":"","digest":"d"}', '{"task":5}', "5", "no JSON"])
def test_an_idempotency_key_that_leads_nowhere_refuses_the_call(redis_url: str, text: str) -> None:
    store = RedisTaskStore(redis_url)
    with redis.Redis.from_url(redis_url) as client:
        client.set("ts:{00}:idem:alice:k", text, px=60_000)
        with pytest.raises(CorruptRecord):
            store.create(creation(idempotency="k", request_digest="d"))
        client.delete("ts:{00}:idem:alice:k")
    store.close()


def test_bytes_that_are_no_text_in_an_index_hide_no_lost_worker_from_a_sweep(redis_url: str) -> None:
    clock = Clock()
    store = RedisTaskStore(redis_url, clock=clock)
    task = store.create(creation()).task
    store.claim(task.task_id, Claim(lease_id="l", worker="w"))
    with redis.Redis.from_url(redis_url) as client:
        client.zadd("ts:{00}:leases", {b"\xff": 1})
        clock.pass_ms(60_000)
        assert settle_all(store, store.due(Due.LEASES, limit=10), Reap) == 1
        assert client.zrange("ts:{00}:leases", 0, -1) == []
    assert store.inspect(task.task_id).task.phase is Phase.PENDING
    store.close()


JUNK = 20_000


def test_junk_in_an_index_does_not_delay_what_is_behind_it(redis_url: str) -> None:
    clock = Clock()
    store = RedisTaskStore(redis_url, clock=clock)
    task = store.create(creation()).task
    store.claim(task.task_id, Claim(lease_id="l", worker="w"))
    names = [f"00{number:030x}" for number in range(JUNK // 2)] + [f"junk {n}" for n in range(JUNK // 2)]
    clock.pass_ms(60_000)
    with redis.Redis.from_url(redis_url) as client:
        client.zadd("ts:{00}:leases", dict.fromkeys(names, 0))
        assert reap_lost_leases(store, lease_ms=1) == 1
        assert client.zcard("ts:{00}:leases") == 0
    assert store.inspect(task.task_id).task.phase is Phase.PENDING
    store.close()


def test_records_that_cannot_be_read_do_not_hide_those_behind_them(redis_url: str) -> None:
    clock = Clock()
    store = RedisTaskStore(redis_url, clock=clock)
    tasks = [store.create(creation()).task for _ in range(BATCH + 3)]
    for task in tasks:
        store.claim(task.task_id, Claim(lease_id="l", worker="w"))
        clock.pass_ms(1)
    clock.pass_ms(60_000)
    with redis.Redis.from_url(redis_url) as client:
        keys = [f"ts:{{00}}:t:{task_hash(task.task_id)}" for task in tasks[:-1]]
        states = [client.hget(key, "state") for key in keys]
        for key in keys:
            client.hset(key, "state", b"\xff")
        assert reap_lost_leases(store, lease_ms=1) == 1
        for key, state in zip(keys, states, strict=True):
            client.hset(key, "state", state or b"")
    assert store.inspect(tasks[-1].task_id).task.phase is Phase.PENDING
    store.close()


def test_whatever_stands_at_a_lock_without_an_end_locks_for_as_long_as_a_lock(redis_url: str) -> None:
    store = RedisTaskStore(redis_url)
    with redis.Redis.from_url(redis_url) as client:
        client.rpush("ts:lock:sweep", "no lock")
        assert not store.try_lock("sweep", for_ms=100)
        wait_until(lambda: store.try_lock("sweep", for_ms=100))
        client.delete("ts:lock:sweep")
    store.close()


def test_a_task_is_recorded_though_an_index_of_a_wrong_type_cannot_take_it(redis_url: str) -> None:
    store = RedisTaskStore(redis_url)
    with redis.Redis.from_url(redis_url) as client:
        client.set("ts:{00}:pending:q", "no index")
        task = store.create(creation()).task
        assert store.get(ALICE, task.task_id).task.phase is Phase.PENDING
        assert all(found.fixed for found in store.repair())
        assert client.zrange("ts:{00}:pending:q", 0, -1) == [task_hash(task.task_id).encode()]
    store.close()


@pytest.mark.parametrize(
    "key", ["ts:{00}:expired", "ts:{00}:overdue", f"ts:{{00}}:live:{ALICE}", f"ts:{{00}}:blocks:{ALICE}"]
)
def test_a_create_that_cannot_be_counted_is_refused_with_the_key_and_the_remedy(
    redis_url: str, key: str
) -> None:
    with closing(RedisTaskStore(redis_url)) as store, redis.Redis.from_url(redis_url) as client:
        client.set(key, "no index")
        with pytest.raises(StoreDamaged) as refusal:
            store.create(creation())
        assert f"{key} is damaged" in str(refusal.value)
        assert refusal.value.remedy == "Run tasks-service repair."
        assert not refusal.value.may_have_applied
        if ALICE not in key:
            assert any(f"{key} is damaged" in finding.what for finding in store.check())

        assert all(found.fixed for found in store.repair())

        assert store.create(creation()).task.phase is Phase.PENDING
