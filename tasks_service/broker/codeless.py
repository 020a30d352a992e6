"""The outbox of a front end that has no Celery app of a shop's: its messages go where workers announced."""

from __future__ import annotations

from collections.abc import Sequence

from ..domain.task import Task
from ..settings import Settings
from ..store.outbox import Push
from ..store.registry import NOT_TOLD, Delivery
from .app import create_app
from .delivery import delivery_of, disagreement
from .dispatcher import Dispatcher
from .signature import message_signer

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

    def refusal(self, theirs: Delivery, *, is_first: bool) -> str | None:
        """Send to where workers take messages from, or say why that is not possible.

        The prefix of keys is that of the first service. Others whose workers have another one cannot share
        its store: what workers of the one send again would not reach those of the other.

        Args:
            theirs: Where a service's workers take messages from.
            is_first: Whether no other service is served yet.

        Returns:
            Why messages would not reach them, and what to do; None if they do.
        """
        if theirs == NOT_TOLD:
            return None
        if (problem := disagreement(theirs, self._delivery)) is not None:
            return problem
        if theirs.key_prefix == self._delivery.key_prefix:
            return None
        if not is_first:
            return (
                f"its workers take messages from queues with the prefix {theirs.key_prefix!r} in Redis, and "
                f"those of other services from queues with {self._delivery.key_prefix!r}. Give it a store of "
                "its own, by TASKS_KEY_PREFIX"
            )
        before, self._dispatcher = self._dispatcher, self._dispatcher_of(theirs.key_prefix)
        before.close()
        return None

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
        return Dispatcher(
            app,
            redis_url=settings.redis_url,
            broker_url=settings.broker_url,
            declares=False,
            signer=message_signer(settings),
        )
