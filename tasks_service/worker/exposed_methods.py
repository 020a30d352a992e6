"""Methods of a Celery task that mean something else while it runs as a tool.

The task that runs is the shop's own object: its connections, its state, its base class. These methods come
into its class below everything that the shop wrote, just above Celery's `Task`, so that a method of the
shop's that calls `super()` reaches them. For any other run, as by `delay()`, they do what Celery's do.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from celery import Signature, Task
from celery.app.task import Context
from celery.contrib.abortable import AbortableTask

from ..durable.progress import finite, progress_of
from .attempt import RunningAttempt
from .outcome import Unsupported

logger = logging.getLogger(__name__)

_lock = threading.Lock()

_OF_A_RETRY = frozenset({"countdown", "eta", "retries", "max_retries", "ignore_result"})
"""The options of a retry that can be had; Celery sets some of them itself."""


class ExposedRequest(Context):  # type: ignore[misc]
    """The request of a task that runs as a tool.

    Attributes:
        attempt: The attempt that it runs in.
        celery_id: The id of the Celery message, by which Flower knows it.
        asked: What the task has asked for by `retry`; one list for all calls within the run.
    """

    attempt: RunningAttempt
    celery_id: str
    asked: list[Signature]

    def _get_custom_headers(self, *_: Any, **__: Any) -> None:
        """None: headers are given, and of what else is given nothing is one."""


class MappedMethods(Task):  # type: ignore[misc]
    """What differs from Celery's `Task` for a task that runs as a tool."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run with the request that is there, as in a worker; a call from within is a call of its own."""
        request = self.request_stack.top
        if isinstance(request, ExposedRequest) and not request._protected:
            request._protected = 1
            return self.run(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """Begin a call from within, whose request has what is not its own from the one around it."""
        request = self.request_stack.top
        if isinstance(request, ExposedRequest):
            self.request_stack.push(ExposedRequest(*args, **{**vars(request), **kwargs}))
        else:
            super().push_request(*args, **kwargs)

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **options: Any
    ) -> None:
        """Report progress: `current`, `total` and a message, as far as `meta` has them."""
        request = self.request_stack.top
        if not isinstance(request, ExposedRequest) or task_id not in (None, request.id):
            super().update_state(task_id, state, meta, **options)
            return
        request.attempt.check()
        known = meta if isinstance(meta, Mapping) else {}
        current, total = _number(known, "current", "done"), _number(known, "total")
        messages = [known[key] for key in ("message", "status") if isinstance(known.get(key), str)]
        message = messages[0] if messages else state
        request.attempt.progress(progress_of(current or 0.0, total, message))

    def signature_from_request(
        self, request: Any = None, args: Any = None, kwargs: Any = None, queue: Any = None, **options: Any
    ) -> Any:
        """The signature that `retry` sends; of a task that runs as a tool it is noted, and not sent."""
        signature = super().signature_from_request(request, args, kwargs, queue, **options)
        running = self.request_stack.top
        if isinstance(running, ExposedRequest) and request in (None, running):
            _refuse_other_arguments(self.name, running, args, kwargs)
            if lost := sorted({*options, *(["queue"] if queue else [])} - _OF_A_RETRY):
                logger.warning("A tool's retry has no %s (Celery task %s)", ", ".join(lost), self.name)
            signature.apply_async = lambda *_, **__: running.asked.append(signature)
        return signature

    def replace(self, sig: Any) -> Any:
        """Refuse: another task's result would be this one's."""
        if not isinstance(self.request_stack.top, ExposedRequest):
            return super().replace(sig)
        raise Unsupported(f"The Celery task '{self.name}' replaced itself, which a durable task cannot do.")

    def send_event(self, type_: str, retry: bool = True, retry_policy: Any = None, **fields: Any) -> Any:
        """Send an event, under the id by which monitors know the run."""
        request = self.request_stack.top
        if not isinstance(request, ExposedRequest):
            return super().send_event(type_, retry=retry, retry_policy=retry_policy, **fields)
        policy = retry_policy or self.app.conf.task_publish_retry_policy
        with self.app.events.default_dispatcher(hostname=request.hostname) as events:
            return events.send(type_, uuid=request.celery_id, retry=retry, retry_policy=policy, **fields)


def with_mapped_methods(task: Task) -> Task:
    """Give a task's object the methods above, once; the object stays the same."""
    with _lock:
        if not isinstance(task, MappedMethods):
            own = type(task)
            names: dict[str, Any] = {
                "__module__": own.__module__,
                "__qualname__": own.__qualname__,
                "__doc__": own.__doc__,
            }
            if isinstance(task, AbortableTask):
                names["is_aborted"] = _is_aborted
            task.__class__ = type(own.__name__, (own, MappedMethods), names)
    return task


def _is_aborted(self: Any, **options: Any) -> bool:
    """Whether the run was asked to stop; of a task that runs as a tool, whether its client cancelled it."""
    request = self.request_stack.top
    if isinstance(request, ExposedRequest) and options.get("task_id") in (None, request.id):
        return request.attempt.cancelled
    return bool(AbortableTask.is_aborted(self, **options))


def _refuse_other_arguments(name: str, request: ExposedRequest, args: Any, kwargs: Any) -> None:
    if (args is not None and list(args) != list(request.args)) or (
        kwargs is not None and dict(kwargs) != dict(request.kwargs)
    ):
        raise Unsupported(
            f"The Celery task '{name}' asked for a retry with other arguments, and those of a durable task "
            "are recorded."
        )


def _number(known: Mapping[str, Any], *names: str) -> float | None:
    for name in names:
        with suppress(TypeError, ValueError):  # Celery takes any meta; what is no number says no progress
            return float(finite(name, known.get(name)))
    return None
