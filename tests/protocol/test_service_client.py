"""The client of our own commands, through what its server goes through."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult

from tasks_service.authoring.tool import ToolRegistry
from tasks_service.client.messages import NewTask, TaskState, retry_seconds
from tasks_service.client.service_client import TaskEnded, connect, send_insistently
from tasks_service.domain.events import CancelByOperator
from tests.kit.hand_worker import Worker
from tests.kit.servers import RedisServer
from tests.kit.serving import serving, settings
from tests.kit.stored import ids_of
from tests.kit.waiting import wait_until

T = TypeVar("T")


def test_each_request_that_meets_a_busy_store_is_sent_again_as_the_error_says(
    tools: ToolRegistry, tmp_path: Path
) -> None:
    redis = RedisServer("--appendonly", "yes", "--appendfsync", "always")

    async def in_an_outage(request: Callable[[], Awaitable[T]]) -> T:
        """The store is away when the request comes, and back when it comes again."""
        redis.kill()
        sent = asyncio.ensure_future(request())
        await asyncio.sleep(2.5)  # longer than a front end waits for its store
        assert not sent.done()
        redis.start()
        return await sent

    async def session(port: int, worker: Worker) -> None:
        async with connect(f"http://127.0.0.1:{port}/mcp") as client:
            new = await in_an_outage(lambda: client.start("heavy", {}))
            assert isinstance(new, NewTask)
            assert (await in_an_outage(lambda: client.get(new.task_id))).status == "working"
            await in_an_outage(lambda: client.cancel(new.task_id))
            assert (await client.get(new.task_id)).status == "cancelled"
        assert len(ids_of(worker.store)) == 1

    with serving(tools, settings(redis.url, tmp_path)) as port:
        worker = Worker(redis.url, tools)
        asyncio.run(session(port, worker))
        worker.close()
    redis.close()


def test_a_request_that_is_refused_for_longer_than_the_bound_is_refused_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks_service.client.service_client.OUTAGE_SECONDS", 0.2)
    sent = []

    async def send() -> None:
        sent.append(time.monotonic())
        raise MCPError(-32603, "busy", {"retryAfterMs": 60})

    with pytest.raises(MCPError, match="busy"):
        asyncio.run(send_insistently(send))
    assert 2 <= len(sent) <= 4


@pytest.mark.parametrize("data", [None, {}, [], "x", {"retryAfterMs": "soon"}])
def test_an_error_that_does_not_say_when_is_final(data: object) -> None:
    assert retry_seconds(MCPError(-32603, "no", data)) is None


def test_a_call_that_is_given_up_before_its_task_is_named_cancels_it_all_the_same(
    redis_url: str, tools: ToolRegistry, worker: Worker, tmp_path: Path
) -> None:
    """The front end waits for a moment whether the tool is quick, and names the task then."""

    async def leave(port: int) -> str:
        async with connect(f"http://127.0.0.1:{port}/mcp") as client:
            call = asyncio.ensure_future(client.call("late", {"name": "Ada"}))
            task_id = await asyncio.to_thread(worker.recorded)
            assert not call.done()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            return task_id

    with serving(tools, settings(redis_url, tmp_path)) as port:
        task_id = asyncio.run(leave(port))

        assert worker.store.inspect(task_id).task.status == "cancelled"


def test_a_call_that_another_cancels_before_its_task_is_named_ends_as_a_cancelled_task_does(
    redis_url: str, tools: ToolRegistry, worker: Worker, tmp_path: Path
) -> None:
    async def call(port: int) -> None:
        async with connect(f"http://127.0.0.1:{port}/mcp") as client:
            call = asyncio.ensure_future(client.call("soon", {"name": "Ada"}))
            task_id = await asyncio.to_thread(worker.recorded)
            worker.store.apply_order(task_id, CancelByOperator())
            with pytest.raises(TaskEnded, match="An operator cancelled the task"):
                await call

    with serving(tools, settings(redis_url, tmp_path)) as port:
        asyncio.run(call(port))


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
