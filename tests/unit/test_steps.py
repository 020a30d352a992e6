"""Steps: what is recorded of them, how it reads back, and what a step may not do."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tasks_service import AsyncTaskContext, Form, RetryPolicy, TaskContext, ToolError
from tasks_service.domain.errors import HistoryMismatch, LimitExceeded, NotJson
from tasks_service.domain.events import RequestInput, WorkerEvent
from tasks_service.domain.limits import DEFAULT_LIMITS
from tasks_service.domain.task import Phase, Task
from tasks_service.durable.journal import Journal
from tasks_service.durable.steps import step_call
from tests.unit.replay import Life, until_parked

QUESTION = {"type": "object", "properties": {"a": {"type": "string"}}}


class Kind(Enum):
    LONG = "long"


class Report(BaseModel):
    pages: int
    kind: Kind


@dataclass
class Point:
    x: int
    y: int = 0


@pytest.fixture
def life() -> Life:
    return Life()


def twice(life: Life, fn: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """What a step returns when it runs, and when its recorded result is read in the next attempt."""
    attempt = life.attempt()
    first = TaskContext(attempt).step("s", fn, *args, **kwargs)
    life.lose(attempt)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it ran again")

    again = functools.wraps(fn)(never) if not isinstance(fn, functools.partial) else fn
    return first, TaskContext(life.attempt()).step("s", again, *args, **kwargs)


def report(pages: int) -> Report:
    return Report(pages=pages, kind=Kind.LONG)


def point() -> Point:
    return Point(1, 2)


def points() -> list[Point]:
    return [Point(1), Point(2, 3)]


def nothing() -> None:
    return None


def maybe() -> Report | None:
    return None


def seconds() -> timedelta:
    return timedelta(seconds=1.5)


def numbered() -> dict[int, set[str]]:
    return {1: {"a"}, 2: {"b"}}


def somewhere() -> Path:
    return Path("a/b")


@pytest.mark.parametrize(
    ("fn", "args", "expected"),
    [
        (report, [3], Report(pages=3, kind=Kind.LONG)),
        (point, [], Point(1, 2)),
        (points, [], [Point(1), Point(2, 3)]),
        (nothing, [], None),
        (maybe, [], None),
        (seconds, [], timedelta(seconds=1.5)),
        (numbered, [], {1: {"a"}, 2: {"b"}}),
        (somewhere, [], Path("a/b")),
    ],
)
def test_a_step_returns_the_type_it_declares_when_it_runs_and_ever_after(
    life: Life, fn: Any, args: list[Any], expected: Any
) -> None:
    assert twice(life, fn, *args) == (expected, expected)


def test_a_step_that_declares_nothing_returns_plain_values_when_it_runs_and_ever_after(life: Life) -> None:
    assert twice(life, lambda: (Point(1, 2), {3: Kind.LONG})) == (
        [{"x": 1, "y": 2}, {"3": "long"}],
        [{"x": 1, "y": 2}, {"3": "long"}],
    )


def test_the_function_of_a_step_may_be_partial_or_a_method(life: Life) -> None:
    assert twice(life, functools.partial(report, 4))[1] == Report(pages=4, kind=Kind.LONG)


class Unknown:
    """Nothing that pydantic knows."""


def test_a_declared_type_that_pydantic_does_not_know_reads_back_plain(life: Life) -> None:
    def odd() -> Unknown:
        return {"a": 1}  # type: ignore[return-value]

    assert twice(life, odd) == ({"a": 1}, {"a": 1})


@pytest.mark.parametrize("value", [Unknown(), float("nan"), b"\xff", {"a": [object()]}, ValueError("no")])
def test_a_result_that_is_not_json_is_refused_by_the_name_of_its_step(life: Life, value: object) -> None:
    with pytest.raises(NotJson, match="result of step 's'"):
        TaskContext(life.attempt()).step("s", lambda: value)
    assert life.journal == ()


def test_a_result_over_the_limit_of_the_journal_is_refused(life: Life) -> None:
    with pytest.raises(LimitExceeded):
        TaskContext(life.attempt()).step("s", lambda: "x" * (DEFAULT_LIMITS.journal_bytes + 1))
    assert life.journal == ()


def test_other_arguments_are_another_step(life: Life) -> None:
    attempt = life.attempt()
    TaskContext(attempt).step("s", report, 3)
    life.lose(attempt)
    with pytest.raises(HistoryMismatch, match="step 's' with other arguments"):
        TaskContext(life.attempt()).step("s", report, 4)


def test_arguments_that_cannot_be_compared_are_refused_before_anything_runs(life: Life) -> None:
    ran = []
    with pytest.raises(NotJson, match="arguments of step 's'"):
        TaskContext(life.attempt()).step("s", ran.append, Unknown())
    assert not ran


def test_the_digest_of_arguments_does_not_depend_on_an_order_that_nobody_chose() -> None:
    def digest(*args: Any, **kwargs: Any) -> str:
        return step_call(Journal((), ordered=True), "s", args, kwargs).digest

    assert digest({1, "a"}, frozenset([1, "a"])) == digest({"a", 1}, frozenset(["a", 1]))
    assert digest(a=1, b={"x": 1, "y": 2}) == digest(b={"y": 2, "x": 1}, a=1)
    assert digest(b"\xff\xfe") != digest(b"\xff\xff")
    assert digest(Point(1), report(1)) != digest(Point(2), report(1))


def test_a_step_with_sets_is_the_same_step_in_another_process() -> None:
    program = (
        "from tasks_service.durable.steps import step_call\n"
        "from tasks_service.durable.journal import Journal\n"
        "print(step_call(Journal((), ordered=True), 's', [{'a', 'b', 'c', 'd', 'e'}], {}).digest)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in "12"
    }
    assert len(digests) == 1


# --- retries ------------------------------------------------------------------------------------------

QUICKLY = RetryPolicy(first_delay=timedelta(milliseconds=1), factor=1)


def failing(times: int, error: type[Exception] = OSError) -> Iterator[Any]:
    for _ in range(times):
        yield error("not yet")
    while True:
        yield "done"


def told(outcomes: Iterator[Any]) -> str:
    outcome = next(outcomes)
    if isinstance(outcome, Exception):
        raise outcome
    return str(outcome)


def test_a_step_with_a_policy_is_tried_again_and_recorded_once(life: Life) -> None:
    outcomes = failing(2)
    assert TaskContext(life.attempt()).step("s", lambda: told(outcomes), retry=QUICKLY) == "done"
    assert [(entry.name, entry.value) for entry in life.journal] == [("s", '"done"')]


def test_a_step_gives_up_after_five_tries(life: Life) -> None:
    outcomes = failing(5)
    with pytest.raises(OSError, match="not yet"):
        TaskContext(life.attempt()).step("s", lambda: told(outcomes), retry=QUICKLY)
    assert next(outcomes) == "done"


def test_an_authors_own_no_is_not_tried_again(life: Life) -> None:
    outcomes = failing(1, ToolError)
    with pytest.raises(ToolError):
        TaskContext(life.attempt()).step("s", lambda: told(outcomes), retry=QUICKLY)


def test_an_exception_of_a_step_is_not_recorded(life: Life) -> None:
    with pytest.raises(ZeroDivisionError):
        TaskContext(life.attempt()).step("s", lambda: 1 / 0)
    assert life.journal == ()


# --- what a step may not do ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inner",
    [
        lambda context: context.step("inner", lambda: 1),
        lambda context: context.elicit("?", QUESTION),
        lambda context: context.sleep(1),
    ],
)
def test_a_step_may_not_ask_sleep_or_take_steps(life: Life, inner: Any) -> None:
    context = TaskContext(life.attempt())
    with pytest.raises(RuntimeError, match="Step 'outer' may not"):
        context.step("outer", lambda: inner(context))
    assert life.phase is Phase.RUNNING
    assert context.step("after", lambda: 1) == 1


def test_an_async_steps_branches_may_not_take_steps_but_its_neighbours_may(life: Life) -> None:
    async def tool() -> None:
        context = AsyncTaskContext(life.attempt(is_async=True))

        async def nested() -> None:
            await asyncio.gather(context.step("inner", lambda: 1))

        async with asyncio.TaskGroup() as group:
            group.create_task(context.step("neighbour", lambda: 1))
            with pytest.raises(RuntimeError, match="Step 'outer' may not take step 'inner'"):
                await context.step("outer", nested)

    asyncio.run(tool())
    assert [entry.name for entry in life.journal] == ["neighbour"]


# --- how async branches come to rest ------------------------------------------------------------------


def test_questions_of_concurrent_branches_go_out_together(life: Life) -> None:
    async def tool(context: AsyncTaskContext) -> None:
        await asyncio.gather(*(context.elicit("?", QUESTION, name=name) for name in "abc"))

    asyncio.run(until_parked(life.attempt(is_async=True), tool))
    assert life.phase is Phase.PARKED
    assert life.asked == {"a", "b", "c"}


def test_answers_reach_the_branches_that_asked(life: Life) -> None:
    async def tool(context: AsyncTaskContext) -> list[Any]:
        return await asyncio.gather(*(context.elicit("?", QUESTION, name=name) for name in "abc"))

    asyncio.run(until_parked(life.attempt(is_async=True), tool))
    for name in "cab":
        life.accept(name, a=name)
    answers = asyncio.run(tool(AsyncTaskContext(life.attempt(is_async=True))))
    assert answers == [{"a": "a"}, {"a": "b"}, {"a": "c"}]


def test_a_running_step_of_another_branch_is_recorded_before_the_attempt_ends(life: Life) -> None:
    async def slowly() -> int:
        await asyncio.sleep(0.1)
        return 7

    async def tool(context: AsyncTaskContext) -> None:
        await asyncio.gather(context.elicit("?", QUESTION, name="a"), context.step("s", slowly))

    asyncio.run(until_parked(life.attempt(is_async=True), tool))
    assert [(entry.name, entry.value) for entry in life.journal] == [("s", "7")]
    assert life.asked == {"a"}


def test_a_branch_that_asks_after_its_step_asks_with_the_others(life: Life) -> None:
    async def second(context: AsyncTaskContext) -> None:
        await context.step("s", lambda: 1)
        await context.elicit("?", QUESTION, name="b")

    async def tool(context: AsyncTaskContext) -> None:
        await asyncio.gather(context.elicit("?", QUESTION, name="a"), second(context))

    asyncio.run(until_parked(life.attempt(is_async=True), tool))
    assert life.asked == {"a", "b"}


def test_the_shortest_of_several_sleeps_wakes_the_task(life: Life) -> None:
    async def tool(context: AsyncTaskContext) -> None:
        await asyncio.gather(context.sleep(600, name="long"), context.sleep(60, name="short"))

    attempt = life.attempt(is_async=True)
    asyncio.run(until_parked(attempt, tool))
    assert life.phase is Phase.PENDING
    due_ms = life.task.due_ms - life.now_ms
    assert 59_000 <= due_ms <= 60_000
    assert {entry.name for entry in life.journal} == {"long", "short"}


def test_a_question_goes_before_a_sleep(life: Life) -> None:
    async def tool(context: AsyncTaskContext) -> None:
        await asyncio.gather(context.sleep(600), context.elicit("?", QUESTION, name="a"))

    asyncio.run(until_parked(life.attempt(is_async=True), tool))
    assert life.phase is Phase.PARKED


def test_a_question_that_cannot_be_recorded_is_refused_and_the_tool_may_ask_another(life: Life) -> None:
    async def tool(context: AsyncTaskContext) -> None:
        with pytest.raises(LimitExceeded):
            await context.elicit_all({f"q{n}": Form("?", QUESTION) for n in range(65)})
        await context.elicit("?", QUESTION, name="a")

    asyncio.run(until_parked(life.attempt(is_async=True), tool))
    assert life.asked == {"a"}


def test_two_branches_whose_questions_are_refused_may_each_ask_another(life: Life) -> None:
    async def branch(context: AsyncTaskContext, name: str) -> None:
        with pytest.raises(LimitExceeded):
            await context.elicit_all({f"{name}{n}": Form("?", QUESTION) for n in range(40)})
        await context.elicit("?", QUESTION, name=name)

    async def tool(context: AsyncTaskContext) -> None:
        await asyncio.gather(branch(context, "a"), branch(context, "b"))

    asyncio.run(until_parked(life.attempt(is_async=True), tool))
    assert life.asked == {"a", "b"}


def test_no_step_begins_while_a_question_is_being_written(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking, ran = threading.Event(), []
    commit = life.store.commit

    def slowly(task_id: str, event: WorkerEvent) -> Task:
        if isinstance(event, RequestInput):
            asking.set()
            time.sleep(0.2)
        return commit(task_id, event)

    monkeypatch.setattr(life.store, "commit", slowly)

    async def late(context: AsyncTaskContext) -> None:
        await asyncio.to_thread(asking.wait, 5)
        await context.step("late", lambda: ran.append(1))

    async def tool(context: AsyncTaskContext) -> None:
        await asyncio.gather(context.elicit("?", QUESTION, name="a"), late(context))

    asyncio.run(until_parked(life.attempt(is_async=True), tool))
    assert life.asked == {"a"}
    assert not ran
