"""The service that benchmarks run: tools that do nothing, so that only the service is measured."""

from __future__ import annotations

from datetime import timedelta

from tasks_service import TaskContext, TaskService

service = TaskService("Benchmark")
app = service.celery


@service.tool(task="optional", poll_interval=timedelta(milliseconds=100))
def noop(x: int) -> int:
    """Return x."""
    return x


@service.tool(task="required", poll_interval=timedelta(milliseconds=100))
def ask(ctx: TaskContext) -> str:
    """Ask one form question, with the field `name`, then finish."""
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    return str(ctx.elicit("What is your name?", schema))
