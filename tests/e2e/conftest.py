"""Workers for whole modules, and clients for single tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pytest_celery import CeleryTestWorker, CeleryWorkerCluster

from tests.kit.servers import RedisServer
from tests.kit.worker_app import service
from tests.kit.workers import Client, client_of, worker_node

StartWorker = Callable[..., CeleryTestWorker]


@pytest.fixture(scope="module")
def module_redis() -> Iterator[RedisServer]:
    """A real Redis that a module's workers and tests share."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def client(module_redis: RedisServer) -> Iterator[Client]:
    """Records tasks of the worker tests' service."""
    with client_of(service, module_redis.url) as client:
        yield client


@pytest.fixture
def start_worker(module_redis: RedisServer) -> Iterator[StartWorker]:
    """Starts workers, and ends them after the test."""
    nodes: list[CeleryTestWorker] = []

    def start(**options: object) -> CeleryTestWorker:
        node = worker_node(module_redis.url, name=f"worker{len(nodes)}", **options)
        nodes.append(node)
        assert node.ready(), node.logs()
        return node

    yield start
    for node in nodes:
        node.teardown()


@pytest.fixture
def start_cluster(start_worker: StartWorker) -> Callable[[int], CeleryWorkerCluster]:
    """Starts several workers of a kind."""
    return lambda size: CeleryWorkerCluster(*[start_worker(concurrency=1) for _ in range(size)])
