"""Whoever can write to the broker, and has no secret, gets nothing run, read or inflated by a live worker."""

from __future__ import annotations

import gzip
import json
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pytest_celery import CeleryTestWorker

from tasks_service.broker.message import celery_id
from tasks_service.broker.signature import SIGNATURE
from tasks_service.domain.task import TaskStatus
from tests.faults.toxic_app import service
from tests.kit.hostile import embedded, variants
from tests.kit.secrets import MESSAGE_SECRET, signer_of
from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until
from tests.kit.workers import Client, client_of, memory_kib, worker_node

QUEUE, MAINTENANCE = "ts:mq:tasks", "ts:mq:maintenance"
BOMB_BYTES = 200_000_000
Measured = Callable[[str, str], None]


class Canary:
    """Makes a file, when somebody unpickles it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


@pytest.fixture(scope="module")
def module_redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def worker(module_redis: RedisServer) -> Iterator[CeleryTestWorker]:
    node = worker_node(
        module_redis.url,
        app="tests.faults.toxic_app",
        TASKS_MESSAGE_SECRET=MESSAGE_SECRET,
        TOXIC_VISIBILITY="1",
    )
    assert node.ready(), node.logs()
    yield node
    node.teardown()


@pytest.fixture
def client(module_redis: RedisServer) -> Iterator[Client]:
    with client_of(service, module_redis.url, signer=signer_of()) as client:
        yield client


def real_message(client: Client, path: Path) -> tuple[str, dict[str, Any]]:
    """The id and the message of a task that was run, and so may not be run again."""
    task = client.run("good", path=str(path), seconds=0.0).task
    (push,) = client.outbox.pushes(task, task.created_ms)
    return celery_id(task), json.loads(push.payload)


def forgeries(real: dict[str, Any], canary: Path) -> Iterator[dict[str, Any]]:
    """Messages that were found to end, stall or burden a worker, or to run code there."""
    unsigned = {**real, "headers": {k: v for k, v in real["headers"].items() if k != SIGNATURE}}
    yield unsigned
    yield {**real, "headers": {**real["headers"], SIGNATURE: "1." + "A" * 43}}
    properties = real["properties"]
    for encoding in ("rot13", "nope", 5, []):
        yield {**unsigned, "properties": {**properties, "body_encoding": encoding}}
    for tag in ([], {}, None):
        yield {**unsigned, "properties": {**properties, "delivery_tag": tag}}
    for depth in (3_000, 100_000):
        yield embedded(unsigned, b"[" * depth)
    for name in sorted(Celery("any", set_as_current=False).tasks):
        for kwargs in ({}, {"max_retries": None, "group_id": "x", "callback": {}}):
            headers = {**unsigned["headers"], "task": name, "retries": None}
            yield embedded({**unsigned, "headers": headers}, [[], kwargs, {}])
    sweep = {**unsigned, "headers": {**unsigned["headers"], "task": "tasks_service.reap_stale_tasks"}}
    yield embedded(sweep, [[], {}, {}])
    callback = {"task": "tasks_service.reap_stale_tasks", "args": [], "kwargs": {}, "options": {}}
    yield embedded(sweep, [[], {}, {"callbacks": [callback] * 1000}])
    bomb = {**unsigned, "headers": {**unsigned["headers"], "compression": "application/x-gzip"}}
    yield embedded(bomb, gzip.compress(b" " * BOMB_BYTES))
    for header in ({"eta": "2036-01-01T00:00:00+00:00"}, {"timelimit": [1, 1]}, {"expires": "2036-01-01"}):
        yield {**real, "headers": {**real["headers"], **header}}
    for kind in ("application/x-python-serialize", "application/x-yaml", "application/x-msgpack"):
        yield embedded({**unsigned, "content-type": kind}, pickle.dumps([[], {"task": Canary(canary)}, {}]))


@pytest.mark.timeout(300)
def test_forged_messages_are_dropped_and_counted_and_the_worker_works_on(
    client: Client, worker: CeleryTestWorker, module_redis: RedisServer, tmp_path: Path, measured: Measured
) -> None:
    process, canary = worker.container.process, tmp_path / "canary"
    _, real = real_message(client, tmp_path / "first")
    forged = list(forgeries(real, canary))
    before, held = client.store.dropped_messages(), memory_kib(process.pid)
    with module_redis.client() as admin:
        for message in forged:
            for queue in (QUEUE, MAINTENANCE):
                admin.lpush(queue, json.dumps(message))
        wait_until(lambda: not admin.llen(QUEUE) and not admin.llen(MAINTENANCE), worker.logs)
        wait_until(lambda: not admin.hlen("ts:mq:unacked"), worker.logs)
    assert client.run("good", path=str(tmp_path / "last"), seconds=0.0).task.status is TaskStatus.COMPLETED

    def counted() -> int:
        after = client.store.dropped_messages()
        return sum(after[queue].number - (before[queue].number if queue in before else 0) for queue in after)

    wait_until(lambda: counted() == 2 * len(forged), lambda: f"{counted()} of {2 * len(forged)}")
    assert process.poll() is None
    assert (tmp_path / "first").read_text().count("\n") == 1
    assert not canary.exists()
    assert memory_kib(process.pid) - held < BOMB_BYTES / 1024 / 4, "the bomb was inflated"
    measured("S8", f"{2 * len(forged)} of {2 * len(forged)} forged messages dropped and counted")


def test_whatever_is_changed_of_a_signed_message_it_runs_no_second_time(
    client: Client, worker: CeleryTestWorker, module_redis: RedisServer, tmp_path: Path
) -> None:
    _, real = real_message(client, tmp_path / "runs")
    with module_redis.client() as admin:
        for message in list(variants(real))[::7]:
            admin.lpush(QUEUE, json.dumps(message))
        wait_until(lambda: not admin.llen(QUEUE), worker.logs)
        wait_until(lambda: not admin.hlen("ts:mq:unacked"), worker.logs)
    assert client.run("good", path=str(tmp_path / "last"), seconds=0.0).task.status is TaskStatus.COMPLETED
    assert (tmp_path / "runs").read_text().count("\n") == 1


def test_a_message_that_a_lost_worker_had_is_restored_and_believed(
    client: Client, worker: CeleryTestWorker, module_redis: RedisServer, tmp_path: Path
) -> None:
    with module_redis.client() as admin:
        worker.container.kill("SIGSTOP")
        # The first message is handed to the worker, which waits for one; the second stays in the queue.
        client.call("good", path=str(tmp_path / "first"), seconds=0.0)
        task = client.call("good", path=str(tmp_path / "runs"), seconds=0.0)
        raw = taken(admin, celery_id(task))
        worker.container.kill("SIGCONT")
        message = json.loads(raw)
        entry = json.dumps([message, "", "tasks"])
        admin.hset("ts:mq:unacked", message["properties"]["delivery_tag"], entry)
        admin.zadd("ts:mq:unacked_index", {message["properties"]["delivery_tag"]: time.time() - 60})
    assert client.ended(task).task.status is TaskStatus.COMPLETED
    assert client.record(task).task.claims == 1


def test_a_task_whose_message_was_dropped_is_sent_again_signed(
    worker: CeleryTestWorker, module_redis: RedisServer, tmp_path: Path
) -> None:
    with client_of(service, module_redis.url) as left_behind:
        task = left_behind.call("good", path=str(tmp_path / "runs"), seconds=0.0)
        assert left_behind.ended(task).task.status is TaskStatus.COMPLETED
    assert "it is not signed: it was forged, or sent by a process without" in worker.logs()
    assert (tmp_path / "runs").read_text().count("\n") == 1


def test_a_worker_that_accepts_runs_what_is_not_signed_at_once_and_nothing_forged(
    tmp_path: Path,
) -> None:
    steps = {"TASKS_MESSAGE_SECRET": MESSAGE_SECRET, "TASKS_MESSAGE_SIGNING": "accept"}
    server = RedisServer()
    node = worker_node(server.url, app="tests.faults.toxic_app", pool="solo", name="accepts", **steps)
    try:
        assert node.ready(), node.logs()
        for signer in (None, signer_of(), signer_of("another secret of somebody", MESSAGE_SECRET)):
            with client_of(service, server.url, signer=signer) as client:
                task = client.run("good", path=str(tmp_path / "runs"), seconds=0.0).task
                assert task.status is TaskStatus.COMPLETED
        # The last one was signed by nobody whom the worker knows, and sent again by the worker itself.
        assert node.logs().count("its signature is wrong") == 1
        assert "it is not signed" not in node.logs()
    finally:
        node.teardown()
        server.close()


def taken(admin: Any, name: str) -> Any:
    """The message of a task, taken from its queue."""
    (raw,) = [raw for raw in admin.lrange(QUEUE, 0, -1) if name in raw]
    admin.lrem(QUEUE, 1, raw)
    return raw


@pytest.fixture(scope="module")
def shop_worker(module_redis: RedisServer) -> Iterator[CeleryTestWorker]:
    node = worker_node(
        module_redis.url,
        app="tests.security.pickle_shop",
        pool="threads",
        name="shop",
        options=("-Q", "tasks,acme"),
        C_FORCE_ROOT="true",
        TASKS_MESSAGE_SECRET=MESSAGE_SECRET,
        TASKS_KEY_PREFIX="acme",
    )
    assert node.ready(), node.logs()
    yield node
    node.teardown()


def test_a_shop_that_takes_pickle_is_told_so_and_its_tools_queue_takes_json_only(
    shop_worker: CeleryTestWorker, module_redis: RedisServer, tmp_path: Path
) -> None:
    from .pickle_shop import app, note

    assert "This Celery app accepts pickle" in shop_worker.logs()
    canaries = {name: tmp_path / name for name in ("tool", "shop's", "shared", "hidden")}
    with app.connection_for_write(module_redis.url) as connection, module_redis.client() as admin:

        def push(queue: str, name: str, canary: Path, protocol: int = 2) -> None:
            app.conf.task_protocol = protocol
            vars(app.amqp).pop("create_task_message", None)
            message = app.amqp.create_task_message("an id", name, (), {"task": Canary(canary)})
            options = {"routing_key": queue, "exchange": "", "serializer": "pickle"}
            app.amqp.Producer(connection, auto_declare=False).publish(
                message.body, headers=message.headers, correlation_id="an id", **options
            )

        try:
            push("tasks", "draw", canaries["tool"])
            push("tasks", "acme.note", canaries["shop's"])
            push("acme", "share", canaries["shared"])
            push("acme", "share", canaries["hidden"], protocol=1)
        finally:
            app.conf.task_protocol = 2
            vars(app.amqp).pop("create_task_message", None)
        # The shop's own messages are pickled, and run as they always did.
        path = tmp_path / "noted"
        note.apply_async((str(path),), connection=connection, retry=False)
        wait_until(path.exists, shop_worker.logs)
        wait_until(lambda: not admin.llen("acme-tasks") and not admin.llen("acme-acme"), shop_worker.logs)
        wait_until(lambda: "its body is not JSON" in shop_worker.logs(), shop_worker.logs)
    assert not canaries["tool"].exists()
    assert not canaries["shop's"].exists()
    assert not canaries["shared"].exists()
    # What names its task only in what is pickled is read, since the shop reads such; our tool is not run.
    wait_until(lambda: shop_worker.logs().count("its body is not JSON") == 4, shop_worker.logs)
    assert "Task share" not in shop_worker.logs()
