"""The Celery tasks of tools: one for each; what beat sends is in `maintenance.beat_tasks`.

On a shop's own app nothing else is touched: what a durable task needs is an attribute of its Celery task.
"""

from __future__ import annotations

import math
import os
from functools import partial
from typing import Any

from celery import Celery

from ..authoring.tool import Tool
from ..domain.task import new_token
from .engine import Engine
from .exposed_run import run_exposed
from .own_task import OwnTask
from .request import LEASE_HEADER

HARD_LIMIT_AFTER = 15
"""Seconds after a tool's timeout when Celery kills the pool child that still runs it (prefork only)."""


class ToolFailed(Exception):
    """What Celery, and so Flower, sees of a tool that failed: that it did, and under which name to look."""


class ToolTask(OwnTask):
    """The Celery task of a tool: takes a reference, returns None, or raises a bare `ToolFailed`."""

    Request = "tasks_service.worker.request:ToolRequest"
    Strategy = "tasks_service.worker.rate_limits:strategy"
    abstract = True
    typing = False
    serializer = "json"
    acks_late = True
    reject_on_worker_lost = True
    acks_on_failure = True
    acks_on_timeout = True
    ignore_result = True
    store_errors_even_if_ignored = False
    track_started = False
    max_retries = 0
    throws = (ToolFailed,)

    engine: Engine
    tool: Tool


def register_tool(app: Celery, engine: Engine, tool: Tool) -> None:
    """Register a tool's Celery task.

    Args:
        app: Ours, or a shop's.
        engine: Runs it.
        tool: What it runs.
    """
    timeout = math.ceil(tool.definition.policy.timeout_ms / 1000)
    exposed = tool.exposed

    @app.task(  # type: ignore[untyped-decorator]
        name=tool.name,
        shared=False,
        base=ToolTask,
        bind=True,
        engine=engine,
        tool=tool,
        soft_time_limit=(exposed and exposed.soft_time_limit) or timeout,
        time_limit=timeout + HARD_LIMIT_AFTER,
        rate_limit=(exposed and exposed.rate_limit) or OwnTask.rate_limit,
    )
    def run_tool(self: ToolTask, task: str, dispatched_ms: int, **_: Any) -> None:
        request = self.request
        execute = partial(
            engine.executor.run,
            tool,
            task,
            lease_id=request.get(LEASE_HEADER) or new_token(),
            worker=f"{request.hostname}/{os.getpid()}",
            dispatched_ms=dispatched_ms,
        )
        exposed = tool.exposed
        ended = execute() if exposed is None else run_exposed(app, exposed.name, request, execute)
        if ended is not None and (ended.failure is not None or ended.is_error):
            raise ToolFailed(f"the record of task {task} says why") from None
