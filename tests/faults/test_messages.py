"""Messages that come twice, late, or from a stranger: the record decides, and no worker is harmed."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_celery import CeleryTestWorker

from tasks_service.broker.dispatcher import Dispatcher
from tasks_service.domain.decide import ttl_ms
from tasks_service.domain.errors import TaskNotFound
from tasks_service.domain.events import Expire
from tasks_service.domain.names import new_task_id, task_hash
from tasks_service.domain.task import MINUTE, Task, TaskStatus
from tasks_service.store.redis import RedisTaskStore
from tests.kit.audit import audit, told
from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until
from tests.kit.workers import OWNER, Client, client_of, worker_node

from .toxic_app import service

APP = "tests.faults.toxic_app"
BESIDE = [r"ts:mq:.*"]
DUPLICATES = int(os.environ.get("TASKS_TEST_DUPLICATES", "20"))
Measured = Callable[[str, str], None]


@pytest.fixture(scope="module")
def worker(redis: RedisServer) -> Iterator[CeleryTestWorker]:
    node = worker_node(redis.url, app=APP, concurrency=2)
    assert node.ready(), node.logs()
    yield node
    node.teardown()


@pytest.fixture
def client(redis: RedisServer, worker: CeleryTestWorker) -> Iterator[Client]:
    with client_of(service, redis.url) as client:
        yield client
    assert worker.container.status == "running", worker.logs()
    found = audit(redis.url, beside=BESIDE)
    assert not found, told(found)


class Queue:
    """The tools' queue, as somebody who may write to Redis reaches it."""

    def __init__(self, client: Client, server: RedisServer) -> None:
        self._client, self._server = client, server

    def message_of(self, task: Task) -> Any:
        """A message as our own code makes it."""
        ((self.key, payload),) = self._client.outbox.pushes(task, task.created_ms)
        return json.loads(payload)

    def send(self, *messages: Any) -> None:
        with self._server.client() as admin:
            admin.lpush(self.key, *(m if isinstance(m, str) else json.dumps(m) for m in messages))

    def worked_off(self, path: Path) -> None:
        """Wait until all that was sent has been looked at: a task that comes last has run."""
        last = self._client.call("good", path=str(path), seconds=0.0)
        assert self._client.ended(last).task.status is TaskStatus.COMPLETED
        with self._server.client() as admin:
            wait_until(lambda: not admin.llen(self.key) and not admin.hlen("ts:mq:unacked"))


@pytest.fixture
def queue(client: Client, redis: RedisServer) -> Queue:
    return Queue(client, redis)


def runs(path: Path) -> Counter[str]:
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(json.loads(line)["task"] for line in lines)


@pytest.mark.parametrize("copies", [2, 10])
def test_a_message_that_comes_many_times_at_once_runs_its_task_once(
    client: Client, queue: Queue, tmp_path: Path, copies: int, measured: Measured
) -> None:
    path, tasks = tmp_path / "runs", []
    for _ in range(DUPLICATES):
        task = client.call("good", path=str(path), seconds=0.02)
        message = queue.message_of(task)
        with ThreadPoolExecutor(copies) as pool:
            barrier = threading.Barrier(copies)
            list(pool.map(lambda _, m=message, b=barrier: (b.wait(), queue.send(m)), range(copies)))  # type: ignore[misc]
        tasks.append(task)
    ended = [client.ended(task).task for task in tasks]
    queue.worked_off(tmp_path / "last")
    assert {(task.status, task.claims) for task in ended} == {(TaskStatus.COMPLETED, 1)}
    assert runs(path) == {task.task_id: 1 for task in tasks}
    measured("D1", f"{DUPLICATES} tasks with {copies} more messages each: 0 ran twice")


