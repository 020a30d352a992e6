"""The Celery message of a task, built by Celery's own code.

A message is a hint. It holds the task's name and nothing secret; it may be lost, duplicated or late, and the
record decides what it is worth. Where the broker is the store's Redis, `MessageBuilder` collects the payload
instead of sending it, so that record and message are written in one MULTI.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu import Connection, Queue
from kombu.transport import virtual
from kombu.utils.json import dumps

from ..domain.names import task_hash
from ..domain.task import Task
from ..store.outbox import Push


def celery_id(task: Task) -> str:
    """The Celery id of a task's next message: the task's hash, and the number of the claim that it is for."""
    return f"{task_hash(task.task_id)}.{task.claims + 1}"


class CollectingChannel(virtual.Channel):  # type: ignore[misc]
    """A channel that collects messages; `_put` is kombu's extension point for virtual transports."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.collected: list[tuple[str, bytes]] = []

    def _put(self, queue: str, message: dict[str, Any], **options: Any) -> None:
        self.collected.append((queue, dumps(message).encode()))


class CollectingTransport(virtual.Transport):  # type: ignore[misc]
    """The transport of `CollectingChannel`."""

    Channel = CollectingChannel


class MessageBuilder:
    """Builds payloads exactly as Celery and kombu's Redis transport would send them; one per thread."""

    def __init__(self, app: Celery) -> None:
        options = app.conf.broker_transport_options
        self._app = app
        self._prefix = key_prefix(app)
        connection = Connection(transport=CollectingTransport, transport_options=dict(options))
        self._sink: CollectingChannel = connection.channel()
        self._producer = app.amqp.Producer(self._sink, auto_declare=False)

    def build(self, task: Task, to: Queue) -> Push:
        """Build the message of a task for a queue."""
        send_message(self._app, self._producer, task, to, declare=[])
        ((name, payload),) = self._sink.collected
        self._sink.collected.clear()
        return Push(self._prefix + name, payload)


def key_prefix(app: Celery) -> str:
    """The prefix of the keys of an app's queues, where its broker is Redis."""
    return str(app.conf.broker_transport_options.get("global_keyprefix", ""))


def send_message(app: Celery, producer: Any, task: Task, to: Queue, declare: list[Queue]) -> None:
    """Publish a task's reference to a queue, through the default exchange."""
    messages, name = app.amqp, celery_id(task)
    reference = {
        "task": task_hash(task.task_id),
        "claims": task.claims,
        "dispatched_ms": task.dispatched_ms,
    }
    message = messages.create_task_message(
        name,
        task.tool,
        (),
        reference,
        argsrepr="()",
        kwargsrepr=f"{{'task': '{name}'}}",
        ignore_result=True,
        create_sent_event=False,
    )
    messages.send_task_message(
        producer,
        task.tool,
        message,
        queue=to,
        exchange_type="direct",
        routing_key="",
        serializer="json",
        declare=declare,
        retry=False,
    )
