"""A shop with a Celery app of its own, before any tool: tasks, settings, routes, a custom base class."""

from __future__ import annotations

import logging
import os
import time
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
    beat_schedule={"every-second": {"task": "acme.plain", "schedule": 1.0, "args": (1,)}},
    broker_transport_options={"global_keyprefix": "acme-"},
)


class AcmeTask(Task):  # type: ignore[misc]
    """Keeps a connection, and logs each hook."""

    connections = 0

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        self.connections += 1
        self.log("before_start", task_id)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        self.log("on_success", task_id)

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.log("on_retry", task_id)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.log("on_failure", task_id)

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        self.log("after_return", task_id)

    def log(self, hook: str, task_id: str) -> None:
        key = f"{hook} {self.name} {task_id} try {self.request.retries}"
        logging.getLogger("acme").warning("hook: %s", key)

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


@app.task(name="acme.flaky", bind=True, base=AcmeTask, autoretry_for=(ConnectionError,), retry_backoff=True)
def flaky(self: Any, failures: int) -> dict[str, Any]:
    """Fail for some time, as connections do."""
    if self.request.retries < failures:
        raise ConnectionError("no line")
    return {"retries": self.request.retries, "id": self.request.id, "max": self.max_retries}


@app.task(name="acme.patient", soft_time_limit=1, time_limit=60, base=AcmeTask)
def patient(catches: bool) -> str:
    try:
        time.sleep(50)
    except SoftTimeLimitExceeded:
        if not catches:
            raise
        return "tidied up"
    return "slept"


@app.task(name="acme.rationed", rate_limit="60/m")
def rationed(number: int) -> float:
    return time.time()


@app.task(name="acme.tidy")
def tidy(seconds: float) -> str:
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        time.sleep(0.5)
        return "tidied up"
    return "slept"


@app.task(name="acme.plain")
def plain(x: int) -> int:
    return x * 2
