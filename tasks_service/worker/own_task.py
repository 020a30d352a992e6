"""The base class of our Celery tasks, which what an app says of all its tasks does not reach."""

from __future__ import annotations

from celery import Task


class OwnTask(Task):  # type: ignore[misc]
    """A Celery task of ours. An app's `task_annotations` and its default rate limit mean its own tasks."""

    abstract = True
    rate_limit = 0
    """No limit; None would be the app's `task_default_rate_limit`."""

    @classmethod
    def annotate(cls) -> None:
        """Take nothing: a hook or a serializer for `*` would keep our tasks from running."""
