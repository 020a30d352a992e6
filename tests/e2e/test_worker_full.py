"""What a worker does with an outcome that a full Redis does not take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_celery import CeleryTestWorker

from tasks_service.domain.task import Phase, TaskStatus
from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until
from tests.kit.worker_app import service
from tests.kit.workers import Client, client_of, worker_node

PLENTY = 256 * 1024 * 1024


@pytest.fixture
def small_redis() -> Iterator[RedisServer]:
    server = RedisServer("--maxmemory", "64mb")
    yield server
    server.close()


@pytest.fixture
def client(small_redis: RedisServer) -> Iterator[Client]:
    with client_of(service, small_redis.url) as client:
        yield client


@pytest.fixture
def worker(small_redis: RedisServer) -> Iterator[CeleryTestWorker]:
    node = worker_node(small_redis.url)
    assert node.ready(), node.logs()
    yield node
    node.teardown()


def test_a_running_task_whose_outcome_meets_a_full_redis_completes_once_there_is_memory(
    client: Client, worker: CeleryTestWorker, small_redis: RedisServer, tmp_path: Path
) -> None:
    runs, told = tmp_path / "runs", tmp_path / "told"
    task = client.call("run_until", runs=str(runs), told=str(told))
    client.running(task)
    wait_until(runs.exists)

    with small_redis.client() as redis:
        redis.config_set("maxmemory", 1024)
        told.touch()
        wait_until(lambda: "is tried again" in worker.logs(), worker.logs)
        wait_until(lambda: "expired tasks were removed" in worker.logs(), worker.logs)
        assert client.view(task).task.phase is Phase.RUNNING
        redis.config_set("maxmemory", PLENTY)

    ended = client.ended(task)
    assert ended.task.status is TaskStatus.COMPLETED
    assert runs.read_text() == "run\n", "it ran once"
    assert client.run("add", x=1, y=2).task.status is TaskStatus.COMPLETED, worker.logs()
    # kombu logs a traceback of its own if it meets the full Redis.
    assert not re.search(r'File ".*/tasks_service/', worker.logs()), worker.logs()
