"""The service behind the proxies."""

from __future__ import annotations

import time
from datetime import timedelta

from tasks_service import TaskContext, TaskService

service = TaskService("Behind proxies", version="1.0.0")
app = service.celery


@service.tool(poll_interval=timedelta(milliseconds=200))
def add(left: int, right: int) -> int:
    """Add two numbers."""
    return left + right


@service.tool
def tell(ctx: TaskContext) -> str:
    """Take two seconds, and tell how far it is."""
    for _ in ctx.track(range(10), "working"):
        time.sleep(0.2)
    return "done"
