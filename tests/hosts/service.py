"""The service that hosts are tried on."""

from __future__ import annotations

import time
from datetime import timedelta

from pydantic import BaseModel

from tasks_service import Cancelled, Declined, TaskContext, TaskService

service = TaskService("Hosts", version="1.0.0")
app = service.celery

SOON = timedelta(seconds=1)
"""When a call is handed over: hosts give up after 5 seconds, at the earliest."""


class Name(BaseModel):
    name: str


@service.tool
def add(left: int, right: int) -> int:
    """Add two numbers."""
    return left + right


@service.tool(handle_after=SOON)
def render(ctx: TaskContext) -> str:
    """Render the scene; takes longer than hosts wait for."""
    for _ in ctx.track(range(30), "rendering"):
        time.sleep(0.2)
    return "the picture is finished"


@service.tool(handle_after=SOON)
def survey(ctx: TaskContext) -> str:
    """Ask for a name, and greet it."""
    answer = ctx.elicit("Your name?", Name, model_may_answer=True)
    if isinstance(answer, Declined | Cancelled):
        return "Hello, whoever you are!"
    return f"Hello, {answer.name}!"


@service.tool(handle_after=SOON)
def endless(ctx: TaskContext) -> str:
    """Work until cancelled, five minutes at most."""
    for _ in range(1_500):
        ctx.check()
        time.sleep(0.2)
    return "never cancelled"
