"""Names of Celery tasks that are taken on an app, found without finalizing it.

A tool is a Celery task of its own name. Of two tasks of one name Celery keeps the first, and calls it in
place of the other without a word; so a tool is refused if its name is taken when it is registered.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from celery import Celery
from celery._state import connect_on_app_finalize

from ..domain.errors import ConfigurationError


def refuse_taken_name(app: Celery, name: str, place: str) -> None:
    """Refuse a tool whose Celery task would be another one.

    Args:
        app: The app on which it is to be registered.
        name: The tool's name.
        place: The tool and its function, for the error.

    Raises:
        ConfigurationError: A Celery task of the app, or a tool of another service on it, has the name.
    """
    if name in _names(app):
        raise ConfigurationError(
            f"{place}: its Celery app has a task {name!r} already, one of its own or a tool of another "
            "service, which would be called in its place. Give one of them another name=."
        )


def refuse_later_tasks(app: Celery, tools: Iterable[str]) -> None:
    """Refuse Celery tasks that get the name of a tool after it was registered, when the app is finalized.

    Args:
        app: The app of the tools.
        tools: Their names, looked at then.
    """
    watched = weakref.ref(app)

    def check(finalized: Celery) -> None:
        if finalized is not watched():
            return
        counted = Counter(_names(finalized))
        if twice := sorted(name for name in tools if counted[name] > 1):
            raise ConfigurationError(
                f"There are two tasks {twice[0]!r} on the Celery app, and one is a tool: it would be called "
                "in place of the other. Give one of them another name=."
            )

    connect_on_app_finalize(check)


def _names(app: Celery) -> Iterator[str]:
    # `app.tasks` would finalize the app, before its author has connected to `on_after_finalize`.
    yield from app._tasks
    for pending in app._pending:
        yield pending_name(app, pending)


def pending_name(app: Celery, pending: Any) -> str:
    """The name that a task which Celery has not made yet will have, or has, if it was made meanwhile."""
    if pending.__evaluated__():
        return str(pending.name)
    options = object.__getattribute__(pending, "_Proxy__kwargs")
    (function,) = object.__getattribute__(pending, "_Proxy__args")
    return str(options.get("name") or app.gen_task_name(function.__name__, function.__module__))
