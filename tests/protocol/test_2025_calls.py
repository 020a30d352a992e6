"""Plain calls in sessions: JSON or events, cancelled only by who says so."""

from __future__ import annotations

import itertools
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tasks_service.authoring.tool import ToolRegistry
from tasks_service.domain.task import Failure, FailureKind, Progress
from tasks_service.frontend.timings import Timings
from tests.kit.hand_worker import Worker
from tests.kit.serving import serving, settings
from tests.kit.sessions import SessionClient, Stream, is_answer, is_request
from tests.kit.stored import ids_of
from tests.kit.waiting import quickest, wait_until

KEY = "io.github.tasks-service/idempotency-key"
GREET: dict[str, Any] = {"name": "greet", "arguments": {"name": "Ada"}}


def cancelled(worker: Worker, task_id: str) -> bool:
    return worker.store.inspect(task_id).task.status == "cancelled"


def test_a_result_that_comes_soon_is_json(session: SessionClient, busy_worker: Worker) -> None:
    stream = session.open("tools/call", GREET)

    answer = stream.next()

    assert stream.headers["content-type"] == "application/json"
    assert answer is not None
    assert answer["result"]["content"] == [{"type": "text", "text": "Hello, Ada!"}]


def test_bad_arguments_are_a_result_that_names_the_field(session: SessionClient) -> None:
    result = session.result("tools/call", {"name": "greet", "arguments": {"name": 3}})

    assert result["isError"] is True
    assert "name" in result["content"][0]["text"]


def test_progress_of_a_call_goes_before_its_result(session: SessionClient, worker: Worker) -> None:
    stream = session.open("tools/call", {**GREET, "_meta": {"progressToken": 7}})
    task_id = worker.recorded()
    task, _ = worker.claim(task_id)
    worker.note(task, progress=Progress(current=0.5, message="half"))

    note = stream.find(is_request("notifications/progress"))

    assert stream.headers["content-type"] == "text/event-stream"
    assert note["params"] == {"progressToken": 7, "progress": 0.5, "message": "half"}


@pytest.mark.parametrize("identity", ["call", 77])
def test_a_call_that_its_client_cancels_through_another_front_end_ends(
    session: SessionClient, worker: Worker, identity: Any
) -> None:
    stream = session.open("tools/call", GREET, at=0, identity=identity)
    task_id = worker.recorded()

    assert session.notify("notifications/cancelled", {"requestId": identity}, at=1).status == 202

    assert stream.rest() == []
    wait_until(lambda: cancelled(worker, task_id), "the execution is cancelled")


@pytest.mark.parametrize("is_task", [False, True])
def test_a_call_that_found_its_execution_by_key_cancels_it_but_never_a_task(
    session: SessionClient, worker: Worker, is_task: bool
) -> None:
    params = {**GREET, "_meta": {KEY: "mine"}}
    if is_task:
        session.result("tools/call", {**params, "task": {}})
    else:
        session.open("tools/call", params, identity="first")
    task_id = worker.recorded()
    tries = itertools.count()

    def cancelled_again() -> bool:
        """May come before the call has found what it waits for."""
        identity = f"again {next(tries)}"
        stream = session.open("tools/call", params, identity=identity)
        time.sleep(0.2)
        session.notify("notifications/cancelled", {"requestId": identity}, at=1)
        assert stream.rest() == []
        return cancelled(worker, task_id)

    if is_task:
        assert not cancelled_again()
    else:
        wait_until(cancelled_again, "it is cancelled")


def test_hanging_up_cancels_nothing(session: SessionClient, worker: Worker) -> None:
    stream = session.open("tools/call", GREET)
    task_id = worker.recorded()
    stream.close()
    time.sleep(0.3)

    worker.run(task_id)

    assert worker.store.inspect(task_id).task.status == "completed"


@pytest.mark.parametrize(
    "params", [None, {}, {"requestId": None}, {"requestId": "x" * 250}, {"requestId": True}]
)
def test_a_cancellation_of_nothing_is_dropped(session: SessionClient, params: Any) -> None:
    assert session.notify("notifications/cancelled", params).status == 202


def test_a_call_that_waits_too_long_ends_and_says_what_to_do(
    redis_url: str, tools: ToolRegistry, worker: Worker, tmp_path: Path
) -> None:
    with (
        serving(tools, settings(redis_url, tmp_path, wait_limit=0.3, companion_tools=False)) as port,
        SessionClient([port]) as client,
    ):
        client.initialize()

        error = client.error("tools/call", GREET)

    assert "call it with task" in error["message"]
    assert cancelled(worker, hidden_or_ended(worker))


def hidden_or_ended(worker: Worker) -> str:
    return next(iter(ids_of(worker.store)))


@pytest.mark.parametrize("timings", [Timings(deferral=0.05)])
def test_a_long_call_is_kept_alive(session: SessionClient, worker: Worker) -> None:
    stream = session.open("tools/call", GREET)
    task_id = worker.recorded()
    time.sleep(0.3)
    worker.run(task_id)

    answer = stream.find(is_answer)

    assert stream.headers["content-type"] == "text/event-stream"
    assert answer["result"]["content"][0]["text"] == "Hello, Ada!"


def test_a_reader_that_does_not_read_holds_up_nobody(
    session: SessionClient, ports: list[int], worker: Worker
) -> None:
    unresponsive = socket.socket()
    unresponsive.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    unresponsive.connect(("127.0.0.1", ports[0]))
    head = "".join(f"{name}: {value}\r\n" for name, value in session.headers().items())
    unresponsive.sendall(f"GET /mcp HTTP/1.1\r\nhost: localhost\r\n{head}\r\n".encode())
    wait_until(lambda: unresponsive.recv(16, socket.MSG_PEEK), "it is open")
    failure = Failure(kind=FailureKind.AUTHOR, message="x" * 1000)
    for number in range(400):
        worker.fail(session.task("add", {"left": number}), failure)

    def seconds_for_others() -> float:
        began = time.monotonic()
        assert session.result("ping") == {}
        assert session.result("tools/call", GREET)["content"][0]["text"] == "Hello, Ada!"
        return time.monotonic() - began

    worker.start()
    assert quickest(seconds_for_others, 2.0) < 2.0
    unresponsive.close()


def test_a_stream_that_is_gone_leaves_nothing_waiting(session: SessionClient) -> None:
    for _ in range(5):
        stream: Stream = session.listen()
        stream.close()

    assert session.result("ping") == {}
