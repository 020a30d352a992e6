"""Messages over RabbitMQ, tasks in Redis: what is lost, doubled or down there costs no task."""

from __future__ import annotations

import asyncio
import gzip
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pytest_celery import CeleryTestWorker

from tasks_service import TaskService
from tasks_service.domain.task import Phase, TaskStatus
from tests.kit.rabbitmq import RabbitServer, require_rabbitmq
from tests.kit.secrets import MESSAGE_SECRET, signer_of
from tests.kit.servers import RedisServer
from tests.kit.serving import settings
from tests.kit.waiting import PATIENCE, wait_until
from tests.kit.wire import WireClient
from tests.kit.worker_app import service
from tests.kit.workers import Client, client_of, memory_kib, worker_node

from .roles import FrontEnd, ready

BACKLOG = 2_000
BOMB_BYTES, GZIP = 200_000_000, "application/x-gzip"


@pytest.fixture(scope="module")
def broker() -> Iterator[RabbitServer]:
    require_rabbitmq()
    server = RabbitServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def worker(broker: RabbitServer, module_redis: RedisServer) -> Iterator[CeleryTestWorker]:
    # It takes no message from the queue `elsewhere`, and sweeps it all the same.
    only = ("-Q", "tasks,maintenance")
    node = worker_node(
        module_redis.url,
        name="rabbit",
        options=only,
        hears_others=True,
        TASKS_BROKER_URL=broker.url,
        TASKS_MESSAGE_SECRET=MESSAGE_SECRET,
    )
    assert node.ready(), node.logs()
    yield node
    node.teardown()


@pytest.fixture
def client(broker: RabbitServer, module_redis: RedisServer, worker: CeleryTestWorker) -> Iterator[Client]:
    with client_of(service, module_redis.url, broker.url, signer=signer_of()) as client:
        yield client


def test_a_task_runs(client: Client) -> None:
    assert client.run("add", x=1, y=2).task.status is TaskStatus.COMPLETED


def test_a_program_submits_over_it_and_gets_the_result(
    worker: CeleryTestWorker, broker: RabbitServer, module_redis: RedisServer, tmp_path: Path
) -> None:
    shop = TaskService(
        "Worker tests",
        settings=settings(module_redis.url, tmp_path, broker_url=broker.url, message_secret=MESSAGE_SECRET),
    )

    @shop.tool()
    def add(x: int, y: int) -> int:
        raise AssertionError("it runs in a worker")

    assert shop.submit("add", x=2, y=3).result(PATIENCE) == 5

    async def all_added() -> list[int]:
        handles = [await shop.asubmit("add", x=number, y=1) for number in range(8)]
        return [await handle.aresult(PATIENCE) for handle in handles]

    assert asyncio.run(all_added()) == list(range(1, 9))
    with module_redis.client() as admin:
        assert not list(admin.scan_iter("ts:mq:*"))  # no message of it is in Redis


def test_a_front_end_without_code_publishes_where_it_is_told_and_says_so_where_it_is_not(
    worker: CeleryTestWorker, broker: RabbitServer, module_redis: RedisServer, tmp_path: Path
) -> None:
    signs = {"TASKS_MESSAGE_SECRET": MESSAGE_SECRET}
    told = FrontEnd(module_redis.url, tmp_path, app=None, TASKS_BROKER_URL=broker.url, **signs)
    untold = FrontEnd(module_redis.url, tmp_path, app=None, **signs)
    try:
        ready(told, "/readyz")
        with WireClient(told.port) as client:
            wait_until(lambda: "add" in client.request("tools/list").body.decode(), told.logs)
            task_id = client.task("add", {"x": 1, "y": 2})
            wait_until(lambda: client.get(task_id)["status"] == "completed", told.logs)
        wait_until(lambda: "Set TASKS_BROKER_URL of the front end" in untold.logs(), untold.logs)
    finally:
        told.teardown()
        untold.teardown()


def test_messages_that_were_lost_are_sent_again(
    client: Client, broker: RabbitServer, worker: CeleryTestWorker
) -> None:
    worker.kill("SIGSTOP")
    try:
        tasks = [client.call("add", x=n, y=n) for n in range(10)]
        with broker.connection() as connection:
            # The worker holds as many as it has slots.
            wait_until(lambda: client.outbox.queue_length("tasks") == 8)
            assert connection.default_channel.queue_purge("tasks") == 8
    finally:
        worker.kill("SIGCONT")
    for task in tasks:
        assert client.ended(task).task.status is TaskStatus.COMPLETED


def test_a_doubled_message_does_not_run_its_task_again(client: Client, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    task = client.call("run_until", runs=str(runs), told=str(tmp_path / "told"))
    client.running(task)
    for _ in range(3):
        client.outbox.committed(task)
    # They are taken, refused and acknowledged, while the task runs in another slot.
    assert client.run("add", x=1, y=2).task.status is TaskStatus.COMPLETED
    (tmp_path / "told").touch()
    assert client.ended(task).task.status is TaskStatus.COMPLETED
    assert runs.read_text() == "run\n"


def test_workers_answer_remote_control(broker: RabbitServer, worker: CeleryTestWorker) -> None:
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "tests.kit.worker_app",
        "inspect",
        "ping",
        "--timeout",
        "5",
    ]
    env = {**os.environ, "TASKS_BROKER_URL": broker.url}
    asked = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert "rabbit@test: OK" in asked.stdout, asked.stdout + asked.stderr


