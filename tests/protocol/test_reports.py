"""What a running tool says reaches those who wait for it, at once, in every era; and nobody else."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks_service import AsyncTaskContext, RetryPolicy, TaskContext
from tasks_service.authoring.tool import ToolRegistry, build_tool
from tasks_service.domain.tools import TaskSupport
from tasks_service.frontend.timings import Timings
from tests.kit.proxy import CuttingProxy, Verdict
from tests.kit.servers import RedisServer
from tests.kit.serving import registry, serving, settings
from tests.kit.sessions import RELATED, Message, SessionClient, Stream, is_answer, is_request
from tests.kit.waiting import wait_until
from tests.kit.wire import WITH_TASKS, WITHOUT_TASKS, WireClient

from .test_cost import commands
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


GATE = threading.Event()
"""Lets `gated` go on; tools run in this process."""


def gated(ctx: TaskContext) -> str:
    """Report, wait for the test, report again, at greater length."""
    ctx.progress(1)
    assert GATE.wait(60)
    ctx.info("half-way")
    ctx.progress(2)
    time.sleep(0.1)
    return "passed"


def stumbles(ctx: TaskContext) -> str:
    """Fail on the first attempt, further on than the second one begins."""
    for done in range(10, 20 if ctx.attempt == 1 else 31):
        ctx.progress(done)
        time.sleep(0.01)
    if ctx.attempt == 1:
        raise ConnectionError
    return "done"


def hasty(ctx: TaskContext) -> float:
    """Report as fast as one can; how many seconds that took."""
    began = time.monotonic()
    for done in range(10_000):
        ctx.progress(done)
        ctx.debug(done)
    return time.monotonic() - began


def steady(ctx: TaskContext) -> str:
    """Report two hundred times in a second and a half."""
    for done in ctx.track(range(200)):
        ctx.info(done)
        time.sleep(0.0075)
    return "done"


@pytest.fixture
def tools() -> ToolRegistry:
    return registry(
        build_tool(thirds, support=TaskSupport.OPTIONAL, grace_ms=20_000),
        chatter,
        chatter_softly,
        gated,
        build_tool(stumbles, retry=RetryPolicy(first_delay=timedelta(milliseconds=10))),
        build_tool(hasty, support=TaskSupport.FORBIDDEN),
        build_tool(steady, support=TaskSupport.REQUIRED),
        build_tool(chatter, name="heavy_chatter", support=TaskSupport.REQUIRED),
    )


@pytest.fixture(autouse=True)
def closed_gate() -> None:
    GATE.clear()


@pytest.fixture
def runner(redis_url: str, tools: ToolRegistry) -> Iterator[ToolRunner]:
    runner = ToolRunner(redis_url, tools)
    yield runner
    runner.close()


Call = Callable[..., Stream]


@pytest.fixture
def call(ports: list[int]) -> Iterator[Call]:
    """Calls a tool in 2026-07-28; the answer as it comes."""
    with caller(ports) as call:
        yield call


@pytest.fixture
def call_anywhere(ports: list[int], redis_url: str, tools: ToolRegistry, tmp_path: Path) -> Iterator[Call]:
    """The same at any of three front ends."""
    with serving(tools, settings(redis_url, tmp_path)) as third, caller([*ports, third]) as call:
        yield call


@contextmanager
def caller(ports: list[int]) -> Iterator[Call]:
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


# --- tasks of 2025-11-25 ---


def test_progress_and_log_messages_of_a_task_come_at_once_on_the_sessions_stream(
    session: SessionClient, runner: ToolRunner
) -> None:
    stream = session.listen(at=0)
    task_id = session.task("gated", at=1, meta={"progressToken": "p"})
    stream.find(is_request(PROGRESS))

    began = time.monotonic()
    GATE.set()
    told = stream.find(is_request(MESSAGE))["params"]
    grown = stream.find(is_request(PROGRESS))["params"]
    took = time.monotonic() - began

    assert told == {"level": "info", "data": "half-way", "_meta": {RELATED: {"taskId": task_id}}}
    assert grown == {"progressToken": "p", "progress": 2, "_meta": {RELATED: {"taskId": task_id}}}
    assert took < Timings().heal / 2


def test_progress_never_shrinks_and_never_comes_after_the_end(
    session: SessionClient, runner: ToolRunner
) -> None:
    stream = session.listen(at=0)
    task_id = session.task("stumbles", at=0, meta={"progressToken": "p"})
    told = [stream.find(lambda message: "method" in message)]
    while told[-1]["params"].get("status") != "completed":
        told.append(stream.find(lambda message: "method" in message))
    follower = session.task("thirds", at=0)
    while told[-1]["params"].get("taskId") != follower:
        told.append(stream.find(lambda message: "method" in message))

    reached = [report["progress"] for report in said(told, PROGRESS)]
    assert reached == sorted(set(reached))
    assert reached[-1] == 30
    ends = [i for i, message in enumerate(told) if message["params"].get("status") == "completed"]
    assert all(message["method"] != PROGRESS for message in told[ends[0] :]), (task_id, told)


def test_a_new_level_counts_at_once_on_a_stream_that_is_open_elsewhere(
    session: SessionClient, runner: ToolRunner
) -> None:
    stream = session.listen(at=0)
    assert session.result("logging/setLevel", {"level": "critical"}, at=1) == {}

    def levels() -> list[str]:
        task_id = session.task("chatter", at=1)
        told: list[Message] = []
        while not told or told[-1]["params"].get("taskId") != task_id:
            told.append(stream.find(lambda message: "method" in message))
        return [message["level"] for message in said(told, MESSAGE)]

    wait_until(lambda: levels() == LEVELS[5:], "the stream knows the level")


def test_a_task_of_2026_07_28_is_never_reported_on_the_wire(call: Call, runner: ToolRunner) -> None:
    (answer,) = call(
        "heavy_chatter", capabilities=WITH_TASKS, progressToken="p", **{LOG_LEVEL: "debug"}
    ).rest()

    assert answer["result"]["resultType"] == "task"


def test_who_waits_for_the_result_is_told_there_and_nowhere_else(
    session: SessionClient, runner: ToolRunner, redis_server: RedisServer
) -> None:
    own = session.listen(at=0)
    task_id = session.task("gated", at=0, meta={"progressToken": "p"})
    own.find(is_request(PROGRESS))
    looked = commands(redis_server)["get"]
    waiting = session.open("tasks/result", {"taskId": task_id}, at=1)
    with redis_server.client() as admin:
        wait_until(lambda: admin.keys("ts:session:*:reports:*"), "one speaks")
    wait_until(lambda: commands(redis_server)["get"] >= looked + 2, "the other knows")
    time.sleep(0.1)  # what it has read it acts on at once
    GATE.set()

    messages = waiting.rest()
    told = own.find(is_request("notifications/tasks/status"))

    assert [report["progress"] for report in said(messages, PROGRESS)] == [2]
    assert [message["data"] for message in said(messages, MESSAGE)] == ["half-way"]
    assert {report["_meta"][RELATED]["taskId"] for report in said(messages, PROGRESS)} == {task_id}
    assert is_answer(messages[-1])
    assert told["params"]["status"] == "completed"
    with redis_server.client() as admin:
        wait_until(lambda: not admin.keys("ts:session:*:reports:*"), "it is left")


def test_who_stops_waiting_for_the_result_is_told_on_the_sessions_stream_again(
    session: SessionClient, runner: ToolRunner, redis_server: RedisServer
) -> None:
    own = session.listen(at=0)
    task_id = session.task("gated", at=0, meta={"progressToken": "p"})
    own.find(is_request(PROGRESS))
    waiting = session.open("tasks/result", {"taskId": task_id}, at=1)
    with redis_server.client() as admin:
        wait_until(lambda: admin.keys("ts:session:*:reports:*"), "one speaks")
        looked = commands(redis_server)["get"]
        waiting.close()
        wait_until(lambda: not admin.keys("ts:session:*:reports:*"), "it is left")
    wait_until(lambda: commands(redis_server)["get"] >= looked + 2, "the other knows")
    time.sleep(0.1)  # what it has read it acts on at once
    GATE.set()

    assert own.find(is_request(MESSAGE))["params"]["data"] == "half-way"
    assert own.find(is_request(PROGRESS))["params"]["progress"] == 2


# --- three front ends, many, and none that listens ---


def test_each_front_end_tells_those_who_wait_in_it(call_anywhere: Call, runner: ToolRunner) -> None:
    streams = [
        call_anywhere("thirds", at=at, progressToken=f"token {at}", **{LOG_LEVEL: "debug"}) for at in range(3)
    ]

    for at, stream in enumerate(streams):
        told = said(stream.rest(), PROGRESS)
        assert [(report["progressToken"], report["progress"]) for report in told] == [
            (f"token {at}", done) for done in (0, 50, 100)
        ]


def test_ten_thousand_reports_are_merged_and_the_tool_hardly_notices(
    call: Call, runner: ToolRunner, redis_server: RedisServer
) -> None:
    began = commands(redis_server)["publish"]

    messages = call("hasty", progressToken="p", **{LOG_LEVEL: "debug"}).rest()

    reached = [report["progress"] for report in said(messages, PROGRESS)]
    assert reached == sorted(set(reached))
    assert reached[-1] == 9_999
    assert 1 <= len(said(messages, MESSAGE)) < 1_000
    assert said(messages, MESSAGE)[-1]["data"] == 9_999
    seconds = float(messages[-1]["result"]["structuredContent"])
    assert seconds < 30
    assert commands(redis_server)["publish"] - began < 100 + 50 * seconds


def test_nobody_is_told_of_what_nobody_waits_for(
    client: WireClient, runner: ToolRunner, redis_server: RedisServer
) -> None:
    began = commands(redis_server)

    task_id = client.task("steady")
    wait_until(lambda: client.get(task_id)["status"] == "completed", "it has ended")

    spent = commands(redis_server) - began
    assert not spent["subscribe"] and not spent["unsubscribe"]
    assert spent["publish"] <= 100


# --- Redis fails ---


def test_an_outage_of_redis_costs_reports_and_nothing_else(
    redis_server: RedisServer, redis_url: str, tools: ToolRegistry, call: Call
) -> None:
    proxy = CuttingProxy(redis_server.port)
    runner = ToolRunner(redis_url, tools, reports_url=proxy.url)
    try:
        stream = call("gated", progressToken="p", **{LOG_LEVEL: "debug"})
        stream.find(is_request(PROGRESS))
        proxy.judge = lambda packet: Verdict.CUT_BEFORE
        GATE.set()
        messages = stream.rest()
    finally:
        runner.close()
        proxy.close()

    assert messages[-1]["result"]["content"][0]["text"] == "passed"
    assert [report["progress"] for report in said(messages, PROGRESS)] == [2], "it was in the record"


def test_a_redis_that_does_not_answer_holds_up_no_tool(
    redis_server: RedisServer, redis_url: str, tools: ToolRegistry, call: Call
) -> None:
    proxy = CuttingProxy(redis_server.port)
    proxy.judge = lambda packet: Verdict.SILENT_BEFORE
    runner = ToolRunner(redis_url, tools, reports_url=proxy.url)
    try:
        answer = call("hasty", progressToken="p").rest()[-1]
    finally:
        runner.close()
        proxy.close()

    assert float(answer["result"]["structuredContent"]) < 30  # a report that waited would take two of them


def test_a_subscription_that_was_lost_is_made_again_with_all_that_is_heard(
    redis_server: RedisServer, call: Call, runner: ToolRunner
) -> None:
    stream = call("gated", progressToken="p", **{LOG_LEVEL: "debug"})
    stream.find(is_request(PROGRESS))
    with redis_server.client() as admin:
        admin.client_kill_filter(_type="pubsub")
        wait_until(lambda: admin.pubsub_numsub("ts:changes")[0][1] >= 2, "both are back")
        wait_until(lambda: admin.pubsub_channels("ts:reports:*"), "it is heard again")
    GATE.set()

    told = stream.find(is_request(MESSAGE))["params"]

    assert told["data"] == "half-way"
    stream.rest()


def test_nothing_is_left_subscribed(
    redis_server: RedisServer, call: Call, session: SessionClient, runner: ToolRunner
) -> None:
    call("thirds", progressToken="p").rest()
    session.result("tools/call", {"name": "chatter", "arguments": {}})

    with redis_server.client() as admin:
        wait_until(lambda: not admin.pubsub_channels("ts:reports:*"), "nobody listens")
