"""The client of our own commands, through what its server goes through."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import threading
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
from tasks_service.client.service_client import StillRuns, TaskEnded, connect, send_insistently
from tasks_service.domain.events import CancelByOperator
from tests.kit.hand_worker import Worker
from tests.kit.proxy import MortalProxy
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


# --- a front end that dies ------------------------------------------------------------------------------


class DyingFrontEnd:
    """What a client sees of a front end that is killed as it receives a word, which it may have passed on."""

    def __init__(self, port: int, word: str, *, passes_on: bool = True) -> None:
        self._word, self._passes_on = word.encode(), passes_on
        self.reached = threading.Event()
        self._target, self._proxy = port, MortalProxy(port, seen=self._sees)
        self.port = self._proxy.port

    def _sees(self, packet: bytes) -> bool:
        if self._word not in packet:
            return True
        self.reached.set()
        return self._passes_on

    def kill(self) -> None:
        self._proxy.kill()

    def replace(self) -> None:
        """Let another one listen there."""
        self._proxy = MortalProxy(self._target, self.port)


@pytest.mark.parametrize(
    ("moment", "passes_on"), [("tools/call", True), ("tools/call", False), ("tasks/get", False)]
)
def test_a_call_goes_on_through_another_front_end_when_its_own_dies_and_runs_once(
    redis_url: str, tools: ToolRegistry, worker: Worker, tmp_path: Path, moment: str, passes_on: bool
) -> None:
    async def call(front_end: DyingFrontEnd) -> CallToolResult:
        async with connect(f"http://127.0.0.1:{front_end.port}/mcp") as client:
            return await client.call("late", {"name": "Ada"})

    with serving(tools, settings(redis_url, tmp_path)) as port, ThreadPoolExecutor(1) as pool:
        front_end = DyingFrontEnd(port, moment, passes_on=passes_on)
        called = pool.submit(lambda: asyncio.run(call(front_end)))
        assert front_end.reached.wait(30)
        if passes_on:
            worker.recorded()
        front_end.kill()
        front_end.replace()
        worker.run(worker.recorded())

        assert called.result(60).structured_content == "Hello, Ada!"
        front_end.kill()
    assert len(ids_of(worker.store)) == 1


def test_who_gives_up_a_task_that_nobody_can_be_told_to_cancel_hears_that_it_goes_on(
    redis_url: str, tools: ToolRegistry, worker: Worker, tmp_path: Path
) -> None:
    async def leave(port: int) -> str:
        front_end = DyingFrontEnd(port, "tasks/get")
        async with connect(f"http://127.0.0.1:{front_end.port}/mcp") as client:
            call = asyncio.ensure_future(client.call("late", {"name": "Ada"}))
            assert await asyncio.to_thread(front_end.reached.wait, 30)
            front_end.kill()
            call.cancel()
            with pytest.raises(StillRuns) as told:
                await call
        return str(told.value)

    with serving(tools, settings(redis_url, tmp_path)) as port:
        said = asyncio.run(leave(port))

    (task_id,) = worker.pending()
    assert said.endswith(f"goes on unless it has ended: {task_id}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("moment", "signal_first"), [("tools/call", True), ("tasks/get", False)])
def test_a_command_whose_front_end_dies_as_a_signal_ends_it_says_so_in_a_sentence(
    redis_url: str,
    tools: ToolRegistry,
    tmp_path: Path,
    number: signal.Signals,
    moment: str,
    signal_first: bool,
) -> None:
    with serving(tools, settings(redis_url, tmp_path)) as port:
        front_end = DyingFrontEnd(port, moment)
        url = f"http://127.0.0.1:{front_end.port}/mcp"
        call = subprocess.Popen(
            [sys.executable, "-m", "tasks_service", "call", "late", "--arg", "name=Ada", "--url", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert front_end.reached.wait(120)
        steps = [lambda: call.send_signal(number), front_end.kill]
        for step in steps if signal_first else reversed(steps):
            step()
        _, errors = call.communicate(timeout=120)

    assert "Traceback" not in errors
    assert call.returncode == (130 if number is signal.SIGINT else -number), errors
    if number is signal.SIGINT:
        told = (
            r"Cancelled\.|The task could not be cancelled \(.*" if signal_first else r"The task could not .*"
        )
        assert re.fullmatch(told, errors.strip())
