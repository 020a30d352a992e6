"""Whatever a tool raises, says or returns, its task ends, and the worker goes on."""

from __future__ import annotations

import asyncio
import io
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from mcp.server.mcpserver.exceptions import ToolError as SDKToolError
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel, field_serializer

from tasks_service import (
    AsyncTaskContext,
    ProtocolError,
    RetryPolicy,
    Settings,
    TaskCancelled,
    TaskContext,
    TaskService,
    ToolError,
    WorkerStopping,
)
from tasks_service.domain.errors import Parked
from tasks_service.domain.task import FailureKind, TaskStatus
from tasks_service.testing import ToolRun
from tests.kit.raised import CLASSES, RAISED, Make


class Alien(BaseException):
    """An author's own, no `Exception`."""


OURS: dict[str, Make] = {kind.__name__: kind for kind in (TaskCancelled, WorkerStopping, Parked, Alien)}
ENDS = {name: make for name, make in (CLASSES | OURS).items() if not isinstance(make(), Exception)}
"""What is no `Exception`."""


@pytest.fixture
def service() -> TaskService:
    return TaskService("Tests", settings=Settings(redis_url=None))


@contextmanager
def logged_as_on_stderr() -> Iterator[None]:
    """Write what is logged as `sys.stderr` would, and keep it from pytest.

    Its processes cannot tell each other half a pair of surrogates.
    """
    logger = logging.getLogger("tasks_service")
    handler = logging.StreamHandler(
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    )
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = True
        logger.removeHandler(handler)


def run_in_a_thread(service: TaskService, tool: str, **arguments: Any) -> ToolRun:
    """Run a tool as in a pool of threads, where no Ctrl-C arrives."""
    runs: list[ToolRun] = []
    thread = threading.Thread(target=lambda: runs.append(ToolRun(service, tool, arguments)))
    thread.start()
    thread.join(30)
    assert runs, "the run did not end, or ended its thread"
    return runs[0]


# --- exceptions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "raised"),
    [("sync", RAISED | OURS), ("async", RAISED | OURS), ("branch", ENDS), ("gathered", ENDS)],
    ids=["sync", "async", "branch", "gathered"],
)
def test_whatever_a_tool_raises_is_a_failed_attempt(
    service: TaskService, kind: str, raised: dict[str, Make]
) -> None:
    async def branch(name: str) -> str:
        raise raised[name]()

    def sync(name: str) -> str:
        raise raised[name]()

    async def of_a_branch(name: str) -> str:
        return await asyncio.create_task(branch(name))

    async def of_several(name: str) -> str:
        return str(await asyncio.gather(branch(name), branch(name)))

    async def after() -> str:
        return "still here"

    tools: dict[str, Any] = {"sync": sync, "async": branch, "branch": of_a_branch, "gathered": of_several}
    service.tool(name="failing")(tools[kind])
    service.tool()(after)

    wrong = []
    with logged_as_on_stderr():
        for name in raised:
            run = run_in_a_thread(service, "failing", name=name)
            ended = (run.status, run.is_error, run.attempts)
            if ended != (TaskStatus.COMPLETED, True, 1) or "The tool 'failing' failed" not in run.text:
                wrong.append((name, ended))
    assert not wrong
    assert run_in_a_thread(service, "after").result == "still here"


def test_async_tools_go_on_beside_one_that_exits(service: TaskService) -> None:
    beside, exited = threading.Event(), threading.Event()

    @service.tool()
    async def patient() -> str:
        beside.set()
        await asyncio.to_thread(exited.wait, 10)
        return "went on"

    @service.tool()
    async def exits() -> str:
        async def branch() -> None:
            sys.exit(3)

        started = asyncio.create_task(branch())
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)
        await asyncio.wait([started])
        exited.set()
        return "did not wait for its branch"

    runs: list[ToolRun] = []
    thread = threading.Thread(target=lambda: runs.append(ToolRun(service, "patient")))
    thread.start()
    assert beside.wait(10)

    assert ToolRun(service, "exits").result == "did not wait for its branch"
    thread.join(30)
    assert [run.result for run in runs] == ["went on"]


def test_a_retried_exception_is_tried_again_whatever_was_raised_before(service: TaskService) -> None:
    @service.tool(retry=RetryPolicy(on=(ConnectionError,)), max_attempts=3)
    def flaky(ctx: TaskContext) -> str:
        if ctx.attempt == 1:
            raise ConnectionError
        raise KeyboardInterrupt

    run = run_in_a_thread(service, "flaky")
    assert (run.is_error, run.attempts) == (True, 2)


