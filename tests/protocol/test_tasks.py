"""A call becomes a task, and the task is read, answered and cancelled (2026-07-28 with the extension)."""

from __future__ import annotations

import re

import pytest

from tasks_service.domain.task import Failure, FailureKind, JsonText, Progress
from tasks_service.durable.questions import Form
from tests.kit.hand_worker import Worker, asked
from tests.kit.wire import WireClient

ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
OWN_META = "io.github.tasks-service/task"
SURE = asked(Form("Sure?", {"type": "object", "properties": {}}))


def test_a_call_is_answered_with_a_task_that_has_neither_result_nor_questions(client: WireClient) -> None:
    result = client.call("greet", {"name": "Ada"}).result

    assert result["resultType"] == "task"
    assert result["status"] == "working"
    assert result["ttlMs"] >= 3_600_000
    assert result["pollIntervalMs"] == 1000
    assert ISO.fullmatch(result["createdAt"])
    assert ISO.fullmatch(result["lastUpdatedAt"])
    assert not {"result", "error", "inputRequests", "requestState", "task"} & set(result)


def test_a_task_can_be_read_as_soon_as_its_handle_is_out(client: WireClient) -> None:
    task_id = client.task("greet", {"name": "Ada"})

    task = client.get(task_id)

    assert (task["resultType"], task["taskId"], task["status"]) == ("complete", task_id, "working")


def test_a_completed_task_carries_its_result(client: WireClient, worker: Worker) -> None:
    task_id = client.task("greet", {"name": "Ada"})

    worker.run(task_id)

    task = client.get(task_id)
    assert task["status"] == "completed"
    assert task["result"]["content"] == [{"type": "text", "text": "Hello, Ada!"}]
    assert "io.modelcontextprotocol/related-task" not in task["result"].get("_meta", {})


def test_a_structured_result_that_is_no_object_goes_as_it_is(client: WireClient, worker: Worker) -> None:
    task_id = client.task("add", {"left": 1, "right": 2})

    worker.run(task_id)

    assert client.get(task_id)["result"]["structuredContent"] == 3


def test_a_failed_task_carries_the_authors_error(client: WireClient, worker: Worker) -> None:
    task_id = client.task("broken")

    worker.run(task_id)

    task = client.get(task_id)
    assert task["resultType"] == "complete"
    assert task["status"] == "failed"
    assert task["error"] == {"code": 4050, "message": "the author says no"}
    assert task["statusMessage"] == "the author says no"
    assert "result" not in task


@pytest.mark.parametrize("kind", [FailureKind.QUEUE_TIMEOUT, FailureKind.TIMEOUT, FailureKind.RESULT_LIMIT])
def test_a_failure_of_the_service_is_an_internal_error(
    client: WireClient, worker: Worker, kind: FailureKind
) -> None:
    task_id = client.task("greet", {"name": "Ada"})

    worker.fail(task_id, Failure(kind=kind, message="It went wrong."))

    assert client.get(task_id)["error"] == {"code": -32603, "message": "It went wrong."}


def test_progress_and_variables_show_under_one_key_of_our_own(client: WireClient, worker: Worker) -> None:
    task_id = client.task("greet", {"name": "Ada"})
    task, _ = worker.claim(task_id)

    worker.note(task, progress=Progress(current=3, total=4, message="reading"))
    worker.note(task, variables={"seen": JsonText('["a"]')})

    shown = client.get(task_id)
    assert shown["statusMessage"] == "reading"
    assert shown["_meta"][OWN_META] == {
        "progress": {"progress": 3, "total": 4, "message": "reading"},
        "variables": {"seen": ["a"]},
    }


