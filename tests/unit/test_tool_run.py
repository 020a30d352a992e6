"""`tasks_service.testing`: an author's tool runs in the test's own process, on the workers' engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import timedelta
from enum import Enum
from typing import Any

import pytest
from celery import Celery
from pydantic import BaseModel

from tasks_service import (
    AsyncTaskContext,
    Cancelled,
    ClientError,
    Declined,
    Form,
    Image,
    Link,
    ModelReply,
    ProtocolError,
    RetryPolicy,
    Root,
    Settings,
    TaskContext,
    TaskService,
    ToolError,
    current_context,
)
from tasks_service.domain.errors import AnswerRefused, InvalidArguments, UnknownTool
from tasks_service.domain.task import EntryKind, FailureKind, TaskStatus
from tasks_service.testing import Answer, Logged, NoResult, RunError, ToolRun


class Seat(Enum):
    AISLE = "aisle"
    WINDOW = "window"


class Approval(BaseModel):
    publish: bool
    seat: Seat = Seat.AISLE


@pytest.fixture
def service() -> TaskService:
    service = TaskService("Tests", settings=Settings(redis_url=None))

    @service.tool()
    def double(number: int) -> int:
        return number * 2

    @service.tool()
    def publish(scene: str, ctx: TaskContext) -> dict[str, object]:
        ctx.info("begins", logger="publisher")
        uploaded = ctx.step("upload", str.upper, scene)
        ctx.write_variables({"uploaded": uploaded})
        answer = ctx.elicit("Publish it?", Approval, name="approval")
        ctx.progress(1, 2, "asked")
        ctx.sleep(timedelta(days=3))
        seat = answer.seat.value if isinstance(answer, Approval) else type(answer).__name__
        return {"scene": uploaded, "seat": seat}

    @service.tool()
    def refuse() -> str:
        raise ToolError("There is no such scene.")

    @service.tool()
    def break_down() -> str:
        raise ZeroDivisionError("a secret")

    @service.tool()
    def fail() -> str:
        raise ProtocolError(4001, "The licence has run out.", {"days": 3})

    return service


def test_a_tool_runs_and_its_result_is_what_a_client_gets(service: TaskService) -> None:
    run = ToolRun(service, "double", {"number": 21})

    assert (run.status, run.result, run.attempts, run.error) == (TaskStatus.COMPLETED, 42, 1, None)


def test_a_question_is_answered_and_steps_do_not_run_again(service: TaskService) -> None:
    run = ToolRun(service, "publish", {"scene": "forest"})
    assert (run.status, set(run.questions)) == (TaskStatus.INPUT_REQUIRED, {"approval"})

    run.accept("approval", publish=True, seat=Seat.WINDOW)

    assert run.result == {"scene": "FOREST", "seat": "window"}
    assert [entry.kind for entry in run.journal] == [EntryKind.STEP, EntryKind.ANSWER, EntryKind.TIMER]
    assert (run.steps, run.variables, run.attempts) == ({"upload": "FOREST"}, {"uploaded": "FOREST"}, 3)


def test_a_question_is_looked_at_as_a_client_does(service: TaskService) -> None:
    question = ToolRun(service, "publish", {"scene": "forest"}).questions["approval"]

    assert (question.kind, question.message, question.url) == ("form", "Publish it?", "")
    assert (question.schema["required"], question.has_default) == (["publish"], False)


@pytest.mark.parametrize(
    "answer, seat",
    [
        (Approval(publish=True, seat=Seat.WINDOW), "window"),
        ({"publish": True, "seat": "aisle"}, "aisle"),
        (Declined(), "Declined"),
        (Cancelled(), "Cancelled"),
    ],
)
def test_a_form_takes_a_model_or_values_or_a_no(service: TaskService, answer: Answer, seat: str) -> None:
    run = ToolRun(service, "publish", {"scene": "forest"}, answers={"approval": answer})

    assert run.result["seat"] == seat


def test_an_answer_that_does_not_fit_is_refused_and_the_question_stays_open(service: TaskService) -> None:
    run = ToolRun(service, "publish", {"scene": "forest"})

    with pytest.raises(AnswerRefused):
        run.accept("approval", publish="perhaps")

    run.decline("approval")
    assert run.result["seat"] == "Declined"


def test_an_answer_to_what_is_not_asked_names_what_is(service: TaskService) -> None:
    run = ToolRun(service, "publish", {"scene": "forest"}, answers={"aproval": Declined()})

    with pytest.raises(RunError, match=r"No question 'consent' is open. Open are: 'approval'"):
        run.accept("consent", publish=True)
    with pytest.raises(NoResult, match=r"an answer to 'approval'. Answers were given for 'aproval'"):
        run.result  # noqa: B018
    with pytest.raises(RunError, match="answers no question: expected a model or a mapping"):
        run.answer("approval", "yes")  # type: ignore[arg-type]


def test_questions_of_every_kind_are_answered() -> None:
    service = TaskService("Tests", settings=Settings(redis_url=None))

    @service.tool(ask={"before": Form("Before?", Approval), "page": Link("Log in", "https://a.example")})
    def ask(ctx: TaskContext) -> list[object]:
        paid = ctx.elicit_url("Pay", "https://pay.example/1")
        said = ctx.sample("Say something", max_tokens=5).text
        roots = [root.uri for root in ctx.list_roots()]
        try:
            ctx.elicit("Angry?", Approval, name="last")
        except ClientError as error:
            return [ctx.answers["before"].publish, ctx.answers["page"], paid, said, roots, error.code]
        return []

    answers: dict[str, Answer] = {"before": {"publish": False}, "page": True}
    run = ToolRun(service, "ask", answers=answers)
    assert (run.questions["link"].kind, run.questions["link"].url) == ("url", "https://pay.example/1")
    run.answer("link", True)
    run.answer("sample", ModelReply("Hello", model="some-model"))
    run.answer("roots", [Root("file:///home/ann")])
    run.answer("last", ClientError(-5, "No!"))

    assert run.result == [False, True, True, "Hello", ["file:///home/ann"], -5]
    with pytest.raises(RunError, match=r"asks 'before' before its task: give answers=\{'before': ...\}"):
        ToolRun(service, "ask")


def test_several_questions_are_answered_in_one_request() -> None:
    service = TaskService("Tests", settings=Settings(redis_url=None))

    @service.tool()
    def ask(ctx: TaskContext) -> int:
        return len(ctx.elicit_all({"a": Form("A?", Approval), "b": Form("B?", Approval)}))

    run = ToolRun(service, "ask")
    run.answer_all({"a": Declined(), "b": Declined()})

    assert (run.result, run.attempts) == (2, 2)


def test_a_client_that_cannot_be_asked_fails_the_task(service: TaskService) -> None:
    run = ToolRun(service, "publish", {"scene": "forest"}, client_can=())

    assert run.failure is not None and run.failure.kind is FailureKind.CLIENT_CANNOT


def test_an_authors_error_is_what_the_caller_reads(service: TaskService) -> None:
    run = ToolRun(service, "refuse")

    assert (run.is_error, run.error, run.text) == (True, *["There is no such scene."] * 2)
    with pytest.raises(NoResult, match=r"Its caller reads an error: There is no such scene."):
        run.result  # noqa: B018
    assert run.call_result("2025-11-25")["isError"]


def test_what_a_tool_raised_is_told_to_the_test_and_to_no_client(service: TaskService) -> None:
    run = ToolRun(service, "break_down")

    assert run.error is not None and "secret" not in run.error
    assert isinstance(run.exception, ZeroDivisionError)
    with pytest.raises(NoResult, match="It raised ZeroDivisionError: a secret") as told:
        run.result  # noqa: B018
    assert told.value.__cause__ is run.exception


def test_a_tool_that_yields_raises_while_its_items_are_read(service: TaskService) -> None:
    @service.tool()
    def listed(names: list[str]) -> Iterator[str]:
        for name in names:
            yield name.upper()
            raise KeyError(name)

    assert ToolRun(service, "listed", {"names": []}).result == []
    assert isinstance(ToolRun(service, "listed", {"names": ["a"]}).exception, KeyError)


def test_a_failed_task_has_its_failure_and_no_result(service: TaskService) -> None:
    run = ToolRun(service, "fail")

    assert run.failure is not None
    assert (run.failure.code, run.failure.data, run.error) == (4001, '{"days":3}', "The licence has run out.")
    with pytest.raises(NoResult, match=r"Its task failed \(author\): The licence has run out."):
        run.call_result()


def test_a_cancelled_task_runs_no_more(service: TaskService) -> None:
    run = ToolRun(service, "publish", {"scene": "forest"})

    run.cancel()

    assert (run.status, run.attempts) == (TaskStatus.CANCELLED, 1)
    with pytest.raises(NoResult, match="Its task is cancelled"):
        run.text  # noqa: B018


def test_bad_calls_are_refused_before_anything_runs(service: TaskService) -> None:
    with pytest.raises(InvalidArguments):
        ToolRun(service, "double", {"number": "many"})
    with pytest.raises(UnknownTool):
        ToolRun(service, "triple")


def test_progress_and_log_messages_are_seen_all_of_them(service: TaskService) -> None:
    run = ToolRun(service, "publish", {"scene": "forest"}, answers={"approval": Declined()})

    assert run.logs == (Logged("info", "begins", "publisher"),) * 3
    assert [progress.message for progress in run.all_progress] == ["asked", "asked"]
    assert run.progress == run.all_progress[-1]
    assert run.status_message is None


def test_announcements_of_a_tool_reach_the_test_and_no_redis(service: TaskService) -> None:
    @service.tool()
    def restock(ctx: TaskContext) -> None:
        ctx.step("announce", service.announce, "tools")

    @service.tool()
    async def recount(ctx: AsyncTaskContext) -> None:
        await asyncio.to_thread(service.announce_resource, "shop://stock/42")

    listed, read = ToolRun(service, "restock"), ToolRun(service, "recount")

    assert (listed.has_announced("tools"), listed.has_announced("prompts")) == (True, False)
    assert read.has_announced_resource("shop://stock/42")
    assert not read.has_announced_resource("shop://stock/43")


def test_both_revisions_are_shown_what_they_know() -> None:
    service = TaskService("Tests", settings=Settings(redis_url=None))

    @service.tool()
    def listed() -> list[int]:
        return [1, 2]

    @service.tool()
    def perhaps() -> int | None:
        return 7

    @service.tool()
    def drawn() -> list[str | Image]:
        return ["A chart:", Image(data=b"png")]

    assert ToolRun(service, "listed").call_result()["structuredContent"] == [1, 2]
    assert ToolRun(service, "listed").call_result("2025-11-25")["structuredContent"] == {"result": [1, 2]}
    assert ToolRun(service, "perhaps").call_result()["structuredContent"] == {"result": 7}
    assert ToolRun(service, "drawn").result == ToolRun(service, "drawn").text == "A chart:"


async def _both_kinds(ctx: AsyncTaskContext) -> str:
    answer = await ctx.elicit("Go on?", Approval)
    await ctx.sleep(60)
    return await ctx.step("told", type(answer).__name__.upper)


def test_an_async_tool_asks_sleeps_and_has_steps_also_within_a_loop(service: TaskService) -> None:
    service.tool(name="both")(_both_kinds)

    async def within() -> Any:
        return ToolRun(service, "both", answers={"question": Declined()}).result

    assert asyncio.run(within()) == "DECLINED"


def test_a_sync_tool_starts_no_thread(service: TaskService) -> None:
    before = set(threading.enumerate())

    ToolRun(service, "publish", {"scene": "forest"}, answers={"approval": Declined()})

    assert set(threading.enumerate()) <= before  # one of another test may have ended meanwhile


def test_what_a_fake_fails_on_purpose_fails_the_test(service: TaskService) -> None:
    @service.tool()
    def calls_a_fake() -> str:
        pytest.fail("this must not be called")

    with pytest.raises(pytest.fail.Exception, match="must not be called"):
        ToolRun(service, "calls_a_fake")


def test_the_limits_of_the_service_apply() -> None:
    service = TaskService("Tests", settings=Settings(redis_url=None, max_result=1024))

    @service.tool()
    def large() -> str:
        return "x" * 2000

    failure = ToolRun(service, "large").failure
    assert failure is not None and failure.kind is FailureKind.RESULT_LIMIT


def test_an_exposed_celery_task_of_a_shops_own_app_runs_too() -> None:
    shop = Celery("shop", broker="memory://")

    @shop.task(name="shop.multiply", bind=True)
    def multiply(self: Any, first: int, second: int) -> dict[str, Any]:
        self.update_state(meta={"current": 1, "total": 2})
        consent = current_context().elicit("Multiply?", Approval)
        return {"product": first * second if isinstance(consent, Approval) else 0}

    service = TaskService("Shop", celery=shop, settings=Settings(redis_url=None))
    service.expose("shop.multiply")

    run = ToolRun(service, "multiply", {"first": 2, "second": 3})
    run.accept("question", publish=True)

    assert run.result == {"product": 6}
    assert run.progress is not None and run.progress.total == 2


def test_an_exception_that_the_tool_retries_is_tried_again(service: TaskService) -> None:
    @service.tool(retry=RetryPolicy(on=(ConnectionError,)), max_attempts=2)
    async def fetch(ctx: AsyncTaskContext) -> str:
        if ctx.claims == 1:
            raise ConnectionError
        return f"fetched in attempt {ctx.claims}"

    run = ToolRun(service, "fetch")

    assert run.result == "fetched in attempt 2"
    assert isinstance(run.exception, ConnectionError)
