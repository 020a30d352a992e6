"""The service that chaos is let loose on: a tool for each way in which a task can live."""

from __future__ import annotations

import secrets
import time
from datetime import timedelta
from typing import Any

from celery.beat import ScheduleEntry, Scheduler

from tasks_service import RetryPolicy, TaskContext, TaskService
from tasks_service.failpoints import failpoint
from tasks_service.service import ToolOptions
from tasks_service.worker.schedule import DEFAULT_BEAT_SCHEDULE

LEASE = timedelta(seconds=2)
ATTEMPTS = 60
"""More than any task meets faults, so that each has only one true end."""

WORD = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
KEPT: ToolOptions = {"lease": LEASE, "max_attempts": ATTEMPTS}

service = TaskService("Chaos")
app = service.celery
app.conf.worker_soft_shutdown_timeout = 0.5
app.conf.beat_schedule = {
    name: {**entry, "schedule": 1.0, "options": {**entry["options"], "expires": 1.0}}
    for name, entry in DEFAULT_BEAT_SCHEDULE.items()
}


class FailingScheduler(Scheduler):  # type: ignore[misc]
    """Celery's scheduler, in memory, with points of failure around what it sends."""

    def apply_async(
        self, entry: ScheduleEntry, producer: Any = None, advance: bool = True, **options: Any
    ) -> Any:
        failpoint("Beat", "before")
        sent = super().apply_async(entry, producer, advance, **options)
        failpoint("Beat", "after")
        return sent


def draw() -> str:
    """Something else each time that it runs, so that nobody can make up what a step has returned."""
    return secrets.token_hex(8)


@service.tool(**KEPT)
def quick(number: int) -> dict[str, Any]:
    """End at once."""
    return {"number": number}


@service.tool(**KEPT)
def stepped(number: int, ctx: TaskContext) -> dict[str, Any]:
    """Two steps."""
    first = ctx.step("first", draw)
    time.sleep(0.02)
    return {"number": number, "drawn": [first, ctx.step("second", draw)]}


@service.tool(**KEPT)
def lengthy(number: int, ctx: TaskContext) -> dict[str, Any]:
    """Many steps, over about a second."""
    drawn = []
    for step in range(8):
        drawn.append(ctx.step(f"step {step}", draw))
        time.sleep(0.1)
    return {"number": number, "drawn": drawn}


@service.tool(**KEPT)
def asking(number: int, ctx: TaskContext) -> dict[str, Any]:
    """A step, a question, and a step."""
    first = ctx.step("first", draw)
    answer = ctx.elicit("Which word?", WORD)
    return {"number": number, "word": answer["word"], "drawn": [first, ctx.step("second", draw)]}


@service.tool(**KEPT, retry=RetryPolicy(first_delay=timedelta(milliseconds=50)))
def retrying(number: int, ctx: TaskContext) -> dict[str, Any]:
    """Fail, and succeed later."""
    if ctx.attempt < 2:
        raise ConnectionError("not yet")
    return {"number": number}


@service.tool(**KEPT)
def lasting(number: int, ctx: TaskContext) -> dict[str, Any]:
    """Last until the client cancels it."""
    while True:
        ctx.check()
        time.sleep(0.02)


@service.tool(**KEPT)
def silent(number: int, ctx: TaskContext) -> dict[str, Any]:
    """Ask what nobody answers."""
    answer = ctx.elicit("Anyone?", WORD, within=timedelta(seconds=0.3), default={"word": "nobody"})
    return {"number": number, "word": answer["word"]}
