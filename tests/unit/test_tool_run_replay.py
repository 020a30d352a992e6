"""`tasks_service.testing`: tools that make other calls when they run again are found."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import uuid
import warnings
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tasks_service import AsyncTaskContext, Declined, Settings, TaskContext, TaskService, ToolError
from tasks_service.testing import NotDeterministic, NotInAStep, RunError, ToolRun


class Consent(BaseModel):
    agreed: bool


def service_of(tool: Callable[..., Any]) -> TaskService:
    service = TaskService("Tests", settings=Settings(redis_url=None))
    service.tool(name="tool")(tool)
    return service


def run(tool: Callable[..., Any], **options: Any) -> ToolRun:
    return ToolRun(service_of(tool), "tool", **options)


class Changing:
    """Something outside of a tool that is another each time it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def number(self) -> int:
        self.asked += 1
        return self.asked


def other_arguments(ctx: TaskContext) -> None:
    prize = random.random()
    ctx.step("draw", str, prize)


CASES: dict[str, tuple[Callable[[TaskContext, Changing], object], str, str]] = {
    "another name of a step": (
        lambda ctx, outside: ctx.step(f"part {outside.number()}", lambda: 1),
        "step 'part 1', called with ()",
        "step 'part 2', called with ()",
    ),
    "other arguments of a step": (
        lambda ctx, outside: ctx.step("price", lambda article, n: n, "book", n=outside.number()),
        "step 'price', called with (\"book\", n=1)",
        "step 'price', called with (\"book\", n=2)",
    ),
    "another text of a question": (
        lambda ctx, outside: ctx.elicit(f"It costs {outside.number()}. Buy?", Consent),
        "question 'question', 'It costs 1. Buy?'",
        "question 'question', 'It costs 2. Buy?'",
    ),
    "another schema of a question": (
        lambda ctx, outside: ctx.elicit(
            "?", {"type": "object", "properties": {f"p{outside.number()}": {"type": "string"}}}
        ),
        '"p1"',
        '"p2"',
    ),
    "another question": (
        lambda ctx, outside: ctx.elicit("?", Consent, name=f"q{outside.number()}"),
        "question 'q1'",
        "question 'q2'",
    ),
    "a question instead of a sleep": (
        lambda ctx, outside: ctx.sleep(60) if outside.number() == 1 else ctx.elicit("?", Consent),
        "sleep 'sleep'",
        "question 'question'",
    ),
    "a sleep of another name": (
        lambda ctx, outside: ctx.sleep(60, name=f"nap {outside.number()}"),
        "sleep 'nap 1'",
        "sleep 'nap 2'",
    ),
    "a step that is new": (
        lambda ctx, outside: (outside.number() > 1 and ctx.step("new", lambda: 1), ctx.sleep(60)),
        "sleep 'sleep'",
        "step 'new', called with ()",
    ),
    "an end before the sleep": (
        lambda ctx, outside: ctx.sleep(60) if outside.number() == 1 else None,
        "sleep 'sleep'",
        "the tool returns",
    ),
    "an end before a step": (
        lambda ctx, outside: ctx.step("once", lambda: 1) if outside.number() == 1 else None,
        "step 'once', called with ()",
        "the end of the tool",
    ),
}


def _number_of(case: str) -> Callable[[TaskContext], None]:
    outside, (calls, _, _) = Changing(), CASES[case]

    def tool(ctx: TaskContext) -> None:
        calls(ctx, outside)

    return tool


@pytest.mark.parametrize("case", CASES)
def test_what_was_before_and_what_came_now_is_told(case: str) -> None:
    _, before, now = CASES[case]

    with pytest.raises(NotDeterministic) as found:
        run(_number_of(case))

    lines = str(found.value).splitlines()
    assert before in lines[1] and lines[1].startswith("  before: ")
    assert now in lines[2] and lines[2].startswith("  now:    ")
    assert "a file, a database" in str(found.value)


def test_steps_in_another_order_are_told_without_saying_that_one_raised() -> None:
    outside = Changing()

    def tool(ctx: TaskContext) -> None:
        for name in ["one", "two"] if outside.number() == 1 else ["two", "one"]:
            ctx.step(name, lambda: 1)

    with pytest.raises(NotDeterministic, match=r"(?s)before: step 'one'.*now:    step 'two'") as found:
        run(tool)
    assert "raised" not in str(found.value)


def test_an_exception_instead_of_the_recorded_call_is_told() -> None:
    outside = Changing()

    def tool(ctx: TaskContext) -> None:
        if outside.number() > 1:
            raise ToolError("It is gone.")
        ctx.step("once", lambda: 1)

    with pytest.raises(NotDeterministic, match=r"now:    the tool raises ToolError: It is gone."):
        run(tool)