def test_ctrl_c_in_a_test_ends_the_test_and_hands_the_task_back(service: TaskService) -> None:
    @service.tool()
    def interrupted() -> str:
        signal.raise_signal(signal.SIGINT)
        return "went on"

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            ToolRun(service, "interrupted")
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ToolError("half \ud800 a pair"), "half ? a pair"),
        (SDKToolError("No scene."), "No scene."),
        (SDKToolError("half \ud800 a pair"), "half ? a pair"),
    ],
)
def test_an_authors_sentence_reaches_the_caller_whatever_is_in_it(
    service: TaskService, error: Exception, said: str
) -> None:
    @service.tool(retry=RetryPolicy())
    def refuse() -> str:
        raise error

    run = ToolRun(service, "refuse")
    assert (run.is_error, run.text, run.attempts) == (True, said, 1)


@pytest.mark.parametrize(
    ("error", "code", "message", "data"),
    [
        (MCPError(4001, "No.", {"a": 1}), 4001, "No.", '{"a":1}'),
        (MCPError(-32602, "half \ud800 a pair"), -32602, "half ? a pair", None),
        (MCPError(-32042, "Go there.", {"elicitations": []}), None, "Go there.", '{"elicitations":[]}'),
        (MCPError(2**70, "No."), None, "No.", None),
        (ProtocolError(4001, "No.", {1, 2}), 4001, "No.", None),
        (ProtocolError(4001, "No.", float("nan")), 4001, "No.", None),
        (ProtocolError(4001, "No.", "half \ud800 a pair"), 4001, "No.", None),
    ],
)
def test_an_error_of_the_protocol_is_recorded_as_far_as_it_can_be(
    service: TaskService, error: Exception, code: int | None, message: str, data: str | None
) -> None:
    @service.tool(retry=RetryPolicy())
    def protest() -> str:
        raise error

    failure = ToolRun(service, "protest").failure
    assert failure is not None
    assert (failure.kind, failure.code, failure.message) == (FailureKind.AUTHOR, code, message)
    assert failure.data == data


# --- outcomes that cannot be recorded -----------------------------------------------------------------


class Bomb(BaseModel):
    """Its serialiser raises what it holds."""

    kind: str

    @field_serializer("kind")
    def _explode(self, kind: str) -> str:
        raise {"interrupt": KeyboardInterrupt, "exit": SystemExit, "own": Alien, "value": ValueError}[kind]


