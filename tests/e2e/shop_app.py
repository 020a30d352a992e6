"""A shop with a Celery app of its own, before any tool: tasks, settings, routes, a custom base class."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

BROKER = os.environ.get("SHOP_BROKER", "redis://localhost:6379/0")

app = Celery("acme", broker=BROKER, backend="cache+memory://")
app.conf.update(
    task_serializer="json",
    task_default_queue="acme",
    task_routes={"acme.reindex": {"queue": "indexing"}},
    worker_prefetch_multiplier=7,
    broker_transport_options={"global_keyprefix": "acme-"},
)


class AcmeTask(Task):  # type: ignore[misc]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.connection_opened = True
        return self.run(*args, **kwargs)


@app.task(name="acme.reindex", bind=True, base=AcmeTask)
def reindex(self: Any, index: str, size: int = 3) -> dict[str, Any]:
    """Rebuild a search index."""
    for done in range(size):
        self.update_state(state="PROGRESS", meta={"current": done + 1, "total": size})
    return {"index": index, "opened": self.connection_opened, "direct": self.request.called_directly}


@app.task(name="acme.moody", bind=True, max_retries=5)
def moody(self: Any, mood: str) -> str:
    if mood == "retry":
        try:
            raise ConnectionError("no line")
        except ConnectionError as error:
            raise self.retry(exc=error, countdown=60) from error
    if mood == "ignore":
        raise Ignore
    if mood == "reject":
        raise Reject("no")
    if mood == "replace":
        self.replace(reindex.s("x"))
    return "fine"


@app.task(name="acme.tidy")
def tidy(seconds: float) -> str:
    import time

    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        return "tidied up"
    return "slept"


@app.task(name="acme.plain")
def plain(x: int) -> int:
    return x * 2
