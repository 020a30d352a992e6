"""Two that sweep at once, nobody for half a minute, one that died with the lock: nothing happens twice."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.pool
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from tasks_service.broker.dispatcher import Dispatcher
from tasks_service.domain.errors import TaskNotFound
from tasks_service.domain.events import Cancel, Claim, CompleteWithResult, Question, RequestInput, Retry
from tasks_service.domain.task import MINUTE, SECOND, JsonText, Phase, Policy, Task, TaskStatus, new_token
from tasks_service.service import TaskService
from tasks_service.settings import Settings
from tasks_service.store.redis import RedisTaskStore
from tasks_service.worker.maintenance.thread import Sweeper, Swept
from tests.kit.audit import audit, told
from tests.kit.factories import ALICE, Clock, creation
from tests.kit.servers import RedisServer
from tests.kit.store_adapter import counts
from tests.kit.waiting import wait_until
from tests.kit.workers import client_of, worker_node

from .served import Process
from .toxic_app import service

EACH = int(os.environ.get("TASKS_TEST_SWEPT", "60"))
"""Tasks of each kind that two sweepers meet at once."""

EXPIRED = int(os.environ.get("TASKS_TEST_EXPIRED", "1000"))
TRIPS_OF_A_REMOVAL = 10
"""What removing a task may cost of CPU, in bare round trips: twice what it does."""

INTERVAL = 0.5
"""Seconds between two sweeps, for a sweeper that dies."""

QUEUE = "ts:mq:tasks"
BESIDE = (r"ts:mq:.*",)
PASSING = Policy(lease_ms=SECOND, ttl_ms=1, retention_ms=1, queue_timeout_ms=SECOND, timeout_ms=MINUTE)
LASTING = Policy(lease_ms=SECOND, timeout_ms=MINUTE)
Measured = Callable[[str, str], None]
_starts: list[Barrier] = []
"""In a process that sweeps: where it meets the other, before each sweep."""


class Shard:
    """A store, its messages, and a clock that stands still until it is told to go on."""

    def __init__(self, url: str, now_ms: int | None = None, kind: type[RedisTaskStore] = RedisTaskStore):
        self.clock = Clock()
        self.clock.now_ms = now_ms or self.clock.now_ms
        app = TaskService("Sweepers", settings=Settings(_env_file=None, redis_url=url)).celery
        self.outbox = Dispatcher(app, redis_url=url)
        self.store = kind(url, outbox=self.outbox, clock=self.clock)
        self.sweeper = Sweeper(self.store, self.outbox, interval=0.001)

    def create(self, policy: Policy) -> Task:
        return self.store.create(creation(queue="tasks", policy=policy)).task

    def running(self, policy: Policy = LASTING) -> tuple[Task, str]:
        task, lease_id = self.create(policy), new_token()
        return self.store.claim(task.task_id, Claim(lease_id=lease_id, worker="w")).task, lease_id

    def retrying(self) -> Task:
        task, lease_id = self.running()
        otherwise = CompleteWithResult(lease_id=lease_id, result=JsonText("{}"))
        retry = Retry(lease_id=lease_id, delay_ms=SECOND, otherwise=otherwise)
        return self.store.commit(task.task_id, retry)

    def asking(self) -> Task:
        task, lease_id = self.running()
        asked = {"a": Question(request=JsonText("{}"), open_ms=SECOND)}
        return self.store.commit(task.task_id, RequestInput(lease_id=lease_id, inputs=asked))

    def expiring(self) -> Task:
        """A task that is over, and goes after a second."""
        return self.store.apply(ALICE, self.create(PASSING).task_id, Cancel())

    def phases(self, tasks: list[Task]) -> Counter[Phase]:
        return Counter(self.store.inspect(task.task_id).task.phase for task in tasks)

    def close(self) -> None:
        self.outbox.close()
        self.store.close()


@pytest.fixture
def shard(redis_url: str) -> Iterator[Shard]:
    shard = Shard(redis_url)
    yield shard
    shard.close()
    found = audit(redis_url, beside=BESIDE)
    assert not found, told(found)


class Unlocked(RedisTaskStore):
    """A store whose locks hold nobody up: each sweeper believes that it is alone."""

    def try_lock(self, name: str, *, for_ms: int) -> bool:
        return True


def _meet_at(barrier: Barrier) -> None:
    _starts.append(barrier)


def sweep(url: str, now_ms: int, times: int) -> list[Swept]:
    """Sweep that often, at the same moments as the others."""
    shard = Shard(url, now_ms, Unlocked)
    done = []
    for _ in range(times):
        _starts[0].wait(60)
        done.append(shard.sweeper.sweep())
    shard.close()
    return [swept for swept in done if swept is not None]


@pytest.fixture
def two() -> Iterator[multiprocessing.pool.Pool]:
    """Two processes that sweep."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(2, _meet_at, (context.Barrier(2),)) as pool:
        yield pool
        pool.close()
        pool.join()


