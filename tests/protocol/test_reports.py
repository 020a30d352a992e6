"""What a running tool says reaches those who wait for it, at once, in every era; and nobody else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tasks_service import AsyncTaskContext, TaskContext
from tasks_service.tool import TaskSupport, ToolRegistry, build_tool

from .sessions import Message, SessionClient, Stream, is_answer
from .support import WITH_TASKS, WITHOUT_TASKS, WireClient, registry
from .tool_runner import ToolRunner

PROGRESS, MESSAGE = "notifications/progress", "notifications/message"
LEVELS = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]
LOG_LEVEL = "io.modelcontextprotocol/logLevel"


def thirds(ctx: TaskContext) -> str:
    """Report three times, a moment apart."""
    for done in (0, 50, 100):
        ctx.progress(done, 100, f"{done} of 100")
        time.sleep(0.05)
    return "done"


def chatter(ctx: TaskContext) -> str:
    """Say something on each level."""
    for level in LEVELS:
        ctx.log(level, {"said": level}, logger="chatter")
    return "said"


async def chatter_softly(ctx: AsyncTaskContext) -> str:
    """Say something, on the event loop."""
    await ctx.debug("one")
    await ctx.info("two")
    await ctx.warning("three")
    await ctx.error("four")
    await ctx.progress(1, 1)
    return "said"


@pytest.fixture
def tools() -> ToolRegistry:
    return registry(
        build_tool(thirds, support=TaskSupport.OPTIONAL, grace_ms=5_000),
        chatter,
        chatter_softly,
    )


@pytest.fixture
def runner(redis_url: str, tools: ToolRegistry) -> Iterator[ToolRunner]:
    runner = ToolRunner(redis_url, tools)
    yield runner
    runner.close()


Call = Callable[..., Stream]


@pytest.fixture
def call(ports: list[int]) -> Iterator[Call]:
    """Calls a tool in 2026-07-28; the answer as it comes."""
    streams: list[Stream] = []

    def open_call(tool: str, *, capabilities: Any = WITHOUT_TASKS, at: int = 0, **meta: Any) -> Stream:
        params = {"name": tool, "arguments": {}}
        with WireClient(ports[at], capabilities=capabilities) as client:
            body = json.dumps(client.message("tools/call", params, **meta)).encode()
            streams.append(Stream(ports[at], "POST", body, client.headers("tools/call", params)))
        return streams[-1]

    yield open_call
    for stream in streams:
        stream.close()


def said(messages: list[Message], method: str) -> list[Any]:
    return [message["params"] for message in messages if message.get("method") == method]


# --- 2026-07-28 ---


@pytest.mark.parametrize("capabilities", [WITHOUT_TASKS, WITH_TASKS], ids=["plain", "grace"])
def test_progress_reaches_a_waiting_call_before_its_result(
    call: Call, runner: ToolRunner, capabilities: Any
) -> None:
    messages = call("thirds", capabilities=capabilities, progressToken="p").rest()

    assert said(messages, PROGRESS) == [
        {"progressToken": "p", "progress": done, "total": 100, "message": f"{done} of 100"}
        for done in (0, 50, 100)
    ]
    assert is_answer(messages[-1])
    assert messages[-1]["result"]["content"][0]["text"] == "done"


def test_without_token_and_level_nothing_comes_but_the_result(call: Call, runner: ToolRunner) -> None:
    for tool in ("thirds", "chatter"):
        stream = call(tool)
        assert len(stream.rest()) == 1
        assert stream.headers["content-type"] == "application/json"


# --- 2025-11-25 ---


def test_progress_reaches_a_waiting_call_of_a_session(session: SessionClient, runner: ToolRunner) -> None:
    params = {"name": "thirds", "arguments": {}, "_meta": {"progressToken": 7}}
    messages = session.open("tools/call", params, at=1).rest()

    assert [report["progress"] for report in said(messages, PROGRESS)] == [0, 50, 100]
    assert {report["progressToken"] for report in said(messages, PROGRESS)} == {7}
    assert is_answer(messages[-1])


def test_log_messages_come_from_the_level_on_that_the_request_names(call: Call, runner: ToolRunner) -> None:
    messages = call("chatter", **{LOG_LEVEL: "warning"}).rest()

    assert said(messages, MESSAGE) == [
        {"level": level, "data": {"said": level}, "logger": "chatter"} for level in LEVELS[3:]
    ]
    assert is_answer(messages[-1])


def test_an_async_tool_says_things_too(call: Call, runner: ToolRunner) -> None:
    messages = call("chatter_softly", progressToken=1, **{LOG_LEVEL: "debug"}).rest()

    assert [(told["level"], told["data"]) for told in said(messages, MESSAGE)] == [
        ("debug", "one"),
        ("info", "two"),
        ("warning", "three"),
        ("error", "four"),
    ]
    assert said(messages, PROGRESS) == [{"progressToken": 1, "progress": 1, "total": 1}]


def test_a_session_is_sent_log_messages_from_info_on_until_it_says_otherwise(
    session: SessionClient, runner: ToolRunner
) -> None:
    def levels(at: int) -> list[str]:
        messages = session.open("tools/call", {"name": "chatter", "arguments": {}}, at=at).rest()
        assert is_answer(messages[-1])
        return [told["level"] for told in said(messages, MESSAGE)]

    assert levels(at=0) == LEVELS[1:]
    assert session.result("logging/setLevel", {"level": "error"}, at=0) == {}
    assert levels(at=1) == LEVELS[4:]
    assert session.result("logging/setLevel", {"level": "debug"}, at=1) == {}
    assert levels(at=0) == LEVELS


def test_a_level_that_there_is_not_is_refused(call: Call, session: SessionClient, runner: ToolRunner) -> None:
    for level in ("verbose", "", None, 7):
        assert session.error("logging/setLevel", {"level": level})["code"] == -32602
    for level in ("verbose", "", 7, ["debug"]):
        (answer,) = call("chatter", **{LOG_LEVEL: level}).rest()
        assert answer["error"]["code"] == -32602


@pytest.mark.parametrize("token", [1.5, True, [1], {"a": 1}])
def test_a_progress_token_is_a_text_or_an_integer(
    call: Call, session: SessionClient, runner: ToolRunner, token: Any
) -> None:
    (answer,) = call("thirds", progressToken=token).rest()
    assert answer["error"]["code"] == -32602
    params = {"name": "thirds", "arguments": {}, "_meta": {"progressToken": token}}
    for task in ({}, {"task": {}}):
        assert session.error("tools/call", {**params, **task})["code"] == -32602


def test_logging_is_declared_in_both_eras_and_set_by_method_in_one(
    ports: list[int], session: SessionClient
) -> None:
    with SessionClient(ports) as other:
        assert other.initialize()["capabilities"]["logging"] == {}
    with WireClient(ports[0]) as client:
        assert client.request("server/discover").result["capabilities"]["logging"] == {}
        refused = client.request("logging/setLevel", {"level": "debug"})
        assert (refused.status, refused.error["code"]) == (404, -32601)
