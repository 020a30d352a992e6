"""Clients without tasks: a call that takes long is answered with a text, and four tools go on with it."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tasks_service import ConfigurationError, TaskService
from tasks_service.authoring.tool import ToolRegistry, build_tool
from tasks_service.domain.task import Failure, FailureKind, Progress
from tasks_service.domain.tools import COMPANION_TOOLS, TaskSupport
from tasks_service.durable.questions import Form, Link, Question
from tasks_service.settings import Settings
from tests.kit.hand_worker import Worker, asked
from tests.kit.serving import registry, serving, settings
from tests.kit.sessions import SessionClient, is_answer, is_request
from tests.kit.wire import WITH_TASKS, WITHOUT_TASKS, Reply, WireClient

from .conftest import greet, report

WORD: dict[str, Any] = {
    "type": "object",
    "properties": {"word": {"type": "string", "minLength": 2}},
    "required": ["word"],
}
FOR_HUMANS = Form("Your name?", WORD)
FOR_MODELS = Form("Which colour?", WORD, model_may_answer=True)
ADA = {"action": "accept", "content": {"word": "Ada"}}
CAN_BE_ASKED: dict[str, Any] = {**WITHOUT_TASKS, "elicitation": {"form": {}}}


def chat(name: str) -> Any:
    """Without an output schema."""
    return f"Hi, {name}"


def alone(name: str) -> str:
    """Never a task."""
    return f"{name}, alone"


def heavy() -> str:
    """Always a task."""
    return "heavy"


@pytest.fixture
def tools() -> ToolRegistry:
    return registry(
        greet,
        report,
        chat,
        build_tool(alone, support=TaskSupport.FORBIDDEN),
        build_tool(heavy, support=TaskSupport.REQUIRED),
    )


@pytest.fixture
def changes() -> dict[str, Any]:
    """Settings of the front end; calls are answered with a text very soon."""
    return {"handle_after": 0.3}


@pytest.fixture
def port(redis_url: str, tools: ToolRegistry, tmp_path: Path, changes: dict[str, Any]) -> Iterator[int]:
    with serving(tools, settings(redis_url, tmp_path, **changes)) as port:
        yield port


@pytest.fixture
def old(port: int) -> Iterator[SessionClient]:
    """A client of 2025-06-18, which has no tasks, that can be asked."""
    with SessionClient([port], version="2025-06-18", capabilities={"elicitation": {}}) as client:
        client.initialize()
        yield client


def assert_waits(reply: Future[Any], seconds: float) -> None:
    """Nothing has been answered after some seconds, and no error either."""
    with pytest.raises(TimeoutError):
        reply.result(seconds)


def text_of(result: Any) -> str:
    return str(result["content"][0]["text"])


def begin(client: WireClient, worker: Worker, tool: str = "greet", arguments: Any = None) -> str:
    """A call that is answered with a text; the id of its task."""
    result = client.call(tool, arguments or {"name": "Ada"}).result
    task_id = worker.recorded()
    assert task_id in text_of(result), result
    return task_id


def use(client: WireClient, name: str, task_id: str, **arguments: Any) -> Any:
    """Call a companion tool; the result."""
    return client.call(name, {"task_id": task_id, **arguments}).result


def ask(worker: Worker, task_id: str, **questions: Question) -> None:
    worker.ask(task_id, {key: asked(question) for key, question in questions.items()})


# --- what is listed ---


def test_the_tools_are_listed_in_order_with_hints_the_same_for_every_client(
    client: WireClient, plain: WireClient, old: SessionClient
) -> None:
    listed = client.request("tools/list").result["tools"]

    assert [tool["name"] for tool in listed] == sorted(
        ["alone", "chat", "greet", "heavy", "report", *COMPANION_TOOLS]
    )
    assert plain.request("tools/list").result["tools"] == listed
    assert {tool["name"] for tool in old.result("tools/list")["tools"]} == {tool["name"] for tool in listed}
    ours = {tool["name"]: tool for tool in listed if tool["name"] in COMPANION_TOOLS}
    assert ours["task_status"]["annotations"]["readOnlyHint"] is True
    assert ours["task_result"]["annotations"]["readOnlyHint"] is True
    assert ours["task_cancel"]["annotations"]["destructiveHint"] is True
    assert ours["task_answer"]["annotations"]["destructiveHint"] is False
    assert all(tool["annotations"]["idempotentHint"] for tool in ours.values())
    assert "outputSchema" not in ours["task_result"]
    assert ours["task_result"]["inputSchema"]["properties"]["wait_seconds"]["maximum"] == 0.3


def test_for_a_client_with_tasks_they_say_that_they_are_never_tasks(port: int) -> None:
    with SessionClient([port]) as client:
        client.initialize()
        tools = {tool["name"]: tool for tool in client.result("tools/list")["tools"]}

        assert {tools[name]["execution"]["taskSupport"] for name in COMPANION_TOOLS} == {"forbidden"}
        params = {"name": "task_status", "arguments": {"task_id": "x"}, "task": {}}
        assert client.error("tools/call", params)["code"] == -32601


def test_an_author_cannot_take_one_of_their_names_while_they_are_listed(tmp_path: Path) -> None:
    def task_status() -> str:
        return ""

    service = TaskService("S", settings=settings(None, tmp_path))
    with pytest.raises(ConfigurationError, match="TASKS_COMPANION_TOOLS"):
        service.tool()(task_status)

    without = TaskService("S", settings=settings(None, tmp_path, companion_tools=False))
    without.tool()(task_status)
    assert "task_status" in without.tools


# --- the text in place of a result ---


def test_a_call_that_ends_soon_is_answered_with_its_result(
    redis_url: str, tools: ToolRegistry, busy_worker: Worker, tmp_path: Path
) -> None:
    with (
        serving(tools, settings(redis_url, tmp_path)) as port,
        WireClient(port, capabilities=WITHOUT_TASKS) as client,
    ):
        assert text_of(client.call("greet", {"name": "Ada"}).result) == "Hello, Ada!"


def test_a_call_that_takes_long_is_answered_with_a_text_that_says_what_to_do(
    plain: WireClient, client: WireClient, worker: Worker
) -> None:
    result = plain.call("chat", {"name": "Ada"}).result
    task_id = worker.recorded()

    assert result["resultType"] == "complete"
    assert "isError" not in result
    assert f'task_result with task_id "{task_id}"' in text_of(result)
    assert client.get(task_id)["status"] == "working"


def test_in_place_of_a_structured_result_the_text_is_an_error(plain: WireClient, worker: Worker) -> None:
    result = plain.call("report", {"title": "T"}).result

    assert result["isError"] is True
    assert "structuredContent" not in result
    assert worker.recorded() in text_of(result)


def test_a_session_without_tasks_gets_the_same_text(old: SessionClient, worker: Worker) -> None:
    result = old.result("tools/call", {"name": "report", "arguments": {"title": "T"}})

    assert result["isError"] is True
    assert f'task_result with task_id "{worker.recorded()}"' in text_of(result)


def test_so_does_a_session_of_2025_11_25_whose_call_is_no_task(port: int, worker: Worker) -> None:
    with SessionClient([port]) as client:
        client.initialize()
        result = client.result("tools/call", {"name": "chat", "arguments": {"name": "Ada"}})

        task_id = worker.recorded()
        assert task_id in text_of(result)
        assert client.get(task_id)["status"] == "working"


def test_a_session_that_is_being_asked_something_is_waited_for(old: SessionClient, worker: Worker) -> None:
    stream = old.open("tools/call", {"name": "greet", "arguments": {"name": "Ada"}})
    task_id = worker.recorded()
    ask(worker, task_id, name=FOR_HUMANS)
    request = stream.find(is_request("elicitation/create"))
    with pytest.raises(queue.Empty):
        stream.find(is_answer, seconds=1.0)

    old.respond(request["id"], ADA)

    assert text_of(stream.find(is_answer)["result"]).startswith("The tool 'greet'")
    assert len(worker.store.inspect(task_id).journal) == 1


def test_a_tool_that_forbids_tasks_is_waited_for(
    plain: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    reply: Future[Reply] = pool.submit(plain.call, "alone", {"name": "Ada"})
    task_id = worker.recorded()
    assert_waits(reply, 0.6)
    worker.run(task_id)

    assert text_of(reply.result(60).result) == "Ada, alone"


def test_a_tool_that_requires_tasks_says_what_it_needs(plain: WireClient, old: SessionClient) -> None:
    assert plain.call("heavy").error["code"] == -32021
    assert old.error("tools/call", {"name": "heavy", "arguments": {}})["code"] == -32601


def test_the_same_call_again_with_its_key_gets_the_same_task(plain: WireClient, worker: Worker) -> None:
    meta = {"io.github.tasks-service/idempotency-key": "k"}
    first = plain.call("chat", {"name": "Ada"}, meta=meta).result
    task_id = worker.recorded()

    assert plain.call("chat", {"name": "Ada"}, meta=meta).result == first
    worker.run(task_id)
    assert text_of(plain.call("chat", {"name": "Ada"}, meta=meta).result) == "Hi, Ada"


@pytest.mark.parametrize("changes", [{"companion_tools": False, "handle_after": 0.2}])
def test_where_they_are_not_listed_calls_wait_and_nobody_is_given_a_handle(
    plain: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    names = {tool["name"] for tool in plain.request("tools/list").result["tools"]}
    assert not names & set(COMPANION_TOOLS)
    assert "Unknown tool" in plain.call("task_status", {"task_id": "x"}).error["message"]

    reply = pool.submit(plain.call, "chat", {"name": "Ada"})
    task_id = worker.recorded()
    assert_waits(reply, 0.5)
    worker.run(task_id)
    assert text_of(reply.result(60).result) == "Hi, Ada"


# --- the status ---


def test_the_status_is_structured_as_its_schema_says_and_readable(plain: WireClient, worker: Worker) -> None:
    task_id = begin(plain, worker)
    task, _ = worker.claim(task_id)
    worker.note(task, progress=Progress(current=3, total=8, message="third page"))

    result = use(plain, "task_status", task_id)

    listed = {tool["name"]: tool for tool in plain.request("tools/list").result["tools"]}
    Draft202012Validator(listed["task_status"]["outputSchema"]).validate(result["structuredContent"])
    told = result["structuredContent"]
    assert (told["status"], told["progress"], told["total"]) == ("working", 3, 8)
    assert "at 3 of 8, third page" in text_of(result)
    assert "isError" not in result


def test_the_status_tells_questions_and_who_may_answer(plain: WireClient, worker: Worker) -> None:
    task_id = begin(plain, worker)
    ask(worker, task_id, name=FOR_HUMANS, colour=FOR_MODELS, pay=Link("Please pay.", "https://pay.example"))

    told = use(plain, "task_status", task_id)["structuredContent"]

    assert told["status"] == "input_required"
    assert {question["key"]: question["answered_by"] for question in told["questions"]} == {
        "name": "human",
        "colour": "model",
        "pay": "human",
    }
    assert told["questions"][1]["answer_schema"]["required"] == ["word"]
    assert "Answer colour with task_answer. A human must answer the rest" in told["next"]


@pytest.mark.parametrize("name", COMPANION_TOOLS)
def test_unknown_foreign_and_hidden_tasks_are_not_told_apart(
    redis_url: str, tools: ToolRegistry, worker: Worker, tmp_path: Path, pool: ThreadPoolExecutor, name: str
) -> None:
    keys = "ada:mU3xQ9wzR7kYb2Lc,bob:Hn8vT4sJd6pGq1Wf"
    with (
        serving(tools, settings(redis_url, tmp_path, api_keys=keys, handle_after=0.2)) as port,
        WireClient(port, capabilities=WITHOUT_TASKS, key="mU3xQ9wzR7kYb2Lc") as ada,
        WireClient(port, capabilities=WITHOUT_TASKS, key="Hn8vT4sJd6pGq1Wf") as bob,
    ):
        task_id = begin(ada, worker)
        worker.run(task_id)
        hiding = pool.submit(bob.call, "alone", {"name": "Bob"})
        hidden = worker.recorded()
        more = {"answers": {}} if name == "task_answer" else {}
        with WireClient(port, capabilities=WITHOUT_TASKS, key="Hn8vT4sJd6pGq1Wf") as also_bob:
            told = [use(also_bob, name, each, **more) for each in (task_id, hidden, "nothing", "")]
        worker.run(hidden)
        hiding.result(60)

    assert all(each == told[0] for each in told)
    assert told[0]["isError"] is True
    assert worker.task(task_id).status == "completed"


@pytest.mark.parametrize(
    ("name", "arguments", "field"),
    [
        ("task_status", {}, "task_id"),
        ("task_status", {"task_id": 7}, "task_id"),
        ("task_status", {"task_id": "x", "more": 1}, "more"),
        ("task_result", {"task_id": "x", "wait_seconds": 99}, "wait_seconds"),
        ("task_result", {"task_id": "x", "wait_seconds": -1}, "wait_seconds"),
        ("task_answer", {"task_id": "x", "answers": {"a": "maybe"}}, "answers"),
    ],
)
def test_bad_arguments_are_a_result_that_names_the_field(
    plain: WireClient, old: SessionClient, name: str, arguments: Any, field: str
) -> None:
    for result in (
        plain.call(name, arguments).result,
        old.result("tools/call", {"name": name, "arguments": arguments}),
    ):
        assert result["isError"] is True
        assert field in text_of(result)


# --- the result ---


def test_the_result_is_exactly_that_of_the_tool(
    plain: WireClient, old: SessionClient, worker: Worker
) -> None:
    task_id = begin(plain, worker, "report", {"title": "T"})
    assert "is still running" in text_of(use(plain, "task_result", task_id, wait_seconds=0))
    worker.run(task_id)

    result = use(plain, "task_result", task_id)

    assert result["structuredContent"] == {"title": "T", "pages": 3}
    assert json.loads(text_of(result)) == {"title": "T", "pages": 3}
    in_session = old.result("tools/call", {"name": "task_result", "arguments": {"task_id": task_id}})
    assert in_session["structuredContent"] == {"title": "T", "pages": 3}


@pytest.mark.parametrize("changes", [{"handle_after": 20.0}])
def test_the_result_is_waited_for(
    client: WireClient, plain: WireClient, old: SessionClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    task_id = client.task("greet", {"name": "Ada"})
    here = pool.submit(use, plain, "task_result", task_id, wait_seconds=20)
    arguments = {"task_id": task_id, "wait_seconds": 20}
    there = pool.submit(old.result, "tools/call", {"name": "task_result", "arguments": arguments})
    assert_waits(here, 0.3)
    assert_waits(there, 0.1)
    worker.run(task_id)

    assert text_of(here.result(60)) == text_of(there.result(60)) == "Hello, Ada!"


def test_a_failed_task_and_a_cancelled_one_are_told(plain: WireClient, worker: Worker) -> None:
    task_id = begin(plain, worker)
    worker.fail(task_id, Failure(kind=FailureKind.AUTHOR, message="No such scene.", code=4050))
    failed = use(plain, "task_result", task_id)
    assert failed["isError"] is True
    assert "has failed: No such scene." in text_of(failed)

    task_id = begin(plain, worker)
    assert use(plain, "task_cancel", task_id)["structuredContent"]["status"] == "cancelled"
    assert "was cancelled" in text_of(use(plain, "task_result", task_id))
    assert use(plain, "task_cancel", task_id)["structuredContent"]["status"] == "cancelled"


def test_leaving_a_wait_for_a_result_cancels_nothing(
    plain: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    task_id = begin(plain, worker)
    waiting = pool.submit(use, plain, "task_result", task_id)
    assert_waits(waiting, 0.2)
    plain.wait_for_disconnect()
    assert waiting.exception(60) is not None

    task = worker.task(task_id)
    assert (task.status, task.return_by_ms) == ("working", 0)


# --- questions ---


def test_a_model_answers_what_the_author_lets_it_answer_and_nothing_else(
    plain: WireClient, worker: Worker
) -> None:
    task_id = begin(plain, worker)
    ask(worker, task_id, name=FOR_HUMANS, colour=FOR_MODELS)

    def answer(answers: Any) -> Any:
        return use(plain, "task_answer", task_id, answers=answers)

    refused = answer({"name": {"word": "Ada"}})
    assert refused["isError"] is True
    assert text_of(refused) == "name: a human must answer: Your name?"
    assert "no such question" in text_of(answer({"shape": {"word": "round"}}))
    assert "colour: content.word" in text_of(answer({"colour": {"word": "x"}}))
    assert not worker.store.inspect(task_id).journal

    told = answer({"colour": {"word": "blue"}})["structuredContent"]
    assert [question["key"] for question in told["questions"]] == ["name"]
    (entry,) = worker.store.inspect(task_id).journal
    assert json.loads(entry.value) == {"action": "accept", "content": {"word": "blue"}}


def test_a_model_may_decline(plain: WireClient, worker: Worker) -> None:
    task_id = begin(plain, worker)
    ask(worker, task_id, colour=FOR_MODELS)

    assert use(plain, "task_answer", task_id, answers={"colour": "decline"})["structuredContent"][
        "status"
    ] == ("working")
    (entry,) = worker.store.inspect(task_id).journal
    assert json.loads(entry.value) == {"action": "decline"}


@pytest.mark.parametrize("changes", [{"handle_after": 600.0}])
def test_a_question_for_models_to_a_client_that_cannot_be_asked_gives_the_handle_at_once(
    plain: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    reply = pool.submit(plain.call, "chat", {"name": "Ada"})
    task_id = worker.recorded()
    assert worker.task(task_id).capabilities == {"model"}
    ask(worker, task_id, colour=FOR_MODELS)

    text = text_of(reply.result(60).result)

    assert "waits for an answer to colour: Which colour?" in text
    assert "Answer colour with task_answer." in text


@pytest.mark.parametrize("changes", [{"handle_after": 20.0}])
def test_asking_for_the_result_asks_the_human_through_the_client(
    client: WireClient, plain: WireClient, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    plain.capabilities = CAN_BE_ASKED
    task_id = client.task("greet", {"name": "Ada"})
    ask(worker, task_id, name=FOR_HUMANS)

    asks = use(plain, "task_result", task_id)
    assert asks["resultType"] == "input_required"
    params = {
        "name": "task_result",
        "arguments": {"task_id": task_id},
        "inputResponses": {"name": ADA},
        "requestState": asks["requestState"],
    }
    reply = pool.submit(plain.request, "tools/call", params)
    assert worker.recorded() == task_id
    worker.run(task_id)
    result = reply.result(60).result

    assert "Ada" in text_of(result)
    other = {**params, "arguments": {"task_id": task_id, "wait_seconds": 0}}
    assert "requestState" in plain.request("tools/call", other).error["message"]


@pytest.mark.parametrize("changes", [{"handle_after": 20.0}])
def test_in_a_session_the_human_is_asked_on_the_stream_of_the_call(
    client: WireClient, old: SessionClient, worker: Worker
) -> None:
    task_id = client.task("greet", {"name": "Ada"})
    ask(worker, task_id, name=FOR_HUMANS)

    stream = old.open("tools/call", {"name": "task_result", "arguments": {"task_id": task_id}})
    request = stream.find(is_request("elicitation/create"))
    old.respond(request["id"], ADA)
    worker.recorded()
    worker.run(task_id)

    assert text_of(stream.find(is_answer)["result"]) == "Hello, Ada!"


def test_a_client_that_cannot_be_asked_is_told_that_a_human_must_answer(
    plain: WireClient, worker: Worker
) -> None:
    task_id = begin(plain, worker)
    ask(worker, task_id, name=FOR_HUMANS)

    result = use(plain, "task_result", task_id)

    assert "isError" not in result
    assert "A human must answer: tell the user" in text_of(result)


def test_the_settings_are_on_by_default() -> None:
    fields = Settings.model_fields
    assert (fields["companion_tools"].default, fields["handle_after"].default) == (True, 20.0)


def test_a_client_with_tasks_is_given_a_task_as_ever(client: WireClient) -> None:
    client.capabilities = WITH_TASKS
    assert client.call("greet", {"name": "Ada"}).result["resultType"] == "task"
