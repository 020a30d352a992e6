"""The service that the tests of questions and steps run: one tool for each way to wait."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tasks_service import (
    AsyncTaskContext,
    AttemptEnded,
    Cancelled,
    Declined,
    Form,
    RetryPolicy,
    TaskContext,
    TaskService,
    current_context,
)
from tasks_service.domain.errors import Parked
from tasks_service.worker.attempt import RunningAttempt

service = TaskService("Asking")
app = service.celery

DIE_AFTER_ASKING = "TESTS_DIE_AFTER_ASKING"
"""Names a file; while it does not exist, a process that has written a question makes it and is killed."""


def _die_after_asking(marker: Path) -> None:
    end = RunningAttempt.request_stop

    def dying(attempt: RunningAttempt, kind: type[AttemptEnded]) -> None:
        if kind is Parked and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        end(attempt, kind)

    RunningAttempt.request_stop = dying  # type: ignore[method-assign]


if DIE_AFTER_ASKING in os.environ:
    _die_after_asking(Path(os.environ[DIE_AFTER_ASKING]))


class Approval(BaseModel):
    publish: bool
    title: str = "untitled"


def note(path: str, line: str) -> int:
    """Append a line to a file; how many there are."""
    with Path(path).open("a") as notes:
        notes.write(line + "\n")
    return len(Path(path).read_text().splitlines())


@service.tool()
def publish(path: str, ctx: TaskContext) -> dict[str, Any]:
    """A step, a question, another step."""
    first = ctx.step("first", note, path, "first")
    answer = ctx.elicit("Publish it?", Approval)
    if isinstance(answer, Declined | Cancelled):
        return {"published": False, "why": type(answer).__name__}
    second = ctx.step("second", note, path, f"second {answer.title}")
    return {"published": answer.publish, "title": answer.title, "steps": [first, second]}


@service.tool()
def ask_twice(ctx: TaskContext) -> list[str]:
    """Two questions, one after the other."""
    schema = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
    return [str(ctx.elicit("First?", schema)), str(ctx.elicit("Second?", schema))]


@service.tool()
def ask_all(ctx: TaskContext) -> dict[str, Any]:
    """Two questions at once."""
    text = {"type": "object", "properties": {"value": {"type": "string"}}}
    return ctx.elicit_all({"name": Form("Name?", text), "colour": Form("Colour?", text)})


@service.tool()
def ask_with_default(ctx: TaskContext) -> bool:
    """Silence means no."""
    answer = ctx.elicit("Sure?", Approval, within=timedelta(seconds=0.3), default=Approval(publish=False))
    return isinstance(answer, Approval) and answer.publish


@service.tool()
def nap(path: str, seconds: float, ctx: TaskContext) -> int:
    """Sleep durably between two steps."""
    ctx.step("before", note, path, "before")
    ctx.sleep(seconds)
    return ctx.step("after", note, path, "after")


@service.tool(max_attempts=2)
def nap_often(times: int, ctx: TaskContext) -> int:
    """Sleep more often than there are attempts."""
    for _ in range(times):
        ctx.sleep(0.05)
    return times


@service.tool()
def die_after_step(path: str, marker: str, ctx: TaskContext) -> int:
    """Be killed right after a step was recorded, the first time."""
    lines = ctx.step("once", note, path, "once")
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return lines


@service.tool()
def stubborn_step(path: str, ctx: TaskContext) -> int:
    """A step that works the third time."""

    def work(path: str) -> int:
        if (lines := note(path, "try")) < 3:
            raise OSError("not yet")
        return lines

    soon = RetryPolicy(on=(OSError,), first_delay=timedelta(milliseconds=10))
    return ctx.step("work", work, path, retry=soon)


@service.tool()
def changed(path: str, ctx: TaskContext) -> str:
    """A tool whose steps depend on a file, as if its code had changed between two attempts."""
    ctx.step(Path(path).read_text(), str)
    ctx.elicit("Go on?", Approval)
    return "done"


@service.tool()
def swallowing(ctx: TaskContext) -> str:
    """An author's `except Exception` does not swallow the end of an attempt."""
    try:
        return str(ctx.elicit("Still there?", Approval))
    except Exception:
        return "swallowed"


@service.tool()
async def gather(path: str, ctx: AsyncTaskContext) -> dict[str, Any]:
    """Branches that ask, step and sleep at once."""

    async def slow_step() -> int:
        await asyncio.sleep(0.3)
        return note(path, "slow")

    async def ask(name: str) -> Any:
        schema = {"type": "object", "properties": {"value": {"type": "string"}}}
        return await ctx.elicit(f"{name}?", schema, name=name)

    one, two, lines, _ = await asyncio.gather(
        ask("one"), ask("two"), ctx.step("slow", slow_step), ctx.sleep(0.2)
    )
    return {"one": one, "two": two, "lines": lines}


@service.tool(ask={"approval": Form("May I?", Approval)})
def asked_before(ctx: TaskContext) -> str:
    """A question that was answered before the task existed."""
    later = ctx.elicit("And the title?", Approval)
    return f"{ctx.answers['approval']} {later}"


@app.task(name="shop.confirm")
def confirm(what: str) -> str:
    """A Celery task that asks through the context."""
    answer = current_context().elicit(f"Really {what}?", Approval)
    return f"{what}: {answer}"


service.expose("shop.confirm")


@service.tool()
def busy(seconds: float) -> str:
    """Keep a slot."""
    time.sleep(seconds)
    return "done"
