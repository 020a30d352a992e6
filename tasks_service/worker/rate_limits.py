"""How a worker takes messages of tools: as Celery does, but JSON only, and once each under a rate limit.

On a shop's app that takes pickle, a message of Celery's first protocol names its task only in its pickled
body: nobody could tell that it is for a tool before it was read.

A message that waits for its turn under a rate limit is in no queue, and so seems lost to a sweep, which
sends another. Each one that a worker let through would take a turn, for nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery import Celery, Task
from celery.worker.strategy import default

logger = logging.getLogger(__name__)


def strategy(task: Task, app: Celery, consumer: Any, **options: Any) -> Callable[..., Any]:
    """See `celery.worker.strategy.default`; drops what is not JSON, or what this worker holds already."""
    take = default(task, app, consumer, **options)

    def take_once(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **more: Any) -> Any:
        if message.content_type != "application/json":
            queue = str(message.delivery_info.get("routing_key") or "")
            task.engine.dropped.add(queue, "its body is not JSON")
            ack(logger, consumer.connection_errors)
            return None
        bucket = consumer.task_buckets.get(task.name)
        if bucket is not None and bucket.contents:
            celery_id = message.headers.get("id")
            if any(request.id == celery_id for request, _ in bucket.contents):
                logger.debug("The rate limit of %s holds message %s already", task.name, celery_id)
                ack(logger, consumer.connection_errors)
                return None
        return take(message, body, ack, reject, callbacks, **more)

    return take_once
