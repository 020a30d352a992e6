"""`tasks_service.testing`: what a tool submits runs too, and the tool waits for it as in a worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from tasks_service import AsyncTaskContext, Settings, TaskContext, TaskFailed, TaskService, ToolError
from tasks_service.testing import RESULT, Crash, NoResult, NotDeterministic, ToolRun


class Consent(BaseModel):
    agreed: bool


@pytest.fixture
def rendered() -> list[str]:
    return []


@pytest.fixture
def service(rendered: list[str]) -> TaskService:
    service = TaskService("Tests", settings=Settings(redis_url=None))

    @service.tool()
    def render(scene: str, ctx: TaskContext) -> dict[str, str]:
        rendered.append(scene)
        if scene == "broken":
            raise ToolError("There is no such scene.")
        if scene == "asks":
            ctx.elicit("Render it?", Consent)
        ctx.sleep(timedelta(days=2))
        return {"scene": scene}

    @service.tool()
    def film(scenes: list[str], ctx: TaskContext) -> list[str]:
        handles = [service.submit("render", scene=scene) for scene in scenes]
        return [handle.result()["scene"].upper() for handle in handles]

    @service.tool(name="film_async")
    async def film_async(scenes: list[str], ctx: AsyncTaskContext) -> list[str]:
        handles = [await service.asubmit("render", scene=scene) for scene in scenes]
        return [(await handle.aresult())["scene"].upper() for handle in handles]

    return service


@pytest.mark.parametrize("tool", ["film", "film_async"])
def test_what_a_tool_submits_runs_and_its_result_is_waited_for_in_no_time(
    service: TaskService, tool: str
) -> None:
    began = time.monotonic()
    run = ToolRun(service, tool, {"scenes": ["hall", "attic"]})

    assert run.result == ["HALL", "ATTIC"]
    assert [child.result for child in run.children] == [{"scene": "hall"}, {"scene": "attic"}]
    assert time.monotonic() - began < 60


def test_what_was_submitted_has_nobody_to_ask(service: TaskService) -> None:
    run = ToolRun(service, "film", {"scenes": ["asks"]})

    failure = run.children[0].failure
    assert failure is not None and failure.kind == "client_cannot"


def test_sleeps_of_both_are_left_to_the_test_if_it_wants_so(service: TaskService) -> None:
    run = ToolRun(service, "film", {"scenes": ["hall"]}, sleep_at_once=False)
    (child,) = run.children
    assert (run.status, child.status) == ("working", "working")
    with pytest.raises(NoResult, match=r"The task 'render' that it has submitted: It waits until"):
        run.result  # noqa: B018

    run.clock.advance(timedelta(days=2))
    assert child.result == {"scene": "hall"}
    run.clock.advance(timedelta(seconds=30))

    assert run.result == ["HALL"]


def test_how_the_other_task_failed_is_told_to_the_tool(service: TaskService) -> None:
    run = ToolRun(service, "film", {"scenes": ["broken"]})

    assert run.children[0].error == "There is no such scene."
    assert isinstance(run.exception, TaskFailed)


@pytest.mark.parametrize(
    "crash",
    [
        Crash(before_recording="submit render"),
        Crash(after="submit render"),
        Crash(before_recording=RESULT),
    ],
    ids=str,
)
def test_a_tool_that_dies_submits_once(service: TaskService, rendered: list[str], crash: Crash) -> None:
    run = ToolRun(service, "film", {"scenes": ["hall"]}, crash)

    assert (run.result, len(run.children)) == (["HALL"], 1)


def test_a_tool_that_waits_for_so_long_only_goes_on_then(service: TaskService) -> None:
    @service.tool()
    def patient(ctx: TaskContext) -> str:
        handle = service.submit("render", scene="hall")
        try:
            handle.result(timeout=3600)
        except TimeoutError:
            return "too late"
        return "in time"

    run = ToolRun(service, "patient")

    assert run.result == "too late"
    assert run.children[0].result == {"scene": "hall"}


def test_other_arguments_in_the_next_run_are_told(service: TaskService) -> None:
    numbers = iter(range(10))

    @service.tool()
    def film_again(ctx: TaskContext) -> Any:
        return service.submit("render", scene=f"scene {next(numbers)}").result()

    with pytest.raises(NotDeterministic, match=r"(?s)before: step 'submit render'.*scene 0.*now: .*scene 1"):
        ToolRun(service, "film_again")


def test_a_tool_that_does_not_wait_ends_before_what_it_has_submitted(service: TaskService) -> None:
    ends: list[Callable[[], str]] = []

    @service.tool()
    def begin(ctx: TaskContext) -> str:
        ends.append(service.submit("render", scene="hall").task_id.__str__)
        return "begun"

    run = ToolRun(service, "begin")

    assert (run.result, run.attempts) == ("begun", 1)
    assert run.children[0].result == {"scene": "hall"}
