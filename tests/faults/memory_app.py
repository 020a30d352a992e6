"""A service whose tasks are short and soon forgotten, for counting the memory that each leaves behind."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from tasks_service import AsyncTaskContext, TaskContext, TaskService, ToolError
from tasks_service.authoring.tool_options import ToolOptions
from tasks_service.worker.maintenance.schedule import BEAT_SCHEDULE

service = TaskService("Memory")
app = service.celery
app.conf.beat_schedule = {
    name: {**entry, "schedule": 1.0, "options": {**entry["options"], "expires": None}}
    for name, entry in BEAT_SCHEDULE.items()
}

SOON: ToolOptions = {
    "retention": timedelta(seconds=2),
    "ttl": timedelta(seconds=30),
    "queue_timeout": timedelta(minutes=10),
}
"""A task is forgotten so long after its call, when it has ended."""


def add(x: int, ctx: TaskContext) -> int:
    """Add, with a step and a report."""
    ctx.progress(x, message="adding")
    return ctx.step("add", lambda: x + 1)


def fail(x: int) -> int:
    """Fail by accident, or with a sentence."""
    if x % 2:
        raise ToolError(f"Not {x}.")
    raise ValueError(x)


async def add_async(x: int, ctx: AsyncTaskContext) -> int:
    """Add on the event loop."""
    await asyncio.sleep(0)
    await ctx.progress(x)
    return x + 1


POOLS = ("prefork", "threads")
for pool in POOLS:
    for function in (add, fail, add_async):
        service.tool(name=f"{function.__name__}_{pool}", queue=pool, **SOON)(function)
