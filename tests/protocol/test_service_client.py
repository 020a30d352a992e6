"""The client of our own commands, through what its server goes through."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mcp_types import CallToolResult

from tasks_service.authoring.tool import ToolRegistry
from tasks_service.client.messages import TaskState
from tasks_service.client.service_client import connect
from tests.kit.hand_worker import Worker
from tests.kit.servers import RedisServer
from tests.kit.serving import serving, settings
from tests.kit.waiting import wait_until


def test_a_task_is_followed_through_an_outage_of_the_store(tools: ToolRegistry, tmp_path: Path) -> None:
    redis = RedisServer("--appendonly", "yes", "--appendfsync", "always")
    seen: list[TaskState] = []

    async def call(port: int) -> CallToolResult:
        async with connect(f"http://127.0.0.1:{port}/mcp") as client:
            return await client.call("greet", {"name": "Ada"}, seen.append)

    with serving(tools, settings(redis.url, tmp_path)) as port, ThreadPoolExecutor(1) as pool:
        worker = Worker(redis.url, tools)
        called = pool.submit(lambda: asyncio.run(call(port)))
        wait_until(lambda: len(seen) > 1, "it is followed")

        redis.kill()
        time.sleep(3.0)  # longer than a front end waits for its store
        redis.start()
        worker.run_next()

        assert called.result(30).structured_content == "Hello, Ada!"
    redis.close()