def test_a_message_that_comes_after_the_end_changes_nothing(
    client: Client, queue: Queue, redis: RedisServer, tmp_path: Path
) -> None:
    path = tmp_path / "runs"
    completed = client.run("good", path=str(path)).task
    cancelled = client.call("long", path=str(tmp_path / "long"), seconds=60)
    client.running(cancelled)
    client.cancel(cancelled)
    expired = client.run("good", path=str(path)).task
    late = RedisTaskStore(redis.url, clock=lambda server_ms: server_ms + ttl_ms(expired) + MINUTE)
    assert late.apply_sweep(expired.task_id, Expire()) is None
    late.close()
    before = [client.record(task) for task in (completed, cancelled)]
    for task in (completed, cancelled, expired):
        queue.send(queue.message_of(task), queue.message_of(task))
    queue.worked_off(tmp_path / "last")
    assert [client.record(task) for task in (completed, cancelled)] == before
    assert runs(path) == {completed.task_id: 1, expired.task_id: 1}


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._path}",)


def forged(message: Any, content_type: str, body: bytes) -> Any:
    """The message with another body."""
    properties = {**message["properties"], "body_encoding": "base64"}
    return {
        **message,
        "content-type": content_type,
        "body": base64.b64encode(body).decode(),
        "properties": properties,
    }


@pytest.mark.timeout(300)
def test_messages_of_strangers_are_dropped_and_their_bodies_never_run(
    client: Client, worker: CeleryTestWorker, queue: Queue, tmp_path: Path, measured: Measured
) -> None:
    canary, path = tmp_path / "canary", tmp_path / "runs"
    task = client.run("good", path=str(path)).task
    real = queue.message_of(task)
    stranger = queue.message_of(replace(task, task_id=new_task_id(OWNER)))
    body = json.loads(base64.b64decode(real["body"]))
    yaml = f'!!python/object/apply:os.system ["touch {canary}"]'.encode()
    malformed = [
        stranger,
        queue.message_of(replace(task, task_id="")),
        queue.message_of(replace(task, task_id="zz:{00}|\r\n*\u2603")),
        queue.message_of(replace(task, task_id="0" * 5 * 1024 * 1024)),
        forged(real, "application/x-python-serialize", pickle.dumps(Canary(canary))),
        forged(real, "application/x-yaml", yaml),
        forged(real, "application/json", b'{"not": "what Celery sends"}'),
        forged(real, "application/json", b"[[], {}, {}]"),
        forged(real, "application/json", json.dumps([[1, 2, 3, 4, 5], {}, body[2]]).encode()),
        forged(real, "application/json", json.dumps([[task.task_id, "no time"], {}, body[2]]).encode()),
        forged(real, "application/json", b"[" * 100_000),
        forged(real, "application/json", b"\xff\xfe"),
        *(forged(real, "application/json", body) for body in (b"5", b"null", b"[[], [1], {}]")),
        *(with_header(real, name, value) for name, value in HEADERS),
        {**real, "headers": {}},
        {**real, "headers": None},
        {**real, "properties": {}},
        {**real, "body": "!!!"},
        {**real, "content-encoding": "rot13"},
        *("not JSON", "[]", "{}", "5", '{"body": "x"}'),
    ]
    busy = [client.call("long", path=str(tmp_path / "long"), seconds=1) for _ in range(2)]
    for one in busy:
        client.running(one)
    before, process = client.record(task), worker.container.process.pid
    queue.send(*malformed)
    queue.worked_off(tmp_path / "last")

    assert not canary.exists()
    assert worker.container.process.pid == process
    assert worker.container.status == "running"
    assert client.record(task) == before
    assert runs(path) == {task.task_id: 1}
    measured("D3", f"{len(malformed)} malformed, forged and foreign messages: 0 ran, the worker goes on")


HEADERS = [
    *[
        ("task", "os.system"),
        ("task", ["good"]),
        ("task", None),
        ("id", None),
        ("id", ["a"]),
        ("eta", "soon"),
    ],
    *[("expires", "late"), ("timelimit", "long"), ("timelimit", [1, 2, 3]), ("retries", "many")],
]


def with_header(message: Any, name: str, value: Any) -> Any:
    """The message with another header, or without it."""
    others = {key: text for key, text in message["headers"].items() if key != name}
    return {**message, "headers": others if value is None else {**others, name: value}}


