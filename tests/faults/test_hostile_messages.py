"""Nothing that stands in a broker ends a worker: messages, its own bookkeeping, remote control and events.

The default run damages each field of a message in every way; `TASKS_TEST_HOSTILE=20000` sends so many, with
two damages at once when each field has had its turn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner
from pytest_celery import CeleryTestWorker

from tasks_service.broker.app import create_app
from tasks_service.cli import commands
from tasks_service.domain.task import TaskStatus
from tests.kit.audit import audit, told
from tests.kit.hostile import EVENT, RAW, damaged_twice, published, variants
from tests.kit.servers import RedisServer
from tests.kit.waiting import PATIENCE, wait_until
from tests.kit.workers import Client, client_of, worker_node

from .toxic_app import service

ROOT = Path(__file__).parents[2]
NUMBER = int(os.environ.get("TASKS_TEST_HOSTILE", "0"))
QUEUE, OF_BEAT = "ts:mq:tasks", "ts:mq:maintenance"
Measured = Callable[[str, str], None]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


POOLS = ["prefork", *(pytest.param(pool, marks=pytest.mark.hostile) for pool in ("threads", "solo"))]


@pytest.fixture(scope="module", params=POOLS)
def worker(request: pytest.FixtureRequest, redis: RedisServer) -> Iterator[CeleryTestWorker]:
    node = worker_node(
        redis.url, app="tests.faults.toxic_app", pool=request.param, concurrency=2, hears_others=True
    )
    assert node.ready(), node.logs()
    yield node
    node.teardown()


@pytest.fixture
def client(redis: RedisServer, worker: CeleryTestWorker) -> Iterator[Client]:
    process = worker.container.process.pid
    with client_of(service, redis.url) as client:
        yield client
    assert (worker.container.status, worker.container.process.pid) == ("running", process), worker.logs()[
        -9000:
    ]
    found = audit(redis.url, beside=[r"ts:mq:.*"])
    assert not found, told(found)


def runs_a_task(client: Client, path: Path) -> bool:
    return client.run("good", path=str(path), seconds=0.0).task.status is TaskStatus.COMPLETED


def hostile(real: Any, number: int) -> list[Any]:
    """Each field damaged in every way; then, for as many as are wanted, two at once."""
    messages, draw = list(variants(real)), Random(0)
    return messages + [damaged_twice(real, draw) for _ in range(number - len(messages))]


@pytest.mark.timeout(1_800)
def test_a_message_of_any_shape_is_run_or_dropped_and_counted_and_the_worker_lives(
    client: Client, redis: RedisServer, worker: CeleryTestWorker, tmp_path: Path, measured: Measured
) -> None:
    task = client.run("good", path=str(tmp_path / "first"), seconds=0.0).task
    ((key, payload),) = client.outbox.pushes(task, task.created_ms)
    assert key == QUEUE
    real = json.loads(payload)
    messages = hostile(real, NUMBER)
    before = client.store.dropped_messages()
    with redis.client() as admin:
        for raw in (*RAW, *(json.dumps(message).encode() for message in messages)):
            admin.lpush(QUEUE, raw)
        for raw in RAW:
            admin.lpush(OF_BEAT, raw)
        wait_until(lambda: not admin.llen(QUEUE) and not admin.llen(OF_BEAT), worker.logs, seconds=1_500)
        wait_until(lambda: not admin.hlen("ts:mq:unacked"), worker.logs)
    assert runs_a_task(client, tmp_path / "last")
    assert (tmp_path / "first").read_text().count("\n") == 1

    def counted() -> bool:
        dropped = client.store.dropped_messages()
        if not {"tasks", "maintenance"} <= dropped.keys():
            return False
        return dropped["tasks"].number > len(RAW) and dropped["maintenance"].number >= len(RAW)

    wait_until(counted, lambda: str((before, client.store.dropped_messages())))
    dropped = client.store.dropped_messages()["tasks"].number
    measured("D3", f"{len(messages)} messages damaged in every field, {dropped} dropped: the worker lives")


def test_bookkeeping_of_any_shape_is_dropped_and_the_worker_lives(
    client: Client, redis: RedisServer, worker: CeleryTestWorker, tmp_path: Path
) -> None:
    with redis.client() as admin:
        for tag, entry in {
            "a": "not JSON",
            "b": "5",
            "c": "[1]",
            "d": "[1, 2, 3]",
            "e": '[{}, "", ""]',
        }.items():
            admin.hset("ts:mq:unacked", tag, entry)
            admin.zadd("ts:mq:unacked_index", {tag: 1})
        wait_until(lambda: not admin.hlen("ts:mq:unacked"), worker.logs)
        for key in ("ts:mq:unacked", "ts:mq:unacked_index", QUEUE, OF_BEAT):
            admin.delete(key)
            admin.set(key, "no such thing")
            wait_until(lambda k=key: admin.type(k) != "string" or runs_a_task(client, tmp_path / "runs"))  # type: ignore[misc]
    assert runs_a_task(client, tmp_path / "last")


CHANNELS = (
    ("ts:mq:/0.celeryev/worker.heartbeat", "celeryev", "worker.heartbeat"),
    ("ts:mq:/0.celeryev/worker.online", "celeryev", "worker.online"),
    ("ts:mq:/0.celeryev/worker.elect", "celeryev", "worker.elect"),
    ("ts:mq:/0.celery.pidbox", "celery.pidbox", ""),
)
"""Where workers tell each other of themselves, and where all are told what to do."""

ORDER = {
    "method": "ping",
    "arguments": {},
    "destination": None,
    "pattern": None,
    "matcher": None,
    "ticket": "t",
    "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "r"},
}


def test_remote_control_and_events_of_any_shape_are_dropped_and_the_worker_lives(
    client: Client, redis: RedisServer, worker: CeleryTestWorker, tmp_path: Path, measured: Measured
) -> None:
    number = 0
    with redis.client() as admin:
        for channel, exchange, routing_key in CHANNELS:
            wait_until(lambda c=channel: admin.publish(c, "not JSON"), worker.logs)  # type: ignore[misc]
            for raw in published(exchange, routing_key, EVENT if exchange == "celeryev" else ORDER):
                number += 1
                admin.publish(channel, raw)
        for channel, _, _ in CHANNELS:
            wait_until(lambda c=channel: admin.publish(c, "not JSON"), worker.logs)  # type: ignore[misc]
    assert runs_a_task(client, tmp_path / "last")
    app = create_app("asking", broker_url=redis.url, key_prefix="ts")
    assert app.control.ping(timeout=PATIENCE, limit=1), worker.logs()[-9_000:]
    measured("D6", f"{number} events and orders damaged in every field: the worker lives")


def test_a_worker_starts_beside_bookkeeping_that_cannot_be_read(tmp_path: Path) -> None:
    server = RedisServer()
    with server.client() as admin:
        admin.hset("ts:mq:unacked", "tag", "not JSON")
        admin.zadd("ts:mq:unacked_index", {"tag": 1})
        admin.set(OF_BEAT, "no such thing")
    node = worker_node(server.url, app="tests.faults.toxic_app", concurrency=1)
    try:
        assert node.ready(), node.logs()
        with client_of(service, server.url) as client:
            assert runs_a_task(client, tmp_path / "runs")
    finally:
        node.teardown()
        server.close()


def test_a_repair_drops_messages_that_no_worker_would_be_given_and_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = RedisServer()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKS_REDIS_URL", server.url)
    with client_of(service, server.url) as client, server.client() as admin:
        task = client.call("good", path=str(tmp_path / "runs"))
        ((key, payload),) = client.outbox.pushes(task, task.created_ms)
        sound = admin.lrange(key, 0, -1)
        no_body = {name: value for name, value in json.loads(payload).items() if name != "body"}
        admin.rpush(key, json.dumps(no_body), json.dumps({**no_body, "body": None}), *RAW[1:])
        admin.lpush(OF_BEAT, b"not JSON")
        admin.hset("ts:mq:unacked", "tag", "not JSON")
        admin.zadd("ts:mq:unacked_index", {"tag": 1})
        found = CliRunner().invoke(commands, ["repair", "--dry-run", "--json"])
        wrong = [json.loads(line) for line in found.stdout.splitlines()]
        assert (found.exit_code, len(wrong)) == (1, len(RAW) + 3), found.output
        assert admin.llen(key) == len(RAW) + 2
        command = [sys.executable, "-m", "tasks_service", "repair", "--app", "tests.faults.toxic_app:service"]
        fixed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert fixed.returncode == 0, fixed.stdout + fixed.stderr
        assert admin.lrange(key, 0, -1) == sound
        assert not admin.exists(OF_BEAT, "ts:mq:unacked", "ts:mq:unacked_index")
        again = CliRunner().invoke(commands, ["repair"])
        assert "Nothing is wrong" in again.output
    server.close()
