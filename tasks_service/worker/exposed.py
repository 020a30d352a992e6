"""Existing Celery tasks that run as tools, unchanged.

The tool is a Celery task of its own that claims and commits like any other. Its body is a copy of the
existing task: same code, same base class, same `__call__`, but with a request that says it was called
directly. Features of Celery are mapped or refused: `update_state` becomes progress, `retry` raises its cause,
to which the tool's own retry policy applies; `replace`, `Ignore` and `Reject` fail the task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from celery import Celery, Task
from celery.app.trace import task_has_custom
from celery.exceptions import Ignore, Reject, Retry

from ..domain.errors import ConfigurationError
from ..durable.progress import finite, progress_of
from .attempt import RunningAttempt
from .outcome import Unsupported


def original_task(app: Celery, name: str) -> Task:
    """The existing Celery task of that name.

    Raises:
        ConfigurationError: The app does not have it, or not yet.
    """
    try:
        return app.tasks[name]
    except KeyError:
        raise ConfigurationError(
            f"There is no Celery task {name!r} on this app. Import the module that defines it before "
            "exposing it, and check the name: `celery inspect registered` lists what workers have."
        ) from None


def queue_of(app: Celery, original: Task) -> str:
    """The queue to which the app's own routing sends the task."""
    options = {"queue": original.queue} if getattr(original, "queue", None) else {}
    # A new router, because the app's would keep a queue that only this look-up named.
    router = app.amqp.Router(queues=app.amqp.Queues(app.conf.task_queues))
    return str(router.route(options, original.name)["queue"].name)


def exposed_body(app: Celery, name: str, celery_id: str) -> Callable[[RunningAttempt, dict[str, Any]], Any]:
    """Return what runs an existing Celery task as the body of a tool; see `Executor.run`.

    Args:
        app: The app that has the task.
        name: The task's name; looked up when the body runs.
        celery_id: The id that the task sees as its own.
    """

    def body(attempt: RunningAttempt, arguments: dict[str, Any]) -> Any:
        return run_exposed(original_task(app, name), attempt, arguments, celery_id)

    return body


def run_exposed(original: Task, attempt: RunningAttempt, arguments: Mapping[str, Any], celery_id: str) -> Any:
    """Run the body of an existing Celery task within an attempt.

    Raises:
        Unsupported: It used a feature of Celery that a durable task cannot have.
        Exception: Whatever the task raises.
    """
    direct = _direct_call_task(original)
    direct.attempt = attempt
    direct.push_request(
        id=celery_id,
        called_directly=True,
        args=(),
        kwargs=dict(arguments),
        retries=attempt.task.attempts - 1,
        delivery_info={},
    )
    try:
        call = direct if task_has_custom(direct, "__call__") else direct.run
        return call(**arguments)
    except Retry as error:
        raise error.exc or RuntimeError("the task asked for a retry and named no cause") from error
    except Ignore:
        raise Unsupported(
            f"The Celery task '{original.name}' ended with Ignore, which has no result."
        ) from None
    except Reject:
        raise Unsupported(f"The Celery task '{original.name}' rejected its message.") from None
    finally:
        direct.pop_request()


class _DirectCallTask:
    """The methods that differ from those of the existing task; the first base of the copy."""

    attempt: RunningAttempt

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **_: Any
    ) -> None:
        """Report progress: `current`, `total` and a message, as far as `meta` has them."""
        self.attempt.check()
        known = meta if isinstance(meta, Mapping) else {}
        current, total = _number(known, "current", "done"), _number(known, "total")
        messages = [known[key] for key in ("message", "status") if isinstance(known.get(key), str)]
        message = messages[0] if messages else state
        self.attempt.progress(progress_of(current or 0.0, total, message))

    def replace(self, sig: Any) -> Any:
        """Refuse: another task's result would be this one's."""
        raise Unsupported("The Celery task replaced itself, which a durable task cannot do.")

    def send_event(self, *_: Any, **__: Any) -> None:
        """Send nothing: the tool's own Celery task sends the events."""


def _direct_call_task(original: Task) -> Any:
    kind = type(original)
    return type(
        kind.__name__, (_DirectCallTask, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__}
    )()


def _number(known: Mapping[str, Any], *names: str) -> float | None:
    for name in names:
        with suppress(TypeError, ValueError):  # Celery takes any meta; what is no number says no progress
            return float(finite(name, known.get(name)))
    return None
