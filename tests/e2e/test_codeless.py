"""A front end that has never seen the shop's code, beside the shop's own workers: real processes all."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pytest_celery import CeleryTestWorker

from tasks_service.client.service_client import connect
from tests.kit.servers import RedisServer
from tests.kit.sessions import SessionClient
from tests.kit.waiting import wait_until
from tests.kit.wire import WireClient
from tests.kit.workers import worker_node

from .roles import FrontEnd, ready

SOON = 3.0
"""Seconds after the start of its first worker within which a tool can be called."""


@pytest.fixture(scope="module")
def front_end(module_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontEnd]:
    """It runs before any worker does."""
    process = FrontEnd(module_redis.url, tmp_path_factory.mktemp("front-end"), app=None)
    try:
        ready(process, "/readyz")
        yield process
    finally:
        process.teardown()


@pytest.fixture(scope="module")
def shop_worker(front_end: FrontEnd, module_redis: RedisServer) -> Iterator[CeleryTestWorker]:
    """A worker on the shop's app, whose queues have a prefix and routes of the shop's."""
    node = worker_node(
        module_redis.url,
        app="tests.e2e.shop_service:app",
        options=("-Q", "acme,indexing,tasks"),
        SHOP_BROKER=module_redis.url,
    )
    yield node
    node.teardown()


@pytest.fixture
def client(front_end: FrontEnd) -> Iterator[WireClient]:
    with WireClient(front_end.port) as client:
        yield client


def listed(client: WireClient) -> dict[str, str]:
    """Descriptions of the tools, by name."""
    return {
        tool["name"]: tool.get("description", "") for tool in client.request("tools/list").result["tools"]
    }


def test_a_shops_task_is_callable_within_three_seconds_of_its_first_workers_start(
    client: WireClient, shop_worker: CeleryTestWorker, measured: Callable[[str, str], None]
) -> None:
    assert shop_worker.ready(), shop_worker.logs()
    began = time.monotonic()
    wait_until(lambda: "reindex" in listed(client), shop_worker.logs)
    task_id = client.task("reindex", {"index": "books", "size": 2})
    seconds = time.monotonic() - began

    ended = wait_until(lambda: _ended(client, task_id), shop_worker.logs)

    structured = ended["result"]["structuredContent"]
    assert structured == {"index": "books", "opened": True, "direct": False}
    measured("codeless", f"a tool is callable {seconds:.2f} s after its first worker is ready")
    assert seconds < SOON


def _ended(client: WireClient, task_id: str) -> Any:
    task = client.get(task_id)
    return task if task["status"] in ("completed", "failed") else None


def test_other_clients_call_it_like_any_tool(front_end: FrontEnd, shop_worker: CeleryTestWorker) -> None:
    async def call() -> Any:
        async with connect(f"http://127.0.0.1:{front_end.port}/acme/mcp") as service:
            return await service.call("fresh", {"x": 41})

    assert asyncio.run(call()).structured_content == 42
    with SessionClient([front_end.port]) as session:
        session.initialize()
        result = session.result("tools/call", {"name": "fresh", "arguments": {"x": 1}})
        assert json.loads(result["content"][0]["text"]) == 2
        refused = session.result("tools/call", {"name": "fresh", "arguments": {"x": "one"}})
        assert refused["isError"]


def test_when_its_only_worker_stops_the_list_says_so(
    client: WireClient, shop_worker: CeleryTestWorker
) -> None:
    before = listed(client)["fresh"]

    shop_worker.kill("SIGTERM")

    wait_until(lambda: "No worker has this tool at present" in listed(client)["fresh"], "the list says so")
    assert listed(client)["fresh"].startswith(before)
