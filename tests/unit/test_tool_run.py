"""`tasks_service.testing`: an author's tool runs in the test's own process, on the real engine."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from celery import Celery
from pydantic import BaseModel

from tasks_service import AsyncTaskContext, RetryPolicy, Settings, TaskContext, TaskService, ToolError
from tasks_service.domain.errors import AnswerRefused, InvalidArguments, UnknownTool
from tasks_service.domain.task import EntryKind, FailureKind, TaskStatus
from tasks_service.testing import ToolRun


class Approval(BaseModel):
    publish: bool


@pytest.fixture
def service() -> TaskService:
    service = TaskService("Tests", settings=Settings(redis_url=None))
    drawn: list[int] = []

    @service.tool()
    def double(number: int) -> int:
        return number * 2

    @service.tool()
    def publish(scene: str, ctx: TaskContext) -> dict[str, object]:
        uploaded = ctx.step("upload", lambda: drawn.append(1) or len(drawn))
        answer = ctx.elicit("Publish it?", Approval, name="approval")
        ctx.sleep(timedelta(days=3))
        return {"scene": scene, "uploads": uploaded, "published": getattr(answer, "publish", None)}

    @service.tool(retry=RetryPolicy(on=(ConnectionError,)), max_attempts=2)
    async def fetch(ctx: AsyncTaskContext) -> str:
        if ctx.claims == 1:
            raise ConnectionError
        return f"fetched in attempt {ctx.claims}"

    @service.tool()
    def refuse() -> str:
        raise ToolError("There is no such scene.")

    return service


def test_a_tool_runs_and_its_result_is_what_a_client_gets(service: TaskService) -> None:
    run = ToolRun(service, "double", {"number": 21})

    assert (run.status, run.result, run.attempts) == (TaskStatus.COMPLETED, 42, 1)


def test_a_question_is_answered_and_steps_do_not_run_again(service: TaskService) -> None:
    run = ToolRun(service, "publish", {"scene": "forest"})
    assert (run.status, set(run.questions)) == (TaskStatus.INPUT_REQUIRED, {"approval"})

    run.accept("approval", publish=True)

    assert run.result == {"scene": "forest", "uploads": 1, "published": True}
    assert [entry.kind for entry in run.journal] == [EntryKind.STEP, EntryKind.ANSWER, EntryKind.TIMER]
    assert run.attempts == 3


def test_a_declined_question_is_the_tools_to_judge(service: TaskService) -> None:
    run = ToolRun(service, "publish", {"scene": "forest"})

    run.decline("approval")

    assert run.result["published"] is None


def test_an_answer_that_does_not_fit_is_refused_and_the_question_stays_open(service: TaskService) -> None:
    run = ToolRun(service, "publish", {"scene": "forest"})

    with pytest.raises(AnswerRefused):
        run.accept("approval", publish="perhaps")

    assert set(run.questions) == {"approval"}


def test_a_retry_takes_no_time(service: TaskService) -> None:
    assert ToolRun(service, "fetch").result == "fetched in attempt 2"


def test_an_authors_error_is_what_the_caller_reads(service: TaskService) -> None:
    run = ToolRun(service, "refuse")

    assert (run.is_error, run.result) == (True, "There is no such scene.")


def test_a_client_that_cannot_be_asked_fails_the_task(service: TaskService) -> None:
    run = ToolRun(service, "publish", {"scene": "forest"}, client_can=())

    assert run.failure is not None and run.failure.kind is FailureKind.CLIENT_CANNOT


def test_a_cancelled_task_runs_no_more(service: TaskService) -> None:
    run = ToolRun(service, "publish", {"scene": "forest"})

    run.cancel()

    assert (run.status, run.attempts) == (TaskStatus.CANCELLED, 1)


def test_bad_calls_are_refused_before_anything_runs(service: TaskService) -> None:
    with pytest.raises(InvalidArguments):
        ToolRun(service, "double", {"number": "many"})
    with pytest.raises(UnknownTool):
        ToolRun(service, "triple")


def test_an_exposed_celery_task_of_a_shops_own_app_runs_too() -> None:
    shop = Celery("shop", broker="memory://")

    @shop.task(name="shop.multiply", bind=True)
    def multiply(self: Any, first: int, second: int) -> dict[str, Any]:
        return {"product": first * second, "direct": self.request.called_directly}

    service = TaskService("Shop", celery=shop, settings=Settings(redis_url=None))
    service.expose("shop.multiply")

    run = ToolRun(service, "multiply", {"first": 2, "second": 3})

    assert run.result == {"product": 6, "direct": True}