def test_what_to_write_instead_of_a_draw_is_told() -> None:
    with pytest.raises(NotDeterministic) as found:
        run(other_arguments)

    assert "test_tool_run_replay.py" in str(found.value)
    assert '  prize = ctx.step("prize", lambda: random.random())' in str(found.value)


ADVICE = {
    'prize = ctx.step("prize", lambda: random.choice(["a", "b"]))': 'prize: str = random.choice(["a", "b"])',
    'uuid4 = ctx.step("uuid4", lambda: uuid.uuid4())': "assert uuid.uuid4()",
    'name = ctx.step("name", lambda: f"{uuid.uuid4()}.txt")': 'name = f"{uuid.uuid4()}.txt"',
    "def take_until() -> datetime: return datetime.now(tz=None) + timedelta(days=7)": (
        "until = datetime.now(tz=None) + timedelta(days=7)"
    ),
    "def take_now() -> datetime: return datetime.now(tz=None)": (
        "while datetime.now(tz=None).year < 5:\n        pass"
    ),
    'day = ctx.step("day", lambda: datetime.now().isoformat())': "day = datetime.now().isoformat()",
    'choice = ctx.step("choice", lambda: random.choice())': 'names = [\n        random.choice("ab")]',
}
"""What to write instead, by the line that is written."""


@pytest.mark.parametrize("advice", ADVICE)
def test_the_advice_is_made_of_the_authors_own_line(tmp_path: Path, advice: str) -> None:
    module = tmp_path / "acme.py"
    module.write_text(
        "import random, uuid\nfrom datetime import datetime, timedelta\n"
        f"def tool(ctx):\n    {ADVICE[advice]}\n    ctx.sleep(60)\n"
    )
    names: dict[str, Any] = {"TaskContext": TaskContext}
    exec(compile(module.read_text(), str(module), "exec"), names)
    names["tool"].__annotations__["ctx"] = TaskContext

    with pytest.warns(NotInAStep) as told:
        run(names["tool"])

    assert advice in str(told[0].message)


def test_what_to_write_instead_in_an_async_tool_is_told() -> None:
    async def tool(ctx: AsyncTaskContext) -> None:
        name = uuid.uuid4()
        await ctx.elicit(f"Is it {name}?", Consent)

    with pytest.raises(NotDeterministic, match=r'name = await ctx.step\("name", lambda: uuid.uuid4\(\)\)'):
        run(tool)


def test_a_step_that_raised_and_was_caught_is_told_how_to_return_its_error() -> None:
    def tool(ctx: TaskContext) -> None:
        try:
            ctx.step("fetch", lambda: 1 / 0)
        except ZeroDivisionError:
            ctx.elicit("It failed. Go on?", Consent)

    with pytest.raises(NotDeterministic, match="step 'fetch' raised an exception, which is not recorded"):
        run(tool)


def test_what_changes_between_two_attempts_is_found_in_the_next() -> None:
    prices = {"book": 20}

    def tool(ctx: TaskContext) -> None:
        if prices["book"] > 20:
            ctx.step("discount", lambda: 5)
        ctx.elicit("Buy?", Consent)

    waiting = run(tool)
    prices["book"] = 30
    with pytest.raises(NotDeterministic, match="before: question 'question', with the schema") as found:
        waiting.accept("question", agreed=True)
    assert "now:    step 'discount'" in str(found.value)


def test_a_newer_release_takes_over_and_its_other_calls_are_told() -> None:
    def tool(ctx: TaskContext) -> str:
        ctx.elicit("Buy?", Consent)
        return "old"

    def same_calls(ctx: TaskContext) -> str:
        ctx.elicit("Will you buy it?", Consent)
        return "new"

    def other_calls(ctx: TaskContext) -> str:
        ctx.sleep(60, name="first")
        return "new"

    going_on, stuck = run(tool), run(tool)
    going_on.deploy(service_of(same_calls))
    going_on.decline("question")
    assert going_on.result == "new"
    stuck.deploy(service_of(other_calls))
    with pytest.raises(NotDeterministic, match="now:    sleep 'first'"):
        stuck.decline("question")


def test_a_tool_that_reads_a_clock_outside_of_a_step_is_warned_of_at_its_own_line() -> None:
    def tool(ctx: TaskContext) -> None:
        today = datetime.now()
        if today.year > 2000:
            ctx.sleep(60)

    with pytest.warns(NotInAStep, match=r"calls datetime.now\(\) outside of a step") as told:
        run(tool)

    assert len(told) == 1, "once a place, though it is replayed after each attempt"
    assert told[0].filename == __file__
    advice = 'def take_today() -> datetime: return datetime.now() today = ctx.step("today", take_today)'
    assert advice in str(told[0].message)


