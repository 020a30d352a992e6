"""How a worker takes messages of tools: as Celery does, but once each while a rate limit holds them back.

A message that waits for its turn under a rate limit is in no queue, and so seems lost to a sweep, which sends
another. Each one that a worker let through would take a turn, for nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery import Celery, Task
from celery.worker.strategy import default

logger = logging.getLogger(__name__)


def strategy(task: Task, app: Celery, consumer: Any, **options: Any) -> Callable[..., Any]:
    """See `celery.worker.strategy.default`; drops a message of which this worker holds another already."""
    take = default(task, app, consumer, **options)

    def take_once(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **more: Any) -> Any:
        bucket = consumer.task_buckets.get(task.name)
        if bucket is not None and bucket.contents:
            celery_id = message.headers.get("id")
            if any(request.id == celery_id for request, _ in bucket.contents):
                logger.debug("The rate limit of %s holds message %s already", task.name, celery_id)
                ack(logger, consumer.connection_errors)
                return None
        return take(message, body, ack, reject, callbacks, **more)

    return take_once
