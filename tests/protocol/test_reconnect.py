"""Callers without a handle that lose their connection: who may come back, and until when (ruling 20)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks_service.authoring.tool import ToolRegistry
from tasks_service.domain.events import CallerLeft, DeadlinePassed
from tasks_service.domain.indexes import Due
from tasks_service.domain.names import task_hash
from tasks_service.durable.questions import Form
from tasks_service.frontend.timings import Timings
from tests.kit.hand_worker import Worker, asked
from tests.kit.serving import serving, settings
from tests.kit.sessions import SessionClient
from tests.kit.stored import ids_of
from tests.kit.waiting import wait_until
from tests.kit.wire import WITHOUT_TASKS, Reply, WireClient

from .front_end import FrontEnd

KEY: dict[str, Any] = {"io.github.tasks-service/idempotency-key": "order-1"}
NAME = asked(Form("Your name?", {"type": "object", "properties": {"name": {"type": "string"}}}))
ADA = {"action": "accept", "content": {"name": "Ada"}}


@pytest.fixture
def callers(ports: list[int]) -> Iterator[Callable[[], WireClient]]:
    """Makes clients of both front ends in turn."""
    made: list[WireClient] = []

    def make() -> WireClient:
        client = WireClient(ports[len(made) % 2], capabilities={**WITHOUT_TASKS, "elicitation": {}})
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


def greet(client: WireClient, pool: ThreadPoolExecutor, meta: Any = None) -> Future[Reply]:
    return pool.submit(client.call, "greet", {"name": "Ada"}, meta=meta)


def wait_for_disconnect(client: WireClient, worker: Worker, task_id: str, reply: Future[Reply]) -> None:
    """Close the connection of a call that waits, and wait until the service has noticed."""
    client.wait_for_disconnect()
    wait_until(lambda: worker.task(task_id).return_by_ms, "it is noticed")
    assert reply.exception(60) is not None


def test_without_a_key_hanging_up_cancels(
    callers: Callable[[], WireClient], worker: Worker, pool: ThreadPoolExecutor
) -> None:
    client = callers()
    reply = greet(client, pool)
    task_id = worker.recorded()

    client.wait_for_disconnect()

    wait_until(lambda: worker.task(task_id).status == "cancelled", "it is cancelled")
    assert reply.exception(60) is not None


def test_with_a_key_the_execution_runs_on_for_the_reconnect_window(
    callers: Callable[[], WireClient], worker: Worker, pool: ThreadPoolExecutor
) -> None:
    client = callers()
    reply = greet(client, pool, KEY)
    task_id = worker.recorded()

    before = worker.store.now_ms()
    wait_for_disconnect(client, worker, task_id, reply)

    task = worker.task(task_id)
    assert task.status == "working"
    assert before + 600_000 <= task.return_by_ms <= worker.store.now_ms() + 600_000
    assert worker.run(task_id).status == "completed"


def test_a_retry_with_the_key_finds_the_work_on_another_front_end_and_is_waited_for_no_more(
    callers: Callable[[], WireClient], worker: Worker, pool: ThreadPoolExecutor
) -> None:
    first, second = callers(), callers()
    reply = greet(first, pool, KEY)
    task_id = worker.recorded()
    wait_for_disconnect(first, worker, task_id, reply)

    reply = greet(second, pool, KEY)
    wait_until(lambda: not worker.task(task_id).return_by_ms, "it has come back")
    worker.run(task_id)

    assert reply.result(60).result["content"][0]["text"] == "Hello, Ada!"
    assert list(ids_of(worker.store)) == [task_id]


def test_a_caller_with_a_key_that_does_not_come_back_is_given_up(
    redis_url: str, tools: ToolRegistry, worker: Worker, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    with (
        serving(tools, settings(redis_url, tmp_path, reconnect_window=0.1)) as port,
        WireClient(port, capabilities=WITHOUT_TASKS) as client,
        WireClient(port, capabilities=WITHOUT_TASKS) as late,
    ):
        reply = greet(client, pool, KEY)
        task_id = worker.recorded()
        wait_for_disconnect(client, worker, task_id, reply)
        wait_until(
            lambda: worker.store.due(Due.OVERDUE, limit=9) == [task_hash(task_id)], "the sweep finds it"
        )

        assert late.call("greet", {"name": "Ada"}, meta=KEY).error["code"] == -32800
        worker.store.apply_sweep(task_id, DeadlinePassed())
        assert worker.task(task_id).status == "cancelled"


@pytest.mark.parametrize("timings", [Timings(heal=0.1)])
def test_a_caller_that_leaves_does_not_take_another_with_it(
    callers: Callable[[], WireClient], worker: Worker, pool: ThreadPoolExecutor
) -> None:
    staying = greet(callers(), pool, KEY)
    task_id = worker.recorded()

    owner = worker.task(task_id).owner
    assert worker.store.apply(owner, task_id, CallerLeft(within_ms=60_000), hidden=True).return_by_ms

    wait_until(lambda: not worker.task(task_id).return_by_ms, "whoever waits has said so")
    worker.run(task_id)
    assert staying.result(60).result["content"][0]["text"] == "Hello, Ada!"


def test_a_retry_with_the_key_and_no_state_is_asked_what_the_execution_asks(
    callers: Callable[[], WireClient], worker: Worker, pool: ThreadPoolExecutor
) -> None:
    first, second = callers(), callers()
    reply = greet(first, pool, KEY)
    task_id = worker.recorded()
    wait_for_disconnect(first, worker, task_id, reply)
    worker.ask(task_id, {"name": NAME})

    asks = second.call("greet", {"name": "Ada"}, meta=KEY).result
    assert set(asks["inputRequests"]) == {"name"}
    answers = {"inputResponses": {"name": ADA}, "requestState": asks["requestState"]}
    params = {"name": "greet", "arguments": {"name": "Ada"}, **answers}
    reply = pool.submit(second.request, "tools/call", params, meta=KEY)
    worker.recorded()
    worker.run(task_id)

    assert reply.result(60).result["content"][0]["text"] == "Hello, Ada!"


def test_a_call_with_a_key_that_waits_too_long_can_be_made_again(
    redis_url: str, tools: ToolRegistry, worker: Worker, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    with (
        serving(tools, settings(redis_url, tmp_path, wait_limit=0.2, companion_tools=False)) as port,
        WireClient(port, capabilities=WITHOUT_TASKS) as client,
    ):
        assert "did not end" in client.call("greet", {"name": "Ada"}, meta=KEY).error["message"]
        task_id = worker.recorded()
        assert worker.task(task_id).return_by_ms
        worker.run(task_id)

        assert client.call("greet", {"name": "Ada"}, meta=KEY).result["content"][0]["text"] == "Hello, Ada!"


def test_in_a_session_hanging_up_cancels_nothing_and_sets_no_window(
    session: SessionClient, worker: Worker
) -> None:
    stream = session.open("tools/call", {"name": "greet", "arguments": {"name": "Ada"}, "_meta": KEY})
    task_id = worker.recorded()
    stream.close()
    time.sleep(0.3)

    task = worker.task(task_id)

    assert (task.status, task.return_by_ms) == ("working", 0)


def test_a_session_takes_up_what_a_caller_with_the_same_key_has_left(
    callers: Callable[[], WireClient], session: SessionClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    client = callers()
    reply = greet(client, pool, KEY)
    task_id = worker.recorded()
    wait_for_disconnect(client, worker, task_id, reply)

    stream = session.open("tools/call", {"name": "greet", "arguments": {"name": "Ada"}, "_meta": KEY})
    wait_until(lambda: not worker.task(task_id).return_by_ms, "it has come back")
    worker.run(task_id)

    assert stream.rest()[-1]["result"]["content"][0]["text"] == "Hello, Ada!"


def test_a_session_that_cancels_a_call_cancels_the_execution_that_its_key_has_found(
    callers: Callable[[], WireClient], session: SessionClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    client = callers()
    reply = greet(client, pool, KEY)
    task_id = worker.recorded()
    wait_for_disconnect(client, worker, task_id, reply)
    params = {"name": "greet", "arguments": {"name": "Ada"}, "_meta": KEY}
    stream = session.open("tools/call", params, identity="again")
    wait_until(lambda: not worker.task(task_id).return_by_ms, "it has come back")

    session.notify("notifications/cancelled", {"requestId": "again"})

    wait_until(lambda: worker.task(task_id).status == "cancelled", "it is cancelled")
    assert stream.rest() == []


def test_a_front_end_that_is_killed_records_nothing_and_the_execution_runs_on(
    redis_url: str, worker: Worker, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    front_end = FrontEnd(redis_url, tmp_path)
    try:
        wait_until(front_end.ready, "it is ready")
        with WireClient(front_end.port, capabilities=WITHOUT_TASKS) as client:
            reply = greet(client, pool)
            task_id = worker.recorded()

            front_end.kill()

            assert reply.exception(60) is not None
            assert worker.task(task_id).return_by_ms == 0
            assert worker.run(task_id).status == "completed"
    finally:
        front_end.kill()
