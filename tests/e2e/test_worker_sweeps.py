"""What sweeps find and fix, over a real Redis; the test plays the worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import redis

from tasks_service import TaskService
from tasks_service.broker.dispatcher import Dispatcher
from tasks_service.domain.errors import TaskNotFound
from tasks_service.domain.events import Claim, CompleteWithResult, Create, Renew, Retry
from tasks_service.domain.names import new_task_id
from tasks_service.domain.task import JsonText, Phase, Policy, Task, TaskStatus, new_token
from tasks_service.settings import Settings
from tasks_service.store.redis import RedisTaskStore
from tasks_service.worker.maintenance.thread import Sweeper, Swept
from tests.kit.forgetting import ForgetfulServer
from tests.kit.proxy import CuttingProxy, Verdict
from tests.kit.store_adapter import counts
from tests.kit.waiting import PATIENCE
from tests.kit.workers import OWNER

INTERVAL = 0.05
QUICK = Policy(lease_ms=150, ttl_ms=1, retention_ms=1)


class Shard:
    """A store without workers, its broker queue, and a sweeper; the clock goes on when it is told to."""

    def __init__(self, redis_url: str) -> None:
        self.now_ms = round(time.time() * 1000)
        self.service = TaskService("Sweeps", settings=Settings(redis_url=redis_url))
        self.outbox = Dispatcher(self.service.celery, redis_url=redis_url)
        self.store = RedisTaskStore(redis_url, outbox=self.outbox, clock=lambda server_ms: self.now_ms)
        self.sweeper = Sweeper(self.store, self.outbox, interval=INTERVAL, lease_ms=QUICK.lease_ms)

    def create(self, policy: Policy = QUICK) -> Task:
        self.pass_ms(1)
        return self.store.create(
            Create(
                task_id=new_task_id(OWNER),
                owner=OWNER,
                tool="draw",
                queue="tasks",
                arguments=JsonText("{}"),
                policy=policy,
            )
        ).task

    def claim(self, task: Task) -> str:
        lease_id = new_token()
        event = Claim(lease_id=lease_id, worker="test", dispatched_ms=task.dispatched_ms)
        self.store.claim(task.task_id, event)
        return lease_id

    def lose_messages(self) -> None:
        with self.service.celery.connection_for_write() as connection:
            connection.default_channel.queue_purge("tasks")

    def messages(self) -> int:
        length = self.outbox.queue_length("tasks")
        assert length is not None
        return length

    def sweep(self, times: int = 1) -> list[Swept]:
        """Sweep that often, an interval apart, whoever held the lock."""
        swept: list[Swept] = []
        while len(swept) < times:
            self.pass_ms(round(INTERVAL * 1000))
            while (done := self.sweeper.sweep()) is None:
                time.sleep(INTERVAL / 10)
            swept.append(done)
        return swept

    def pass_ms(self, duration_ms: int) -> None:
        self.now_ms += duration_ms

    def phase(self, task: Task) -> Phase:
        return self.store.inspect(task.task_id).task.phase


@pytest.fixture
def shard(redis_url: str) -> Iterator[Shard]:
    shard = Shard(redis_url)
    yield shard
    shard.outbox.close()
    shard.store.close()


def test_a_message_that_was_lost_is_sent_again(shard: Shard) -> None:
    shard.create()
    shard.lose_messages()
    assert shard.messages() == 0
    shard.sweep(4)
    assert shard.messages() == 1


def test_it_is_not_sent_again_at_every_sweep(shard: Shard) -> None:
    shard.create()
    shard.lose_messages()
    redispatched = sum(swept.redispatched for swept in shard.sweep(12))
    assert redispatched == 1  # the next may go out after the backoff of 2 s


def test_a_backlog_that_waits_for_a_worker_causes_no_messages(shard: Shard) -> None:
    tasks = [shard.create(Policy()) for _ in range(30)]
    shard.claim(tasks[0])
    assert sum(swept.redispatched for swept in shard.sweep(8)) == 0
    assert shard.messages() == 30


def test_a_message_that_others_overtook_for_three_sweeps_is_sent_again(shard: Shard) -> None:
    lost = shard.create(Policy())
    shard.lose_messages()
    for later in [shard.create(Policy()) for _ in range(2)]:
        shard.claim(later)
    swept = shard.sweep(6)
    assert [done.redispatched for done in swept[:3]] == [0, 0, 0]
    assert sum(done.redispatched for done in swept) == 1
    assert shard.messages() == 3
    assert shard.store.inspect(lost.task_id).task.redispatches == 1


def test_a_task_that_slept_gets_its_message_when_it_is_due(shard: Shard) -> None:
    task = shard.create(Policy())
    lease_id = shard.claim(task)
    shard.lose_messages()
    otherwise = CompleteWithResult(lease_id=lease_id, result=JsonText("{}"))
    shard.store.commit(task.task_id, Retry(lease_id=lease_id, delay_ms=200, otherwise=otherwise))
    assert sum(swept.timers for swept in shard.sweep(2)) == 0
    shard.pass_ms(200)
    assert sum(swept.timers for swept in shard.sweep(1)) == 1
    assert shard.messages() == 1


def test_a_lost_workers_task_is_given_to_another(shard: Shard) -> None:
    shard.sweep()
    task = shard.create()
    shard.claim(task)
    assert shard.phase(task) is Phase.RUNNING
    shard.sweep(6)
    assert shard.phase(task) is Phase.PENDING
    assert shard.messages() == 2


def test_after_a_pause_of_all_sweeps_living_workers_get_a_lease_to_renew(shard: Shard) -> None:
    shard.sweep()
    task = shard.create()
    shard.claim(task)
    shard.pass_ms(300)
    shard.sweep()
    assert shard.phase(task) is Phase.RUNNING
    shard.sweep(6)
    assert shard.phase(task) is Phase.PENDING


# --- a store that was restarted, or has gone back to an earlier truth ---


@pytest.fixture
def server() -> Iterator[ForgetfulServer]:
    server = ForgetfulServer()
    yield server
    server.close()


@pytest.fixture
def own_shard(server: ForgetfulServer) -> Iterator[Shard]:
    shard = Shard(server.url)
    yield shard
    shard.outbox.close()
    shard.store.close()


def run_out(shard: Shard) -> Task:
    """A running task whose lease has just run out, without a gap between sweeps."""
    task = shard.create()
    shard.claim(task)
    shard.sweep()
    shard.pass_ms(QUICK.lease_ms - round(INTERVAL * 1000))
    return task


def test_after_a_restart_of_redis_living_workers_get_a_lease_to_renew(
    server: ForgetfulServer, own_shard: Shard
) -> None:
    own_shard.sweep()
    task = run_out(own_shard)
    server.kill()
    server.start()

    for _ in range(2):
        own_shard.sweep()
        assert own_shard.phase(task) is Phase.RUNNING
    own_shard.sweep(2)
    assert own_shard.phase(task) is Phase.PENDING


def test_a_second_restart_gives_living_workers_a_whole_lease_again(
    server: ForgetfulServer, own_shard: Shard
) -> None:
    own_shard.sweep()
    task = run_out(own_shard)
    for _ in range(3):
        server.kill()
        server.start()
        own_shard.sweep(2)
        assert own_shard.phase(task) is Phase.RUNNING
    own_shard.sweep(2)
    assert own_shard.phase(task) is Phase.PENDING


def test_a_sweep_that_has_begun_before_a_restart_reaps_nothing_after_it(
    server: ForgetfulServer, own_shard: Shard
) -> None:
    proxy = CuttingProxy(server.port)
    through = Shard(proxy.url)
    own_shard.sweep()
    through.now_ms = own_shard.now_ms
    task = run_out(through)

    is_first, restarted = threading.Lock(), threading.Event()

    def restart(packet: bytes) -> Verdict:
        """While the sweep asks whose lease has run out; once, whoever else asks."""
        if b":leases" not in packet or not is_first.acquire(blocking=False):
            return Verdict.PASS
        server.kill()
        server.start()
        restarted.set()
        return Verdict.CUT_BEFORE

    proxy.judge = restart
    through.sweep()
    assert through.phase(task) is Phase.RUNNING
    # It may answer before the other thread has seen that it does; ended then, it would be started again.
    assert restarted.wait(PATIENCE)
    through.outbox.close()
    through.store.close()
    proxy.close()


@pytest.mark.parametrize("forgotten", ["its claim", "its end"])
def test_a_task_goes_on_whatever_the_store_forgot_of_it(
    server: ForgetfulServer, own_shard: Shard, forgotten: str
) -> None:
    own_shard.sweep()
    task = own_shard.create()
    own_shard.lose_messages()  # a worker has taken it
    position = server.position()
    lease_id = own_shard.claim(task)
    if forgotten == "its end":
        position = server.position()
        done = CompleteWithResult(lease_id=lease_id, result=JsonText("{}"))
        own_shard.store.commit(task.task_id, done)
    server.forget_since(position)

    own_shard.sweep(8)

    assert own_shard.phase(task) is Phase.PENDING
    assert own_shard.messages() == 1


def test_a_clock_that_a_failover_put_back_lets_no_backlog_look_overtaken(shard: Shard) -> None:
    shard.claim(shard.create(Policy()))
    shard.pass_ms(-60_000)
    for _ in range(30):
        shard.create(Policy())
    before = shard.messages()
    assert sum(swept.redispatched for swept in shard.sweep(8)) == 0
    assert shard.messages() == before


def test_a_clock_that_a_failover_put_back_neither_ends_a_lease_nor_moves_a_stamp_back(shard: Shard) -> None:
    shard.sweep()
    task = shard.create(Policy())
    lease_id = shard.claim(task)
    stamped = shard.store.inspect(task.task_id).task.updated_ms
    shard.pass_ms(-60_000)
    shard.sweep(4)
    shard.store.commit(task.task_id, Renew(lease_id=lease_id))
    done = CompleteWithResult(lease_id=lease_id, result=JsonText("{}"))
    assert shard.store.commit(task.task_id, done).updated_ms >= stamped


def test_a_task_that_no_worker_took_fails_when_patience_ends(shard: Shard) -> None:
    task = shard.create(Policy(queue_timeout_ms=50))
    shard.sweep(3)
    record = shard.store.inspect(task.task_id).task
    assert record.status is TaskStatus.FAILED
    assert record.status_message is not None
    assert "No worker that has the tool 'draw'" in record.status_message


def test_what_has_expired_is_removed(shard: Shard) -> None:
    task = shard.create(Policy(ttl_ms=1, retention_ms=1, queue_timeout_ms=100, timeout_ms=100))
    lease_id = shard.claim(task)
    shard.store.commit(task.task_id, CompleteWithResult(lease_id=lease_id, result=JsonText("{}")))
    shard.pass_ms(250)
    assert sum(swept.expired for swept in shard.sweep(1)) == 1
    assert counts(shard.store).total == 0
    with pytest.raises(TaskNotFound):
        shard.store.inspect(task.task_id)


def test_one_sweeper_at_a_time(shard: Shard) -> None:
    other = Sweeper(shard.store, shard.outbox, interval=10)
    assert other.sweep() is not None
    assert other.sweep() is None
    assert shard.sweeper.sweep() is None


def test_an_audit_of_a_healthy_store_finds_nothing(shard: Shard) -> None:
    for _ in range(3):
        shard.claim(shard.create(Policy()))
    assert shard.sweeper.audit() == 0
    assert shard.sweeper.audit() is None  # not again for a while


def test_an_audit_reports_an_index_that_disagrees(shard: Shard, redis_url: str) -> None:
    shard.create(Policy())
    with redis.Redis.from_url(redis_url) as client:
        client.delete("ts:{00}:overdue")
    assert shard.sweeper.audit() == 1
