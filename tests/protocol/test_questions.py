"""Questions of a task, as 2026-07-28 shows them, and their answers by `tasks/update`."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from mcp_types import SamplingMessage, TextContent
from pydantic import BaseModel, Field

from tasks_service.domain.events import Claim
from tasks_service.domain.task import Failure, FailureKind, JsonText, new_token
from tasks_service.durable.questions import Form, Link, Question, Roots, Sampling
from tests.kit.hand_worker import Worker, asked
from tests.kit.wire import WITH_TASKS, WITHOUT_TASKS, WireClient


class Name(BaseModel):
    name: str = Field(min_length=2, pattern="^[A-Z]")


NAME = Form("What is your name?", Name)
ADA = {"action": "accept", "content": {"name": "Ada"}}
GRACE = {"action": "accept", "content": {"name": "Grace"}}


def parked(client: WireClient, worker: Worker, **questions: Question) -> str:
    """A task that asks; its id."""
    task_id = client.task("greet", {"name": "Ada"})
    worker.ask(task_id, {key: asked(question) for key, question in questions.items()})
    return task_id


def answers_of(worker: Worker, task_id: str) -> dict[str, str]:
    return {entry.name: entry.value for entry in worker.store.inspect(task_id).journal}


# --- what is shown ---


def test_a_form_is_shown_as_a_request_of_this_revision(client: WireClient, worker: Worker) -> None:
    task_id = parked(client, worker, name=NAME)

    request = client.get(task_id)["inputRequests"]["name"]

    assert request["method"] == "elicitation/create"
    assert request["params"]["mode"] == "form"
    assert request["params"]["message"] == "What is your name?"
    schema = request["params"]["requestedSchema"]
    assert schema["required"] == ["name"]
    assert schema["properties"]["name"]["minLength"] == 2
    assert "pattern" not in schema["properties"]["name"]


def test_a_link_is_shown_without_an_elicitation_id(client: WireClient, worker: Worker) -> None:
    task_id = parked(client, worker, pay=Link("Please pay.", "https://pay.example/42"))

    assert client.get(task_id)["inputRequests"]["pay"] == {
        "method": "elicitation/create",
        "params": {"mode": "url", "message": "Please pay.", "url": "https://pay.example/42"},
    }


def test_sampling_and_roots_are_shown_as_the_requests_that_they_are(
    client: WireClient, worker: Worker
) -> None:
    message = SamplingMessage(role="user", content=TextContent(type="text", text="A haiku."))
    task_id = parked(
        client, worker, poem=Sampling([message], max_tokens=50, system_prompt="Be brief."), where=Roots()
    )

    requests = client.get(task_id)["inputRequests"]

    assert requests["poem"] == {
        "method": "sampling/createMessage",
        "params": {
            "messages": [{"role": "user", "content": {"type": "text", "text": "A haiku."}}],
            "maxTokens": 50,
            "systemPrompt": "Be brief.",
        },
    }
    assert requests["where"] == {"method": "roots/list"}


@pytest.mark.parametrize(
    ("declared", "recorded"),
    [
        ({}, ""),
        ({"elicitation": {}}, '["form"]'),
        ({"elicitation": {"form": {}}}, '["form"]'),
        ({"elicitation": {"url": {}}}, '["url"]'),
        ({"elicitation": {"url": {}, "form": {}}, "roots": {}}, '["form","url","roots"]'),
        ({"sampling": {"tools": {}}}, '["sampling"]'),
    ],
)
def test_what_a_client_can_be_asked_is_recorded_in_our_own_words(
    client: WireClient, worker: Worker, declared: dict[str, Any], recorded: str
) -> None:
    client.capabilities = {**WITH_TASKS, **declared}

    task_id = client.task("greet", {"name": "Ada"})

    assert worker.store.inspect(task_id).task.capabilities == recorded


@pytest.mark.parametrize(
    ("needs", "required"),
    [
        ("form", {"elicitation": {"form": {}}}),
        ("url", {"elicitation": {"url": {}}}),
        ("sampling", {"sampling": {}}),
        ("roots", {"roots": {}}),
    ],
)
def test_a_task_whose_client_cannot_be_asked_fails_and_names_the_capability(
    client: WireClient, worker: Worker, needs: str, required: dict[str, Any]
) -> None:
    task_id = client.task("greet", {"name": "Ada"})

    data = JsonText(f'{{"needs":"{needs}"}}')
    worker.fail(task_id, Failure(kind=FailureKind.CLIENT_CANNOT, message="It cannot.", data=data))

    assert client.get(task_id)["error"] == {
        "code": -32021,
        "message": "It cannot.",
        "data": {"requiredCapabilities": required},
    }


# --- answers ---


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_questions_are_answered_one_by_one_in_any_order(
    client: WireClient, worker: Worker, order: tuple[str, ...]
) -> None:
    task_id = parked(client, worker, a=NAME, b=NAME, c=NAME)

    for number, key in enumerate(order, start=1):
        client.update(task_id, {key: ADA})
        still_open = set(client.get(task_id).get("inputRequests", {}))
        assert still_open == set(order[number:])

    assert client.get(task_id)["status"] == "working"
    assert worker.pending() == [task_id]
    assert set(answers_of(worker, task_id)) == {"a", "b", "c"}


def test_an_answered_key_is_gone_before_the_acknowledgement_goes_out(
    client: WireClient, worker: Worker
) -> None:
    task_id = parked(client, worker, a=NAME, b=NAME)

    reply = client.update(task_id, {"a": ADA})

    assert set(reply.result) == {"resultType", "_meta"}
    with WireClient(client.port) as other:
        assert set(other.get(task_id)["inputRequests"]) == {"b"}


def test_an_answered_key_keeps_its_first_answer(client: WireClient, worker: Worker) -> None:
    task_id = parked(client, worker, a=NAME, b=NAME)
    client.update(task_id, {"a": ADA})

    again = client.update(task_id, {"a": GRACE, "b": GRACE})

    assert again.result["resultType"] == "complete"
    assert "Ada" in answers_of(worker, task_id)["a"]
    assert "Grace" in answers_of(worker, task_id)["b"]


@pytest.mark.parametrize(
    ("answer", "path"),
    [
        (7, ""),
        ({}, "action"),
        ({"action": "maybe"}, "action"),
        ({"action": "accept"}, "content"),
        ({"action": "accept", "content": {"name": 7}}, "content.name"),
        ({"action": "accept", "content": {"name": "A"}}, "content.name"),
        ({"action": "accept", "content": {"name": "ada"}}, "content.name"),
        ({"action": "accept", "content": {}}, "content"),
    ],
)
def test_a_bad_answer_is_refused_with_key_and_path_and_the_question_stays_open(
    client: WireClient, worker: Worker, answer: Any, path: str
) -> None:
    task_id = parked(client, worker, name=NAME)

    error = client.update(task_id, {"name": answer}).error

    assert error["code"] == -32602
    assert error["data"]["key"] == "name"
    assert error["data"]["path"] == path
    assert error["data"]["problem"]
    assert f"name.{path}".rstrip(".") in error["message"]
    assert set(client.get(task_id)["inputRequests"]) == {"name"}
    assert answers_of(worker, task_id) == {}


def test_one_bad_answer_refuses_the_whole_update(client: WireClient, worker: Worker) -> None:
    task_id = parked(client, worker, a=NAME, b=NAME)

    error = client.update(task_id, {"a": ADA, "b": {"action": "accept", "content": {}}}).error

    assert error["data"]["key"] == "b"
    assert set(client.get(task_id)["inputRequests"]) == {"a", "b"}
    assert answers_of(worker, task_id) == {}


def test_what_answers_no_question_is_ignored_whatever_it_is(client: WireClient, worker: Worker) -> None:
    task_id = parked(client, worker, name=NAME)

    reply = client.update(task_id, {"nobody-asked": 7, "name": ADA})

    assert reply.result["resultType"] == "complete"
    assert set(answers_of(worker, task_id)) == {"name"}


def test_properties_beyond_the_schema_are_accepted(client: WireClient, worker: Worker) -> None:
    task_id = parked(client, worker, name=NAME)

    client.update(task_id, {"name": {"action": "accept", "content": {"name": "Ada", "shoe": 38}}})

    assert client.get(task_id)["status"] == "working"


@pytest.mark.parametrize("answer", [{"action": "decline"}, {"action": "cancel"}])
def test_to_decline_and_to_dismiss_are_answers(
    client: WireClient, worker: Worker, answer: dict[str, str]
) -> None:
    task_id = parked(client, worker, name=NAME)

    client.update(task_id, {"name": answer})

    assert client.get(task_id)["status"] == "working"
    assert answer["action"] in answers_of(worker, task_id)["name"]


def test_a_clients_error_is_recorded_as_the_answer(client: WireClient, worker: Worker) -> None:
    task_id = parked(client, worker, name=NAME)

    client.update(task_id, {"name": {"error": {"code": -1, "message": "The user is away"}}})

    assert client.get(task_id)["status"] == "working"
    assert "The user is away" in answers_of(worker, task_id)["name"]


@pytest.mark.parametrize("error", [7, {}, {"code": "x", "message": "m"}, {"code": 1}])
def test_an_error_that_is_none_is_refused(client: WireClient, worker: Worker, error: Any) -> None:
    task_id = parked(client, worker, name=NAME)

    assert client.update(task_id, {"name": {"error": error}}).error["data"]["key"] == "name"
    assert set(client.get(task_id)["inputRequests"]) == {"name"}


@pytest.mark.parametrize(
    ("question", "good", "bad"),
    [
        (Link("Go.", "https://a.example"), {"action": "accept"}, {"action": "went"}),
        (Roots(), {"roots": [{"uri": "file:///srv"}]}, {"roots": 7}),
        (
            Sampling([SamplingMessage(role="user", content=TextContent(type="text", text="Hi"))], 10),
            {"role": "assistant", "content": {"type": "text", "text": "Hello"}, "model": "m"},
            {"role": "assistant"},
        ),
    ],
)
def test_answers_of_every_kind_are_checked(
    client: WireClient, worker: Worker, question: Question, good: dict[str, Any], bad: dict[str, Any]
) -> None:
    task_id = parked(client, worker, q=question)

    assert client.update(task_id, {"q": bad}).error["code"] == -32602
    assert client.update(task_id, {"q": good}).result["resultType"] == "complete"
    assert client.get(task_id)["status"] == "working"


def test_answers_that_are_too_large_are_refused(client: WireClient, worker: Worker) -> None:
    task_id = parked(client, worker, name=NAME)

    error = client.update(task_id, {"name": {"action": "accept", "content": {"name": "A" * 100_000}}}).error

    assert error["code"] == -32602
    assert error["data"]["limit"] == "answers"
    assert set(client.get(task_id)["inputRequests"]) == {"name"}


@pytest.mark.parametrize("responses", [None, 7, [], "yes"])
def test_what_is_no_object_of_answers_is_refused(client: WireClient, worker: Worker, responses: Any) -> None:
    task_id = parked(client, worker, name=NAME)

    assert client.update(task_id, responses).error["code"] == -32602


def test_eight_racing_updates_give_one_resumption(client: WireClient, worker: Worker) -> None:
    task_id = parked(client, worker, a=NAME, b=NAME)
    clients = [WireClient(client.port) for _ in range(8)]

    with ThreadPoolExecutor(8) as pool:
        names = [f"N{number}" for number in range(8)]
        answers = [{"action": "accept", "content": {"name": name}} for name in names]
        replies = [
            pool.submit(each.update, task_id, {"a": answer, "b": answer})
            for each, answer in zip(clients, answers, strict=True)
        ]
        results = [reply.result(60).result for reply in replies]
    for each in clients:
        each.close()

    assert all(result["resultType"] == "complete" for result in results)
    record = worker.store.inspect(task_id)
    assert [line.target for line in record.log].count("pending") == 2  # its creation, and one resumption
    assert [entry.name for entry in record.journal] == ["a", "b"]
    assert len({entry.value for entry in record.journal}) == 1
    assert worker.store.claim(task_id, Claim(lease_id=new_token(), worker="test")).task.claims == 2


def test_a_resumed_task_can_ask_again_and_end(client: WireClient, worker: Worker) -> None:
    task_id = parked(client, worker, first=NAME)
    client.update(task_id, {"first": ADA})

    worker.ask(task_id, {"second": asked(NAME)})
    late = client.update(task_id, {"first": GRACE})
    assert set(client.get(task_id)["inputRequests"]) == {"second"}
    client.update(task_id, {"second": GRACE})
    worker.run(task_id)

    assert late.result["resultType"] == "complete"
    assert client.get(task_id)["status"] == "completed"
    assert "Ada" in answers_of(worker, task_id)["first"]


def test_answers_need_the_extension(client: WireClient, worker: Worker) -> None:
    task_id = parked(client, worker, name=NAME)
    client.capabilities = WITHOUT_TASKS

    assert client.update(task_id, {"name": ADA}).error["code"] == -32021
