"""A Redis that is full: new work is refused before, reads go on, sweeps free memory, nothing is damaged."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tasks_service.authoring.tool import build_tool
from tasks_service.broker.dispatcher import Dispatcher
from tasks_service.domain.errors import StoreFull, StoreUnavailable, TaskNotFound
from tasks_service.domain.events import Cancel, Claim, CompleteWithResult, Expire
from tasks_service.domain.indexes import Due
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import DAY, JsonText, Phase, Policy, Task, new_token
from tasks_service.durable.questions import Form
from tasks_service.service import TaskService
from tasks_service.settings import Settings
from tasks_service.store.redis import AsyncRedisTaskStore, RedisTaskStore
from tasks_service.store.redis.timings import DEFAULT_TIMINGS
from tasks_service.worker.maintenance.thread import Sweeper
from tests.kit.audit import audit, told
from tests.kit.factories import ALICE, BOB, Clock, creation
from tests.kit.hand_worker import Worker, asked
from tests.kit.proxy import Answer, CuttingProxy, Torn, Verdict, commands
from tests.kit.servers import RedisServer
from tests.kit.serving import registry, serving, settings
from tests.kit.sessions import SessionClient, is_request
from tests.kit.waiting import PATIENCE, wait_until
from tests.kit.wire import WireClient

MIB = 1024 * 1024
PLENTY = 256 * MIB
BIG = JsonText('["' + "x" * 32_768 + '"]')
FULL = "memory of the task store"
EXPIRED = int(os.environ.get("TASKS_TEST_EXPIRED_MIB", "4")) * 32


class SmallRedis(RedisServer):
    """A redis-server of 16 MiB, whose limit a test moves to where it wants to be."""

    def __init__(self) -> None:
        super().__init__("--maxmemory", "16mb")

    def used(self) -> int:
        with self.client() as client:
            return int(client.info("memory")["used_memory"])

    def allow(self, maximum: int) -> None:
        with self.client() as client:
            client.config_set("maxmemory", maximum)

    def data(self) -> int:
        """Bytes of what is stored, without those of connections."""
        with self.client() as client:
            return int(client.info("memory")["used_memory_dataset"])

    def be_used(self, percent: int) -> None:
        """Make what is stored now so much of what is allowed."""
        self.allow(self.used() * 100 // percent)

    def be_full(self) -> None:
        """Let so little be allowed that no buffer that is freed makes room."""
        self.allow(self.used() - MIB // 2)


@pytest.fixture
def small_redis() -> Iterator[SmallRedis]:
    server = SmallRedis()
    yield server
    server.close()


class Name(BaseModel):
    name: str


def echo(value: list[str]) -> str:
    """Take anything."""
    return str(len(value))


TOOLS = registry(build_tool(echo))


@pytest.fixture
def client(small_redis: SmallRedis, tmp_path: Path) -> Iterator[WireClient]:
    """A client of a front end on the small Redis."""
    with serving(TOOLS, settings(small_redis.url, tmp_path)) as port, WireClient(port) as client:
        yield client


@pytest.fixture
def worker(small_redis: SmallRedis) -> Iterator[Worker]:
    worker = Worker(small_redis.url, TOOLS)
    yield worker
    worker.close()


def readiness(client: WireClient) -> str:
    """What a front end that is ready says of its store."""
    reply = client.probe("/readyz")
    assert reply.status == 200, reply.body
    return str(reply.json["store"])


def test_creates_are_refused_before_redis_is_full_and_what_was_accepted_completes(
    small_redis: SmallRedis, client: WireClient, worker: Worker
) -> None:
    accepted: list[str] = []
    refused: list[Any] = []

    def tells_of_it() -> bool:
        """Call once more. A front end that calls fast counts ahead of the server, and rather too much."""
        reply = client.call("echo", {"value": ["x" * 524_288]}).json
        if "error" in reply:
            refused.append(reply["error"])
        else:
            accepted.append(reply["result"]["taskId"])
        return "new tasks are refused" in readiness(client)

    wait_until(tells_of_it, "readiness tells")
    refused.append(client.call("echo", {"value": []}).error)

    assert len(accepted) > 10
    for error in refused:
        assert error["code"] == -32603
        assert error["data"]["limit"] == FULL
        assert error["data"]["maximum"] == 80 <= error["data"]["actual"]
        assert error["data"]["retryAfterMs"] > 0
    assert small_redis.used() < 16 * MIB * 95 // 100
    for task_id in accepted:
        worker.run(task_id)
    assert all(client.get(task_id)["status"] == "completed" for task_id in accepted)

    small_redis.allow(PLENTY)

    wait_until(lambda: "error" not in client.call("echo", {"value": []}).json, "tasks are accepted again")
    assert readiness(client) == "ok"
    assert not (found := audit(small_redis.url)), told(found)


def test_answers_are_refused_later_than_creates_and_a_cancellation_is_not(
    small_redis: SmallRedis, client: WireClient, worker: Worker
) -> None:
    first, second, other = (client.task("echo", {"value": []}) for _ in range(3))
    for task_id in (first, second):
        worker.ask(task_id, {"who": asked(Form("Your name?", Name))})
    answers = {"who": {"action": "accept", "content": {"name": "Ada"}}}

    small_redis.be_used(85)
    wait_until(lambda: "new tasks are refused" in readiness(client), "readiness tells")
    assert client.call("echo", {"value": []}).error["data"]["limit"] == FULL
    assert "result" in client.update(first, answers).json

    small_redis.be_used(95)
    wait_until(lambda: "new tasks and answers are refused" in readiness(client), "readiness tells")
    refused = client.update(second, answers)
    assert refused.error["code"] == -32603
    assert (refused.error["data"]["limit"], refused.error["data"]["maximum"]) == (FULL, 90)
    assert client.get(second)["status"] == "input_required"
    assert "result" in client.update(first, answers).json, "it was answered already"
    assert "result" in client.request("tasks/cancel", {"taskId": other}).json

    small_redis.allow(0)
    wait_until(lambda: "result" in client.update(second, answers).json, "answers are accepted again")
    assert client.get(second)["status"] == "working"


def test_the_level_is_asked_once_a_second_for_creates_and_never_for_polls(
    small_redis: SmallRedis, client: WireClient
) -> None:
    def looks() -> int:
        with small_redis.client() as redis:
            return int(redis.info("commandstats")["cmdstat_info"]["calls"])

    task_id, before, began = client.task("echo", {"value": []}), looks(), time.monotonic()
    for _ in range(50):
        client.task("echo", {"value": []})
    seconds, between = time.monotonic() - began, looks()
    for _ in range(50):
        client.get(task_id)

    assert between - before <= 2 + seconds, "one of them is our own"
    assert looks() - between == 1, "it is our own"


def test_what_was_created_under_a_key_is_found_again_when_nothing_new_is_taken(
    small_redis: SmallRedis,
) -> None:
    async def create_twice() -> None:
        store = AsyncRedisTaskStore(small_redis.url, deadline=PATIENCE)
        event = creation(idempotency="k", request_digest="d")
        try:
            created = await store.create(event)
            small_redis.be_used(85)
            await asyncio.sleep(DEFAULT_TIMINGS.memory)
            with pytest.raises(StoreFull):
                await store.create(creation())
            again = await store.create(creation(idempotency="k", request_digest="d"))
        finally:
            await store.aclose()
        assert again.replayed
        assert again.task.task_id == created.task.task_id

    asyncio.run(create_twice())


def test_at_the_limit_polls_are_answered_and_writes_say_when_to_come_back(
    small_redis: SmallRedis, client: WireClient
) -> None:
    task_id = client.task("echo", {"value": []})

    small_redis.be_full()
    refused = client.request("tasks/cancel", {"taskId": task_id})

    assert client.get(task_id)["status"] == "working"
    assert (refused.error["code"], refused.error["data"]["limit"]) == (-32603, FULL)
    assert refused.error["data"]["retryAfterMs"] > 0
    assert readiness(client) != "not ready"
    small_redis.allow(PLENTY)
    assert "result" in client.request("tasks/cancel", {"taskId": task_id}).json


def test_a_sessions_answer_is_refused_with_503_and_its_polls_are_answered_at_the_limit_too(
    small_redis: SmallRedis, client: WireClient, worker: Worker
) -> None:
    with SessionClient([client.port]) as session:
        session.initialize()
        task_id = session.task("echo", {"value": []})
        stream = session.open("tasks/result", {"taskId": task_id})
        worker.ask(task_id, {"who": asked(Form("Your name?", Name))})
        question = stream.find(is_request("elicitation/create"))["id"]
        answer = {"action": "accept", "content": {"name": "Ada"}}

        small_redis.be_used(95)
        wait_until(lambda: "new tasks and answers are refused" in readiness(client), "readiness tells")
        refused = session.respond(question, answer)
        assert (refused.status, refused.error["data"]["limit"]) == (503, FULL)
        small_redis.be_full()
        assert session.get(task_id)["status"] == "input_required"

        small_redis.allow(PLENTY)
        wait_until(lambda: session.respond(question, answer).status == 202, "answers are accepted again")
        wait_until(lambda: session.get(task_id)["status"] == "working", "the task goes on")
        stream.close()


class Shard:
    """A store with a clock that stands still, and its sweeper."""

    def __init__(self, server: SmallRedis) -> None:
        self.server, self.clock = server, Clock()
        service = TaskService("Full", settings=Settings(_env_file=None, redis_url=server.url))
        self.outbox = Dispatcher(service.celery, redis_url=server.url)
        self.proxy = CuttingProxy(server.port)
        self.store = RedisTaskStore(self.proxy.url, clock=self.clock)
        self.sweeper = Sweeper(self.store, self.outbox, interval=0.001)

    def close(self) -> None:
        self.outbox.close()
        self.store.close()
        self.proxy.close()

    def expired(self, count: int) -> list[Task]:
        """Tasks of every phase, each of 32 KiB, whose time is over."""
        policy = Policy(ttl_ms=60_000, retention_ms=1)
        tasks = [
            self.store.create(
                creation(policy=policy, arguments=BIG, idempotency=f"k{number}", request_digest="d")
            ).task
            for number in range(count)
        ]
        for task, kind in zip(tasks, itertools.cycle(["pending", "running", "completed"])):
            if kind == "pending":
                continue
            lease_id = new_token()
            self.store.claim(task.task_id, Claim(lease_id=lease_id, worker="w"))
            if kind == "completed":
                done = CompleteWithResult(lease_id=lease_id, result=JsonText("{}"))
                self.store.commit(task.task_id, done)
        self.clock.pass_ms(DAY + 60_000)  # past every deadline, and what is kept after it
        return tasks

    def is_gone(self, task: Task) -> bool:
        try:
            self.store.inspect(task.task_id)
        except TaskNotFound:
            return True
        return False


@pytest.fixture
def shard(small_redis: SmallRedis) -> Iterator[Shard]:
    shard = Shard(small_redis)
    yield shard
    shard.close()


def as_redis_refuses(packet: bytes) -> Verdict | Answer:
    """What Redis says at its limit to a transaction, whatever is in it.

    Valkey, which may be the server here, takes one that only frees memory.
    """
    sent = commands(packet)
    if b"MULTI" not in sent[0]:
        return Verdict.PASS
    out = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
    aborted = b"-EXECABORT Transaction discarded because of previous errors.\r\n"
    return Answer(b"+OK\r\n" + out * (len(sent) - 2) + aborted)


@pytest.mark.parametrize("refuses_transactions", [False, True], ids=["as-the-server", "as-redis"])
def test_at_the_limit_a_sweep_frees_what_has_expired_and_leaves_the_rest(
    shard: Shard, refuses_transactions: bool
) -> None:
    expired = shard.expired(60)
    kept = shard.store.create(creation(BOB, policy=Policy())).task
    shard.server.be_full()
    with pytest.raises(StoreFull):
        shard.store.create(creation(BOB))

    judge = shard.proxy.judge
    if refuses_transactions:
        shard.proxy.judge = as_redis_refuses
    swept = shard.sweeper.sweep()
    shard.proxy.judge = judge

    assert swept is not None
    assert swept.expired == len(expired)
    assert all(map(shard.is_gone, expired))
    assert shard.store.inspect(kept.task_id).task.phase is Phase.PENDING
    assert shard.store.create(creation(BOB)), "there is room again, without any more memory"
    assert shard.sweeper.sweep() is not None
    found = audit(shard.server.url)
    assert not found, told(found)


def test_a_full_redis_gets_its_memory_back_and_serves_again_at_once(
    shard: Shard, measured: Callable[[str, str], None]
) -> None:
    shard.expired(3)
    wait_until(shard.sweeper.sweep, "what a server needs once is there")
    empty = shard.server.data()
    expired = shard.expired(EXPIRED)
    laden = shard.server.data()
    kept = shard.store.create(creation(BOB)).task
    shard.server.be_full()
    with pytest.raises(StoreFull):
        shard.store.create(creation(BOB))

    began = time.monotonic()
    wait_until(lambda: shard.sweeper.sweep() and all(map(shard.is_gone, expired)), "all are removed")
    freed = (laden - shard.server.data()) / (laden - empty)
    lease_id = new_token()
    served = shard.store.create(creation(BOB)).task
    shard.store.claim(served.task_id, Claim(lease_id=lease_id, worker="w"))
    shard.store.commit(served.task_id, CompleteWithResult(lease_id=lease_id, result=BIG))
    seconds = time.monotonic() - began

    assert freed >= 0.9
    assert seconds <= 5
    assert shard.store.inspect(kept.task_id).task.phase is Phase.PENDING
    assert not (found := audit(shard.server.url)), told(found)
    mib = (laden - empty) / MIB
    measured("R14", f"{freed:.0%} of {mib:.1f} MiB freed, full service after {seconds:.2f} s, 0 damaged")


def test_at_the_limit_a_task_that_has_not_expired_stays(shard: Shard) -> None:
    task = shard.store.create(creation()).task
    shard.server.be_full()

    with pytest.raises(StoreFull):
        shard.store.apply(ALICE, task.task_id, Cancel())
    assert shard.sweeper.sweep() is not None
    assert shard.sweeper.audit() is None

    assert shard.store.get(ALICE, task.task_id).task.phase is Phase.PENDING
    shard.server.allow(PLENTY)
    assert shard.store.apply(ALICE, task.task_id, Cancel()).phase is Phase.CANCELLED
    assert not (found := audit(shard.server.url)), told(found)


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["pending", "running", "completed"])
def test_a_sweep_that_dies_anywhere_in_a_removal_is_completed_by_the_next(shard: Shard, kind: int) -> None:
    passes, cut, dead = shard.proxy.judge, 0, False

    def judge(packet: bytes) -> Verdict | Answer | Torn:
        """After so many commands of a removal, nothing is heard of the sweeping process any more."""
        nonlocal dead
        sent = commands(packet)
        if dead:
            return Verdict.CUT_BEFORE
        if not any(b"UNLINK" in command for command in sent) or b"MULTI" in sent[0]:
            return as_redis_refuses(packet)
        if cut == len(sent):
            return Verdict.PASS
        dead = True
        return Torn(b"".join(sent[:cut])) if cut else Verdict.CUT_BEFORE

    while True:
        task = shard.expired(3)[kind]
        shard.server.be_full()
        shard.proxy.judge, dead = judge, False
        with closing(RedisTaskStore(shard.proxy.url, clock=shard.clock, deadline=0.2)) as dying:
            try:
                dying.apply_sweep(task.task_id, Expire())
                break
            except StoreUnavailable:
                cut += dead
            finally:
                shard.proxy.judge = passes
        shard.server.allow(PLENTY)
        wait_until(shard.sweeper.sweep, "it is our turn")
        assert shard.is_gone(task)
        assert task_hash(task.task_id) not in shard.store.due(Due.EXPIRED, limit=100)
        found = audit(shard.server.url)
        assert not found, f"killed after {cut - 1} commands: {told(found)}"
    assert cut >= 4, "a removal is several commands"
