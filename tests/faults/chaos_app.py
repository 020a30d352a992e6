"""The service that chaos is let loose on: a tool for each way in which a task can live."""

from __future__ import annotations

import secrets
import time
from datetime import timedelta
from typing import Any

from celery.beat import ScheduleEntry, Scheduler

from tasks_service import ProtocolError, RetryPolicy, TaskContext, TaskService
from tasks_service.authoring.tool_options import ToolOptions
from tasks_service.failpoints import failpoint
from tasks_service.worker.maintenance.schedule import BEAT_SCHEDULE

LEASE = timedelta(seconds=2)
ATTEMPTS = 60
"""More than any task meets faults, so that each has only one true end."""

RETAINED = timedelta(seconds=1)
BRIEF_PATIENCE, BRIEF_TIMEOUT = timedelta(seconds=20), timedelta(seconds=5)

BRIEF = RETAINED
"""How long brief tasks are kept at least, from their call; they end at once, as a rule."""

PARTS = 9

NOT_YET = "Not in this life."
"""How failing tasks fail."""

WORD = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
KEPT: ToolOptions = {"lease": LEASE, "max_attempts": ATTEMPTS}

service = TaskService("Chaos")
app = service.celery
app.conf.worker_soft_shutdown_timeout = 0.5
app.conf.beat_schedule = {
    name: {**entry, "schedule": 0.25, "options": {**entry["options"], "expires": 0.25}}
    for name, entry in BEAT_SCHEDULE.items()
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


@service.tool(**KEPT)
def sleeping(number: int, ctx: TaskContext) -> dict[str, Any]:
    """Sleep, and end."""
    ctx.sleep(timedelta(milliseconds=200))
    return {"number": number}


@service.tool(**KEPT)
def failing(number: int) -> dict[str, Any]:
    """Fail for good."""
    raise ProtocolError(4099, NOT_YET)


@service.tool(**KEPT, grace=timedelta(milliseconds=50))
def graceful(number: int) -> dict[str, Any]:
    """End after its grace, as a rule."""
    time.sleep(0.1)
    return {"number": number}


@service.tool(**KEPT, ttl=RETAINED, retention=RETAINED, queue_timeout=BRIEF_PATIENCE, timeout=BRIEF_TIMEOUT)
def brief(number: int) -> dict[str, Any]:
    """End at once, and be forgotten soon."""
    return {"number": number}


def reported(number: int) -> dict[str, Any]:
    """The result of `reporting`."""
    return {"number": number, "parts": PARTS}


@service.tool(**KEPT)
def reporting(number: int, ctx: TaskContext) -> dict[str, Any]:
    """Take longer than a renewal does, and say how far it is."""
    for part in range(PARTS):
        ctx.progress(part, PARTS)
        time.sleep(0.1)
    return reported(number)
