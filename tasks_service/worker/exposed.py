"""Existing Celery tasks that become tools: how they are found, and what of their settings a tool honours.

How they run is in `exposed_run` and `exposed_methods`. What is kept, mapped and refused is in
docs/guide-celery.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from celery import Celery, Task
from celery.app.task import Task as CeleryTask
from celery.local import Proxy, maybe_evaluate

from ..authoring.refusals import Place
from ..authoring.tool import ExposedTask
from ..authoring.tool_options import ToolOptions
from ..domain.errors import ConfigurationError
from .taken_names import pending_name


def task_named(app: Celery, task: Any) -> Task:
    """The existing Celery task that an author names, or gives.

    Args:
        app: The app whose task it is.
        task: Its name; or the task, also one that Celery has not made yet.

    Raises:
        ConfigurationError: The app does not have it, or it is no Celery task.
    """
    if isinstance(task, str):
        return find_task(app, task)
    given = maybe_evaluate(task) if isinstance(task, Proxy) else task
    name = getattr(given, "name", None)
    if not isinstance(given, CeleryTask | Proxy) or not isinstance(name, str):
        raise ConfigurationError(
            f"expose({task!r}): expected a Celery task, or its name as `celery inspect registered` lists it. "
            "To make a tool of a function, use @service.tool."
        )
    found = find_task(app, name)
    # What `shared_task` gives stands for a task on each app.
    if not isinstance(given, Proxy) and found is not given:
        raise ConfigurationError(
            f"expose({task!r}): it belongs to another Celery app than this TaskService's, {app!r}. Give "
            "TaskService the app whose workers run it."
        )
    return found


def find_task(app: Celery, name: str) -> Task:
    """The existing Celery task of that name.

    It is looked for among what Celery has made, what it has not made yet, what the app's `include`,
    `imports` and `autodiscover_tasks` name, and last by finalizing the app, which is when `shared_task` makes
    its tasks.

    Raises:
        ConfigurationError: The app does not have it.
    """
    problem: Exception | None = None
    for search in (_made_or_pending, _imported, _finalized):
        try:
            if (found := search(app, name)) is not None:
                return found
        except Exception as error:
            problem = error
    because = "" if problem is None else f" ({type(problem).__name__} while looking: {problem})"
    raise ConfigurationError(
        f"There is no Celery task {name!r} on this app{because}. Check the name: `celery inspect registered` "
        "lists what workers have. The module that defines it must be imported, or named by the app's "
        "include= or imports."
    ) from problem


def _made_or_pending(app: Celery, name: str) -> Task | None:
    # `app.tasks` would finalize the app, before its author has connected to `on_after_finalize`.
    if name in app._tasks:
        return app._tasks[name]
    for pending in list(app._pending):
        if pending_name(app, pending) == name:
            return maybe_evaluate(pending)
    return None


def _imported(app: Celery, name: str) -> Task | None:
    app.loader.import_default_modules()
    return _made_or_pending(app, name)


def _finalized(app: Celery, name: str) -> Task | None:
    return app.tasks.get(name)


def queue_of(app: Celery, original: Task) -> str:
    """The queue to which the app's own routing sends the task."""
    options = {"queue": original.queue} if getattr(original, "queue", None) else {}
    # A new router, because the app's would keep a queue that only this look-up named.
    router = app.amqp.Router(queues=app.amqp.Queues(app.conf.task_queues))
    return str(router.route(options, original.name)["queue"].name)


def options_of(original: Task) -> ToolOptions:
    """The options of a tool that say what the Celery task's own settings say.

    `time_limit` is its timeout, and `expires` how long it may wait for a worker.
    """
    found: ToolOptions = {}
    if limit := _seconds(original, "time_limit"):
        found["timeout"] = limit
    if expires := _seconds(original, "expires"):
        found["queue_timeout"] = expires
    return found


def exposed_task(original: Task, timeout_ms: int) -> ExposedTask:
    """What a worker must honour of the task's own settings.

    Args:
        original: The task.
        timeout_ms: The tool's timeout; a soft limit that is not before it would never be reached.
    """
    soft = _seconds(original, "soft_time_limit")
    soft_seconds = None if soft is None else soft.total_seconds()
    return ExposedTask(
        name=original.name,
        soft_time_limit=soft_seconds if soft_seconds and soft_seconds * 1000 < timeout_ms else None,
        rate_limit=original.rate_limit or None,
        throws=tuple(original.throws or ()),
    )


def refuse_unfaithful(place: Place, original: Task) -> None:
    """Refuse a task that could not run as Celery runs it.

    Raises:
        ConfigurationError: It takes its messages in another way than Celery's tasks do; the message says how.
    """
    for problem in _problems(original):
        raise ConfigurationError(
            f"{place}: the Celery task {original.name!r} cannot be exposed: {problem}. Write a tool "
            "that calls what it does, as a function decorated with @service.tool."
        )


def _problems(original: Task) -> Iterator[str]:
    for attribute, what in (
        ("Strategy", "takes messages in its own way, as in batches"),
        ("Request", "watches its runs from the worker's main process"),
    ):
        if getattr(original, attribute) != getattr(CeleryTask, attribute):
            yield f"its base class has a {attribute} of its own, which {what}, and a tool has its own"


def _seconds(original: Task, attribute: str) -> timedelta | None:
    value = getattr(original, attribute, None)
    return timedelta(seconds=value) if isinstance(value, int | float) and value > 0 else None