@pytest.mark.timeout(300)
def test_two_that_sweep_at_once_move_each_task_once_and_send_each_message_once(
    shard: Shard,
    two: multiprocessing.pool.Pool,
    redis_url: str,
    redis_server: RedisServer,
    measured: Measured,
) -> None:
    shard.sweeper.sweep()
    makers: dict[str, Callable[[], Task]] = {
        "leases": lambda: shard.running()[0],
        "timers": shard.retrying,
        "overdue": shard.asking,
        "expired": shard.expiring,
    }
    tasks = {kind: [make() for _ in range(EACH)] for kind, make in makers.items()}
    with redis_server.client() as client:
        client.delete(QUEUE)
        shard.clock.pass_ms(2 * SECOND)
        sides = two.starmap(sweep, [(redis_url, shard.clock(), 3)] * 2, chunksize=1)
        messages = [json.loads(message) for message in client.lrange(QUEUE, 0, -1)]

    moved = {kind: sum(getattr(swept, kind) for side in sides for swept in side) for kind in tasks}
    assert moved == dict.fromkeys(tasks, EACH)
    assert shard.phases(tasks["leases"] + tasks["timers"]) == {Phase.PENDING: 2 * EACH}
    assert shard.phases(tasks["overdue"]) == {Phase.FAILED: EACH}
    assert len({message["headers"]["id"] for message in messages}) == len(messages) == 2 * EACH
    both = sum(bool(side[0].leases or side[0].expired) for side in sides)
    measured("R16", f"two sweepers at once, {4 * EACH} tasks due, {both} at work: 0 moved or sent twice")


@pytest.mark.timeout(300)
def test_a_backlog_of_expired_tasks_is_removed_in_a_sweep(
    shard: Shard, redis_server: RedisServer, measured: Measured
) -> None:
    for _ in range(EXPIRED):
        shard.expiring()
    shard.clock.pass_ms(MINUTE)
    with redis_server.client() as client:
        began = time.process_time()
        for _ in range(500):
            client.ping()
        trip = (time.process_time() - began) / 500

    began, spent, removed, sweeps = time.perf_counter(), time.process_time(), 0, 0
    while removed < EXPIRED:
        if (swept := shard.sweeper.sweep()) is not None:
            removed, sweeps = removed + swept.expired, sweeps + 1
    each = (time.perf_counter() - began) / EXPIRED
    cost = (time.process_time() - spent) / EXPIRED  # whatever else the machine does

    assert counts(shard.store).total == 0
    assert cost < TRIPS_OF_A_REMOVAL * trip
    measured(
        "R16",
        f"{EXPIRED} expired tasks in {sweeps} sweeps: {1 / each:,.0f} a second, "
        f"the CPU of {cost / trip:.1f} bare round trips each",
    )


