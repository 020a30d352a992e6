"""`tasks_service.testing`: time is moved by hand, and what falls due happens at its own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel

from tasks_service import (
    AsyncTaskContext,
    AttemptTimedOut,
    Declined,
    RetryPolicy,
    Settings,
    TaskContext,
    TaskService,
)
from tasks_service.domain.task import FailureKind
from tasks_service.testing import Clock, NoResult, ToolRun

START = datetime(2030, 1, 31, 12, tzinfo=UTC)


class Consent(BaseModel):
    agreed: bool


@pytest.fixture
def service() -> TaskService:
    return TaskService("Tests", settings=Settings(redis_url=None))


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


def hour(clock: Clock) -> float:
    return (clock.now - START) / timedelta(hours=1)


def test_sleeps_and_delays_of_retries_move_the_clock_and_take_no_time(
    service: TaskService, clock: Clock
) -> None:
    an_hour = RetryPolicy(first_delay=timedelta(hours=1), factor=1, longest_delay=timedelta(hours=1))
    failing: list[str] = ["step", "step", "tool"]

    def work() -> None:
        if failing and failing[0] == "step":
            failing.pop(0)
            raise ConnectionError

    @service.tool(retry=an_hour)
    def tries(ctx: TaskContext) -> str:
        ctx.step("work", work, retry=an_hour)
        ctx.sleep(timedelta(hours=1))
        if failing:
            failing.pop(0)
            raise ConnectionError
        return "done"

    began = time.monotonic()
    run = ToolRun(service, "tries", clock=clock)

    assert (run.result, hour(clock)) == ("done", 4)
    assert time.monotonic() - began < 60


def test_an_async_step_that_is_retried_takes_no_time_either(service: TaskService, clock: Clock) -> None:
    failing = [1, 2]

    async def work() -> str:
        if failing:
            failing.pop()
            raise ConnectionError
        return "done"

    @service.tool()
    async def tries(ctx: AsyncTaskContext) -> str:
        policy = RetryPolicy(first_delay=timedelta(hours=1), factor=1, longest_delay=timedelta(hours=1))
        return await ctx.step("work", work, retry=policy)

    assert ToolRun(service, "tries", clock=clock).result == "done"
    assert hour(clock) == 2


def test_a_question_has_its_default_when_its_time_is_over_and_not_before(
    service: TaskService, clock: Clock
) -> None:
    @service.tool()
    def ask(ctx: TaskContext) -> str:
        answer = ctx.elicit("?", Consent, within=timedelta(hours=2), default=Declined())
        return type(answer).__name__

    run = ToolRun(service, "ask", clock=clock)
    assert (run.questions["question"].deadline, run.questions["question"].has_default) == (
        START + timedelta(hours=2),
        True,
    )
    clock.advance(timedelta(hours=2) - timedelta(milliseconds=1))
    assert run.status == "input_required"
    clock.advance(0.001)

    assert run.result == "Declined"


def test_a_question_without_a_default_fails_the_task(service: TaskService) -> None:
    @service.tool()
    def ask(ctx: TaskContext) -> None:
        ctx.elicit("?", Consent, within=timedelta(hours=2))

    run = ToolRun(service, "ask")
    run.clock.advance(timedelta(hours=3))

    assert run.failure is not None and run.failure.kind is FailureKind.QUESTION


def test_sleeps_are_left_to_the_test_if_it_wants_so_and_end_in_order(
    service: TaskService, clock: Clock
) -> None:
    woken: list[tuple[str, float]] = []

    @service.tool()
    def naps(name: str, hours: int, ctx: TaskContext) -> str:
        for number in (1, 2):
            ctx.sleep(timedelta(hours=hours))
            if ctx.claims == number + 1:
                woken.append((name, hour(clock)))
        return "rested"

    cat = ToolRun(service, "naps", {"name": "cat", "hours": 2}, clock=clock, sleep_at_once=False)
    dog = ToolRun(service, "naps", {"name": "dog", "hours": 3}, clock=clock, sleep_at_once=False)
    assert (cat.due, cat.status) == (START + timedelta(hours=2), "working")
    with pytest.raises(NoResult, match="waits until 2030-01-31T14:00:00"):
        cat.result  # noqa: B018

    clock.advance(timedelta(hours=5))
    assert woken == [("cat", 2), ("dog", 3), ("cat", 4)]
    clock.advance(timedelta(hours=1))

    assert (cat.result, dog.result, hour(clock)) == ("rested", "rested", 6)


@pytest.mark.parametrize("is_async", [False, True])
def test_an_attempt_that_takes_longer_than_its_timeout_is_stopped_at_its_next_call(
    service: TaskService, clock: Clock, is_async: bool
) -> None:
    ends: list[type[BaseException]] = []

    def slow(ctx: TaskContext) -> str:
        clock.advance(timedelta(minutes=6))
        try:
            ctx.check()
        except AttemptTimedOut as end:
            ends.append(type(end))
            raise
        return "too late"

    async def slow_async(ctx: AsyncTaskContext) -> str:
        clock.advance(timedelta(minutes=6))
        await ctx.progress(1)
        return "too late"

    tool: Callable[..., object] = slow_async if is_async else slow
    service.tool(name="slow", timeout=timedelta(minutes=5))(tool)
    run = ToolRun(service, "slow", clock=clock)

    assert run.failure is not None and run.failure.kind is FailureKind.TIMEOUT
    assert ends == ([] if is_async else [AttemptTimedOut])


def test_an_attempt_within_its_timeout_keeps_its_lease(service: TaskService, clock: Clock) -> None:
    @service.tool(timeout=timedelta(hours=2), lease=timedelta(seconds=10))
    def slow(ctx: TaskContext) -> str:
        clock.advance(timedelta(hours=1))
        ctx.write_variables({"half": True})
        return ctx.step("end", lambda: "done")

    assert ToolRun(service, "slow", clock=clock).result == "done"


def test_the_longest_life_of_a_task_ends_it(service: TaskService) -> None:
    @service.tool()
    def waits(ctx: TaskContext) -> None:
        while True:
            ctx.sleep(timedelta(days=7))

    run = ToolRun(service, "waits")

    assert run.failure is not None and run.failure.kind is FailureKind.QUEUE_TIMEOUT
    assert run.attempts == 5


def test_a_clock_goes_neither_back_nor_without_a_zone(clock: Clock) -> None:
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="no time zone"):
        Clock(datetime(2030, 1, 1))
