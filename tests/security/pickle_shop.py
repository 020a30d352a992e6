"""A shop whose Celery app takes pickle, and has a tool beside its own task."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

from tasks_service import TaskService

app = Celery("acme", broker=os.environ.get("TASKS_REDIS_URL", "redis://localhost:6379/0"))
app.conf.update(
    accept_content=["pickle", "json"],
    task_serializer="pickle",
    task_default_queue="acme",
    broker_transport_options={"global_keyprefix": "acme-"},
)
service = TaskService("Shop", celery=app)


@app.task(name="acme.note")
def note(path: str) -> None:
    """Write a line."""
    with Path(path).open("a") as file:
        file.write("noted\n")


@service.tool()
def draw(path: str) -> str:
    """Write a line."""
    with Path(path).open("a") as file:
        file.write("drawn\n")
    return "drawn"


@service.tool(queue="acme")
def share(path: str) -> str:
    """Write a line; its queue is the shop's."""
    with Path(path).open("a") as file:
        file.write("shared\n")
    return "shared"
