"""Clients without tasks and a real worker: asked by results, told how to go on, given up in the end."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tasks_service.frontend.timings import Timings
from tests.kit.servers import RedisServer
from tests.kit.serving import serving, settings
from tests.kit.stored import ids_of
from tests.kit.waiting import wait_until
from tests.kit.wire import WireClient
from tests.kit.workers import Client, client_of

from .asking_app import service
from .conftest import StartWorker

NAME = service.name
"""The service of the worker: another would be refused on its store."""
CAN_BE_ASKED: dict[str, Any] = {"elicitation": {"form": {}}}
YES = {"action": "accept", "content": {"publish": True, "title": "News"}}


@pytest.fixture
def operator(module_redis: RedisServer, start_worker: StartWorker) -> Iterator[Client]:
    """Looks into the store; a worker runs."""
    start_worker(app="tests.e2e.asking_app", concurrency=1)
    with client_of(service, module_redis.url) as client:
        yield client


def plain_client(port: int) -> WireClient:
    return WireClient(port, capabilities=CAN_BE_ASKED)


@pytest.fixture
def timings() -> Timings:
    """How long front ends wait."""
    return Timings()


@pytest.fixture
def ports(
    operator: Client, module_redis: RedisServer, tmp_path: Path, timings: Timings
) -> Iterator[list[int]]:
    """Two front ends."""
    configuration = settings(module_redis.url, tmp_path)
    with (
        serving(service.tools, configuration, None, operator.outbox, timings, name=NAME) as first,
        serving(service.tools, configuration, None, operator.outbox, timings, name=NAME) as second,
    ):
        yield [first, second]


def call(client: WireClient, tool: str, arguments: Any, **more: Any) -> Any:
    return client.request("tools/call", {"name": tool, "arguments": arguments, **more}).result


def test_a_tool_with_steps_goes_on_after_its_question_and_runs_no_step_twice(
    ports: list[int], tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    with plain_client(ports[0]) as client, plain_client(ports[1]) as other:
        asked = call(client, "publish", {"path": str(notes)})
        assert asked["inputRequests"]["question"]["params"]["message"] == "Publish it?"

        again = {"inputResponses": {"question": YES}, "requestState": asked["requestState"]}
        with ThreadPoolExecutor(2) as pool:
            racing = [
                pool.submit(call, each, "publish", {"path": str(notes)}, **again) for each in (client, other)
            ]
            first, second = (reply.result(60) for reply in racing)

    assert first["structuredContent"] == second["structuredContent"]
    assert first["structuredContent"]["steps"] == [1, 2]
    assert notes.read_text().splitlines() == ["first", "second News"]


def test_a_tool_that_asks_twice_is_answered_in_two_rounds(ports: list[int]) -> None:
    with plain_client(ports[0]) as client:
        result = call(client, "ask_twice", {})
        rounds = []
        while result["resultType"] == "input_required":
            (key,) = result["inputRequests"]
            rounds.append(key)
            answers = {key: {"action": "accept", "content": {"word": key}}}
            state = result["requestState"]
            result = call(client, "ask_twice", {}, inputResponses=answers, requestState=state)

    assert rounds == ["question", "question#2"]
    first, second = result["structuredContent"]
    assert "question" in first
    assert "question#2" in second


@pytest.mark.parametrize("timings", [Timings(answer=1.0)])
def test_an_execution_whose_caller_never_comes_back_is_cancelled_by_the_sweep(
    ports: list[int], operator: Client, tmp_path: Path
) -> None:
    before = set(ids_of(operator.store))
    with plain_client(ports[0]) as client:
        asked = call(client, "publish", {"path": str(tmp_path / "notes")})
        (task_id,) = set(ids_of(operator.store)) - before

        wait_until(lambda: operator.store.inspect(task_id).task.status == "cancelled")

        again = {"inputResponses": {"question": YES}, "requestState": asked["requestState"]}
        params = {"name": "publish", "arguments": {"path": str(tmp_path / "notes")}, **again}
        assert client.request("tools/call", params).error["code"] == -32602
    assert operator.store.inspect(task_id).log[-1].actor == "sweep"
