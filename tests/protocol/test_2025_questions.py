"""Questions inside tasks and calls of 2025-11-25: asked on one stream, answered through any front end."""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from mcp_types import SamplingMessage, TextContent

from tasks_service.domain.events import Question as OpenQuestion
from tasks_service.durable.questions import Form, Link, Roots, Sampling
from tests.kit.hand_worker import Worker, asked
from tests.kit.sessions import RELATED, Message, SessionClient, Stream, is_answer, is_request
from tests.kit.waiting import wait_until
from tests.kit.wire import WireClient

NAME = asked(
    Form("Your name?", {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]})
)
SURE = asked(Form("Sure?", {"type": "object", "properties": {"yes": {"type": "boolean"}}}))
PAGE = asked(Link("Please pay", "https://shop.example/pay"))
HAIKU = asked(Sampling([SamplingMessage(role="user", content=TextContent(type="text", text="A haiku"))], 100))
ROOTS = asked(Roots())
ADA = {"action": "accept", "content": {"name": "Ada"}}
GREET: dict[str, Any] = {"name": "greet", "arguments": {"name": "Ada"}}

elicitation = is_request("elicitation/create")


def parked(session: SessionClient, worker: Worker, inputs: Mapping[str, OpenQuestion]) -> str:
    """A task that asks."""
    task_id = session.task("greet", {"name": "Ada"})
    worker.ask(task_id, inputs)
    return task_id


def journal(worker: Worker, task_id: str) -> list[tuple[str, str]]:
    return [(entry.name, entry.value) for entry in worker.store.inspect(task_id).journal]


def waiting(session: SessionClient, task_id: str, *, at: int = 0) -> Stream:
    return session.open("tasks/result", {"taskId": task_id}, at=at)


def test_a_question_is_asked_on_an_open_result_and_answered_through_another_front_end(
    session: SessionClient, worker: Worker
) -> None:
    task_id = session.task("greet", {"name": "Ada"})
    stream = waiting(session, task_id, at=0)
    worker.ask(task_id, {"name": NAME})

    request = stream.find(elicitation)
    assert session.get(task_id)["status"] == "input_required"
    assert session.respond(request["id"], ADA, at=1).status == 202

    wait_until(lambda: session.get(task_id)["status"] == "working", "it goes on")
    worker.run(task_id)
    answer = stream.find(is_answer)
    assert request["params"] == {
        "mode": "form",
        "message": "Your name?",
        "requestedSchema": {
            "type": "object",
            "properties": {"name": {"type": "string"}},
            "required": ["name"],
        },
        "_meta": {RELATED: {"taskId": task_id}},
    }
    assert answer["result"]["content"][0]["text"] == "Hello, Ada!"
    assert journal(worker, task_id) == [("name", '{"action":"accept","content":{"name":"Ada"}}')]


def test_the_id_of_a_question_says_nothing_of_the_task(session: SessionClient, worker: Worker) -> None:
    task_id = parked(session, worker, {"name": NAME})

    request = waiting(session, task_id).find(elicitation)

    assert isinstance(request["id"], str)
    assert task_id not in request["id"]


def test_without_an_open_result_the_sessions_stream_asks_after_a_grace(
    session: SessionClient, worker: Worker
) -> None:
    stream = session.listen(at=1)
    task_id = session.task("greet", {"name": "Ada"}, at=0)
    began = time.monotonic()
    worker.ask(task_id, {"name": NAME})

    request = stream.find(elicitation)

    assert time.monotonic() - began > 1.2
    assert request["params"]["_meta"] == {RELATED: {"taskId": task_id}}
    session.respond(request["id"], ADA, at=0)
    wait_until(lambda: session.get(task_id)["status"] == "working", "it goes on")


