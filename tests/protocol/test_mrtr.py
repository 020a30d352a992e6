"""Questions of a running tool to clients that are given no task (2026-07-28, multi round-trip requests).

The execution is durable: the call is made again with the answers, and goes on where it was.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.client.session import ClientRequestContext
from mcp_types import CallToolResult, ElicitRequestParams, ElicitResult, SamplingMessage, TextContent

from tasks_service.authoring.tool import ToolRegistry, build_tool
from tasks_service.domain.events import Cancel, DeadlinePassed
from tasks_service.domain.indexes import Due
from tasks_service.domain.names import task_hash
from tasks_service.domain.tools import TaskSupport
from tasks_service.durable.questions import Form, Question, Roots, Sampling
from tasks_service.frontend.timings import Timings
from tests.kit.hand_worker import Worker, asked
from tests.kit.serving import registry, serving, settings
from tests.kit.stored import ids_of
from tests.kit.waiting import wait_until
from tests.kit.wire import WITH_TASKS, WITHOUT_TASKS, Reply, WireClient

from .conftest import greet as plain_greet
from .front_end import FrontEnd

EVERYTHING: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
WORD: dict[str, Any] = {
    "type": "object",
    "properties": {"word": {"type": "string", "minLength": 2}},
    "required": ["word"],
}
NAME, COLOUR = Form("Your name?", WORD), Form("Which colour?", WORD)
ADA = {"action": "accept", "content": {"word": "Ada"}}
GRACE = {"action": "accept", "content": {"word": "Grace"}}
BLUE = {"action": "accept", "content": {"word": "blue"}}
HELLO = {"name": "Ada"}


def alone(name: str) -> str:
    """Never a task."""
    return f"{name}, alone"


def polite(name: str) -> str:
    """Asks before it begins."""
    return f"{name}, politely"


@pytest.fixture
def tools() -> ToolRegistry:
    return registry(
        plain_greet,
        build_tool(alone, support=TaskSupport.FORBIDDEN),
        build_tool(polite, ask={"before": NAME}),
    )


@pytest.fixture
def client(ports: list[int]) -> Iterator[WireClient]:
    """A client without tasks that can be asked everything, at the first front end."""
    with WireClient(ports[0], capabilities={**WITHOUT_TASKS, **EVERYTHING}) as client:
        yield client


@pytest.fixture
def other(ports: list[int]) -> Iterator[WireClient]:
    """The same client, at the second front end."""
    with WireClient(ports[1], capabilities={**WITHOUT_TASKS, **EVERYTHING}) as client:
        yield client


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(6) as pool:
        yield pool


def call(client: WireClient, tool: str = "greet", arguments: Any = None, /, **more: Any) -> Reply:
    """A call, with `inputResponses` and `requestState` as given."""
    meta = more.pop("meta", None)
    return client.request("tools/call", {"name": tool, "arguments": arguments or HELLO, **more}, meta=meta)


def retry(client: WireClient, state: str, answers: Any, tool: str = "greet", **more: Any) -> Reply:
    return call(client, tool, inputResponses=answers, requestState=state, **more)


def ask(worker: Worker, **questions: Question) -> str:
    """Let the execution under a call ask; its id."""
    task_id = worker.recorded()
    worker.ask(task_id, {key: asked(question) for key, question in questions.items()})
    return task_id


def first_round(
    client: WireClient, worker: Worker, pool: ThreadPoolExecutor, tool: str = "greet", **questions: Question
) -> tuple[str, dict[str, Any]]:
    """A call whose execution asks: the execution's id, and what the call was answered with."""
    reply = pool.submit(call, client, tool)
    task_id = ask(worker, **(questions or {"name": NAME}))
    return task_id, required(reply)


def required(reply: Future[Reply]) -> dict[str, Any]:
    result: dict[str, Any] = reply.result(60).result
    assert result["resultType"] == "input_required", result
    return result


def answers_of(worker: Worker, task_id: str) -> dict[str, Any]:
    journal = worker.store.inspect(task_id).journal
    return {entry.name: json.loads(entry.value) for entry in journal}


def text_of(result: Any) -> str:
    return str(result["content"][0]["text"])


def is_refused(reply: Reply) -> bool:
    return bool(reply.error["code"] == -32602 and "requestState" in reply.error["message"])


# --- the rounds ---


