"""A Celery app that takes messages from the queues of a service, and knows nothing of it."""

from __future__ import annotations

import os

from celery import Celery

app = Celery("bare", broker=os.environ.get("TASKS_REDIS_URL"))
app.conf.broker_transport_options = {"global_keyprefix": "ts:mq:"}


@app.task(name="shop.tasks.resize")
def resize() -> None:
    """Not a tool."""