def test_a_question_is_asked_on_one_stream_only(session: SessionClient, worker: Worker) -> None:
    standing = session.listen(at=1)
    task_id = session.task("greet", {"name": "Ada"})
    result = waiting(session, task_id, at=0)
    second = waiting(session, task_id, at=1)
    worker.ask(task_id, {"name": NAME})
    time.sleep(3.0)
    session.result("tasks/cancel", {"taskId": task_id})

    messages = [*result.rest(), *second.rest()]
    standing.find(lambda message: message.get("params", {}).get("status") == "cancelled")
    session.post(b"", method="DELETE")
    messages += standing.rest()
    assert len([message for message in messages if elicitation(message)]) == 1


def test_a_stream_that_is_gone_lets_another_ask(session: SessionClient, worker: Worker) -> None:
    task_id = parked(session, worker, {"name": NAME})
    first = waiting(session, task_id, at=0)
    before = first.find(elicitation)
    first.close()

    after = waiting(session, task_id, at=1).find(elicitation)

    assert before["id"] != after["id"]
    # Both name the same question: an answer that was on its way is as good.
    session.respond(before["id"], ADA, at=1)
    wait_until(lambda: session.get(task_id)["status"] == "working", "it goes on")


@pytest.mark.parametrize(
    "answer", [{"action": "accept", "content": {"name": 3}}, {"action": "perhaps"}, "text", None]
)
def test_an_answer_that_does_not_fit_is_asked_again_with_the_reason(
    session: SessionClient, worker: Worker, answer: Any
) -> None:
    task_id = parked(session, worker, {"name": NAME})
    stream = waiting(session, task_id, at=0)
    first = stream.find(elicitation)

    assert session.respond(first["id"], answer, at=1).status == 202

    again = stream.find(elicitation)
    assert again["id"] != first["id"]
    assert again["params"]["message"].startswith("Your name?\n\nThe last answer was refused: ")
    assert session.get(task_id)["status"] == "input_required"
    session.respond(again["id"], ADA)
    wait_until(lambda: session.get(task_id)["status"] == "working", "it goes on")


def test_an_error_is_an_answer_for_the_tool(session: SessionClient, worker: Worker) -> None:
    task_id = parked(session, worker, {"haiku": HAIKU})
    request = waiting(session, task_id).find(is_request("sampling/createMessage"))
    error = {"code": -1, "message": "User rejected sampling request"}

    session.post({"jsonrpc": "2.0", "id": request["id"], "error": error}, at=1)

    wait_until(lambda: session.get(task_id)["status"] == "working", "it goes on")
    assert journal(worker, task_id) == [
        ("haiku", '{"error":{"code":-1,"message":"User rejected sampling request"}}')
    ]


def test_all_kinds_of_questions_are_asked_at_once(session: SessionClient, worker: Worker) -> None:
    task_id = parked(session, worker, {"page": PAGE, "haiku": HAIKU, "roots": ROOTS})
    stream = waiting(session, task_id)
    requests: list[Message] = [stream.find(lambda message: "id" in message) for _ in range(3)]
    by_method = {request["method"]: request for request in requests}

    link = by_method["elicitation/create"]
    assert link["params"].pop("elicitationId")
    related = {RELATED: {"taskId": task_id}}
    assert link["params"] == {
        "mode": "url",
        "message": "Please pay",
        "url": "https://shop.example/pay",
        "_meta": related,
    }
    sampling = by_method["sampling/createMessage"]
    assert sampling["params"]["maxTokens"] == 100
    assert sampling["params"]["_meta"] == related
    assert by_method["roots/list"]["params"] == {"_meta": related}

    said = {"role": "assistant", "content": {"type": "text", "text": "five seven five"}, "model": "m"}
    session.respond(link["id"], {"action": "accept"})
    session.respond(sampling["id"], said, at=1)
    session.respond(by_method["roots/list"]["id"], {"roots": [{"uri": "file:///work"}]})
    wait_until(lambda: session.get(task_id)["status"] == "working", "it goes on")
    assert {name for name, _ in journal(worker, task_id)} == {"page", "haiku", "roots"}


