"""Questions that a tool declares, asked in rounds before its task exists (2026-07-28, multi round-trip)."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.client.session import ClientRequestContext
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult, TextContent
from pydantic import BaseModel, Field

from tasks_service.authoring.tool import ToolRegistry, build_tool
from tasks_service.domain.task import EntryKind, JournalEntry
from tasks_service.domain.tools import TaskSupport
from tasks_service.durable.questions import Form, Link, question_digest
from tasks_service.frontend.timings import Timings
from tests.kit.hand_worker import Worker
from tests.kit.serving import registry, serving, settings
from tests.kit.stored import ids_of
from tests.kit.waiting import wait_until
from tests.kit.wire import WITH_TASKS, WITHOUT_TASKS, Reply, WireClient

ELICITATION: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}}


class Name(BaseModel):
    name: str = Field(min_length=2)


class Colour(BaseModel):
    colour: str


NAME, COLOUR = Form("What is your name?", Name), Form("Which colour?", Colour)
ADA = {"action": "accept", "content": {"name": "Ada"}}
BLUE = {"action": "accept", "content": {"colour": "blue"}}


def introduce(greeting: str) -> str:
    """Always a task."""
    return greeting


def paint() -> str:
    """Asks two things."""
    return "painted"


def chat(greeting: str) -> str:
    """Never a task."""
    return greeting


def soon() -> str:
    """Usually ends at once."""
    return "soon"


def consent() -> str:
    """Asks for a visit."""
    return "thanks"


@pytest.fixture
def tools() -> ToolRegistry:
    return registry(
        build_tool(introduce, support=TaskSupport.REQUIRED, ask={"user_name": NAME}),
        build_tool(paint, ask={"name": NAME, "colour": COLOUR}),
        build_tool(chat, support=TaskSupport.FORBIDDEN, ask={"user_name": NAME}),
        build_tool(soon, grace_ms=3_000, ask={"user_name": NAME}),
        build_tool(consent, ask={"page": Link("Please agree.", "https://terms.example")}),
    )


@pytest.fixture
def client(port: int) -> Iterator[WireClient]:
    """A client that takes tasks and can be asked."""
    with WireClient(port, capabilities={**WITH_TASKS, **ELICITATION}) as client:
        yield client


@pytest.fixture
def plain(port: int) -> Iterator[WireClient]:
    """A client that knows nothing of tasks and can be asked."""
    with WireClient(port, capabilities={**WITHOUT_TASKS, **ELICITATION}) as client:
        yield client


def call(client: WireClient, tool: str, arguments: Any = None, /, **more: Any) -> Reply:
    """A call, with `inputResponses` and `requestState` as given."""
    meta = more.pop("meta", None)
    return client.request("tools/call", {"name": tool, "arguments": arguments or {}, **more}, meta=meta)


def first_round(client: WireClient, tool: str, arguments: Any = None) -> dict[str, Any]:
    """A call without answers; what it is answered with."""
    asked: dict[str, Any] = call(client, tool, arguments).result
    assert asked["resultType"] == "input_required", asked
    return asked


def journal_of(worker: Worker, task_id: str) -> tuple[JournalEntry, ...]:
    return worker.store.inspect(task_id).journal


HELLO = {"greeting": "Hello"}


def test_a_call_without_answers_is_asked_and_nothing_is_recorded(client: WireClient, worker: Worker) -> None:
    asked = first_round(client, "introduce", HELLO)

    assert "taskId" not in asked
    assert set(asked["inputRequests"]) == {"user_name"}
    request = asked["inputRequests"]["user_name"]
    assert request["method"] == "elicitation/create"
    assert request["params"]["message"] == "What is your name?"
    assert list(request["params"]["requestedSchema"]["properties"]) == ["name"]
    assert isinstance(asked["requestState"], str)
    assert list(ids_of(worker.store)) == []


def test_the_retry_with_answers_gives_a_task_without_questions_or_state(
    client: WireClient, worker: Worker
) -> None:
    state = first_round(client, "introduce", HELLO)["requestState"]

    task = call(client, "introduce", HELLO, inputResponses={"user_name": ADA}, requestState=state).result

    assert task["resultType"] == "task"
    assert not {"inputRequests", "requestState"} & set(task)
    assert worker.run(task["taskId"]).status == "completed"


def test_answers_are_the_first_entries_of_the_journal_in_the_order_of_declaration(
    client: WireClient, worker: Worker
) -> None:
    state = first_round(client, "paint")["requestState"]

    answers = {"colour": BLUE, "name": ADA}
    task_id = call(client, "paint", inputResponses=answers, requestState=state).result["taskId"]

    assert journal_of(worker, task_id) == (
        JournalEntry(
            kind=EntryKind.ANSWER,
            name="name",
            digest=question_digest(NAME.recorded()),
            value=json.dumps(ADA, separators=(",", ":")),
        ),
        JournalEntry(
            kind=EntryKind.ANSWER,
            name="colour",
            digest=question_digest(COLOUR.recorded()),
            value=json.dumps(BLUE, separators=(",", ":")),
        ),
    )


def test_answers_can_come_in_several_rounds_each_with_a_new_state(client: WireClient, worker: Worker) -> None:
    first = first_round(client, "paint")

    second = call(client, "paint", inputResponses={"colour": BLUE}, requestState=first["requestState"]).result
    third = call(client, "paint", inputResponses={"name": ADA}, requestState=second["requestState"]).result

    assert set(first["inputRequests"]) == {"name", "colour"}
    assert set(second["inputRequests"]) == {"name"}
    assert first["requestState"] != second["requestState"]
    assert third["resultType"] == "task"
    assert [entry.name for entry in journal_of(worker, third["taskId"])] == ["name", "colour"]


def test_an_answer_of_an_earlier_round_cannot_be_changed_in_a_later_one(
    client: WireClient, worker: Worker
) -> None:
    first = first_round(client, "paint")["requestState"]
    second = call(client, "paint", inputResponses={"colour": BLUE}, requestState=first).result["requestState"]

    red = {"action": "accept", "content": {"colour": "red"}}
    answers = {"name": ADA, "colour": red}
    task_id = call(client, "paint", inputResponses=answers, requestState=second).result["taskId"]

    assert "blue" in journal_of(worker, task_id)[1].value


def test_a_bad_answer_is_asked_again_with_the_problem_in_the_message(
    client: WireClient, worker: Worker
) -> None:
    state = first_round(client, "introduce", HELLO)["requestState"]

    bad = {"user_name": {"action": "accept", "content": {"name": "A"}}}
    again = call(client, "introduce", HELLO, inputResponses=bad, requestState=state).result

    message = again["inputRequests"]["user_name"]["params"]["message"]
    assert again["resultType"] == "input_required"
    assert message.startswith("What is your name?")
    assert "content.name" in message
    assert "too short" in message
    good = {"user_name": ADA}
    task = call(client, "introduce", HELLO, inputResponses=good, requestState=again["requestState"]).result
    assert task["resultType"] == "task"


def test_wrong_keys_are_asked_again_and_extra_keys_ignored(client: WireClient) -> None:
    state = first_round(client, "introduce", HELLO)["requestState"]

    again = call(client, "introduce", HELLO, inputResponses={"other": ADA}, requestState=state).result
    both = {"user_name": ADA, "other": ADA}
    done = call(client, "introduce", HELLO, inputResponses=both, requestState=again["requestState"]).result

    assert set(again["inputRequests"]) == {"user_name"}
    assert done["resultType"] == "task"


@pytest.mark.parametrize("responses", [None, 7, [], "yes", {"user_name": 12345}, {"user_name": None}])
def test_what_are_no_answers_is_an_error(client: WireClient, worker: Worker, responses: Any) -> None:
    state = first_round(client, "introduce", HELLO)["requestState"]

    reply = call(client, "introduce", HELLO, inputResponses=responses, requestState=state)

    assert reply.error["code"] == -32602
    assert list(ids_of(worker.store)) == []


@pytest.mark.parametrize("action", ["decline", "cancel"])
def test_to_decline_and_to_dismiss_are_answers_that_the_tool_judges(
    client: WireClient, worker: Worker, action: str
) -> None:
    state = first_round(client, "introduce", HELLO)["requestState"]

    no = {"user_name": {"action": action}}
    task = call(client, "introduce", HELLO, inputResponses=no, requestState=state).result

    assert journal_of(worker, task["taskId"])[0].value == f'{{"action":"{action}"}}'


def test_a_link_is_asked_and_consented_to(client: WireClient, worker: Worker) -> None:
    asked = first_round(client, "consent")

    yes = {"page": {"action": "accept"}}
    task = call(client, "consent", inputResponses=yes, requestState=asked["requestState"]).result

    assert asked["inputRequests"]["page"]["params"] == {
        "mode": "url",
        "message": "Please agree.",
        "url": "https://terms.example",
    }
    assert task["resultType"] == "task"


def test_answers_may_come_with_the_first_call(client: WireClient) -> None:
    assert call(client, "introduce", HELLO, inputResponses={"user_name": ADA}).result["resultType"] == "task"


# --- calls that give no handle ---


@pytest.mark.parametrize("with_tasks", [True, False])
def test_a_tool_that_forbids_tasks_asks_first_and_answers_plainly(
    client: WireClient, plain: WireClient, busy_worker: Worker, with_tasks: bool
) -> None:
    caller = client if with_tasks else plain
    state = first_round(caller, "chat", HELLO)["requestState"]

    result = call(caller, "chat", HELLO, inputResponses={"user_name": ADA}, requestState=state).result

    assert result["resultType"] == "complete"
    assert result["content"][0]["text"] == "Hello"


def test_a_client_without_the_extension_is_asked_and_waits(plain: WireClient, busy_worker: Worker) -> None:
    state = first_round(plain, "paint")["requestState"]

    answers = {"name": ADA, "colour": BLUE}
    result = call(plain, "paint", inputResponses=answers, requestState=state).result

    assert result["content"][0]["text"] == "painted"


def test_a_tool_that_ends_within_its_grace_is_asked_first_too(
    client: WireClient, busy_worker: Worker
) -> None:
    state = first_round(client, "soon")["requestState"]

    result = call(client, "soon", inputResponses={"user_name": ADA}, requestState=state).result

    assert result["resultType"] == "complete"


def test_the_official_client_asks_its_own_callback_and_goes_on_by_itself(
    port: int, busy_worker: Worker
) -> None:
    asked: list[str] = []

    async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept", content={"name": "Ada", "colour": "blue"})

    async def paint_it() -> CallToolResult:
        async with Client(f"http://127.0.0.1:{port}/mcp", elicitation_callback=answer) as official:
            return await official.call_tool("paint", {})

    result = asyncio.run(paint_it())

    assert asked == ["What is your name?", "Which colour?"]
    assert result.content == [TextContent(type="text", text="painted")]


# --- who is asked ---


@pytest.mark.parametrize(
    ("declared", "tool", "required"),
    [
        ({}, "introduce", {"elicitation": {"form": {}}}),
        ({"elicitation": {"url": {}}}, "introduce", {"elicitation": {"form": {}}}),
        ({"elicitation": {}}, "consent", {"elicitation": {"url": {}}}),
    ],
)
def test_a_client_that_cannot_be_asked_is_told_what_is_missing(
    client: WireClient, worker: Worker, declared: dict[str, Any], tool: str, required: dict[str, Any]
) -> None:
    client.capabilities = {**WITH_TASKS, **declared}

    reply = call(client, tool, HELLO if tool == "introduce" else {})

    assert reply.status == 400
    assert reply.error["code"] == -32021
    assert reply.error["data"] == {"requiredCapabilities": required}
    assert list(ids_of(worker.store)) == []


def test_bad_arguments_are_refused_before_anything_is_asked(client: WireClient) -> None:
    result = call(client, "introduce", {"greeting": 7}).result

    assert result["isError"]
    assert "greeting" in result["content"][0]["text"]


# --- the state ---


def refused(reply: Reply) -> bool:
    return bool(reply.error["code"] == -32602 and "requestState" in reply.error["message"])


@pytest.mark.parametrize("change", ["{}-TAMPERED", "x{}", "v1.AAAA", "", "{}="])
def test_a_state_that_was_changed_is_refused(client: WireClient, worker: Worker, change: str) -> None:
    state = change.format(first_round(client, "introduce", HELLO)["requestState"])

    assert refused(call(client, "introduce", HELLO, inputResponses={"user_name": ADA}, requestState=state))
    assert list(ids_of(worker.store)) == []


@pytest.mark.parametrize("timings", [Timings(answer=0.05)])
def test_a_state_is_refused_once_it_has_expired(client: WireClient, worker: Worker) -> None:
    state = first_round(client, "introduce", HELLO)["requestState"]
    time.sleep(0.1)

    assert refused(call(client, "introduce", HELLO, inputResponses={"user_name": ADA}, requestState=state))


def test_a_state_is_refused_for_other_arguments_and_for_another_tool(client: WireClient) -> None:
    state = first_round(client, "introduce", HELLO)["requestState"]
    answers = {"user_name": ADA}

    assert refused(call(client, "introduce", {"greeting": "Bye"}, inputResponses=answers, requestState=state))
    assert refused(call(client, "chat", HELLO, inputResponses=answers, requestState=state))


def test_a_state_cannot_be_read_by_the_client(client: WireClient) -> None:
    first = first_round(client, "paint")["requestState"]

    second = call(client, "paint", inputResponses={"colour": BLUE}, requestState=first).result["requestState"]

    assert "blue" not in second
    assert "paint" not in second


def test_a_state_is_refused_for_another_owner(
    redis_url: str, tools: ToolRegistry, worker: Worker, tmp_path: Path
) -> None:
    keys = "ada:mU3xQ9wzR7kYb2Lc,bob:Hn8vT4sJd6pGq1Wf"
    capabilities = {**WITH_TASKS, **ELICITATION}
    with (
        serving(tools, settings(redis_url, tmp_path, api_keys=keys)) as port,
        WireClient(port, capabilities=capabilities, key="mU3xQ9wzR7kYb2Lc") as ada,
        WireClient(port, capabilities=capabilities, key="Hn8vT4sJd6pGq1Wf") as bob,
    ):
        state = first_round(ada, "introduce", HELLO)["requestState"]
        answers = {"user_name": ADA}

        assert refused(call(bob, "introduce", HELLO, inputResponses=answers, requestState=state))
        task = call(ada, "introduce", HELLO, inputResponses=answers, requestState=state).result
        assert task["resultType"] == "task"


def test_any_front_end_of_a_deployment_goes_on_with_a_state_and_no_other_does(
    client: WireClient, redis_url: str, tools: ToolRegistry, tmp_path: Path
) -> None:
    state = first_round(client, "introduce", HELLO)["requestState"]
    answers = {"user_name": ADA}
    foreign = settings(redis_url, tmp_path, secret=secrets.token_hex(32), key_prefix="foreign")

    with (
        serving(tools, foreign) as port,
        WireClient(port, capabilities=client.capabilities) as other,
    ):
        assert refused(call(other, "introduce", HELLO, inputResponses=answers, requestState=state))
    with (
        serving(tools, settings(redis_url, tmp_path)) as port,
        WireClient(port, capabilities=client.capabilities) as second,
    ):
        task = call(second, "introduce", HELLO, inputResponses=answers, requestState=state).result
        assert task["resultType"] == "task"


def test_repeating_the_last_round_finds_the_same_task(client: WireClient, worker: Worker) -> None:
    state = first_round(client, "introduce", HELLO)["requestState"]
    last = {"inputResponses": {"user_name": ADA}, "requestState": state}

    with ThreadPoolExecutor(4) as pool:
        clients = [WireClient(client.port, capabilities=client.capabilities) for _ in range(4)]
        replies = [pool.submit(call, each, "introduce", HELLO, **last) for each in clients]
        found = {reply.result(60).result["taskId"] for reply in replies}
    for each in clients:
        each.close()

    assert list(ids_of(worker.store)) == list(found)


def test_two_calls_with_the_same_arguments_are_two_tasks(client: WireClient) -> None:
    found = set()
    for _ in range(2):
        state = first_round(client, "introduce", HELLO)["requestState"]
        last = {"inputResponses": {"user_name": ADA}, "requestState": state}
        found.add(call(client, "introduce", HELLO, **last).result["taskId"])

    assert len(found) == 2


def test_an_idempotency_key_names_the_execution_across_rounds(client: WireClient) -> None:
    meta = {"io.github.tasks-service/idempotency-key": "order-1"}
    found = set()
    for _ in range(2):
        state = first_round(client, "introduce", HELLO)["requestState"]
        last = {"inputResponses": {"user_name": ADA}, "requestState": state, "meta": meta}
        found.add(call(client, "introduce", HELLO, **last).result["taskId"])

    assert len(found) == 1


def test_hanging_up_cancels_the_execution_of_a_plain_call_that_was_asked_first(
    plain: WireClient, worker: Worker
) -> None:
    state = first_round(plain, "chat", HELLO)["requestState"]
    params = {"name": "chat", "arguments": HELLO, "inputResponses": {"user_name": ADA}, "requestState": state}
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(plain.request, "tools/call", params)
        (task_id,) = wait_until(worker.pending, "the call is recorded")
        plain.wait_for_disconnect()
        wait_until(lambda: worker.store.inspect(task_id).task.status == "cancelled", "it is cancelled")
        assert reply.exception(10) is not None
