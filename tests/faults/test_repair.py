"""What `repair` finds and fixes in a store that was damaged by hand, and that it leaves a sound one alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tasks_service.cli import commands
from tasks_service.domain.errors import TaskNotFound, TasksServiceError
from tasks_service.domain.events import (
    AnswerInput,
    Cancel,
    Checkpoint,
    Claim,
    CompleteWithResult,
    FailWithError,
    Question,
    Release,
    RequestInput,
)
from tasks_service.domain.limits import Limits
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import (
    EntryKind,
    Failure,
    FailureKind,
    JournalEntry,
    JsonText,
    Owner,
    Phase,
    Task,
    TaskStatus,
    new_token,
)
from tasks_service.failpoints import VARIABLE
from tasks_service.store.redis import RedisTaskStore
from tests.kit.audit import audit, told
from tests.kit.factories import ALICE, BOB, RESULT, creation
from tests.kit.servers import RedisServer

from .points import Kind, places

REPAIRS = int(os.environ.get("TASKS_TEST_REPAIRS", "1"))
Damage = Callable[[Any, "Store"], None]


class Store:
    """A store with one task in each phase, one that waits for another's slot, and one for its turn."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.store = RedisTaskStore(url, limits=Limits(running_per_owner={"gpu": 1}))
        self.pending = self.create()
        self.running, self.lease_id = self.run()
        step = JournalEntry(kind=EntryKind.STEP, name="s", digest="d", value=JsonText("[1]"))
        self.store.commit(self.running.task_id, Checkpoint(lease_id=self.lease_id, step=step, step_index=0))
        self.parked, lease_id = self.run()
        asked = {"a": Question(request=JsonText("{}"))}
        self.store.commit(self.parked.task_id, RequestInput(lease_id=lease_id, inputs=asked))
        self.completed = self.complete()
        self.failed, lease_id = self.run()
        failure = Failure(kind=FailureKind.AUTHOR, message="no", code=-1)
        self.store.commit(self.failed.task_id, FailWithError(lease_id=lease_id, failure=failure))
        self.cancelled = self.create(idempotency="k", request_digest="d")
        self.store.apply(ALICE, self.cancelled.task_id, Cancel())
        self.seated, self.waiting = self.create(queue="gpu"), self.create(queue="gpu")
        _, self.in_line = (self.create(queue="shared", takes_turns=True) for _ in range(2))

    def complete(self) -> Task:
        task, lease_id = self.run()
        return self.store.commit(task.task_id, CompleteWithResult(lease_id=lease_id, result=RESULT))

    def create(self, **options: Any) -> Task:
        return self.store.create(creation(**options)).task

    def run(self) -> tuple[Task, str]:
        task, lease_id = self.create(), new_token()
        self.store.claim(task.task_id, Claim(lease_id=lease_id, worker="w"))
        return task, lease_id

    def phase(self, task: Task) -> Phase:
        return self.store.get(ALICE, task.task_id).task.phase


@pytest.fixture
def damaged(redis_url: str, sound_store: None) -> Iterator[Store]:
    """A sound store to be damaged; every test leaves it sound again, or says that it cannot be."""
    store = Store(redis_url)
    assert audit(redis_url) == []
    yield store
    store.store.close()


TAG = "ts:{00}"
LANE = f"{ALICE}:gpu"
FAR_MS = 10**13


def name(task: Task) -> str:
    return task_hash(task.task_id)


def key(task: Task, kind: str = "t") -> str:
    return f"{TAG}:{kind}:{name(task)}"


def with_key(client: Any, task: Task) -> str:
    return json.dumps({**json.loads(client.hget(key(task), "state")), "idempotency": "own"})


def remembered(task_id: str) -> str:
    return json.dumps({"task": task_id, "digest": "d"})