def test_answers_come_one_by_one_and_the_task_goes_on_with_the_last(
    session: SessionClient, worker: Worker
) -> None:
    task_id = parked(session, worker, {"name": NAME, "sure": SURE})
    stream = waiting(session, task_id)
    first, second = stream.find(elicitation), stream.find(elicitation)

    session.respond(second["id"], {"action": "decline"}, at=1)
    half = session.get(task_id)["status"]
    session.respond(first["id"], ADA, at=0)

    assert half == "input_required"
    wait_until(lambda: session.get(task_id)["status"] == "working", "it goes on")


def test_what_a_client_cannot_be_asked_is_not_asked(ports: list[int], worker: Worker) -> None:
    with SessionClient(ports, capabilities={}) as silent, SessionClient(ports) as able:
        silent.initialize()
        able.initialize()
        task_id = parked(silent, worker, {"name": NAME})
        unresponsive = waiting(silent, task_id)
        request = waiting(able, task_id, at=1).find(elicitation)
        able.respond(request["id"], ADA)
        wait_until(lambda: able.get(task_id)["status"] == "working", "it goes on")
        worker.run(task_id)

        assert not [message for message in unresponsive.rest() if elicitation(message)]


def test_before_2025_11_25_a_form_has_no_mode(ports: list[int], worker: Worker) -> None:
    with SessionClient(ports, version="2025-06-18", capabilities={"elicitation": {}}) as client:
        client.initialize()
        stream = client.open("tools/call", GREET)
        task_id = str(wait_until(worker.pending, "the call is recorded")[0])
        worker.ask(task_id, {"name": NAME})

        assert set(stream.find(elicitation)["params"]) == {"message", "requestedSchema"}


def test_a_plain_call_asks_on_its_own_stream(session: SessionClient, worker: Worker) -> None:
    standing = session.listen(at=1)
    stream = session.open("tools/call", GREET, at=0)
    task_id = str(wait_until(worker.pending, "the call is recorded")[0])
    worker.ask(task_id, {"name": NAME})

    request = stream.find(elicitation)
    session.respond(request["id"], ADA, at=1)

    wait_until(worker.pending, "it goes on")
    worker.run(task_id)
    answer = stream.find(is_answer)
    assert "_meta" not in request["params"]
    assert answer["result"]["content"][0]["text"] == "Hello, Ada!"
    session.post(b"", method="DELETE")
    assert standing.rest() == []


def test_a_question_is_withdrawn_when_its_task_is_cancelled(session: SessionClient, worker: Worker) -> None:
    task_id = parked(session, worker, {"name": NAME})
    stream = waiting(session, task_id, at=0)
    request = stream.find(elicitation)

    session.result("tasks/cancel", {"taskId": task_id}, at=1)

    withdrawn, answer = stream.rest()
    assert withdrawn["method"] == "notifications/cancelled"
    assert withdrawn["params"]["requestId"] == request["id"]
    assert answer["error"]["code"] == -32800
    assert session.respond(request["id"], ADA).status == 202


def test_an_answer_of_somebody_else_is_dropped(session: SessionClient, worker: Worker) -> None:
    task_id = parked(session, worker, {"name": NAME})
    request = waiting(session, task_id).find(elicitation)

    forged = request["id"][:-4] + "AAAA"
    session.respond(forged, ADA)

    assert session.get(task_id)["status"] == "input_required"


def test_a_question_can_be_answered_in_the_other_era(session: SessionClient, worker: Worker) -> None:
    task_id = parked(session, worker, {"name": NAME})
    with WireClient(session.ports[1]) as later:
        shown = later.get(task_id)
        later.update(task_id, {"name": ADA})

    assert set(shown["inputRequests"]) == {"name"}
    assert session.get(task_id)["status"] == "working"


def test_a_client_that_cannot_answer_is_not_asked_for_ever(session: SessionClient, worker: Worker) -> None:
    task_id = parked(session, worker, {"roots": ROOTS})
    stream = waiting(session, task_id)
    asked_times = 0
    with suppress(queue.Empty):
        while asked_times < 20:
            message = stream.next(3.0)
            assert message is not None
            asked_times += 1
            session.respond(message["id"], {"roots": "none"})

    assert 2 < asked_times < 20
    assert session.get(task_id)["status"] == "input_required"
