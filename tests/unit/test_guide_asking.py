"""Every example of the guide "Asking a human", run as the guide says that it runs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks_service import AsyncTaskContext, ClientCannot, ConfigurationError, Form, TaskContext, TaskService
from tasks_service.domain.errors import HistoryMismatch, Parked
from tasks_service.domain.limits import DEFAULT_LIMITS
from tasks_service.domain.task import ClientCapability, Phase
from tasks_service.durable.context import running_in
from tests.unit.replay import Life, until_parked

GUIDE = Path(__file__).parents[2] / "docs/guide-asking.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
HOUR = 3_600_000


@pytest.fixture(scope="module")
def trips() -> Mapping[str, Any]:
    """The module that the examples are together."""
    module: dict[str, Any] = {"__name__": "acme.trips"}
    for number, example in enumerate(EXAMPLES):
        code = compile(example, f"{GUIDE.name}, example {number + 1}", "exec", dont_inherit=True)
        exec(code, module)
    return module


@pytest.fixture
def life() -> Life:
    return Life()


def run(life: Life, tool: Any, *args: Any, **options: Any) -> Any:
    """One run of a sync tool; None if it waits now."""
    attempt = life.attempt(**options)
    try:
        with running_in(TaskContext(attempt)):
            value = tool(*args, TaskContext(attempt))
    except Parked:
        return None
    attempt.journal.finish()
    return value


def test_the_first_question(trips: Mapping[str, Any], life: Life) -> None:
    assert run(life, trips["reserve"], "AB1") is None
    assert life.asked == {"question"}
    life.accept("question", seat="window", meal=True)
    assert run(life, trips["reserve"], "AB1") == "Reserved: window, with a meal."


@pytest.mark.parametrize("action", ["decline", "cancel"])
def test_a_person_who_gives_no_answer(trips: Mapping[str, Any], life: Life, action: str) -> None:
    run(life, trips["reserve"], "AB1")
    life.answer({"question": {"action": action}})
    assert run(life, trips["reserve"], "AB1") == "No seat was reserved."


def test_a_model_may_answer_only_what_the_author_says(trips: Mapping[str, Any]) -> None:
    life = Life(capabilities=[ClientCapability.MODEL])
    assert run(life, trips["paint"], "left") is None
    life.accept("question", seat="window")
    assert run(life, trips["paint"], "left") == "Painted behind the window seat."
    with pytest.raises(ClientCannot):
        run(Life(capabilities=[ClientCapability.MODEL]), trips["reserve"], "AB1")
    with pytest.raises(ClientCannot):
        run(Life(capabilities=[]), trips["paint"], "left")


def test_a_client_that_cannot_be_asked(trips: Mapping[str, Any]) -> None:
    with pytest.raises(ClientCannot):
        run(Life(capabilities=[]), trips["reserve"], "AB1")


def test_deadlines_and_defaults(trips: Mapping[str, Any], life: Life) -> None:
    run(life, trips["choose"], "AB1")
    life.now_ms += 12 * HOUR + 1
    assert run(life, trips["choose"], "AB1") == "aisle"


def test_several_questions_at_once(trips: Mapping[str, Any], life: Life) -> None:
    run(life, trips["check_in"], "AB1")
    assert life.asked == {"who", "where"}
    life.accept("where", seat="window")
    assert life.phase is Phase.PARKED
    life.accept("who", name="Ann")
    assert run(life, trips["check_in"], "AB1") == "Ann: window"


def test_a_page_instead_of_a_form(trips: Mapping[str, Any]) -> None:
    life = Life(capabilities=[ClientCapability.URL])
    run(life, trips["pay"], "B7")
    life.answer({"link": {"action": "accept"}})
    assert run(life, trips["pay"], "B7") == "The person has gone to pay."


def test_questions_before_the_task(trips: Mapping[str, Any]) -> None:
    ask = trips["service"].tools["book"].ask
    life = Life(ask=ask, given={"passenger": {"action": "accept", "content": {"name": "Ann"}}})
    assert run(life, trips["book"], "AB1", ask=ask) == "Booked AB1 for Ann."


def test_the_runs_of_the_picture(trips: Mapping[str, Any], life: Life) -> None:
    assert run(life, trips["buy"], "AB1") is None
    assert [entry.value for entry in life.journal] == ["120"]
    assert json.loads(life.task.inputs["question"].request)["message"] == "AB1 costs 120. Buy it?"
    life.accept("question", agreed=True)
    assert run(life, trips["buy"], "AB1") is None
    assert life.phase is Phase.PENDING
    assert life.task.due_ms - life.now_ms == pytest.approx(HOUR / 2, abs=1000)
    life.now_ms += HOUR
    assert run(life, trips["buy"], "AB1").endswith("for 120")
    assert life.task.claims == 3
    assert life.task.attempts == 1


def test_a_step_with_a_policy(trips: Mapping[str, Any], life: Life) -> None:
    assert run(life, trips["fetch_rates"], "EUR") == 1.08


def test_async_branches(trips: Mapping[str, Any], life: Life) -> None:
    names = ["Ann", "Bob"]
    asyncio.run(until_parked(life.attempt(is_async=True), lambda ctx: trips["family"](names, ctx)))
    assert life.asked == {"seat of Ann", "seat of Bob"}
    life.accept("seat of Bob", seat="window")
    life.accept("seat of Ann", seat="aisle")
    context = AsyncTaskContext(life.attempt(is_async=True))
    assert asyncio.run(trips["family"](names, context)) == ["aisle", "window"]


def test_changing_a_tool_while_tasks_wait(trips: Mapping[str, Any], life: Life) -> None:
    run(life, trips["buy"], "AB1")
    life.accept("question", agreed=True)

    def changed(flight: str, ctx: TaskContext) -> None:
        ctx.step("seats", lambda: 3)

    with pytest.raises(
        HistoryMismatch, match=r"entry 0 is step 'price', but the tool now comes to step 'seats'"
    ):
        run(life, changed, "AB1")


def test_a_celery_task_that_exists_already(trips: Mapping[str, Any], life: Life) -> None:
    refund = trips["refund"].run

    def exposed(_: TaskContext) -> str:
        result: str = refund("B7")
        return result

    assert refund("B7") == "Refunded B7."
    assert run(life, exposed) is None
    life.accept("question", agreed=True)
    assert run(life, exposed) == "Refunded B7."
    assert "refund" in trips["service"].tools


def test_the_clients_model_and_roots(trips: Mapping[str, Any]) -> None:
    life = Life(capabilities=[ClientCapability.SAMPLING, ClientCapability.ROOTS])
    run(life, trips["slogan"], "Rome")
    said = {"role": "assistant", "content": {"type": "text", "text": "Come!"}, "model": "some-model"}
    life.answer({"sample": said})
    run(life, trips["slogan"], "Rome")
    life.answer({"roots": {"roots": [{"uri": "file:///home/ann"}]}})
    assert run(life, trips["slogan"], "Rome") == "Come! (1 roots)"


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
    assert timedelta(days=7).total_seconds() * 1000 == Life().task.policy.question_ms
