"""The service that the official conformance suite is run against; only the public API is used.

Names, arguments and timing of the tools are those that the suite's scenarios call for.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from tasks_service import Cancelled, Declined, Form, ProtocolError, TaskContext, TaskService, ToolError

service = TaskService("Conformance fixture", version="1.0.0")
app = service.celery

PAUSE = 0.05
"""Seconds between two looks whether a sleeping tool is to stop."""

QUICK = timedelta(milliseconds=200)


class Name(BaseModel):
    name: str


class Ok(BaseModel):
    ok: bool


class Confirmation(BaseModel):
    confirm: bool


@service.tool(task="forbidden")
def greet(name: str) -> str:
    """Say hello."""
    return f"Hello, {name}!"


@service.tool(poll_interval=QUICK)
def slow_compute(seconds: float, ctx: TaskContext, label: str = "") -> str:
    """Take some seconds."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        ctx.check()
        time.sleep(min(left, PAUSE))
    return f"{label or 'computed'} after {seconds:g} s"


@service.tool(task="required", poll_interval=QUICK)
def failing_job(ctx: TaskContext) -> str:
    """Fail after a second, with the author's own sentence."""
    for _ in ctx.track(range(20), "about to fail"):
        time.sleep(PAUSE)
    raise ToolError("The job failed, as it always does.")


@service.tool(poll_interval=QUICK)
def protocol_error_job() -> str:
    """Fail with a JSON-RPC error."""
    raise ProtocolError(-32050, "The job broke off.", {"reason": "by design"})


@service.tool(poll_interval=QUICK)
def confirm_delete(filename: str, ctx: TaskContext) -> str:
    """Ask before a file is deleted."""
    answer = ctx.elicit(f"Really delete {filename}?", Confirmation)
    if isinstance(answer, Declined | Cancelled) or not answer.confirm:
        return f"{filename} is kept."
    return f"{filename} is deleted."


@service.tool(poll_interval=QUICK)
def multi_input(ctx: TaskContext) -> str:
    """Ask two things at once."""
    answers = ctx.elicit_all({"name": Form("Who are you?", LOOSE), "confirm": Form("Go on?", LOOSE)})
    return f"Answered: {_content(answers['name'])}, {_content(answers['confirm'])}"


@service.tool(task="required", poll_interval=QUICK, ask={"user_name": Form("What is your name?", Name)})
def test_tool_with_task(ctx: TaskContext) -> str:
    """Ask for a name before there is a task."""
    answer = ctx.answers["user_name"]
    return f"Hello, {answer.name}!" if isinstance(answer, Name) else "Hello, whoever you are!"


@service.tool(ask={"user_name": Form("What is your name?", Name)})
def test_input_required_result_elicitation(ctx: TaskContext) -> str:
    """Ask for a name before anything runs."""
    return f"Hello, {_content(ctx.answers['user_name'])}!"


@service.tool(ask={"confirm": Form("Please confirm", Ok)})
def test_input_required_result_request_state(ctx: TaskContext) -> str:
    """Come here only with a state that was verified."""
    return f"state-ok: {_content(ctx.answers['confirm'])}"


@service.tool(ask={"confirm": Form("Please confirm", Ok)})
def test_input_required_result_tampered_state(ctx: TaskContext) -> str:
    """Never come here with a state that was changed."""
    return _content(ctx.answers["confirm"])


@service.tool(poll_interval=QUICK)
def noop(x: int) -> int:
    """Give back what came."""
    return x


@service.tool(poll_interval=QUICK)
def ask(ctx: TaskContext) -> str:
    """Ask once."""
    return f"Answered: {_content(ctx.elicit('What is your name?', Name))}"


@service.tool(poll_interval=QUICK)
def two_rounds(ctx: TaskContext) -> str:
    """Ask twice, one after the other."""
    first = ctx.elicit("What is your name?", Name, name="first")
    second = ctx.elicit("And your other name?", Name, name="second")
    return f"Answered: {_content(first)}, {_content(second)}"


@service.tool(poll_interval=QUICK)
def visit(ctx: TaskContext) -> str:
    """Ask for a visit to a page."""
    return "went" if ctx.elicit_url("Please read the terms.", "https://terms.example/1") is True else "stayed"


LOOSE: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "confirm": {"type": "boolean"}},
}
"""The suite answers every question with the same two properties, whichever it was asked for."""


def _content(answer: Any) -> str:
    if isinstance(answer, Declined | Cancelled):
        return "nothing"
    return str(answer.model_dump() if isinstance(answer, BaseModel) else answer)
