"""The Celery message of a task, built by Celery's own code.

A message is a hint. It holds the task's name and nothing secret; it may be lost, duplicated or late, and
the record decides what it is worth. It is signed where the deployment has a secret for it. Where the broker
is the store's Redis, `MessageBuilder` collects the payload instead of sending it, so that record and
message are written in one MULTI.
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
from .signature import SIGNATURE, MessageSigner


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
    """Builds payloads exactly as Celery and kombu's Redis transport would send them; one per thread.

    Args:
        app: The Celery app whose workers get the messages.
        signer: Signs them; None: they are not signed.
    """

    def __init__(self, app: Celery, signer: MessageSigner | None = None) -> None:
        options = app.conf.broker_transport_options
        self._app, self._signer = app, signer
        self._prefix = key_prefix(app)
        connection = Connection(transport=CollectingTransport, transport_options=dict(options))
        self._sink: CollectingChannel = connection.channel()
        self._producer = app.amqp.Producer(self._sink, auto_declare=False)

    def build(self, task: Task, to: Queue) -> Push:
        """Build the message of a task for a queue."""
        send_message(self._app, self._producer, task, to, declare=[], signer=self._signer)
        ((name, payload),) = self._sink.collected
        self._sink.collected.clear()
        return Push(self._prefix + name, payload)


def key_prefix(app: Celery) -> str:
    """The prefix of the keys of an app's queues, where its broker is Redis."""
    return str(app.conf.broker_transport_options.get("global_keyprefix", ""))


class _PlainProducer:
    """A producer that compresses nothing, whatever an app says of its messages.

    A reference is small; and what is compressed cannot be judged before it has been unpacked, to any size.
    """

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    def publish(self, body: Any, **options: Any) -> Any:
        """As the producer itself does."""
        return self._producer.publish(body, **{**options, "compression": None})


def send_message(
    app: Celery,
    producer: Any,
    task: Task,
    to: Queue,
    declare: list[Queue],
    signer: MessageSigner | None = None,
) -> None:
    """Publish a task's reference to a queue, through the default exchange.

    Args:
        app: The Celery app whose workers take the queue.
        producer: Of kombu.
        task: The task.
        to: The queue.
        declare: Queues to declare before.
        signer: Signs the message; None: it is not signed.
    """
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
    if signer is not None:
        # With protocol 1 the headers are empty, and the body has their fields.
        signed = message.headers or message.body
        message.headers[SIGNATURE] = signer.sign(to.name, signed, reference)
    messages.send_task_message(
        _PlainProducer(producer),
        task.tool,
        message,
        queue=to,
        exchange_type="direct",
        routing_key="",
        serializer="json",
        declare=declare,
        retry=False,
    )
