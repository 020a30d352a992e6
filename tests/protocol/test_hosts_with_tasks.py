"""What a host that runs tasks sends, and what its user and its model have at each moment (docs/hosts.md).

Sent as it was observed: the host begins with `server/discover`, declares the extension and what it can be
asked on every request, names its own use of the tool in `_meta`, polls as `pollIntervalMs` says, shows
questions as forms, and cancels with `tasks/cancel`. Its model is told in the host's own words; of ours it has
the id of the task, and at the end the whole result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tasks_service.domain.task import Task
from tasks_service.durable.questions import Form
from tests.kit.hand_worker import Worker, asked
from tests.kit.waiting import quickest
from tests.kit.wire import TASKS, WITHOUT_TASKS, WireClient

CAPABILITIES: dict[str, Any] = {"extensions": {TASKS: {}}, "elicitation": {"form": {}}, "roots": {}}
CLIENT_INFO = {"name": "a-host", "version": "2.1.319"}
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
NAME = asked(Form("Your name?", SCHEMA))
GREETING: dict[str, Any] = {"name": "greet", "arguments": {"name": "Ada"}}

P20_POLLED, P20_WAITED = 1.2, 0.1
"""Seconds from the end of the work to when the host has it."""


class Host:
    """Such a host."""

    def __init__(self, port: int) -> None:
        self.wire = WireClient(port, capabilities=CAPABILITIES)
        self._uses = 0

    def send(self, method: str, params: dict[str, Any] | None = None) -> Any:
        self._uses += 1
        meta = {
            "io.modelcontextprotocol/clientInfo": CLIENT_INFO,
            "example.host/toolUseId": f"toolu_{self._uses}",
        }
        return self.wire.request(method, params, meta=meta).result

    def call(self, params: dict[str, Any]) -> Any:
        return self.send("tools/call", params)

    def poll(self, task: dict[str, Any], until: Callable[[Any], bool]) -> Any:
        """Poll, with the pauses that each answer asks for, until the task is as wanted."""
        while not until(task):
            time.sleep(task["pollIntervalMs"] / 1000)
            task = self.send("tasks/get", {"taskId": task["taskId"]})
        return task


def is_final(task: Any) -> bool:
    return task["status"] in ("completed", "failed", "cancelled")


@pytest.fixture
def host(port: int) -> Iterator[Host]:
    host = Host(port)
    yield host
    host.wire.close()


def test_it_finds_the_service_and_its_tools_without_a_handshake(host: Host) -> None:
    discovered = host.send("server/discover")
    tools = {tool["name"]: tool for tool in host.send("tools/list")["tools"]}

    assert TASKS in discovered["capabilities"]["extensions"]
    assert {"greet", "task_result"} <= tools.keys()


def test_its_model_has_the_task_and_later_the_whole_result(host: Host, worker: Worker) -> None:
    task = host.call(GREETING)

    # What the host shows: that there is a task, and its id. So the call need not be made again to follow it.
    assert task["resultType"] == "task"
    assert task["status"] == "working"
    assert task["pollIntervalMs"] == 1000
    assert host.send("tasks/get", {"taskId": task["taskId"]})["status"] == "working"
    worker.run_next()

    ended = host.poll(task, is_final)

    # The notification to the model carries the result, with nothing that would have to be fetched.
    assert ended["result"]["content"] == [{"type": "text", "text": "Hello, Ada!"}]
    assert ended["result"]["structuredContent"] == "Hello, Ada!"
    # Should it lose that, it can ask by the id that it was told, in this session or in another.
    text = host.call({"name": "task_result", "arguments": {"task_id": task["taskId"]}})["content"][0]["text"]
    assert text == "Hello, Ada!"


def test_a_question_is_shown_as_a_form_and_its_answer_goes_on(host: Host, worker: Worker) -> None:
    task = host.call(GREETING)
    worker.ask(worker.recorded(), {"name": NAME})

    waiting = host.poll(task, lambda task: task["status"] == "input_required")

    ((key, request),) = waiting["inputRequests"].items()
    assert request["method"] == "elicitation/create"
    assert request["params"]["message"] == "Your name?"
    assert request["params"]["requestedSchema"]["required"] == ["name"]
    answer = {"action": "accept", "content": {"name": "Grace"}}
    host.send("tasks/update", {"taskId": task["taskId"], "inputResponses": {key: answer}})
    assert host.send("tasks/get", {"taskId": task["taskId"]})["status"] == "working"


def test_its_user_cancels_a_task_and_the_model_is_told_that_it_was(host: Host, worker: Worker) -> None:
    task = host.call(GREETING)

    host.send("tasks/cancel", {"taskId": task["taskId"]})

    ended = host.poll(task, is_final)
    assert ended["status"] == "cancelled"
    assert worker.pending() == []


def test_a_task_is_found_again_after_the_host_was_restarted(host: Host, port: int, worker: Worker) -> None:
    task = host.call(GREETING)
    host.wire.close()
    worker.run_next()

    again = Host(port)

    assert again.send("tasks/get", {"taskId": task["taskId"]})["status"] == "completed"
    again.wire.close()


def test_a_result_reaches_a_host_soon_after_its_end(
    host: Host, port: int, worker: Worker, measured: Callable[[str, str], None]
) -> None:
    def ended_after(task: Task, now: float) -> float:
        """Seconds between the task's end, by the store's clock, and a moment of this process."""
        ago = time.monotonic() - now
        return (worker.store.now_ms() - task.updated_ms) / 1000 - ago

    def polled() -> float:
        task = host.call(GREETING)
        with ThreadPoolExecutor(1) as pool:
            # Just after a poll, so that the next is as far as it can be.
            host.send("tasks/get", {"taskId": task["taskId"]})
            done = pool.submit(worker.run_next)
            host.poll(task, is_final)
            return ended_after(done.result(), time.monotonic())

    def waited() -> float:
        with WireClient(port, capabilities=WITHOUT_TASKS) as model, ThreadPoolExecutor(1) as pool:
            task_id = host.call(GREETING)["taskId"]
            waiting = pool.submit(model.call, "task_result", {"task_id": task_id})
            done = worker.run_next()
            waiting.result()
            return ended_after(done, time.monotonic())

    by_poll, by_wait = quickest(polled, P20_POLLED), quickest(waited, P20_WAITED)

    measured("P20", f"{by_poll:.2f} s after the end by polls, {by_wait:.3f} s by task_result")
    assert by_poll < P20_POLLED
    assert by_wait < P20_WAITED
