"""`tasks_service.testing`: a worker dies, is stopped, or its client cancels, where the test says."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from pydantic import BaseModel

from tasks_service import AsyncTaskContext, Declined, Settings, TaskCancelled, TaskContext, TaskService
from tasks_service.domain.task import FailureKind
from tasks_service.testing import RESULT, Cancellation, Crash, RunError, Shutdown, ToolRun


class Consent(BaseModel):
    agreed: bool


class Effects:
    """What a tool has done, and how its attempts ended."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.ends: list[str] = []

    def do(self, what: str) -> str:
        self.done.append(what)
        return what


@pytest.fixture
def effects() -> Effects:
    return Effects()


@pytest.fixture
def service(effects: Effects) -> TaskService:
    service = TaskService("Tests", settings=Settings(redis_url=None))

    @service.tool()
    def sync(ctx: TaskContext) -> str:
        try:
            ctx.step("one", effects.do, "one")
            ctx.elicit("?", Consent, name="consent")
            ctx.sleep(timedelta(hours=1), name="nap")
            ctx.step("two", effects.do, "two")
        except BaseException as end:
            effects.ends.append(type(end).__name__)
            raise
        return "done"

    @service.tool(name="async")
    async def in_branches(ctx: AsyncTaskContext) -> str:
        async def branch(name: str) -> None:
            await ctx.step(name, effects.do, name)

        await asyncio.gather(branch("one"), branch("two"))
        await ctx.elicit("?", Consent, name="consent")
        await ctx.sleep(timedelta(hours=1), name="nap")
        return "done"

    return service


ANSWERS = {"consent": Declined()}
POINTS = [
    Crash(before="one"),
    Crash(before_recording="one"),
    Crash(after="one"),
    Crash(before="consent"),
    Crash(after="consent"),
    Crash(before="nap"),
    Crash(after="nap"),
    Crash(before="two"),
    Crash(before_recording="two"),
    Crash(before_recording=RESULT),
    Crash(after=RESULT),
]


@pytest.mark.parametrize("crash", POINTS, ids=str)
@pytest.mark.parametrize("tool", ["sync", "async"])
def test_wherever_a_worker_dies_the_tool_goes_on_and_only_an_unrecorded_step_runs_twice(
    service: TaskService, effects: Effects, tool: str, crash: Crash
) -> None:
    run = ToolRun(service, tool, None, crash, answers=ANSWERS)

    assert run.result == "done"
    again = [crash.before_recording] if crash.before_recording in ("one", "two") else []
    if tool == "sync":
        assert sorted(effects.done) == sorted(["one", "two", *again])
    else:  # the other branch may have been in the middle of its step
        assert {"one", "two"} == set(effects.done)
        assert effects.done.count(str(crash.before_recording)) == (2 if again else 1) or not again
    assert run.steps == {"one": "one", "two": "two"}


def test_an_attempt_counts_if_its_worker_died_and_not_if_it_was_stopped(service: TaskService) -> None:
    died = ToolRun(service, "sync", None, Crash(before="one", times=3))
    assert died.failure is not None and died.failure.kind is FailureKind.ATTEMPTS

    stopped = ToolRun(service, "sync", None, Shutdown(before="one", times=5), answers=ANSWERS)
    assert (stopped.result, stopped.attempts) == ("done", 8)


def test_a_step_that_has_ended_is_recorded_by_a_worker_that_stops(
    service: TaskService, effects: Effects
) -> None:
    ToolRun(service, "sync", None, Shutdown(before_recording="two"), answers=ANSWERS, replay=False)

    assert effects.done == ["one", "two"]
    assert effects.ends == ["Parked", "Parked", "WorkerStopping"]


def test_a_client_that_cancels_ends_the_tool_at_its_next_call(service: TaskService, effects: Effects) -> None:
    run = ToolRun(service, "sync", None, Cancellation(before_recording="one"))

    assert (run.status, effects.done, effects.ends) == ("cancelled", ["one"], [TaskCancelled.__name__])


def test_the_attempt_of_a_worker_that_died_is_ended_and_writes_no_more(
    service: TaskService, effects: Effects
) -> None:
    run = ToolRun(service, "sync", None, Crash(after="one"), replay=False)

    assert effects.ends == ["AttemptLost", "Parked"]
    assert run.attempts == 2


def test_what_never_happens_is_an_error_that_names_what_did(service: TaskService) -> None:
    with pytest.raises(RunError, match=r"Crash\(before='tow'\) has not happened.*'one', 'consent', 'nap'"):
        ToolRun(service, "sync", None, Crash(before="tow"), answers=ANSWERS)
    with pytest.raises(RunError, match="give one of before=, before_recording= and after="):
        Crash()
    with pytest.raises(RunError, match="give one of"):
        Crash(before="one", after="one")
    with pytest.raises(RunError, match="stands where the arguments are"):
        ToolRun(service, "sync", Crash(before="one"))  # type: ignore[arg-type]


def test_more_can_be_planned_while_a_question_is_open(service: TaskService, effects: Effects) -> None:
    run = ToolRun(service, "sync")
    run.interrupt(Crash(before_recording="two"))

    run.decline("consent")

    assert (run.result, effects.done) == ("done", ["one", "two", "two"])
