"""Tools that take their process down: they fail after their attempts, and their neighbours hardly notice."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_celery import CeleryTestWorker

from tasks_service.domain.task import FailureKind, Task, TaskStatus
from tests.kit.audit import audit, told
from tests.kit.servers import RedisServer
from tests.kit.workers import Client, client_of, worker_node

from .toxic_app import ATTEMPTS, POISONS, service

NEIGHBOURS = int(os.environ.get("TASKS_TEST_NEIGHBOURS", "100"))
CONCURRENCY = 4
FATAL = [kind for kind in POISONS if kind not in ("exit", "memory")]
"""What no process survives; the others are failures of the tool, which its child lives to tell."""

SAMPLE = ("segfault",)
"""The one of them that every run tries: a parent takes up to five seconds to miss a child."""

Measured = Callable[[str, str], None]


@pytest.fixture(scope="module")
def worker(redis: RedisServer) -> Iterator[CeleryTestWorker]:
    node = worker_node(redis.url, app="tests.faults.toxic_app", concurrency=CONCURRENCY)
    assert node.ready(), node.logs()
    yield node
    node.teardown()


@pytest.fixture
def client(redis: RedisServer, worker: CeleryTestWorker) -> Iterator[Client]:
    with client_of(service, redis.url) as client:
        yield client
    assert worker.container.status == "running", worker.logs()
    found = audit(redis.url, beside=[r"ts:mq:.*"])
    assert not found, told(found)


def runs(path: Path) -> Counter[str]:
    """How often each task ran, by the diary of its tool."""
    return Counter(json.loads(line)["task"] for line in path.read_text().splitlines())


def goods(client: Client, path: Path) -> tuple[list[Task], float]:
    """Call good tools and wait for them; the seconds that they took together."""
    began = time.monotonic()
    tasks = [client.call("good", path=str(path)) for _ in range(NEIGHBOURS)]
    return [client.ended(task).task for task in tasks], time.monotonic() - began


@pytest.mark.timeout(300)
def test_a_pill_fails_after_its_attempts_and_its_neighbours_all_complete_in_time(
    client: Client, worker: CeleryTestWorker, tmp_path: Path, measured: Measured
) -> None:
    pills, neighbours = tmp_path / "pills", tmp_path / "neighbours"
    client.run("good", path=str(tmp_path / "first"))
    _, without = goods(client, tmp_path / "without")

    pill = client.call("poison", kind="kill", path=str(pills))
    ended, beside = goods(client, neighbours)

    failed = client.ended(pill).task
    assert (failed.status, failed.claims) == (TaskStatus.FAILED, ATTEMPTS)
    assert failed.failure is not None
    assert failed.failure.kind is FailureKind.ATTEMPTS
    assert runs(pills) == {pill.task_id: ATTEMPTS}
    assert Counter(task.status for task in ended) == {TaskStatus.COMPLETED: NEIGHBOURS}
    assert runs(neighbours) == {task.task_id: 1 for task in ended}
    ratio = without / beside
    assert ratio >= 0.5
    measured("R10", f"{ATTEMPTS} runs, then failed; {NEIGHBOURS} neighbours at {ratio:.0%} of their speed")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "kind",
    [kind if kind in SAMPLE else pytest.param(kind, marks=pytest.mark.faults) for kind in FATAL],
)
def test_whatever_kills_the_process_counts_as_an_attempt(client: Client, tmp_path: Path, kind: str) -> None:
    task = client.call("poison", kind=kind, path=str(tmp_path / "runs"))
    other = client.call("good", path=str(tmp_path / "good"))
    failed = client.ended(task).task
    assert (failed.status, failed.claims) == (TaskStatus.FAILED, ATTEMPTS)
    assert failed.failure is not None
    assert failed.failure.kind is FailureKind.ATTEMPTS
    assert runs(tmp_path / "runs") == {task.task_id: ATTEMPTS}
    assert client.ended(other).task.status is TaskStatus.COMPLETED


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", sorted(POISONS.keys() - set(FATAL)))
def test_what_the_process_survives_is_a_failure_of_the_tool(
    client: Client, tmp_path: Path, kind: str
) -> None:
    task = client.call("poison", kind=kind, path=str(tmp_path / "runs"))
    ended = client.ended(task).task
    assert ended.is_error
    assert (ended.status, ended.claims) == (TaskStatus.COMPLETED, 1)
    assert runs(tmp_path / "runs") == {task.task_id: 1}
    assert client.run("good", path=str(tmp_path / "good")).task.status is TaskStatus.COMPLETED
