"""What happens to tasks when processes die, or are told to stop."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator

import pytest
from pytest_celery import CeleryTestWorker, CeleryWorkerCluster

from tasks_service.domain.task import FailureKind, Phase, Task, TaskStatus
from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until
from tests.kit.worker_app import service
from tests.kit.workers import Client, client_of, worker_node

StartWorker = Callable[..., CeleryTestWorker]


def result_of(client: Client, task: Task) -> object:
    view = client.ended(task)
    assert view.task.status is TaskStatus.COMPLETED, view
    return json.loads(view.result or "")["structuredContent"]["result"]


def test_a_task_whose_process_is_killed_runs_again_at_once(start_worker: StartWorker, client: Client) -> None:
    worker = start_worker(concurrency=2)
    task = client.call("die_once")
    assert result_of(client, task) == 2
    # Not the lease ran out, but the parent handed it back.
    wait_until(lambda: "Release by the worker's main process" in worker.logs(), worker.logs)


def test_a_task_that_kills_every_process_fails_after_its_attempts(
    start_worker: StartWorker, client: Client
) -> None:
    start_worker(concurrency=1)
    ended = client.run("poison").task
    assert (ended.status, ended.claims) == (TaskStatus.FAILED, 2)
    assert ended.failure is not None
    assert ended.failure.kind is FailureKind.ATTEMPTS
    assert client.run("add", x=1, y=1).task.status is TaskStatus.COMPLETED


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_sigterm_drains_and_then_hands_the_task_to_another_worker(
    start_worker: StartWorker, client: Client, pool: str
) -> None:
    first = start_worker(pool=pool, concurrency=1)
    task = client.call("loop", seconds=60, again=0.1)
    client.running(task)
    first.kill("SIGTERM")
    wait_until(lambda: first.container.status == "exited", first.logs)
    wait_until(lambda: "was handed back" in first.logs(), first.logs)
    assert client.view(task).task.phase is Phase.PENDING
    start_worker(concurrency=1)
    assert result_of(client, task) == "ran to its end"
    ended = client.view(task).task
    assert (ended.claims, ended.attempts) == (2, 1)  # a graceful hand-back does not count as an attempt


def test_sigterm_ends_an_unresponsive_tool_too(start_worker: StartWorker, client: Client) -> None:
    worker = start_worker(pool="prefork", concurrency=1)
    task = client.call("unresponsive", seconds=60)
    client.running(task)
    worker.kill("SIGTERM")
    wait_until(lambda: worker.container.status == "exited", worker.logs)
    assert client.view(task).task.phase is Phase.PENDING
    client.cancel(task)


@pytest.mark.parametrize(
    ("sent", "env"),
    [
        ("SIGQUIT", {}),
        # The operators' guide advises against it: on a busy machine Celery was once seen not to end.
        pytest.param("SIGTERM", {"REMAP_SIGTERM": "SIGQUIT"}, marks=pytest.mark.faults),
    ],
)
def test_a_cold_shutdown_hands_the_task_back_too(
    start_worker: StartWorker, client: Client, sent: str, env: dict[str, str]
) -> None:
    worker = start_worker(pool="prefork", concurrency=1, **env)
    task = client.call("loop", seconds=60)
    client.running(task)
    worker.kill(sent)
    wait_until(lambda: worker.container.status == "exited", worker.logs)
    wait_until(lambda: client.view(task).task.phase is Phase.PENDING, worker.logs)
    client.cancel(task)


def test_a_worker_takes_nothing_new_once_it_stops(start_worker: StartWorker, client: Client) -> None:
    worker = start_worker(pool="prefork", concurrency=1)
    task = client.call("loop", seconds=60)
    client.running(task)
    worker.kill("SIGTERM")
    wait_until(lambda: "Warm shutdown" in worker.logs())
    late = client.call("add", x=1, y=1)
    wait_until(lambda: worker.container.status == "exited", worker.logs)
    assert client.view(late).task.phase is Phase.PENDING
    start_worker(concurrency=1)
    assert result_of(client, late) == 2
    client.cancel(task)


def test_an_outcome_is_recorded_when_the_store_comes_back() -> None:
    server = RedisServer("--appendonly", "yes", "--appendfsync", "always")
    node = worker_node(server.url, concurrency=1)
    try:
        assert node.ready(), node.logs()
        with client_of(service, server.url) as client:
            task = client.call("unresponsive", seconds=1)
            client.running(task)
            server.kill()
            time.sleep(1.5)
            server.start()
            assert result_of(client, task) == "ran to its end"
            assert client.view(task).task.claims == 1
            assert client.run("add", x=1, y=1).task.status is TaskStatus.COMPLETED
    finally:
        node.teardown()
        server.close()


class TestWithDefaultSettings:
    """Nothing is tuned for the test: default lease, default interval of sweeps."""

    @pytest.fixture
    def redis(self) -> Iterator[RedisServer]:
        server = RedisServer()
        yield server
        server.close()

    @pytest.fixture
    def cluster(self, redis: RedisServer) -> Iterator[CeleryWorkerCluster]:
        nodes = [
            worker_node(redis.url, name=f"default{n}", concurrency=1, TASKS_SWEEP_INTERVAL="2.0")
            for n in (1, 2)
        ]
        cluster = CeleryWorkerCluster(*nodes)
        assert cluster.ready()
        yield cluster
        for node in nodes:
            node.teardown()

    def test_the_task_of_a_killed_worker_is_taken_from_it_within_15_s_and_runs_elsewhere(
        self, redis: RedisServer, cluster: CeleryWorkerCluster
    ) -> None:
        with client_of(service, redis.url) as client:
            task = client.call("loop", seconds=60)
            holder = client.running(task).lease
            assert holder is not None
            named = re.match(r"default(\d)@", holder.worker)
            assert named is not None
            killed_ms = client.store.now_ms()
            os.killpg(int(cluster[int(named[1]) - 1].container.id), signal.SIGKILL)
            wait_until(lambda: client.view(task).task.claims == 2, cluster[0].logs)
            taken = next(line for line in client.record(task).log if line.source is Phase.RUNNING)
            assert taken.at_ms - killed_ms < 15_000
            again = client.running(task).lease
            assert again is not None
            assert again.worker.split("/")[0] != holder.worker.split("/")[0]
            client.cancel(task)
