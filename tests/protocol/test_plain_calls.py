"""Calls that are answered with a result: durable executions underneath, which nobody else sees."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks_service.authoring.tool import ToolRegistry
from tasks_service.domain.events import Cancel
from tasks_service.domain.task import Task
from tasks_service.durable.questions import Form
from tasks_service.frontend.timings import Timings
from tests.kit.hand_worker import Worker, asked
from tests.kit.serving import serving, settings
from tests.kit.stored import ids_of
from tests.kit.waiting import wait_until
from tests.kit.wire import TASK_METHODS, WITHOUT_TASKS, Reply, WireClient

SURE = asked(Form("Sure?", {"type": "object", "properties": {}}))


def test_a_client_without_the_extension_waits_and_gets_the_result(
    plain: WireClient, busy_worker: Worker
) -> None:
    result = plain.call("greet", {"name": "Ada"}).result

    assert result["resultType"] == "complete"
    assert result["content"] == [{"type": "text", "text": "Hello, Ada!"}]
    assert "taskId" not in result


@pytest.mark.parametrize(
    ("tool", "arguments", "structured"),
    [
        ("add", {"left": 1}, 2),
        ("names", {}, ["ada", "grace"]),
        ("report", {"title": "T"}, {"title": "T", "pages": 3}),
        ("perhaps", {}, {"result": None}),
    ],
)
def test_structured_results_match_the_listed_schema(
    plain: WireClient, busy_worker: Worker, tool: str, arguments: dict[str, object], structured: object
) -> None:
    assert plain.call(tool, arguments).result["structuredContent"] == structured


@pytest.mark.parametrize("timings", [Timings(heal=600.0)])  # the slow poll would come too late
def test_the_result_arrives_as_soon_as_it_is_there(
    plain: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    reply = pool.submit(plain.call, "greet", {"name": "Ada"})
    task_id = worker.recorded()
    with pytest.raises(TimeoutError):
        reply.result(0.1)

    worker.run(task_id)

    assert reply.result(60).result["content"][0]["text"] == "Hello, Ada!"


def test_a_failed_execution_is_an_error_with_the_authors_code(plain: WireClient, busy_worker: Worker) -> None:
    assert plain.call("broken").error == {"code": 4050, "message": "the author says no"}


def test_an_execution_without_a_handle_is_invisible_to_every_task_method(
    client: WireClient, plain: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    reply = pool.submit(plain.call, "greet", {"name": "Ada"})
    task_id = worker.recorded()

    params = {"taskId": task_id, "inputResponses": {}}
    errors = [client.request(method, params).error for method in TASK_METHODS]
    worker.run(task_id)

    assert errors == [{"code": -32602, "message": "Task not found"}] * 3
    assert reply.result(60).result["content"][0]["text"] == "Hello, Ada!"
    assert client.request("tasks/get", {"taskId": task_id}).error["code"] == -32602


def test_a_call_that_an_operator_cancels_is_answered_with_an_error(
    plain: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    reply = pool.submit(plain.call, "greet", {"name": "Ada"})
    task_id = worker.recorded()

    worker.store.apply(worker.store.inspect(task_id).task.owner, task_id, Cancel(), hidden=True)

    assert reply.result(60).error["code"] == -32800


def test_a_question_ends_a_call_whose_client_cannot_be_asked(
    plain: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    reply = pool.submit(plain.call, "alone")
    task_id = worker.recorded()

    worker.ask(task_id, {"sure": SURE})

    error = reply.result(60).error
    assert error["code"] == -32021
    assert error["data"] == {"requiredCapabilities": {"elicitation": {"form": {}}}}
    assert worker.store.inspect(task_id).task.status == "cancelled"


def test_a_call_that_waits_too_long_ends_and_its_execution_is_cancelled(
    redis_url: str, tools: ToolRegistry, worker: Worker, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    with (
        serving(tools, settings(redis_url, tmp_path, wait_limit=0.2, companion_tools=False)) as port,
        WireClient(port, capabilities=WITHOUT_TASKS) as client,
    ):
        reply = client.call("greet", {"name": "Ada"})

        (task_id,) = ids_of(worker.store)
        assert "did not end within 0.2 s" in reply.error["message"]
        assert worker.store.inspect(task_id).task.status == "cancelled"


# --- grace ---


def test_a_tool_that_ends_within_its_grace_gives_a_plain_result(
    client: WireClient, busy_worker: Worker
) -> None:
    result = client.call("soon", {"name": "Ada"}).result

    assert result["resultType"] == "complete"
    assert result["content"][0]["text"] == "Hello, Ada!"


def test_a_tool_that_takes_longer_than_its_grace_gives_a_task(client: WireClient, worker: Worker) -> None:
    began = time.monotonic()

    task_id = client.task("late", {"name": "Ada"})

    assert 0.3 <= time.monotonic() - began < 10
    assert client.get(task_id)["status"] == "working"
    worker.run(task_id)
    assert client.get(task_id)["status"] == "completed"


def test_a_question_within_the_grace_gives_a_task_at_once_without_the_question(
    client: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    reply: Future[Reply] = pool.submit(client.call, "soon", {"name": "Ada"})
    task_id = worker.recorded()

    worker.ask(task_id, {"sure": SURE})

    result = reply.result(60).result
    assert (result["resultType"], result["taskId"]) == ("task", task_id)
    assert "inputRequests" not in result
    assert set(client.get(task_id)["inputRequests"]) == {"sure"}


def test_grace_is_not_for_clients_without_the_extension(
    plain: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    reply = pool.submit(plain.call, "late", {"name": "Ada"})
    task_id = worker.recorded()
    time.sleep(0.7)

    worker.run(task_id)

    assert reply.result(60).result["resultType"] == "complete"


# --- hanging up ---


def hang_up_during_call(
    client: WireClient, worker: Worker, tool: str, meta: dict[str, str], *, after: float = 0
) -> str:
    """Send a call, wait until it is recorded, close the connection; the id of the execution."""
    params = {"name": tool, "arguments": {"name": "Ada"}}
    body = json.dumps(client.message("tools/call", params, **meta)).encode()
    headers = {**client.headers("tools/call", params), "host": "localhost", "content-length": str(len(body))}
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection.sendall(f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + body)
        task_id = worker.recorded()
        time.sleep(after)
        return task_id


@pytest.mark.parametrize("tool", ["greet", "soon"])
def test_hanging_up_cancels_the_execution(
    plain: WireClient, client: WireClient, worker: Worker, tool: str
) -> None:
    caller = client if tool == "soon" else plain

    task_id = hang_up_during_call(caller, worker, tool, {})

    task = wait_until(lambda: _ended(worker, task_id), "cancelled")
    assert task.status == "cancelled"
    assert task.status_message == "The caller went away."


def test_hanging_up_leaves_an_execution_alone_that_the_caller_can_come_back_for(
    plain: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    meta = {"io.github.tasks-service/idempotency-key": "again"}
    task_id = hang_up_during_call(plain, worker, "greet", meta)

    reply = pool.submit(plain.call, "greet", {"name": "Ada"}, meta=meta)
    time.sleep(0.2)
    worker.run(task_id)

    assert reply.result(60).result["content"][0]["text"] == "Hello, Ada!"


def test_hanging_up_does_not_cancel_a_task(client: WireClient, worker: Worker) -> None:
    task_id = client.task("greet", {"name": "Ada"})
    client.close()
    time.sleep(0.2)

    assert worker.store.inspect(task_id).task.status == "working"


def call_until_taken(client: WireClient, tool: str, arguments: dict[str, int]) -> Reply:
    """The answer to a call, repeated while the front end says that it is too busy and recorded nothing."""
    while True:
        reply = client.call(tool, arguments)
        if reply.status != 503:
            return reply
        time.sleep(reply.error["data"]["retryAfterMs"] / 1000)


def test_a_hundred_calls_wait_at_once_on_few_connections(
    redis_url: str, tools: ToolRegistry, worker: Worker, tmp_path: Path
) -> None:
    with serving(tools, settings(redis_url, tmp_path, pool=4)) as port, ThreadPoolExecutor(100) as pool:
        clients = [WireClient(port, capabilities=WITHOUT_TASKS) for _ in range(100)]
        replies = [pool.submit(call_until_taken, c, "add", {"left": n}) for n, c in enumerate(clients)]
        wait_until(lambda: len(worker.pending()) == 100, "all are recorded")
        worker.start()

        assert [reply.result(60).result["structuredContent"] for reply in replies] == list(range(1, 101))
        for client in clients:
            client.close()


# --- long waits ---


answers_stream_soon = pytest.mark.parametrize("timings", [Timings(deferral=0.05)])


@answers_stream_soon
def test_a_long_call_is_kept_alive_and_ends_with_its_result(
    plain: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    reply = pool.submit(plain.call, "greet", {"name": "Ada"})
    task_id = worker.recorded()
    time.sleep(1)
    worker.run(task_id)

    answer = reply.result(60)
    pings, _, event = answer.body.decode().partition("event: message\r\ndata: ")
    assert answer.headers["content-type"] == "text/event-stream"
    assert pings.count(": ping\r\n\r\n") >= 2
    assert json.loads(event)["result"]["content"][0]["text"] == "Hello, Ada!"


@answers_stream_soon
def test_a_client_that_takes_no_stream_waits_in_silence(
    plain: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    params = {"name": "greet", "arguments": {"name": "Ada"}}
    reply = pool.submit(plain.request, "tools/call", params, accept="application/json")
    task_id = worker.recorded()
    time.sleep(0.2)
    worker.run(task_id)

    assert reply.result(60).result["content"][0]["text"] == "Hello, Ada!"


@answers_stream_soon
def test_hanging_up_on_a_stream_cancels_the_execution(plain: WireClient, worker: Worker) -> None:
    task_id = hang_up_during_call(plain, worker, "greet", {}, after=0.2)

    assert wait_until(lambda: _ended(worker, task_id), "cancelled").status == "cancelled"


def _ended(worker: Worker, task_id: str) -> Task | None:
    task = worker.store.inspect(task_id).task
    return task if task.status.is_final else None
