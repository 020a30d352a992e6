"""Both eras at the other end of two pipes: messages, limits, cancellation, and the end of input."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks_service.authoring.library import Library
from tasks_service.authoring.tool import ToolRegistry, build_tool
from tasks_service.domain.task import TaskStatus
from tasks_service.domain.tools import TaskSupport
from tasks_service.frontend.transport.body import BODY_BYTES
from tests.kit.hand_worker import Worker
from tests.kit.pipes import PipeClient, PipedFrontEnd, piped
from tests.kit.serving import registry, settings
from tests.kit.waiting import wait_until
from tests.kit.wire import WITH_TASKS

from .test_2025_questions import NAME
from .test_reports import LEVELS, chatter, thirds
from .tool_runner import ToolRunner

INVALID_REQUEST, PARSE_ERROR, UNSUPPORTED_VERSION = -32600, -32700, -32022
KEY = "io.github.tasks-service/idempotency-key"
GREET: dict[str, Any] = {"name": "greet", "arguments": {"name": "Ada"}}


@pytest.fixture
def front_end(
    redis_url: str, tools: ToolRegistry, library: Library, tmp_path: Path
) -> Iterator[PipedFrontEnd]:
    with piped(tools, settings(redis_url, tmp_path), library) as front_end:
        yield front_end


@pytest.fixture
def pipe(front_end: PipedFrontEnd) -> PipeClient:
    """A client that has said nothing yet."""
    return front_end.client


def status_of(worker: Worker, task_id: str) -> TaskStatus:
    return worker.store.inspect(task_id).task.status


# --- eras ---


def test_a_session_lists_calls_and_makes_tasks(pipe: PipeClient, busy_worker: Worker) -> None:
    welcome = pipe.initialize()
    pipe.request(1, "tools/list")
    pipe.request(2, "tools/call", **GREET)
    pipe.request(3, "tools/call", **GREET, task={"ttl": 60_000})

    assert welcome["protocolVersion"] == "2025-11-25"
    assert welcome["capabilities"]["tasks"]["list"] == {}
    assert "greet" in [tool["name"] for tool in pipe.result(1)["tools"]]
    assert pipe.result(2)["content"][0]["text"] == "Hello, Ada!"
    task_id = pipe.result(3)["task"]["taskId"]
    pipe.request(4, "tasks/result", taskId=task_id)
    assert pipe.result(4)["content"][0]["text"] == "Hello, Ada!"
    pipe.request(5, "tasks/list")
    assert [task["taskId"] for task in pipe.result(5)["tasks"]] == [task_id]


def test_the_pipe_is_the_sessions_own_stream(pipe: PipeClient, worker: Worker) -> None:
    pipe.initialize(elicitation={})
    pipe.request(1, "tools/call", **GREET, task={})
    task_id = pipe.result(1)["task"]["taskId"]
    worker.ask(task_id, {"name": NAME})

    question = pipe.find(lambda message: message.get("method") == "elicitation/create")
    pipe.send(
        {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept", "content": {"name": "A"}}}
    )
    wait_until(lambda: status_of(worker, task_id) is TaskStatus.WORKING, "the answer is recorded")
    worker.run(task_id)

    ended = pipe.find(lambda message: message.get("params", {}).get("status") == "completed")
    assert ended["method"] == "notifications/tasks/status"


def test_a_waiting_call_is_asked_on_the_pipe(pipe: PipeClient, worker: Worker) -> None:
    pipe.initialize(elicitation={})
    pipe.request(1, "tools/call", **GREET)
    (task_id,) = wait_until(worker.pending, "it is recorded")
    worker.ask(task_id, {"name": NAME})

    question = pipe.find(lambda message: message.get("method") == "elicitation/create")
    pipe.send({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}})
    wait_until(lambda: status_of(worker, task_id) is TaskStatus.WORKING, "the answer is recorded")
    worker.run(task_id)

    assert pipe.result(1)["content"][0]["text"] == "Hello, Ada!"


def test_2026_is_served_without_a_handshake(pipe: PipeClient, busy_worker: Worker) -> None:
    pipe.modern(1, "server/discover")
    pipe.modern(2, "tools/call", **GREET)
    assert "2026-07-28" in pipe.result(1)["supportedVersions"]
    assert pipe.result(2)["content"][0]["text"] == "Hello, Ada!"

    pipe.capabilities = WITH_TASKS
    pipe.modern(3, "tools/call", **GREET)
    task_id = pipe.result(3)["taskId"]

    def finished() -> bool:
        pipe.modern("poll", "tasks/get", taskId=task_id)
        return bool(pipe.result("poll")["status"] == "completed")

    wait_until(finished, "the task has ended")


def test_an_era_that_has_begun_refuses_the_other(
    redis_url: str, tools: ToolRegistry, tmp_path: Path, pipe: PipeClient
) -> None:
    pipe.initialize()
    pipe.modern(1, "tools/list")
    assert pipe.error(1)["code"] == INVALID_REQUEST
    pipe.request(2, "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={})
    assert "initialized already" in pipe.error(2)["message"]

    with piped(tools, settings(redis_url, tmp_path)) as other:
        other.client.modern(1, "tools/list")
        other.client.result(1)
        other.client.request(2, "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={})
        assert other.client.error(2)["code"] == UNSUPPORTED_VERSION
        other.client.request(3, "tools/list")
        assert "error" in other.client.answer(3)


def test_a_revision_that_nobody_speaks_decides_nothing(pipe: PipeClient) -> None:
    pipe.modern(1, "tools/list", _meta={"io.modelcontextprotocol/protocolVersion": "2031-01-01"})
    assert pipe.error(1)["code"] == UNSUPPORTED_VERSION
    assert pipe.initialize()["protocolVersion"] == "2025-11-25"


def test_before_initialize_only_pings_are_answered(pipe: PipeClient) -> None:
    pipe.request(1, "ping")
    pipe.request(2, "tools/list")
    assert pipe.result(1) == {}
    assert pipe.error(2)["code"] == INVALID_REQUEST


# --- bad input ---


@pytest.mark.parametrize(
    ("line", "identity", "code"),
    [
        (b"hello", None, PARSE_ERROR),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping"', None, PARSE_ERROR),
        (b'"\xff"', None, PARSE_ERROR),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": NaN}', None, PARSE_ERROR),
        (b"[]", None, INVALID_REQUEST),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', None, INVALID_REQUEST),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}', 1, INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": true, "method": "ping"}', None, INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": [1]}', 1, INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 2, "params": ' + b'{"a":' * 90 + b"1" + b"}" * 91, 2, INVALID_REQUEST),
        (
            b'{"jsonrpc": "2.0", "id": "' + b"x" * 2_000 + b'", "method": "ping"}',
            "x" * 2_000,
            INVALID_REQUEST,
        ),
        (b"x" * (BODY_BYTES + 1), None, INVALID_REQUEST),
    ],
    ids=lambda value: value[:40].decode(errors="replace") if isinstance(value, bytes) else "",
)
def test_garbage_is_refused_and_the_connection_goes_on(
    pipe: PipeClient, line: bytes, identity: Any, code: int
) -> None:
    pipe.write(line + b"\n")
    assert pipe.error(identity)["code"] == code
    assert pipe.initialize()


def test_empty_lines_and_carriage_returns_are_no_messages(pipe: PipeClient) -> None:
    pipe.write(b"\n\r\n  \n" + json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode() + b"\r\n")
    assert pipe.result(1) == {}
    assert len(pipe.lines) == 1


def test_an_id_that_is_in_use_is_refused_until_it_is_answered(pipe: PipeClient, worker: Worker) -> None:
    pipe.initialize()
    pipe.request(1, "tools/call", **GREET)
    wait_until(worker.pending, "it is recorded")
    pipe.request(1, "tools/list")
    assert "id:" in pipe.error(1)["message"]
    pipe.request("1", "tools/list")
    assert pipe.result("1")["tools"]

    worker.run_next()
    assert pipe.result(1)["content"]
    pipe.request(1, "tools/list")
    assert pipe.result(1)["tools"]


# --- cancellation, and the end of input ---


def test_a_client_cancels_its_call_and_not_another(pipe: PipeClient, worker: Worker) -> None:
    pipe.initialize()
    pipe.request(1, "tools/call", **GREET)
    (first,) = wait_until(worker.pending, "it is recorded")
    pipe.request(2, "tools/call", **GREET)
    wait_until(lambda: len(worker.pending()) == 2, "the other is too")

    pipe.notify("notifications/cancelled", requestId=1)

    wait_until(lambda: status_of(worker, first) is TaskStatus.CANCELLED, "it is cancelled")
    worker.run_next()
    assert pipe.result(2)["content"]


def test_in_2026_a_cancelled_call_is_cancelled_and_gets_no_answer(
    front_end: PipedFrontEnd, pipe: PipeClient, worker: Worker
) -> None:
    pipe.modern(1, "tools/call", **GREET)
    (task_id,) = wait_until(worker.pending, "it is recorded")
    pipe.notify("notifications/cancelled", requestId=1)
    wait_until(lambda: status_of(worker, task_id) is TaskStatus.CANCELLED, "it is cancelled")

    pipe.modern(2, "tools/list")
    assert pipe.result(2)["tools"]
    pipe.wait_for_disconnect()
    assert front_end.ended()
    assert pipe.rest() == []


@pytest.mark.parametrize("era", ["2025-11-25", "2026-07-28"])
def test_the_end_of_input_cancels_waiting_calls_and_no_task(
    era: str, front_end: PipedFrontEnd, pipe: PipeClient, worker: Worker
) -> None:
    if era == "2025-11-25":
        pipe.initialize()
        send, with_key = pipe.request, {"_meta": {KEY: "mine"}}
        pipe.request("task", "tools/call", **GREET, task={})
        pipe.result("task")
    else:
        send, with_key = pipe.modern, {"_meta": {KEY: "mine"}}
        pipe.capabilities = WITH_TASKS
        pipe.modern("task", "tools/call", **GREET)
        pipe.result("task")
        pipe.capabilities = {}
    (task,) = worker.pending()
    send(1, "tools/call", **GREET)
    (call,) = wait_until(lambda: set(worker.pending()) - {task}, "it is recorded")
    send(2, "tools/call", **GREET, **with_key)
    (kept,) = wait_until(lambda: set(worker.pending()) - {task, call}, "it is recorded")

    pipe.wait_for_disconnect()

    assert front_end.ended()
    assert status_of(worker, call) is TaskStatus.CANCELLED
    assert status_of(worker, kept) is TaskStatus.WORKING
    assert status_of(worker, task) is TaskStatus.WORKING


def test_what_was_asked_before_the_end_of_input_is_answered(
    front_end: PipedFrontEnd, pipe: PipeClient
) -> None:
    pipe.modern(1, "server/discover")
    pipe.modern(2, "tools/list")
    pipe.wait_for_disconnect()
    assert front_end.ended()
    assert {message["id"] for message in pipe.rest()} == {1, 2}


def test_a_subscription_tells_of_tasks_and_ends_with_the_input(
    front_end: PipedFrontEnd, pipe: PipeClient, worker: Worker
) -> None:
    pipe.capabilities = WITH_TASKS
    pipe.modern(1, "tools/call", **GREET)
    task_id = pipe.result(1)["taskId"]
    pipe.modern("ears", "subscriptions/listen", notifications={"taskIds": [task_id]})
    pipe.find(lambda message: message.get("method") == "notifications/subscriptions/acknowledged")
    worker.run(task_id)
    pipe.find(lambda message: message.get("params", {}).get("status") == "completed")

    pipe.wait_for_disconnect()

    assert front_end.ended()
    result, over = (message for message in pipe.rest() if message.get("params", {}).get("taskId") is None)
    assert result["id"] == "ears"
    assert result["result"]["resultType"] == "complete"
    assert over["method"] == "notifications/cancelled"
    assert over["params"]["requestId"] == "ears"


def test_a_client_ends_its_subscription(pipe: PipeClient) -> None:
    pipe.modern(1, "subscriptions/listen", notifications={"toolsListChanged": True})
    pipe.find(lambda message: message.get("method") == "notifications/subscriptions/acknowledged")
    pipe.notify("notifications/cancelled", requestId=1)

    def free() -> bool:
        pipe.modern(1, "tools/list")
        return "result" in pipe.answer(1)

    wait_until(free, "the id is free again")


def test_reports_come_on_the_pipe_before_the_answer_from_the_level_that_was_set(
    redis_url: str, tmp_path: Path
) -> None:
    tools = registry(chatter, build_tool(thirds, support=TaskSupport.FORBIDDEN))
    runner = ToolRunner(redis_url, tools)
    try:
        with piped(tools, settings(redis_url, tmp_path)) as front_end:
            pipe = front_end.client
            pipe.initialize()
            pipe.request(1, "logging/setLevel", level="error")
            assert pipe.result(1) == {}
            pipe.request(2, "tools/call", name="chatter", arguments={})
            assert pipe.result(2)["content"][0]["text"] == "said"
            pipe.request(3, "tools/call", name="thirds", arguments={}, _meta={"progressToken": "p"})
            assert pipe.result(3)["content"][0]["text"] == "done"
            pipe.wait_for_disconnect()
            reports = pipe.rest()
    finally:
        runner.close()

    said = [report["params"]["level"] for report in reports if report["method"] == "notifications/message"]
    assert said == LEVELS[LEVELS.index("error") :]
    done = [
        report["params"]["progress"] for report in reports if report["method"] == "notifications/progress"
    ]
    assert done[-1] == 100
    answer = next(number for number, line in enumerate(pipe.lines) if json.loads(line).get("id") == 3)
    assert all("progress" not in json.loads(line).get("method", "") for line in pipe.lines[answer:])


def test_a_request_that_is_cancelled_in_the_same_breath_gets_no_answer_and_leaves_nothing(
    pipe: PipeClient,
) -> None:
    pipe.initialize()
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": GREET}
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    for _ in range(20):
        pipe.write(b"".join(json.dumps(message).encode() + b"\n" for message in (call, cancelled)))
    pipe.request(2, "tools/list")

    assert pipe.result(2)["tools"]
    gc.collect()  # what was never begun would complain of that
