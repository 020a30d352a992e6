"""The service that both releases run: one tool for each phase that an upgrade may meet a task in.

It keeps to what the oldest supported release knows. It is a program of its own: nothing of the tests is
imported here, since they belong to one release only.
"""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

import tasks_service
from tasks_service import ProtocolError, RetryPolicy, TaskContext, TaskService

service = TaskService("Upgrades")
app = service.celery
SOON = RetryPolicy(first_delay=timedelta(milliseconds=500), factor=1.0)
app.conf.worker_soft_shutdown_timeout = 0.5


class Approval(BaseModel):
    yes: bool


def release() -> str:
    """Which release runs: the directory that its code is in."""
    return Path(tasks_service.__file__).parents[1].name


@service.tool()
def quick() -> str:
    """Say who has run it."""
    return release()


@service.tool(lease=timedelta(seconds=2))
def gated(gate: str, ctx: TaskContext) -> str:
    """Run until a file is there."""
    while not Path(gate).exists():
        ctx.progress(1, 2, "waits at the gate")
        time.sleep(0.05)
    return release()


@service.tool()
def asking(gate: str, ctx: TaskContext) -> str:
    """A step, a question, a sleep, another step."""
    first = ctx.step("first", release)
    answer = ctx.elicit("Go on?", Approval)
    ctx.sleep(timedelta(milliseconds=10))
    return f"{first} {getattr(answer, 'yes', False)} {ctx.step('second', release)}"


@service.tool()
def sleeping(gate: str, ctx: TaskContext) -> str:
    """Sleep, until a file is there."""
    naps = 0
    while not ctx.step(f"look {naps}", Path(gate).exists):
        ctx.sleep(timedelta(seconds=2))
        naps += 1
    return release()


@service.tool(retry=SOON, max_attempts=1000)
def retrying(gate: str) -> str:
    """Fail until a file is there."""
    if not Path(gate).exists():
        raise ConnectionError("not yet")
    return release()


@service.tool()
def failing() -> str:
    """Fail."""
    raise ProtocolError(4050, "no")


@service.tool(queue="late")
def late() -> str:
    """Wait for a worker that takes its queue, which comes only at the end."""
    return release()
