"""A shop whose Celery app has kombu's own transport, on the queues' prefix that docker/users.acl knows."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

from tasks_service import TaskService

app = Celery("acme", broker=os.environ.get("TASKS_REDIS_URL", "redis://localhost:6379/0"))
app.conf.update(
    accept_content=["json"],
    task_default_queue="acme",
    broker_transport_options={
        "global_keyprefix": "ts:mq:",
        "visibility_timeout": 1,
        "unacked_restore_interval": 0.2,
        "unacked_restore_throttle": 1,
    },
)
service = TaskService("Shop", celery=app)


@service.tool()
def draw(path: str) -> str:
    """Write a line."""
    with Path(path).open("a") as file:
        file.write("drawn\n")
    return "drawn"
