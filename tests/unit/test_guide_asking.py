"""Every example of the guide "Asking a human", run as the guide says that it runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks_service import (
    Cancelled,
    ClientCannot,
    ConfigurationError,
    Declined,
    Form,
    ModelReply,
    Root,
    TaskContext,
    TaskService,
)
from tasks_service.domain.limits import DEFAULT_LIMITS
from tasks_service.domain.task import Policy
from tasks_service.testing import Answer, Crash, NotDeterministic, ToolRun

GUIDE = Path(__file__).parents[2] / "docs/guide-asking.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def trips() -> Mapping[str, Any]:
    """The module that the examples are together."""
    module: dict[str, Any] = {"__name__": "acme.trips"}
    for number, example in enumerate(EXAMPLES):
        code = compile(example, f"{GUIDE.name}, example {number + 1}", "exec", dont_inherit=True)
        exec(code, module)
    return module


def run(trips: Mapping[str, Any], tool: str, arguments: Mapping[str, Any], **options: Any) -> ToolRun:
    return ToolRun(trips["service"], tool, arguments, **options)


FLIGHT = {"flight": "AB1"}


def test_the_first_question(trips: Mapping[str, Any]) -> None:
    reserve = run(trips, "reserve", FLIGHT)
    assert set(reserve.questions) == {"question"}
    reserve.accept("question", seat="window", meal=True)
    assert reserve.result == "Reserved: window, with a meal."


@pytest.mark.parametrize("answer", [Declined(), Cancelled()])
def test_a_person_who_gives_no_answer(trips: Mapping[str, Any], answer: Answer) -> None:
    assert run(trips, "reserve", FLIGHT, answers={"question": answer}).result == "No seat was reserved."


def test_a_model_may_answer_only_what_the_author_says(trips: Mapping[str, Any]) -> None:
    wall = {"wall": "left"}
    paint = run(trips, "paint", wall, client_can=["model"])
    paint.accept("question", seat="window")
    assert paint.result == "Painted behind the window seat."
    assert isinstance(run(trips, "reserve", FLIGHT, client_can=["model"]).exception, ClientCannot)
    assert isinstance(run(trips, "paint", wall, client_can=()).exception, ClientCannot)


def test_a_client_that_cannot_be_asked(trips: Mapping[str, Any]) -> None:
    failure = run(trips, "reserve", FLIGHT, client_can=()).failure
    assert failure is not None
    assert (failure.kind, failure.data) == ("client_cannot", '{"needs": "form"}')


def test_deadlines_and_defaults(trips: Mapping[str, Any]) -> None:
    choose = run(trips, "choose", FLIGHT)
    choose.clock.advance(timedelta(hours=12))
    assert choose.result == "aisle"


def test_several_questions_at_once(trips: Mapping[str, Any]) -> None:
    check_in = run(trips, "check_in", FLIGHT)
    assert set(check_in.questions) == {"who", "where"}
    check_in.accept("where", seat="window")
    assert (check_in.status, check_in.attempts) == ("input_required", 1)
    check_in.accept("who", name="Ann")
    assert check_in.result == "Ann: window"


def test_a_page_instead_of_a_form(trips: Mapping[str, Any]) -> None:
    pay = run(trips, "pay", {"booking": "B7"}, client_can=["url"])
    assert pay.questions["link"].url == "https://pay.example/B7"
    pay.answer("link", True)
    assert pay.result == "The person has gone to pay."


def test_questions_before_the_task(trips: Mapping[str, Any]) -> None:
    assert run(trips, "book", FLIGHT, answers={"passenger": {"name": "Ann"}}).result == "Booked AB1 for Ann."


def test_the_runs_of_the_picture(trips: Mapping[str, Any]) -> None:
    buy = run(trips, "buy", FLIGHT, sleep_at_once=False)
    assert buy.steps == {"price": 120}
    assert buy.questions["question"].message == "AB1 costs 120. Buy it?"
    buy.accept("question", agreed=True)
    assert (buy.status, buy.attempts) == ("working", 2)
    assert buy.due == buy.clock.now + timedelta(minutes=30)
    buy.clock.advance(timedelta(minutes=30))
    assert buy.result.endswith("for 120")
    assert (buy.attempts, list(buy.steps)) == (3, ["price", "charge"])


def test_after_a_crash_inside_a_step_the_step_runs_again(trips: Mapping[str, Any]) -> None:
    crash = Crash(before_recording="charge")
    buy = ToolRun(trips["service"], "buy", FLIGHT, crash, answers={"question": {"agreed": True}})
    assert buy.result == f"receipt {buy.task_id[:4]} for 120"


def test_a_step_with_a_policy(trips: Mapping[str, Any]) -> None:
    assert run(trips, "fetch_rates", {"currency": "EUR"}).result == 1.08


def test_async_branches(trips: Mapping[str, Any]) -> None:
    family = run(trips, "family", {"names": ["Ann", "Bob"]})
    assert set(family.questions) == {"seat of Ann", "seat of Bob"}
    family.accept("seat of Bob", seat="window")
    family.accept("seat of Ann", seat="aisle")
    assert family.result == ["aisle", "window"]


def test_changing_a_tool_while_tasks_wait(trips: Mapping[str, Any]) -> None:
    changed = TaskService("Acme trips")

    @changed.tool(name="buy")
    def ask_for_seats(flight: str, ctx: TaskContext) -> None:
        ctx.step("seats", lambda: 3)

    buy = run(trips, "buy", FLIGHT)
    buy.deploy(changed)
    with pytest.raises(NotDeterministic, match=r"before: step 'price'.*\n  now:    step 'seats'") as told:
        buy.accept("question", agreed=True)
    failed = "entry 0 is step 'price', but the tool now comes to step 'seats'"
    assert failed in str(told.value.__cause__)
    assert buy.failure is not None and failed in buy.failure.message


def test_a_celery_task_that_exists_already(trips: Mapping[str, Any]) -> None:
    assert trips["refund"].run("B7") == "Refunded B7."
    refund = run(trips, "refund", {"booking": "B7"})
    refund.accept("question", agreed=True)
    assert refund.result == "Refunded B7."


def test_the_clients_model_and_roots(trips: Mapping[str, Any]) -> None:
    answers = {"sample": ModelReply("Come!", model="some-model"), "roots": [Root("file:///home/ann")]}
    slogan = run(trips, "slogan", {"place": "Rome"}, client_can=["sampling", "roots"], answers=answers)
    assert slogan.result == "Come! (1 roots)"


def test_the_guide_says_which_fields_cannot_be_asked() -> None:
    service = TaskService("Acme")
    nested = {"type": "object", "properties": {"a": {"type": "object"}}}
    with pytest.raises(ConfigurationError, match="'a'"):
        service.tool(ask={"x": Form("?", nested)})(lambda: None)


def test_the_limits_are_those_of_the_code() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    limits = DEFAULT_LIMITS
    assert f"open at once | {limits.open_inputs} |" in text
    assert limits.answers_bytes == limits.variables_bytes == 64 * 1024
    assert f"| {limits.journal_entries:,}, and {limits.journal_bytes // 1024**2} MiB together |" in text
    assert timedelta(days=7).total_seconds() * 1000 == Policy().question_ms