def test_clocks_in_steps_in_libraries_and_after_the_last_call_are_no_concern() -> None:
    def now() -> datetime:
        return datetime.now()

    def tool(ctx: TaskContext) -> str:
        logging.getLogger("acme").warning("a record has a time")
        drawn = random.Random(5).choice([1, 2])
        moment = ctx.step("now", now)
        random.random()
        return f"{drawn} {moment.year} {datetime.now()}"

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(tool).status == "completed"


def test_a_library_that_draws_is_no_concern(tmp_path: Path) -> None:
    library = tmp_path / "dist-packages" / "library.py"
    names: dict[str, Any] = {"__name__": "library"}
    exec(compile("import uuid\ndef draw(): return uuid.uuid4()", str(library), "exec"), names)

    def tool(ctx: TaskContext) -> None:
        names["draw"]()
        ctx.sleep(60)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(tool).status == "completed"


def test_a_replay_stops_at_the_last_recorded_call_and_runs_no_step() -> None:
    done: list[str] = []

    def tool(ctx: TaskContext) -> None:
        done.append("above")
        ctx.step("step", done.append, "in the step")
        done.append("below")

    run(tool)

    assert done == ["above", "in the step", "below", "above"]


def test_a_tool_without_recorded_calls_runs_once() -> None:
    done: list[str] = []

    def tool(ctx: TaskContext) -> None:
        ctx.progress(1)
        done.append("done")

    run(tool)

    assert done == ["done"]


def test_replays_leave_no_reports_and_are_not_counted() -> None:
    def tool(ctx: TaskContext) -> None:
        ctx.info("begins")
        ctx.progress(1)
        ctx.sleep(60)

    made = run(tool)

    assert (made.attempts, len(made.logs), len(made.all_progress)) == (2, 2, 2)


def test_replays_can_be_switched_off() -> None:
    assert run(other_arguments, replay=False).status == "completed"


def test_a_tool_that_depends_on_the_number_of_its_attempt_is_found() -> None:
    def tool(ctx: TaskContext) -> None:
        ctx.step("fetch", str, ctx.claims)

    with pytest.raises(NotDeterministic, match=r"called with \(2\)"):
        run(tool)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_tool_that_swallows_the_end_of_its_run_is_told(is_async: bool) -> None:
    def tool(ctx: TaskContext) -> str:
        try:
            ctx.sleep(60)
        except BaseException:
            return "swallowed"
        return "slept"

    async def async_tool(ctx: AsyncTaskContext) -> str:
        try:
            await ctx.sleep(60)
        except BaseException:
            return "swallowed"
        return "slept"

    with pytest.raises(RunError, match="catches the end of its run"):
        run(async_tool if is_async else tool)


def test_branches_may_come_in_another_order_and_be_in_the_middle_of_steps() -> None:
    turns = Changing()

    async def tool(names: list[str], ctx: AsyncTaskContext) -> list[str]:
        async def branch(name: str) -> str:
            for _ in range(turns.number() % 3):
                await asyncio.sleep(0)
            await ctx.step(f"measure {name}", len, name)
            answer = await ctx.elicit(f"And {name}?", Consent, name=name)
            await ctx.sleep(timedelta(hours=len(name)), name=f"after {name}")
            return type(answer).__name__

        return await asyncio.gather(*map(branch, names))

    answers = {"Ann": Declined(), "Roberta": Declined()}
    made = run(tool, arguments={"names": ["Ann", "Roberta"]}, answers=answers)

    assert made.result == ["Declined", "Declined"]


def test_an_async_branch_that_fails_beside_another_is_no_difference() -> None:
    async def tool(ctx: AsyncTaskContext) -> str:
        async def fails() -> None:
            await ctx.step("fails", lambda: 1 / 0)

        await ctx.step("first", lambda: 1)
        await asyncio.gather(fails(), ctx.step("works", lambda: 2), return_exceptions=True)
        return "done"

    assert run(tool).result == "done"


def test_a_profiler_that_measures_the_test_is_left_alone() -> None:
    def profiler(*_: object) -> None: ...

    sys.setprofile(profiler)
    try:
        run(lambda_sleep)
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)
    run(lambda_sleep)
    assert sys.getprofile() is None


def lambda_sleep(ctx: TaskContext) -> None:
    ctx.sleep(60)