def test_a_question_shows_in_tasks_get_and_an_answer_lets_the_task_go_on(
    client: WireClient, worker: Worker
) -> None:
    task_id = client.task("greet", {"name": "Ada"})
    worker.ask(task_id, {"sure": SURE, "name": SURE})

    open_questions = client.get(task_id)
    partial = client.request(
        "tasks/update", {"taskId": task_id, "inputResponses": {"sure": {"action": "accept", "content": {}}}}
    )
    still = client.get(task_id)
    client.request("tasks/update", {"taskId": task_id, "inputResponses": {"name": {"action": "decline"}}})

    assert open_questions["status"] == "input_required"
    assert set(open_questions["inputRequests"]) == {"sure", "name"}
    assert open_questions["inputRequests"]["sure"]["method"] == "elicitation/create"
    assert set(partial.result) == {"resultType", "_meta"}
    assert set(still["inputRequests"]) == {"name"}
    assert client.get(task_id)["status"] == "working"
    journal = worker.store.inspect(task_id).journal
    assert [(entry.name, entry.value) for entry in journal] == [
        ("sure", '{"action":"accept","content":{}}'),
        ("name", '{"action":"decline"}'),
    ]


def test_answers_to_unknown_keys_are_acknowledged_and_change_nothing(
    client: WireClient, worker: Worker
) -> None:
    task_id = client.task("greet", {"name": "Ada"})
    worker.ask(task_id, {"sure": SURE})

    reply = client.request("tasks/update", {"taskId": task_id, "inputResponses": {"other": {}}})

    assert reply.result["resultType"] == "complete"
    assert set(client.get(task_id)["inputRequests"]) == {"sure"}
    assert worker.store.inspect(task_id).journal == ()


def test_cancelling_acknowledges_and_the_task_is_cancelled(client: WireClient) -> None:
    task_id = client.task("greet", {"name": "Ada"})

    reply = client.request("tasks/cancel", {"taskId": task_id})

    assert set(reply.result) == {"resultType", "_meta"}
    assert reply.result["resultType"] == "complete"
    assert client.get(task_id)["status"] == "cancelled"


@pytest.mark.parametrize(("method", "more"), [("tasks/cancel", {}), ("tasks/update", {"inputResponses": {}})])
def test_on_a_task_that_has_ended_cancel_and_update_acknowledge(
    client: WireClient, worker: Worker, method: str, more: dict[str, object]
) -> None:
    task_id = client.task("greet", {"name": "Ada"})
    worker.run(task_id)

    reply = client.request(method, {"taskId": task_id, **more})

    assert set(reply.result) == {"resultType", "_meta"}
    assert client.get(task_id)["status"] == "completed"


def test_era_and_what_the_client_can_be_asked_are_recorded(client: WireClient, worker: Worker) -> None:
    client.capabilities = {**client.capabilities, "elicitation": {"form": {}}, "sampling": {}}

    task_id = client.task("greet", {"name": "Ada"})

    task = worker.store.inspect(task_id).task
    assert task.era == "2026-07-28"
    assert task.capabilities == {"form", "sampling"}


def test_an_idempotency_key_finds_the_same_task_again(client: WireClient) -> None:
    meta = {"io.github.tasks-service/idempotency-key": "order-1"}
    first = client.task("add", {"left": 1, "right": 2}, meta=meta)

    again = client.task("add", {"right": 2, "left": 1}, meta=meta)
    other = client.call("add", {"left": 5}, meta=meta)

    assert again == first
    assert other.error["code"] == -32602


def test_the_deprecated_task_parameter_of_2025_is_ignored(plain: WireClient, busy_worker: Worker) -> None:
    reply = plain.request("tools/call", {"name": "alone", "arguments": {}, "task": {"ttl": 1000}})

    assert reply.result["content"][0]["text"] == "alone"


def test_a_tool_that_forbids_tasks_answers_plainly_even_to_those_who_take_them(
    client: WireClient, busy_worker: Worker
) -> None:
    result = client.call("alone").result

    assert result["resultType"] == "complete"
    assert result["content"][0]["text"] == "alone"


def test_the_extension_counts_for_the_request_that_declares_it_only(
    client: WireClient, plain: WireClient, busy_worker: Worker
) -> None:
    assert client.call("heavy").result["resultType"] == "task"
    assert plain.call("greet", {"name": "Ada"}).result["resultType"] == "complete"
    assert plain.call("heavy").error["code"] == -32021