class Mute(ToolError):
    """An author's error whose message cannot be had."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["interrupt", "exit", "own", "value"])
def test_a_result_that_raises_when_it_is_written_fails_the_task_at_once(
    service: TaskService, kind: str
) -> None:
    @service.tool()
    def result() -> Bomb:
        return Bomb(kind=kind)

    run = run_in_a_thread(service, "result")
    assert (run.status, run.attempts) == (TaskStatus.FAILED, 1)
    assert run.failure is not None and run.failure.kind is FailureKind.RESULT_INVALID


def test_an_error_that_raises_when_it_is_read_fails_the_task_at_once(service: TaskService) -> None:
    @service.tool()
    def refuse() -> str:
        raise Mute("")

    run = run_in_a_thread(service, "refuse")
    assert (run.status, run.attempts) == (TaskStatus.FAILED, 1)
    assert run.failure is not None
    assert "its outcome cannot be recorded (KeyboardInterrupt)" in run.failure.message


def test_a_sentence_that_is_too_long_fails_the_task_at_once(service: TaskService) -> None:
    @service.tool()
    def refuse() -> str:
        raise ToolError("x" * 2_000_000)

    run = ToolRun(service, "refuse")
    assert (run.status, run.attempts) == (TaskStatus.FAILED, 1)


# --- progress -----------------------------------------------------------------------------------------


class Odd:
    """Neither number nor text, but `str` makes a sentence of it."""

    def __str__(self) -> str:
        return "half \ud800 a pair"


PROGRESS: list[tuple[tuple[Any, ...], tuple[Any, ...]]] = [
    ((Decimal("1.5"), 10), (1.5, 10, None)),
    ((Fraction(1, 2), Decimal(2)), (0.5, 2.0, None)),
    ((True, 2), (1, 2, None)),
    ((1, 2, Path("/srv/scene")), (1, 2, "/srv/scene")),
    ((1, 2, ValueError("no light")), (1, 2, "no light")),
    ((1, 2, Odd()), (1, 2, "half ? a pair")),
    ((2**63, None), (2**63, None, None)),
]


@pytest.mark.parametrize(("said", "recorded"), PROGRESS, ids=lambda value: repr(value)[:40])
def test_progress_is_converted_where_it_is_said(
    service: TaskService, said: tuple[Any, ...], recorded: tuple[Any, ...]
) -> None:
    @service.tool()
    def report(ctx: TaskContext) -> str:
        ctx.progress(*said)
        return "done"

    @service.tool()
    async def report_async(ctx: AsyncTaskContext) -> str:
        await ctx.progress(*said)
        return "done"

    for tool in ("report", "report_async"):
        run = ToolRun(service, tool)
        assert run.result == "done"
        progress = run.progress
        assert progress is not None
        assert (progress.current, progress.total, progress.message) == recorded
        assert type(progress.current) is type(recorded[0])


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (("3",), "TypeError: progress: current: expected a number, not str"),
        ((None,), "TypeError: progress: current: expected a number, not NoneType"),
        ((1j,), "TypeError: progress: current: expected a number, not complex"),
        ((float("nan"),), "ValueError: progress: current: expected a finite number, not nan"),
        ((1, float("inf")), "ValueError: progress: total: expected a finite number, not inf"),
        ((Decimal("sNaN"),), "ValueError: progress: current: expected a finite number"),
        ((10**400,), "ValueError: progress: current: expected a finite number"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_progress_that_is_no_number_is_refused_in_the_tool(
    service: TaskService, said: tuple[Any, ...], problem: str
) -> None:
    @service.tool()
    def report(ctx: TaskContext) -> str:
        try:
            ctx.progress(*said)
        except (TypeError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        return "accepted"

    assert ToolRun(service, "report").result.startswith(problem)


@pytest.mark.parametrize(
    ("meta", "recorded"),
    [
        ({"current": Decimal("1.5"), "total": 10, "status": "drawing"}, (1.5, 10.0, "drawing")),
        ({"current": float("nan"), "total": float("inf"), "status": Path("a")}, (0.0, None, "WORKING")),
        ({"current": "3", "message": "half \ud800 a pair"}, (0.0, None, "half ? a pair")),
        ({"done": 10**400}, (0.0, None, "WORKING")),
        (ValueError("odd"), (0.0, None, "WORKING")),
        (None, (0.0, None, "WORKING")),
    ],
)
def test_the_state_of_an_exposed_task_is_progress_as_far_as_it_can_be(
    meta: Any, recorded: tuple[Any, ...]
) -> None:
    shop = Celery("shop", broker="memory://")

    @shop.task(name="shop.draw", bind=True, shared=False)
    def draw(self: Any) -> str:
        self.update_state(state="WORKING", meta=meta)
        return "drawn"

    service = TaskService("Shop", celery=shop, settings=Settings(redis_url=None))
    service.expose("shop.draw")
    run = ToolRun(service, "draw")

    assert run.result == "drawn"
    assert run.progress is not None
    assert (run.progress.current, run.progress.total, run.progress.message) == recorded


@pytest.mark.parametrize("name", ["", 3, None, "half \ud800 a pair", "upload#2"])
def test_a_step_whose_name_cannot_be_recorded_is_refused_before_it_runs(
    service: TaskService, name: Any
) -> None:
    ran: list[int] = []

    @service.tool()
    def upload(ctx: TaskContext) -> str:
        ctx.step(name, lambda: ran.append(1))
        return "done"

    assert ToolRun(service, "upload").is_error
    assert not ran


Call = Callable[[TaskContext], Any]


@pytest.mark.parametrize(
    "call",
    [
        lambda ctx: ctx.write_variables({1: "a"}),
        lambda ctx: ctx.write_variables({"half \ud800 a pair": 1}),
        lambda ctx: ctx.write_variables({"a": float("nan")}),
        lambda ctx: ctx.write_variables({"a": "half \ud800 a pair"}),
        lambda ctx: ctx.sleep(float("nan")),
        lambda ctx: ctx.sleep(float("inf")),
        lambda ctx: ctx.step("a", lambda: float("nan")),
        lambda ctx: ctx.step("a", lambda: object()),
        lambda ctx: ctx.elicit(Path("a"), {"type": "object", "properties": {}}),
        lambda ctx: ctx.elicit("half \ud800 a pair", {"type": "object", "properties": {}}),
        lambda ctx: ctx.log("info", object()),
        lambda ctx: ctx.info("a", logger=3),
    ],
)
def test_what_cannot_be_recorded_is_refused_in_the_tool_that_says_it(
    service: TaskService, call: Call
) -> None:
    refused: list[BaseException] = []

    @service.tool()
    def say(ctx: TaskContext) -> str:
        try:
            call(ctx)
        except Exception as error:
            refused.append(error)
            raise
        return "accepted"

    run = ToolRun(service, "say")
    assert (run.status, run.is_error, run.attempts) == (TaskStatus.COMPLETED, True, 1)
    assert len(refused) == 1


@pytest.mark.parametrize("seconds", [40 * 24 * 3600, 10**30])
def test_a_sleep_beyond_the_life_of_a_task_fails_it(service: TaskService, seconds: float) -> None:
    @service.tool()
    def nap(ctx: TaskContext) -> str:
        ctx.sleep(seconds)
        return "woke up"

    run = ToolRun(service, "nap")
    assert (run.status, run.attempts) == (TaskStatus.FAILED, 1)
