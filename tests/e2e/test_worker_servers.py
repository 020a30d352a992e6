"""Real workers whose Redis goes away and comes back, is the master of sentinels, or a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from pytest_celery import CeleryTestWorker

from tasks_service.domain.task import TaskStatus
from tasks_service.store.redis import RedisTaskStore
from tests.kit.groups import ClusterServers, SentinelGroup
from tests.kit.proxy import Verdict
from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until
from tests.kit.worker_app import service
from tests.kit.workers import Client, client_of, worker_node


@contextmanager
def under_sentinels() -> Iterator[tuple[SentinelGroup, Client, CeleryTestWorker]]:
    """Sentinels with their servers, which are store and broker at once; a client and a worker."""
    with closing(SentinelGroup()) as group:
        worker = worker_node(group.url, name="sentinel")
        try:
            assert worker.ready(), worker.logs()
            with client_of(service, group.url) as client:
                yield group, client, worker
        finally:
            worker.teardown()


def test_a_worker_outlives_an_outage_of_redis_in_the_middle_of_a_tool() -> None:
    """Its broker is away when it closes the connection on which the tool's message is unacknowledged."""
    with closing(RedisServer("--appendonly", "yes", "--appendfsync", "always")) as server:
        worker = worker_node(server.url, name="outage")
        try:
            assert worker.ready(), worker.logs()
            with client_of(service, server.url) as client:
                task = client.running(client.call("wait_async", seconds=3))
                server.kill()
                wait_until(lambda: "Connection to broker lost" in worker.logs(), worker.logs)
                server.start()
                assert client.ended(task).task.status is TaskStatus.COMPLETED
                assert client.run("add", x=1, y=2).task.status is TaskStatus.COMPLETED, worker.logs()
                assert worker.container.status == "running"
        finally:
            worker.teardown()


@pytest.mark.parametrize(
    ("options", "env", "sentence"),
    [
        (("--maxmemory-policy", "allkeys-lru"), {}, "Run CONFIG SET maxmemory-policy noeviction"),
        ((), {"TASKS_SHARDS": "4"}, "Set TASKS_SHARDS=1 for every process"),
    ],
    ids=["it may evict tasks", "it was laid out with other shards"],
)
def test_a_worker_does_not_start_on_a_store_that_it_would_lose_tasks_of(
    options: tuple[str, ...], env: dict[str, str], sentence: str
) -> None:
    with closing(RedisServer(*options)) as server:
        with closing(RedisTaskStore(server.url)) as store:
            store.check()
        worker = worker_node(server.url, name="misled", **env)
        try:
            wait_until(lambda: worker.container.status == "exited", worker.logs)
            assert sentence in worker.logs()
        finally:
            worker.teardown()


def test_under_sentinels_record_and_message_are_one_write_and_a_worker_runs_it() -> None:
    with under_sentinels() as (group, client, _):
        assert client.outbox.in_store
        packets: list[bytes] = []
        group.proxy.judge = lambda packet: packets.append(packet) or Verdict.PASS
        task = client.call("add", x=1, y=2)
        written = next(packet for packet in packets if task.task_id.encode() in packet and b"EXEC" in packet)
        assert written.count(b"MULTI") == 1 and b"LPUSH" in written
        assert client.ended(task).task.status is TaskStatus.COMPLETED
        assert client.outbox.queue_length("tasks") == 0


def test_a_worker_goes_on_at_the_master_that_took_over() -> None:
    with under_sentinels() as (group, client, _):
        assert client.run("add", x=1, y=2).task.status is TaskStatus.COMPLETED
        group.fail_over()
        for number in range(5):
            assert client.run("add", x=number, y=2).task.status is TaskStatus.COMPLETED


def test_on_a_cluster_a_worker_runs_what_another_broker_brings() -> None:
    with closing(ClusterServers(3)) as cluster, closing(RedisServer()) as broker:
        worker = worker_node(cluster.url, name="cluster", TASKS_BROKER_URL=broker.url)
        try:
            assert worker.ready(), worker.logs()
            with client_of(service, cluster.url, broker.url) as client:
                assert not client.outbox.in_store
                for number in range(5):
                    assert client.run("add", x=number, y=2).task.status is TaskStatus.COMPLETED
                wait_until(lambda: client.store.last_sweep_ms() is not None)
        finally:
            worker.teardown()


def test_on_a_cluster_without_a_broker_a_worker_refuses_to_start_and_says_what_to_set() -> None:
    worker = worker_node("redis+cluster://127.0.0.1:7000", name="brokerless")
    try:
        assert not worker.ready()
        assert "Set TASKS_BROKER_URL" in worker.logs()
    finally:
        worker.teardown()