def test_a_question_is_an_input_required_result_and_the_retry_goes_on_with_the_execution(
    client: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    task_id, round_one = first_round(client, worker, pool)
    assert round_one["inputRequests"]["name"]["params"]["message"] == "Your name?"
    assert "taskId" not in round_one

    reply = pool.submit(retry, client, round_one["requestState"], {"name": ADA})
    assert worker.recorded() == task_id
    worker.run(task_id)

    assert text_of(reply.result(60).result) == "Hello, Ada!"
    assert answers_of(worker, task_id) == {"name": ADA}
    assert list(ids_of(worker.store)) == [task_id]


def test_another_front_end_takes_the_retry(
    client: WireClient, other: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    task_id, round_one = first_round(client, worker, pool)

    reply = pool.submit(retry, other, round_one["requestState"], {"name": ADA})
    assert worker.recorded() == task_id
    worker.run(task_id)

    assert text_of(reply.result(60).result) == "Hello, Ada!"


def test_a_tool_may_ask_again_and_each_round_has_a_new_state(
    client: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    task_id, round_one = first_round(client, worker, pool)

    reply = pool.submit(retry, client, round_one["requestState"], {"name": ADA})
    assert ask(worker, colour=COLOUR) == task_id
    round_two = required(reply)
    assert set(round_two["inputRequests"]) == {"colour"}
    assert round_two["requestState"] != round_one["requestState"]

    reply = pool.submit(retry, client, round_two["requestState"], {"colour": BLUE})
    worker.recorded()
    worker.run(task_id)
    assert text_of(reply.result(60).result) == "Hello, Ada!"
    assert answers_of(worker, task_id) == {"name": ADA, "colour": BLUE}


def test_what_is_missing_or_does_not_fit_is_asked_again_and_the_rest_is_kept(
    client: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    task_id, round_one = first_round(client, worker, pool, name=NAME, colour=COLOUR, shape=NAME)

    answers = {"name": ADA, "colour": {"action": "accept", "content": {"word": "x"}}, "unknown": ADA}
    round_two = retry(client, round_one["requestState"], answers).result

    assert set(round_two["inputRequests"]) == {"colour", "shape"}
    message = round_two["inputRequests"]["colour"]["params"]["message"]
    assert message.startswith("Which colour?\n\nThe last answer was refused: content.word")
    assert round_two["inputRequests"]["shape"]["params"]["message"] == "Your name?"
    assert answers_of(worker, task_id) == {"name": ADA}

    reply = pool.submit(retry, client, round_two["requestState"], {"colour": BLUE, "shape": GRACE})
    worker.recorded()
    worker.run(task_id)
    assert text_of(reply.result(60).result) == "Hello, Ada!"


def test_a_tool_that_forbids_tasks_asks_a_client_with_tasks_in_the_same_way(
    client: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    client.capabilities = {**WITH_TASKS, **EVERYTHING}
    task_id, round_one = first_round(client, worker, pool, "alone")

    reply = pool.submit(retry, client, round_one["requestState"], {"name": ADA}, "alone")
    worker.recorded()
    worker.run(task_id)

    assert text_of(reply.result(60).result) == "Ada, alone"


def test_questions_before_the_task_come_first_and_those_of_the_execution_after_them(
    client: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    before = call(client, "polite").result
    assert set(before["inputRequests"]) == {"before"}
    assert list(ids_of(worker.store)) == []

    reply = pool.submit(retry, client, before["requestState"], {"before": ADA}, "polite")
    task_id = ask(worker, colour=COLOUR)
    during = required(reply)
    assert set(during["inputRequests"]) == {"colour"}

    reply = pool.submit(retry, client, during["requestState"], {"colour": BLUE}, "polite")
    worker.recorded()
    worker.run(task_id)
    assert text_of(reply.result(60).result) == "Ada, politely"
    assert answers_of(worker, task_id) == {"before": ADA, "colour": BLUE}


def test_sampling_and_roots_are_asked_in_the_same_way(
    client: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    poem = SamplingMessage(role="user", content=TextContent(type="text", text="A poem?"))
    task_id, round_one = first_round(client, worker, pool, poem=Sampling([poem], max_tokens=9), roots=Roots())
    methods = {key: request["method"] for key, request in round_one["inputRequests"].items()}
    assert methods == {"poem": "sampling/createMessage", "roots": "roots/list"}

    answers = {
        "poem": {"role": "assistant", "content": {"type": "text", "text": "Roses."}, "model": "m"},
        "roots": {"roots": [{"uri": "file:///home"}]},
    }
    reply = pool.submit(retry, client, round_one["requestState"], answers)
    worker.recorded()
    worker.run(task_id)

    assert text_of(reply.result(60).result) == "Hello, Ada!"
    assert answers_of(worker, task_id) == answers


def test_a_question_that_this_request_does_not_allow_is_refused_and_can_be_asked_later(
    client: WireClient, other: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    task_id, round_one = first_round(client, worker, pool, "alone")
    other.capabilities = {}

    reply = retry(other, round_one["requestState"], {}, "alone")
    assert reply.error["code"] == -32021
    assert reply.error["data"] == {"requiredCapabilities": {"elicitation": {"form": {}}}}

    answer = pool.submit(retry, client, round_one["requestState"], {"name": ADA}, "alone")
    worker.recorded()
    worker.run(task_id)
    assert text_of(answer.result(60).result) == "Ada, alone"


def test_a_client_that_takes_tasks_by_now_is_given_the_handle(
    client: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    task_id, round_one = first_round(client, worker, pool)
    client.capabilities = {**WITH_TASKS, **EVERYTHING}

    result = retry(client, round_one["requestState"], {"name": ADA}).result

    assert (result["resultType"], result["taskId"]) == ("task", task_id)
    assert client.get(task_id)["status"] == "working"
    assert worker.task(task_id).return_by_ms == 0


def test_the_official_client_answers_every_round_by_itself(
    ports: list[int], worker: Worker, pool: ThreadPoolExecutor
) -> None:
    messages: list[str] = []

    async def answer(context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        messages.append(params.message)
        return ElicitResult(action="accept", content={"word": "Ada"})

    async def greet_it() -> CallToolResult:
        async with Client(f"http://127.0.0.1:{ports[0]}/mcp", elicitation_callback=answer) as official:
            return await official.call_tool("greet", HELLO)

    result = pool.submit(asyncio.run, greet_it())
    task_id = ask(worker, name=NAME)
    assert ask(worker, colour=COLOUR) == task_id
    worker.recorded()
    worker.run(task_id)

    assert result.result(60).content == [TextContent(type="text", text="Hello, Ada!")]
    assert messages == ["Your name?", "Which colour?"]


# --- repetitions ---


def test_a_round_that_is_repeated_finds_the_same_end(
    client: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    task_id, round_one = first_round(client, worker, pool)
    state = round_one["requestState"]
    reply = pool.submit(retry, client, state, {"name": ADA})
    worker.recorded()
    worker.run(task_id)
    first = reply.result(60).result

    assert retry(client, state, {"name": GRACE}).result == first
    assert answers_of(worker, task_id) == {"name": ADA}


def test_an_old_round_that_is_repeated_is_asked_what_is_open_now(
    client: WireClient, other: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    _, round_one = first_round(client, worker, pool)
    reply = pool.submit(retry, client, round_one["requestState"], {"name": ADA})
    ask(worker, colour=COLOUR)
    required(reply)

    again = retry(other, round_one["requestState"], {"name": ADA}).result

    assert set(again["inputRequests"]) == {"colour"}


def test_two_retries_that_race_are_one_execution_with_one_answer_and_get_the_same_end(
    client: WireClient, other: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    task_id, round_one = first_round(client, worker, pool)
    together = threading.Barrier(2)

    def race(caller: WireClient, answer: Any) -> Reply:
        together.wait(60)
        return retry(caller, round_one["requestState"], {"name": answer})

    replies = [pool.submit(race, client, ADA), pool.submit(race, other, GRACE)]
    worker.recorded()
    worker.run(task_id)

    assert [text_of(reply.result(60).result) for reply in replies] == ["Hello, Ada!"] * 2
    assert len(worker.store.inspect(task_id).journal) == 1
    assert list(ids_of(worker.store)) == [task_id]


# --- the state ---


@pytest.mark.parametrize("change", ["{}x", "x{}", "", "v1.AAAA"])
def test_a_state_that_was_changed_is_refused(
    client: WireClient, worker: Worker, pool: ThreadPoolExecutor, change: str
) -> None:
    task_id, round_one = first_round(client, worker, pool)

    assert is_refused(retry(client, change.format(round_one["requestState"]), {"name": ADA}))
    assert answers_of(worker, task_id) == {}


def test_a_state_is_refused_for_other_arguments_and_for_another_tool(
    client: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    _, round_one = first_round(client, worker, pool)
    more = {"inputResponses": {"name": ADA}, "requestState": round_one["requestState"]}

    assert is_refused(call(client, "greet", {"name": "Bob"}, **more))
    assert is_refused(call(client, "alone", **more))


def test_a_state_is_refused_for_another_owner(
    redis_url: str, tools: ToolRegistry, worker: Worker, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    keys = "ada:mU3xQ9wzR7kYb2Lc,bob:Hn8vT4sJd6pGq1Wf"
    with (
        serving(tools, settings(redis_url, tmp_path, api_keys=keys)) as port,
        WireClient(port, capabilities=EVERYTHING, key="mU3xQ9wzR7kYb2Lc") as ada,
        WireClient(port, capabilities=EVERYTHING, key="Hn8vT4sJd6pGq1Wf") as bob,
    ):
        task_id, round_one = first_round(ada, worker, pool)

        assert is_refused(retry(bob, round_one["requestState"], {"name": ADA}))
        assert answers_of(worker, task_id) == {}


def test_a_state_of_questions_before_the_task_is_no_state_of_an_execution_and_the_other_way_round(
    client: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    before = call(client, "polite").result["requestState"]

    assert is_refused(retry(client, before, {"name": ADA}))


def test_a_state_of_an_execution_that_was_cancelled_gets_a_clear_error(
    client: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    task_id, round_one = first_round(client, worker, pool)
    worker.store.apply(worker.task(task_id).owner, task_id, Cancel(), hidden=True)

    error = retry(client, round_one["requestState"], {"name": ADA}).error

    assert error == {"code": -32800, "message": "The call was cancelled. The client cancelled the task."}


# --- a client that does not come back ---


def test_a_client_that_was_asked_is_waited_for_as_long_as_its_state_is_good(
    client: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    before = worker.store.now_ms()
    task_id, round_one = first_round(client, worker, pool)
    after = worker.store.now_ms()

    assert before + 3_600_000 <= worker.task(task_id).return_by_ms <= after + 3_600_000

    reply = pool.submit(retry, client, round_one["requestState"], {"name": ADA})
    wait_until(lambda: not worker.task(task_id).return_by_ms, "it has come back")
    worker.run(task_id)
    reply.result(60)


@pytest.mark.parametrize("timings", [Timings(answer=0.2)])
def test_a_state_that_has_lapsed_is_refused_and_its_execution_is_cancelled_for_good(
    client: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    task_id, round_one = first_round(client, worker, pool)
    time.sleep(0.3)

    assert is_refused(retry(client, round_one["requestState"], {"name": ADA}))
    assert worker.store.due(Due.OVERDUE, limit=9) == [task_hash(task_id)]
    worker.store.apply_sweep(task_id, DeadlinePassed())

    task = worker.task(task_id)
    assert task.status == "cancelled"
    assert task.status_message == "The caller went away and did not come back."


def test_hanging_up_on_a_retry_cancels_the_execution(
    client: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    task_id, round_one = first_round(client, worker, pool)
    reply = pool.submit(retry, client, round_one["requestState"], {"name": ADA})
    worker.recorded()

    client.wait_for_disconnect()

    wait_until(lambda: worker.task(task_id).status == "cancelled", "it is cancelled")
    assert reply.exception(60) is not None


# --- processes ---


def test_the_front_end_that_asked_is_killed_and_another_takes_the_retry(
    redis_url: str, worker: Worker, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    first, second = FrontEnd(redis_url, tmp_path), FrontEnd(redis_url, tmp_path)
    try:
        for front_end in (first, second):
            wait_until(front_end.ready, "it is ready")
        with (
            WireClient(first.port, capabilities=EVERYTHING) as client,
            WireClient(second.port, capabilities=EVERYTHING) as other,
        ):
            task_id, round_one = first_round(client, worker, pool)
            first.kill()

            reply = pool.submit(retry, other, round_one["requestState"], {"name": ADA})
            assert worker.recorded() == task_id
            worker.run(task_id)

            assert text_of(reply.result(60).result) == "Hello, Ada!"
    finally:
        first.kill()
        second.kill()