def test_while_nobody_sweeps_for_half_a_minute_reads_are_right_and_one_sweep_catches_up(
    shard: Shard, measured: Measured
) -> None:
    shard.sweeper.sweep()
    lost, asking, going = shard.running()[0], shard.asking(), [shard.expiring() for _ in range(20)]
    shard.clock.pass_ms(30 * SECOND)

    for task in going:
        with pytest.raises(TaskNotFound):
            shard.store.get(ALICE, task.task_id)
    assert {task.task_id for task in shard.store.page(ALICE).tasks} == {lost.task_id, asking.task_id}
    seen = shard.store.get(ALICE, asking.task_id).task
    assert (seen.status, seen.updated_ms) == (TaskStatus.FAILED, shard.clock() - 29 * SECOND)

    shard.sweeper = Sweeper(shard.store, shard.outbox, interval=0.001, lease_ms=LASTING.lease_ms)
    first = _swept(shard)
    assert (first.expired, first.overdue, first.leases) == (len(going), 1, 0)
    assert shard.store.get(ALICE, asking.task_id).task == seen
    reaped = []
    for _ in range(2):  # at one go, it would be another pause in which nobody swept
        shard.clock.pass_ms(LASTING.lease_ms // 2 + 1)
        reaped.append(_swept(shard).leases)
    assert reaped == [0, 1]
    assert shard.phases([lost]) == {Phase.PENDING: 1}
    measured("R16", "nobody for 30 s: one sweep catches up, and reaps after one more lease")


def _swept(shard: Shard) -> Swept:
    while (swept := shard.sweeper.sweep()) is None:
        time.sleep(0.001)
    return swept


class Deadly(RedisTaskStore):
    """A store that kills whoever looks for what is due."""

    def due(self, *_: Any, **__: Any) -> list[str]:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it lives")


def sweep_and_die(url: str) -> None:
    """Begin to sweep, and die with the lock."""
    shard = Shard(url, kind=Deadly)
    Sweeper(shard.store, shard.outbox, interval=INTERVAL).sweep()


def test_a_sweeper_that_dies_with_the_lock_holds_up_the_others_for_one_interval_at_most(
    shard: Shard, redis_url: str, redis_server: RedisServer
) -> None:
    task = shard.expiring()
    shard.clock.pass_ms(MINUTE)
    dying = multiprocessing.get_context("spawn").Process(target=sweep_and_die, args=(redis_url,))
    dying.start()
    dying.join(60)
    assert dying.exitcode == -signal.SIGKILL
    with redis_server.client() as client:
        assert client.pttl("ts:lock:sweep") <= INTERVAL * 1000
        wait_until(lambda: not client.exists("ts:lock:sweep"), "its time is over")
    assert shard.sweeper.sweep() is not None
    with pytest.raises(TaskNotFound):
        shard.store.inspect(task.task_id)


@pytest.mark.timeout(300)
def test_two_beats_at_once_cause_no_run_too_many(tmp_path: Path, measured: Measured) -> None:
    server = RedisServer()
    env = {**os.environ, "TASKS_REDIS_URL": server.url}
    command = ["-m", "celery", "-A", "tests.faults.toxic_app", "beat", "--scheduler", "celery.beat:Scheduler"]
    node = worker_node(server.url, app="tests.faults.toxic_app", concurrency=4)
    beats = [Process(f"beat-{n}", [sys.executable, *command], env, tmp_path) for n in range(2)]
    try:
        assert node.ready(), node.logs()
        wait_until(lambda: node.logs().count("tasks_service.reap_stale_tasks[") > 10, node.logs)
        path = str(tmp_path / "effects")
        with client_of(service, server.url) as client:
            naps = [client.call("nap", path=path) for _ in range(8)]
            goods = [client.call("good", path=path) for _ in range(40)]
            ended = [client.ended(task).task for task in naps + goods]
        asked = node.logs().count("tasks_service.reap_stale_tasks[") // 2
        assert all(beat.alive for beat in beats)
    finally:
        for beat in beats:
            beat.end()
        node.teardown()
        found = audit(server.url, beside=BESIDE)
        server.close()
    assert not found, told(found)
    assert Counter(task.status for task in ended) == {TaskStatus.COMPLETED: 48}
    assert Counter(task.claims for task in ended) == {2: 8, 1: 40}
    effects = [json.loads(line) for line in Path(path).read_text().splitlines()]
    assert Counter((effect["task"], effect.get("step")) for effect in effects).most_common(1)[0][1] == 1
    assert len(effects) == 2 * 8 + 40
    measured("R16", f"two beats, about {asked} sweeps asked for while 48 tasks ran: 0 effects twice")
