"""Celery tasks that exist already, run as tools, untouched.

The tool is a Celery task of its own that claims and commits like any other. For its body it makes a twin of
the shop's task: same code, same base class, same `__call__`, but a request that says it was called directly.
What only Celery can mean is given a meaning, or refused with a sentence: `update_state` becomes progress,
`retry` raises its cause so that the tool's own policy decides; `replace`, `Ignore` and `Reject` fail the
task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery, Task
from celery.app.trace import task_has_custom
from celery.exceptions import Ignore, Reject, Retry

from ..domain.errors import ConfigurationError
from .attempt import RunningAttempt
from .outcome import Unsupported


def original_task(app: Celery, name: str) -> Task:
    """The shop's task of that name.

    Raises:
        ConfigurationError: The app does not have it (yet).
    """
    try:
        return app.tasks[name]
    except KeyError:
        raise ConfigurationError(
            f"There is no Celery task {name!r} on this app. Import the module that defines it before "
            "exposing it, and check the name: `celery inspect registered` lists what workers have."
        ) from None


def queue_of(app: Celery, original: Task) -> str:
    """The queue that the shop's own routing gives the task."""
    options = {"queue": original.queue} if getattr(original, "queue", None) else {}
    # A router of its own: the app's would remember a queue that only this question named.
    router = app.amqp.Router(queues=app.amqp.Queues(app.conf.task_queues))
    return str(router.route(options, original.name)["queue"].name)


def run_exposed(original: Task, attempt: RunningAttempt, arguments: Mapping[str, Any], celery_id: str) -> Any:
    """Run the body of a shop's task within an attempt.

    Raises:
        Unsupported: It did what a durable task cannot do.
        Exception: Whatever the task raises.
    """
    twin = _twin(original)
    twin.attempt = attempt
    twin.push_request(
        id=celery_id,
        called_directly=True,
        args=(),
        kwargs=dict(arguments),
        retries=attempt.task.attempts - 1,
        delivery_info={},
    )
    try:
        call = twin if task_has_custom(twin, "__call__") else twin.run
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
        twin.pop_request()


class _DirectCallTask:
    """What a twin does otherwise than the shop's task; comes first in its bases."""

    attempt: RunningAttempt

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **_: Any
    ) -> None:
        """Progress: `current`, `total` and a message are taken from `meta`, where they are."""
        self.attempt.check()
        known = meta if isinstance(meta, Mapping) else {}
        current, total = _number(known, "current", "done"), _number(known, "total")
        said = [known[key] for key in ("message", "status") if isinstance(known.get(key), str)]
        message = said[0] if said else state
        self.attempt.progress(current or 0.0, total, message)

    def replace(self, sig: Any) -> Any:
        """Not possible: another task's result would be this one's."""
        raise Unsupported("The Celery task replaced itself, which a durable task cannot do.")

    def send_event(self, *_: Any, **__: Any) -> None:
        """Celery's events are of the wrapper, not of the twin."""


def _twin(original: Task) -> Any:
    kind = type(original)
    return type(
        kind.__name__, (_DirectCallTask, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__}
    )()


def _number(known: Mapping[str, Any], *names: str) -> float | None:
    for name in names:
        value = known.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None
