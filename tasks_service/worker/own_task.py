"""The base class of our Celery tasks, which what an app says of all its tasks does not reach."""

from __future__ import annotations

from typing import Any

from celery import Task


class OwnTask(Task):  # type: ignore[misc]
    """A Celery task of ours. An app's `task_annotations` and its default rate limit mean its own tasks."""

    abstract = True
    rate_limit = 0
    """No limit; None would be the app's `task_default_rate_limit`."""

    @classmethod
    def annotate(cls) -> None:
        """Take nothing: a hook or a serializer for `*` would keep our tasks from running."""

    def after_return(self, status: str, retval: Any, *_: Any) -> None:
        """Let go of the traceback of a task that has failed.

        Its last frame is the tracer's own, which has the exception among its variables: a cycle, and in it
        the thousands of objects with which Celery describes a traceback. Python looks for such cycles seldom:
        a process whose tools fail held 190 KB for each of hundreds of failures.
        """
        if isinstance(retval, BaseException):
            retval.__traceback__ = None
