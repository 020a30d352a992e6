"""The service that other people's clients are tried on: one tool for each thing that a client can do."""

from __future__ import annotations

import time
from datetime import timedelta

from pydantic import BaseModel

from tasks_service import Cancelled, Declined, TaskContext, TaskService

service = TaskService("Client trials", version="1.0.0")
app = service.celery

QUICK = timedelta(milliseconds=200)
PAUSE = 0.05
"""Seconds between two looks whether a tool is to stop."""


class Name(BaseModel):
    name: str


@service.tool(poll_interval=QUICK)
def add(left: int, right: int) -> int:
    """Add two numbers."""
    return left + right


@service.tool(task="required", poll_interval=QUICK)
def count(ctx: TaskContext, upto: int = 20) -> str:
    """Count, with progress, for a second or two."""
    for _ in ctx.track(range(upto), "counting"):
        time.sleep(PAUSE)
    return f"counted to {upto}"


@service.tool(poll_interval=QUICK)
def ask(ctx: TaskContext) -> str:
    """Ask for a name, and greet it."""
    answer = ctx.elicit("Your name?", Name)
    if isinstance(answer, Declined | Cancelled):
        return "Hello, whoever you are!"
    return f"Hello, {answer.name}!"


@service.tool(task="required", poll_interval=QUICK)
def endless(ctx: TaskContext) -> str:
    """Work until cancelled, five minutes at most."""
    for _ in range(int(300 / PAUSE)):
        ctx.check()
        time.sleep(PAUSE)
    return "never cancelled"


@service.tool(poll_interval=QUICK)
def slow(ctx: TaskContext) -> str:
    """Take a second and tell how far it is, task or not."""
    for _ in ctx.track(range(10), "working"):
        time.sleep(2 * PAUSE)
    return "done"