DAMAGES: dict[str, Damage] = {
    "a record is gone, and its entries are left": lambda c, s: c.delete(key(s.running), key(s.running, "l")),
    "a record is gone, and its log is left": lambda c, s: c.delete(key(s.pending)),
    "all indexes are gone": lambda c, s: c.delete(
        *(f"{TAG}:{index}" for index in ("expired", "overdue", "leases", "pending:q", "queues"))
    ),
    "the owner's list is gone": lambda c, s: c.delete(f"{TAG}:owner:{ALICE}"),
    "an entry of each index is gone": lambda c, s: [
        c.zrem(f"{TAG}:{index}", name(s.running)) for index in ("expired", "overdue", "leases")
    ],
    "the scores are wrong": lambda c, s: [
        c.zadd(f"{TAG}:{index}", {name(s.running): 7}) for index in ("expired", "overdue", "leases")
    ],
    "a task that is over is in the working lists": lambda c, s: [
        c.zadd(f"{TAG}:{index}", {name(s.completed): 7})
        for index in ("overdue", "leases", "timers", "pending:q")
    ],
    "a task is pending in another queue": lambda c, s: c.zadd(f"{TAG}:pending:other", {name(s.pending): 7}),
    "the quota counts a task that is over": lambda c, s: c.sadd(f"{TAG}:live:{ALICE}", name(s.failed)),
    "the quota counts a task that is not there": lambda c, s: c.sadd(f"{TAG}:live:{ALICE}", "00nobody"),
    "the quota misses a task": lambda c, s: c.srem(f"{TAG}:live:{ALICE}", name(s.running)),
    "another owner's lists have it": lambda c, s: [
        c.sadd(f"{TAG}:live:{BOB}", name(s.running)),
        c.zadd(f"{TAG}:owner:{BOB}", {name(s.running): 7}),
        c.expire(f"{TAG}:live:{BOB}", 1000),
        c.expire(f"{TAG}:owner:{BOB}", 1000),
    ],
    "an index holds what is no text": lambda c, s: [
        c.zadd(f"{TAG}:{index}", {b"\xff": 1})
        for index in ("leases", "overdue", "timers", "expired", "pending:q")
    ],
    "indexes of words hold what is none": lambda c, s: [
        c.sadd(f"{TAG}:queues", b"\xff"),
        c.sadd(f"{TAG}:concurrency_keys", "no owner"),
        c.zadd(f"{TAG}:overtaken", {"q": "inf"}),
        c.hset(f"{TAG}:beat", "reap", "never"),
        c.hset(f"{TAG}:dropped", "q", "many"),
    ],
    "indexes are of a wrong type": lambda c, s: [
        (c.delete(f"{TAG}:{index}"), c.set(f"{TAG}:{index}", "x"))
        for index in ("leases", "queues", f"live:{ALICE}")
    ],
    "a log cannot be read": lambda c, s: c.lset(key(s.running, "l"), 0, b"\xff"),
    "a log is of a wrong type": lambda c, s: (c.delete(key(s.running, "l")), c.set(key(s.running, "l"), "x")),
    "a log is gone": lambda c, s: c.delete(key(s.parked, "l")),
    "a result is not JSON": lambda c, s: c.hset(key(s.completed), "result", b"\xff"),
    "an exception cannot be read": lambda c, s: c.hset(key(s.failed), "exception", "x"),
    "an idempotency key of a living task holds nonsense": lambda c, s: [
        c.hset(key(s.pending), "state", with_key(c, s.pending)),
        c.set(f"{TAG}:idem:{ALICE}:own", "null", px=9999),
    ],
    "a suspect is not there": lambda c, s: c.zadd(f"{TAG}:suspects", {"00nobody": 7}),
    "an idempotency key leads nowhere": lambda c, s: c.set(
        f"{TAG}:idem:{ALICE}:x", remembered("00nobody"), px=9999
    ),
    "an idempotency key holds nonsense": lambda c, s: c.set(f"{TAG}:idem:{ALICE}:x", "00nobody|d", px=9999),
    "an idempotency key leads to a task of another key": lambda c, s: c.set(
        f"{TAG}:idem:{ALICE}:x", remembered(s.pending.task_id), px=9999
    ),
    "a slot is gone": lambda c, s: c.delete(f"{TAG}:slots:{LANE}"),
    "a slot is a ghost's": lambda c, s: c.zadd(f"{TAG}:slots:{LANE}", {"00nobody": FAR_MS}),
    "a slot is that of a task that is over": lambda c, s: c.zadd(
        f"{TAG}:slots:{LANE}", {name(s.completed): FAR_MS}
    ),
    "whoever waits is not called": lambda c, s: c.delete(f"{TAG}:waiting:{LANE}"),
    "whoever has a slot waits as well": lambda c, s: c.zadd(f"{TAG}:waiting:{LANE}", {name(s.seated): 7}),
    "nobody knows whose turn it is": lambda c, s: c.delete(f"{TAG}:turns:shared"),
    "what says whose turn it is is of a wrong type": lambda c, s: [
        c.delete(f"{TAG}:turns:shared"),
        c.set(f"{TAG}:turns:shared", "x"),
    ],
    "no sweep looks where one waits": lambda c, s: c.delete(f"{TAG}:concurrency_keys"),
    "a record never ends": lambda c, s: [c.persist(key(s.running)), c.persist(key(s.running, "l"))],
    "a journal has entries beyond its end": lambda c, s: c.hset(key(s.running), "j:1", "[]"),
    "a completed task has no result": lambda c, s: c.hdel(key(s.completed), "result"),
    "a failed task has no error": lambda c, s: c.hdel(key(s.failed), "failure"),
    "a parked task has no questions": lambda c, s: c.hdel(key(s.parked), "inputs"),
    "a running task has lost a step": lambda c, s: c.hdel(key(s.running), "j:0"),
    "a cancelled task has a result": lambda c, s: c.hset(key(s.cancelled), "result", "{}"),
    "a cancelled task has an error": lambda c, s: c.hset(
        key(s.cancelled), "failure", '{"kind":"author","message":"m","code":1,"data":null}'
    ),
    "a running task has questions": lambda c, s: c.hset(
        key(s.running), "inputs", '{"a":{"request":"{}","deadline":1}}'
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_reported_in_a_dry_run_fixed_by_a_repair_and_gone_afterwards(
    damaged: Store, redis_server: RedisServer, damage: Damage
) -> None:
    with redis_server.client() as client:
        damage(client, damaged)
        before = client.dbsize()
        violations = audit(damaged.url)
        found = list(damaged.store.repair(dry_run=True))
        assert found and not any(repair.fixed for repair in found)
        assert audit(damaged.url) == violations
        assert client.dbsize() == before
    fixed = list(damaged.store.repair())
    assert fixed and all(repair.fixed for repair in fixed)
    assert list(damaged.store.repair()) == []
    left = audit(damaged.url)
    assert left == [], told(left)


@pytest.mark.parametrize(
    ("which", "field", "sentence"),
    [
        ("completed", "result", "result was lost"),
        ("failed", "failure", "error was lost"),
        ("parked", "inputs", "questions were lost"),
        ("running", "j:0", "recorded step"),
    ],
)
def test_a_zombie_becomes_a_failure_that_says_why(
    damaged: Store, redis_server: RedisServer, which: str, field: str, sentence: str
) -> None:
    task: Task = getattr(damaged, which)
    with redis_server.client() as client:
        client.hdel(key(task), field)
    list(damaged.store.repair())
    view = damaged.store.get(ALICE, task.task_id)
    assert view.task.status is TaskStatus.FAILED
    assert view.task.failure is not None and view.task.failure.kind is FailureKind.DAMAGED
    assert sentence in view.task.failure.message
    assert damaged.store.inspect(task.task_id).log[-1].actor == "repair"


def test_a_quota_that_was_used_up_by_ghosts_is_free_again(damaged: Store, redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.sadd(f"{TAG}:live:{ALICE}", *(f"00ghost{number}" for number in range(2_000)))
        assert len(list(damaged.store.repair())) == 2_000
        assert client.scard(f"{TAG}:live:{ALICE}") == 7


def test_a_record_that_cannot_be_read_is_told_and_moved_aside_only_when_asked(
    damaged: Store, redis_server: RedisServer
) -> None:
    with redis_server.client() as client:
        client.hset(key(damaged.running), "state", "{broken")
        assert [repair.fixed for repair in damaged.store.repair()] == [False]
        assert client.exists(key(damaged.running))
        list(damaged.store.repair(quarantine=True))
        assert client.hget(key(damaged.running, "quarantine"), "state") == "{broken"
        assert 0 < client.ttl(key(damaged.running, "quarantine")) <= 30 * 86_400
    with pytest.raises(TaskNotFound):
        damaged.store.get(ALICE, damaged.running.task_id)


@pytest.mark.damages
def test_a_record_of_another_schema_version_is_never_moved(damaged: Store, redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        client.hset(key(damaged.running), "v", "99")
        found = list(damaged.store.repair(quarantine=True))
        assert [repair.fixed for repair in found] == [False]
        assert client.hget(key(damaged.running), "v") == "99"
        assert client.sismember(f"{TAG}:live:{ALICE}", name(damaged.running))


@pytest.mark.damages
def test_a_broken_index_is_moved_aside_and_made_anew_and_never_costs_a_record(
    damaged: Store, redis_server: RedisServer
) -> None:
    with redis_server.client() as client:
        client.set(f"{TAG}:leases", "not a set")
        found = list(damaged.store.repair(quarantine=True))
        assert found and all(repair.fixed for repair in found)
        assert client.keys(f"{TAG}:quarantine:*") == [f"{TAG}:quarantine:leases"]
        assert client.zrange(f"{TAG}:leases", 0, -1) == [name(damaged.running)]
        assert client.exists(key(damaged.running))


@pytest.mark.damages
def test_a_log_that_tells_another_story_is_told_and_left_to_people(
    damaged: Store, redis_server: RedisServer
) -> None:
    with redis_server.client() as client:
        client.rpop(key(damaged.completed, "l"))
    (found,) = damaged.store.repair()
    assert not found.fixed and "its log ends in running" in found.what


def test_a_repair_finds_nothing_in_a_sound_store_under_traffic(damaged: Store) -> None:
    stop = threading.Event()
    problems: list[BaseException] = []

    def traffic(owner: Owner) -> None:
        store = RedisTaskStore(damaged.url)
        try:
            while not stop.is_set():
                lives_once(store, owner)
                time.sleep(0.01)  # so that a walk on a small machine is faster than what it walks along
        except BaseException as error:
            problems.append(error)
        finally:
            store.close()

    threads = [threading.Thread(target=traffic, args=(Owner(f"owner{number}"),)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        found = []
        while len(set(damaged.store.task_names())) < 100 and not problems:
            found += damaged.store.repair()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not problems
    assert found == []


def lives_once(store: RedisTaskStore, owner: Owner) -> None:
    """A task goes through every phase."""
    task_id, first, second = store.create(creation(owner, idempotency=new_token())).task.task_id, *pair()
    store.claim(task_id, Claim(lease_id=first, worker="w"))
    store.commit(task_id, Release(lease_id=first))
    store.claim(task_id, Claim(lease_id=second, worker="w"))
    asked = {"a": Question(request=JsonText("{}"))}
    store.commit(task_id, RequestInput(lease_id=second, inputs=asked))
    answer = JsonText("1")
    store.apply(owner, task_id, AnswerInput(answers={"a": answer}))
    third = new_token()
    store.claim(task_id, Claim(lease_id=third, worker="w"))
    store.commit(task_id, CompleteWithResult(lease_id=third, result=RESULT))


def pair() -> tuple[str, str]:
    return new_token(), new_token()


def test_the_command_tells_in_a_dry_run_mends_and_then_finds_nothing(
    damaged: Store, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKS_REDIS_URL", damaged.url)
    with redis_server.client() as client:
        client.hdel(key(damaged.completed), "result")
    dry = CliRunner().invoke(commands, ["repair", "--dry-run", "--json"])
    assert dry.exit_code == 1
    assert {json.loads(line)["fixed"] for line in dry.stdout.splitlines()} == {False}
    fixed = CliRunner().invoke(commands, ["repair"])
    assert fixed.exit_code == 0 and name(damaged.completed) in fixed.stdout
    again = CliRunner().invoke(commands, ["repair"])
    assert again.exit_code == 0 and again.stdout == "" and "Nothing is wrong" in again.stderr
    with pytest.raises(TasksServiceError):
        damaged.store.inspect("00nobody")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("point", [place.point for place in places() if place.kind is Kind.REPAIR])
def test_a_repair_that_is_killed_has_fixed_a_task_or_left_it_and_another_fixes_the_rest(
    damaged: Store,
    redis_server: RedisServer,
    tmp_path: Path,
    point: str,
    measured: Callable[[str, str], None],
) -> None:
    environment = {**os.environ, "TASKS_REDIS_URL": damaged.url, VARIABLE: str(tmp_path)}
    for _ in range(REPAIRS):
        broken = [damaged.complete() for _ in range(3)]
        with redis_server.client() as client:
            for task in broken:
                client.hdel(key(task), "result")
        (tmp_path / point).write_text("kill")
        killed = subprocess.run([sys.executable, "-m", "tasks_service", "repair"], env=environment)
        assert killed.returncode == -9
        fixed = [task for task in broken if damaged.phase(task) is Phase.FAILED]
        assert len(fixed) == point.endswith("after")
        assert {repair.task for repair in damaged.store.repair()} == {
            name(task) for task in broken if task not in fixed
        }
        left = audit(damaged.url)
        assert left == [], told(left)
    measured("R2", f"repair killed at {point}, {REPAIRS} times: what it had not fixed the next one did")
