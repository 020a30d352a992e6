"""Tools that never look at their context, and many tools at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_celery import CeleryTestWorker

from tasks_service.domain.task import FailureKind, TaskStatus
from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until
from tests.kit.workers import Client

StartWorker = Callable[..., CeleryTestWorker]


def test_a_deaf_tool_is_interrupted_when_its_task_is_cancelled(
    start_worker: StartWorker, client: Client
) -> None:
    worker = start_worker(pool="prefork", concurrency=1)
    task = client.call("unresponsive")
    client.running(task)
    client.cancel(task)
    wait_until(lambda: "ended early: The task was cancelled" in worker.logs(), worker.logs)
    assert client.run("add", x=1, y=1).task.status is TaskStatus.COMPLETED


def test_an_unresponsive_tool_is_interrupted_when_its_time_is_up(
    start_worker: StartWorker, client: Client
) -> None:
    start_worker(pool="prefork", concurrency=1)
    failure = client.run("slow_and_deaf").task.failure
    assert failure is not None
    assert failure.kind is FailureKind.TIMEOUT
    assert client.run("add", x=1, y=1).task.status is TaskStatus.COMPLETED


def test_what_a_tool_leaves_of_its_process_is_put_back_before_the_next_task(
    start_worker: StartWorker, client: Client, tmp_path: Path
) -> None:
    worker = start_worker(pool="prefork", concurrency=1)
    before = client.run("describe_process").result
    client.run("misbehave", directory=str(tmp_path))

    assert client.run("describe_process").result == before, "also the same pool child"
    worker.wait_for_log("Tool misbehave has changed the alarm, the handler of SIGUSR1", timeout=60)
    task = client.call("unresponsive")
    client.running(task)
    cancelled = time.monotonic()
    client.cancel(task)
    wait_until(lambda: "ended early: The task was cancelled" in worker.logs(), worker.logs)
    assert time.monotonic() - cancelled < 8, "interrupted, and not killed at the end of its patience"
    assert client.run("describe_process").result == before


def test_async_tools_run_at_once_on_a_threads_pool(start_worker: StartWorker, client: Client) -> None:
    start_worker(pool="threads", concurrency=40)
    client.run("wait_async", seconds=0)
    begun = time.monotonic()
    tasks = [client.call("wait_async", seconds=3) for _ in range(40)]
    ended = [client.ended(task) for task in tasks]
    assert {view.task.status for view in ended} == {TaskStatus.COMPLETED}
    assert time.monotonic() - begun < 60  # one after the other they take 120


def test_the_tools_of_a_prefork_worker_run_in_processes_of_their_own(
    start_worker: StartWorker, client: Client
) -> None:
    worker = start_worker(pool="prefork", concurrency=1)
    ended = client.run("identity")
    assert f'"pid":{worker.container.id}' not in (ended.result or "")
    assert f'"pid":{os.getpid()}' not in (ended.result or "")


@pytest.mark.damages
def test_a_tool_whose_task_the_store_no_longer_knows_ends_and_writes_nothing(
    start_worker: StartWorker, client: Client, module_redis: RedisServer
) -> None:
    # As after a restore of an earlier backup: the whole task is among what was forgotten.
    worker = start_worker(pool="prefork", concurrency=1)
    task = client.call("unresponsive")
    client.running(task)
    with module_redis.client() as redis:
        redis.flushdb()
    wait_until(lambda: "ended early: The task went to another" in worker.logs(), worker.logs)
    with module_redis.client() as redis:
        assert list(redis.scan_iter("ts:{*}:[tl]:*")) == []
    assert client.run("add", x=1, y=1).task.status is TaskStatus.COMPLETED