def test_a_backlog_is_no_flood(
    client: Client, module_redis: RedisServer, worker: CeleryTestWorker, measured: Callable[[str, str], None]
) -> None:
    def length() -> int | None:
        return client.outbox.queue_length("elsewhere")

    client.call("far_away")
    wait_until(lambda: (length() or 0) > 0)
    already = length() or 0
    for _ in range(BACKLOG):
        client.call("far_away")
    wait_until(lambda: length() == already + BACKLOG, lambda: f"{length()} messages")
    sweeps: set[str] = set()
    with module_redis.client() as admin:
        wait_until(lambda: sweeps.add(admin.get("ts:swept")) or len(sweeps) > 10)
    assert length() == already + BACKLOG
    measured("RabbitMQ", f"a backlog of {BACKLOG} tasks: {BACKLOG} messages after {len(sweeps)} sweeps")


def test_a_task_that_was_created_while_the_broker_was_down_runs_when_it_is_back(
    client: Client, broker: RabbitServer
) -> None:
    broker.kill()
    task = client.call("add", x=2, y=3)
    assert client.view(task).task.phase is Phase.PENDING
    broker.start()
    assert client.ended(task, timeout=120).task.status is TaskStatus.COMPLETED


TYPES = ("application/json", "application/x-python-serialize", "application/x-yaml", "text/plain", "x", None)
BODIES = (b"", b"null", b"5", b"[]", b"[[], {}, {}]", b"\xff", b'{"task": "add"}', b"[" * 100_000)
VALUES = (None, True, -1, 2**40, 1.5, "", "x", "x" * 5_000, [], ["x", 1], {}, {"x": {}})
"""One of each kind that a header of AMQP may have."""

HEADERS = {
    "task": "add",
    "id": "x",
    "root_id": "x",
    "parent_id": None,
    "lang": "py",
    "argsrepr": "()",
    "kwargsrepr": "{}",
    "origin": "gen@x",
    "retries": 0,
    "eta": None,
    "expires": None,
    "timelimit": [None, None],
    "group": None,
    "group_index": None,
    "shadow": None,
    "meth": None,
    "ignore_result": True,
    "replaced_task_nesting": 0,
    "stamps": {},
    "stamped_headers": None,
    "compression": None,
}
BODY = b'[[], {"task": "00aaaaaaaaaaaaaaaaaaaa", "dispatched_ms": 1}, {"callbacks": null}]'


def shapes() -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Messages of any shape: a body, and its properties."""
    usual: dict[str, Any] = {"content_type": "application/json", "content_encoding": "utf-8"}
    for headers, kind, body in product(({}, {"task": "add"}, {"task": "add", "id": 5}), TYPES, BODIES):
        yield body, {**usual, "content_type": kind, "headers": headers}
    for name, value in product(HEADERS, VALUES):
        yield BODY, {**usual, "headers": {**HEADERS, name: value}}
    for encoding, body in product(("utf-16", "binary", "x", None), (BODY, b"\xff")):
        yield body, {**usual, "content_encoding": encoding, "headers": HEADERS}
    for name in ("correlation_id", "reply_to", "message_id", "type", "app_id"):
        yield BODY, {**usual, "headers": HEADERS, "properties": {name: "x" * 255}}
    yield BODY, {}
    yield gzip.compress(b" " * BOMB_BYTES), {**usual, "headers": {**HEADERS, "compression": GZIP}}


def test_a_message_of_any_shape_is_run_or_dropped_and_counted_and_the_worker_lives(
    client: Client, broker: RabbitServer, worker: CeleryTestWorker, measured: Callable[[str, str], None]
) -> None:
    process, number = worker.container.process.pid, 0
    held = memory_kib(process)
    with broker.connection() as connection, connection.channel() as channel:
        for body, properties in shapes():
            number += 1
            for exchange, key in (("", "tasks"), ("celeryev", "worker.heartbeat"), ("celery.pidbox", "")):
                channel.basic_publish(channel.prepare_message(body, **properties), exchange, key)
        wait_until(lambda: not channel.queue_declare("tasks", passive=True).message_count, worker.logs)
    assert client.run("add", x=1, y=2).task.status is TaskStatus.COMPLETED
    assert (worker.container.status, worker.container.process.pid) == ("running", process), worker.logs()
    # Not one of them is signed.
    wait_until(
        lambda: (
            (dropped := client.store.dropped_messages().get("tasks")) is not None and dropped.number >= number
        ),
        worker.logs,
    )
    assert memory_kib(process) - held < BOMB_BYTES / 1024 / 4, "the bomb was inflated"
    measured("D3", f"RabbitMQ: {number} messages, events and orders of any shape: the worker lives")