def test_a_record_of_another_schema_version_is_not_run_and_holds_up_nobody(
    client: Client, queue: Queue, redis: RedisServer, worker: CeleryTestWorker, tmp_path: Path
) -> None:
    path = tmp_path / "runs"
    os.kill(worker.container.process.pid, signal.SIGSTOP)
    task = client.call("good", path=str(path))
    key = f"ts:{{00}}:t:{task_hash(task.task_id)}"
    with redis.client() as admin:
        admin.hset(key, "v", "99")
        os.kill(worker.container.process.pid, signal.SIGCONT)
        queue.message_of(task)
        queue.worked_off(tmp_path / "last")
        assert runs(path) == {}
        admin.hset(key, "v", "1")
    assert client.ended(task).task.status is TaskStatus.COMPLETED
    assert runs(path) == {task.task_id: 1}


def test_a_queue_that_is_deleted_costs_a_few_sweeps_and_no_task(
    client: Client, queue: Queue, redis: RedisServer, worker: CeleryTestWorker, tmp_path: Path
) -> None:
    path = tmp_path / "runs"
    os.kill(worker.container.process.pid, signal.SIGSTOP)
    tasks = [client.call("good", path=str(path)) for _ in range(20)]
    queue.message_of(tasks[0])
    with redis.client() as admin:
        deleted = list(admin.scan_iter("ts:mq:_kombu.binding.*"))
        assert admin.delete(queue.key, *deleted) > 1
    os.kill(worker.container.process.pid, signal.SIGCONT)
    assert {client.ended(task).task.status for task in tasks} == {TaskStatus.COMPLETED}
    assert runs(path) == {task.task_id: 1 for task in tasks}


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_a_run_that_outlasts_the_visibility_timeout_is_not_run_again(tmp_path: Path) -> None:
    server = RedisServer()
    nodes = [
        worker_node(server.url, app=APP, name=f"worker{n}", concurrency=1, TOXIC_VISIBILITY="1") for n in "ab"
    ]
    path = tmp_path / "runs"
    try:
        assert all(node.ready() for node in nodes)
        with client_of(service, server.url) as client:
            task = client.call("long", path=str(path), seconds=6)
            view = client.ended(task)
            received = sum(node.logs().count("Task long[") for node in nodes)
        assert (view.task.status, view.task.claims) == (TaskStatus.COMPLETED, 1)
        assert runs(path) == {task.task_id: 1}
        assert received > 2, "no message was ever handed out again"
        assert not (found := audit(server.url, beside=BESIDE)), told(found)
    finally:
        for node in nodes:
            node.teardown()
        server.close()


def test_a_store_that_was_flushed_knows_no_task_and_serves_on(
    client: Client, redis: RedisServer, worker: CeleryTestWorker, tmp_path: Path
) -> None:
    running = client.call("long", path=str(tmp_path / "long"), seconds=60)
    client.running(running)
    with redis.client() as admin:
        admin.flushall()
    with pytest.raises(TaskNotFound):
        client.view(running)
    wait_until(lambda: "AttemptLost" in worker.logs() or "went to another worker" in worker.logs())
    assert client.run("good", path=str(tmp_path / "good")).task.status is TaskStatus.COMPLETED


@pytest.mark.timeout(300)
def test_a_worker_outlives_its_broker_and_writes_what_ran_meanwhile_once(
    tmp_path: Path,
) -> None:
    store, broker = RedisServer(), RedisServer("--appendonly", "yes", "--appendfsync", "always")
    node = worker_node(store.url, app=APP, TASKS_BROKER_URL=broker.url)
    path = tmp_path / "runs"
    try:
        assert node.ready(), node.logs()
        with client_of(service, store.url) as client:
            outbox = Dispatcher(service.celery, redis_url=store.url, broker_url=broker.url)
            client.store = RedisTaskStore(store.url, outbox=outbox)
            task = client.call("long", path=str(path), seconds=3)
            client.running(task)
            broker.kill()
            assert client.ended(task).task.status is TaskStatus.COMPLETED
            broker.start()
            next_one = client.call("good", path=str(path))
            # A worker has to find its broker again, and a sweep the message that went astray.
            assert client.ended(next_one, timeout=180).task.status is TaskStatus.COMPLETED
            outbox.close()
        assert runs(path) == {task.task_id: 1, next_one.task_id: 1}
        assert not (found := audit(store.url)), told(found)
    finally:
        node.teardown()
        store.close()
        broker.close()
