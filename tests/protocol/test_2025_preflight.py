"""What tools ask before their task exists, asked on the stream of the call."""

from __future__ import annotations

from typing import Any

import pytest

from tasks_service.authoring.tool import ToolRegistry, build_tool
from tasks_service.domain.tools import TaskSupport
from tasks_service.durable.questions import Form, Link
from tests.kit.hand_worker import Worker
from tests.kit.serving import registry
from tests.kit.sessions import Message, SessionClient, Stream, is_answer, is_request
from tests.kit.store_adapter import counts
from tests.kit.stored import ids_of
from tests.kit.waiting import wait_until

NAME = Form(
    "Your name?", {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
)
ADA = {"action": "accept", "content": {"name": "Ada"}}
elicitation = is_request("elicitation/create")


def introduce() -> str:
    """Needs a name."""
    return "introduced"


def consent() -> str:
    """Needs two things."""
    return "agreed"


@pytest.fixture
def tools() -> ToolRegistry:
    page = Link("Please agree.", "https://terms.example")
    return registry(
        build_tool(introduce, ask={"user": NAME}),
        build_tool(consent, support=TaskSupport.REQUIRED, ask={"user": NAME, "page": page}),
    )


def called(session: SessionClient, tool: str, **more: Any) -> Stream:
    return session.open("tools/call", {"name": tool, "arguments": {}, **more}, at=0)


def answers(worker: Worker) -> list[tuple[str, str]]:
    (task_id,) = ids_of(worker.store)
    return [(entry.name, entry.value) for entry in worker.store.inspect(task_id).journal]


def test_a_plain_call_asks_and_goes_on(session: SessionClient, worker: Worker) -> None:
    stream = called(session, "introduce")
    request = stream.find(elicitation)
    assert counts(worker.store).total == 0

    session.respond(request["id"], ADA, at=1)
    worker.run_next()

    assert stream.find(is_answer)["result"]["content"][0]["text"] == "introduced"
    assert answers(worker) == [("user", '{"action":"accept","content":{"name":"Ada"}}')]
    assert "_meta" not in request["params"]


def test_a_task_is_made_once_all_is_answered(session: SessionClient, worker: Worker) -> None:
    stream = called(session, "consent", task={})
    requests: list[Message] = [stream.find(elicitation) for _ in range(2)]

    for request in requests:
        form = request["params"]["mode"] == "form"
        session.respond(request["id"], ADA if form else {"action": "accept"}, at=1)

    task = stream.find(is_answer)["result"]["task"]
    assert task["status"] == "working"
    assert [name for name, _ in answers(worker)] == ["user", "page"]


def test_only_what_does_not_fit_is_asked_again(session: SessionClient, worker: Worker) -> None:
    stream = called(session, "introduce", task={})
    first = stream.find(elicitation)
    session.respond(first["id"], {"action": "accept", "content": {"name": 3}}, at=1)

    again = stream.find(elicitation)
    session.respond(again["id"], ADA)

    assert again["params"]["message"].startswith("Your name?\n\nThe last answer was refused: ")
    assert stream.find(is_answer)["result"]["task"]["status"] == "working"


def test_a_client_that_cannot_be_asked_is_told_so(ports: list[int], worker: Worker) -> None:
    with SessionClient(ports, capabilities={}) as client:
        client.initialize()

        plain = client.result("tools/call", {"name": "introduce", "arguments": {}})
        task = client.error("tools/call", {"name": "introduce", "arguments": {}, "task": {}})

    assert plain["isError"] is True
    assert "form" in plain["content"][0]["text"]
    assert task["code"] == -32602
    assert counts(worker.store).total == 0


def test_cancelling_while_it_asks_leaves_nothing(session: SessionClient, worker: Worker) -> None:
    stream = session.open("tools/call", {"name": "introduce", "arguments": {}}, identity="ask")
    request = stream.find(elicitation)

    session.notify("notifications/cancelled", {"requestId": "ask"}, at=1)

    assert stream.rest() == []
    session.respond(request["id"], ADA)
    assert not wait_until(lambda: [counts(worker.store).total], "settled")[0]
