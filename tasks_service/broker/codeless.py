"""The outbox of a front end that has no Celery app of a shop's: its messages go where workers announced."""

from __future__ import annotations

from collections.abc import Sequence

from ..domain.task import Task
from ..settings import Settings
from ..store.outbox import Push
from .app import create_app
from .delivery import Delivery, delivery_of
from .dispatcher import Dispatcher

APP_NAME = "tasks_service_front_end"
"""The name of the Celery app that makes messages; nobody runs it."""


class CodelessOutbox:
    """Makes the messages of tasks from their records alone; see `Outbox`.

    The name of a task's tool is that of its Celery task, and its queue is in the record; messages are JSON.

    Args:
        settings: They name the store and the broker.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._dispatcher = self._dispatcher_of(None)

    @property
    def delivery(self) -> Delivery:
        """Where messages go."""
        return self._delivery

    def adopt(self, key_prefix: str) -> None:
        """Send to queues whose keys have this prefix, from now on, if the broker is a Redis."""
        if self._delivery.transport == "redis" and key_prefix != self._delivery.key_prefix:
            before, self._dispatcher = self._dispatcher, self._dispatcher_of(key_prefix)
            before.close()

    @property
    def messages(self) -> str | None:
        """See `Outbox.messages`."""
        return self._dispatcher.messages

    def pushes(self, task: Task, now_ms: int) -> Sequence[Push]:
        """See `Outbox.pushes`."""
        return self._dispatcher.pushes(task, now_ms)

    def committed(self, task: Task) -> None:
        """See `Outbox.committed`."""
        self._dispatcher.committed(task)

    def close(self) -> None:
        """Stop publishing."""
        self._dispatcher.close()

    def _dispatcher_of(self, key_prefix: str | None) -> Dispatcher:
        settings = self._settings
        broker_url = settings.broker_url or settings.redis_url or ""
        app = create_app(APP_NAME, broker_url=broker_url, key_prefix=settings.key_prefix)
        if key_prefix is not None:
            app.conf.broker_transport_options["global_keyprefix"] = key_prefix
        self._delivery = delivery_of(app, str(app.conf.broker_write_url or ""))
        return Dispatcher(app, redis_url=settings.redis_url, broker_url=settings.broker_url, declares=False)
