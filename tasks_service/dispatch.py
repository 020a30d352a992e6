"""From a recorded task to a Celery message.

A message is a hint. It holds the task's reference and nothing else; it may be lost, doubled or late, and the
record decides what it is worth. Where the broker is the very Redis that holds the record, the message is part
of the same MULTI: Celery's own code builds it on a channel that collects instead of sending. With any other
broker, one thread publishes after the commit; what it cannot send, a sweep finds and sends again.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import amqp
from celery import Celery
from kombu import Connection, Queue
from kombu.exceptions import ChannelError
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.json import dumps

from .broker import (
    CONNECT_TIMEOUT,
    SOCKET_TIMEOUT,
    Server,
    bounded,
    broker_of,
    direct_queue,
    redis_server,
)
from .domain.task import Task
from .failpoints import failpoint
from .store.base import Push

logger = logging.getLogger(__name__)

BACKLOG = 10_000
"""Messages that may wait for the publisher; beyond, they are left to the sweep."""

INSPECT_TIMEOUT = 2.0
"""Seconds that the broker may take to say how long a queue is: a sweep waits for it."""

INSPECT_PAUSE = 5.0
"""Seconds for which a broker that did not say is not asked again, so that sweeps go on without it."""

HASH_BYTES = 9
"""Bytes of the hash that names a task wherever operators look (Celery, Flower, logs)."""


def task_hash(task_id: str) -> str:
    """A short name of a task for logs, Celery and Flower; its id itself is a secret of its owner."""
    return blake2b(task_id.encode(), digest_size=HASH_BYTES).hexdigest()


def celery_id(task: Task) -> str:
    """The Celery id of a task's next dispatch: which task, and which run it is to start."""
    return f"{task_hash(task.task_id)}.{task.run + 1}"


class Dispatcher:
    """Makes a Celery message of a task that is pending and due; the store's `Outbox`.

    Safe to share between threads, and to carry through a fork.

    Args:
        app: The Celery app whose workers run the tools.
        redis_url: Where the store is; None if it is not Redis.
        broker_url: Where messages go, as `broker_of` has it; the app's own broker if not given.
        backlog: Messages that may wait for the publisher thread, where the broker is elsewhere.
    """

    def __init__(
        self,
        app: Celery,
        *,
        redis_url: str | None,
        broker_url: str | None = None,
        backlog: int = BACKLOG,
    ) -> None:
        self._app = app
        self._redis_url = redis_url
        self._broker = broker_of(broker_url) if broker_url else None
        self._backlog = backlog
        self._lock = threading.Lock()
        self._local = threading.local()
        self._queues: dict[str, Queue] = {}
        self._in_store: bool | None = None
        self._publisher: _Publisher | None = None
        self._inspector: Connection | None = None
        self._silent_until = 0.0
        self._pid = os.getpid()

    @property
    def in_store(self) -> bool:
        """Whether messages go into the same write as the record."""
        if self._in_store is None:
            server = redis_server(self._redis_url) if self._redis_url else None
            self._in_store = server is not None and server == self._broker_server()
        return self._in_store

    @property
    def broker_url(self) -> str:
        """Where messages go."""
        return self._broker.url if self._broker else str(self._app.conf.broker_write_url or "")

    def _options(self) -> dict[str, Any]:
        """What the transport must know: the app's own options, and those that come with the URL."""
        return {**self._app.conf.broker_transport_options, **(self._broker.options if self._broker else {})}

    def _broker_server(self) -> Server | None:
        encrypted = bool(self._broker.ssl if self._broker else self._app.conf.broker_use_ssl)
        name = str(self._options().get("master_name", ""))
        return redis_server(self.broker_url, master_name=name, encrypted=encrypted)

    def pushes(self, task: Task, now_ms: int) -> Sequence[Push]:
        """The message of a task, to be written with it; empty if the broker is elsewhere."""
        if not self.in_store:
            return ()
        builder: _Builder | None = getattr(self._local, "builder", None)
        if builder is None:
            builder = self._local.builder = _Builder(self._app)
        return (builder.build(task, self.queue(task.queue)),)

    def committed(self, task: Task) -> None:
        """Publish a task's message, if it did not go with the record; returns at once, never raises."""
        if not self.in_store:
            self._running_publisher().offer(task)

    def queue_length(self, name: str) -> int | None:
        """How many messages wait in a queue; None if the broker does not say, or did not a moment ago."""
        with self._lock:
            self._forget_after_fork()
            if time.monotonic() < self._silent_until:
                return None
            try:
                if self._inspector is None:
                    self._inspector = self._connection(INSPECT_TIMEOUT)
                return _length(self._inspector, name)
            except Exception as error:
                logger.warning(
                    "The broker does not say how long queue %r is: %s",
                    name,
                    str(error) or type(error).__name__,
                )
                if self._inspector is not None:
                    _drop(self._inspector)
                self._inspector = None
                self._silent_until = time.monotonic() + INSPECT_PAUSE
                return None

    def queue(self, name: str) -> Queue:
        """The queue of that name: as the app declares it, else as Celery would make it."""
        found = self._queues.get(name)
        if found is None:
            declared = self._app.amqp.queues
            found = self._queues[name] = declared[name] if name in declared else direct_queue(name)
        return found

    def close(self) -> None:
        """Stop publishing; what waits is left to the sweep."""
        with self._lock:
            publisher, self._publisher = self._publisher, None
            inspector, self._inspector = self._inspector, None
        if publisher is not None:
            publisher.stop()
        if inspector is not None:
            _release(inspector)

    def _running_publisher(self) -> _Publisher:
        with self._lock:
            self._forget_after_fork()
            if self._publisher is None:
                self._publisher = _Publisher(self._app, self._connection, self.queue, self._backlog)
            return self._publisher

    def _forget_after_fork(self) -> None:
        if self._pid != os.getpid():
            self._pid, self._publisher, self._inspector = os.getpid(), None, None

    def _connection(self, timeout: float = SOCKET_TIMEOUT) -> Connection:
        options = {**bounded(self.broker_url, timeout), **self._options()}
        # It is idle for long, and nobody would answer heartbeats: the broker would close it.
        connection: Connection = self._app.connection_for_write(
            url=self.broker_url,
            connect_timeout=min(CONNECT_TIMEOUT, timeout),
            transport_options=options,
            heartbeat=0,
        )
        return connection


class _Sink(virtual.Channel):  # type: ignore[misc]
    """A channel that keeps what it is given; `_put` is kombu's extension point for virtual transports."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.collected: list[tuple[str, bytes]] = []

    def _put(self, queue: str, message: dict[str, Any], **options: Any) -> None:
        self.collected.append((queue, dumps(message).encode()))


class _SinkTransport(virtual.Transport):  # type: ignore[misc]
    Channel = _Sink


class _Builder:
    """Builds payloads exactly as Celery and kombu's Redis transport would send them; one per thread."""

    def __init__(self, app: Celery) -> None:
        options = app.conf.broker_transport_options
        self._app = app
        self._prefix = str(options.get("global_keyprefix", ""))
        connection = Connection(transport=_SinkTransport, transport_options=dict(options))
        self._sink: _Sink = connection.channel()
        self._producer = app.amqp.Producer(self._sink, auto_declare=False)

    def build(self, task: Task, to: Queue) -> Push:
        _send(self._app, self._producer, task, to, declare=[])
        ((name, payload),) = self._sink.collected
        self._sink.collected.clear()
        return Push(self._prefix + name, payload)


def _send(app: Celery, producer: Any, task: Task, to: Queue, declare: list[Queue]) -> None:
    """Publish a task's reference to a queue, by way of the default exchange."""
    messages, name = app.amqp, celery_id(task)
    reference = {"task_id": task.task_id, "run": task.run, "dispatched_ms": task.dispatched_ms}
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


class _Publisher:
    """One thread that publishes in the order of commits; it drops rather than waits."""

    def __init__(
        self,
        app: Celery,
        connect: Callable[[], Connection],
        queue_of: Callable[[str], Queue],
        backlog: int,
    ) -> None:
        self._app, self._connect, self._queue_of = app, connect, queue_of
        self._waiting: queue.Queue[Task | None] = queue.Queue(maxsize=backlog)
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._run, name="tasks-service-publisher", daemon=True)
        self._thread.start()

    def offer(self, task: Task) -> None:
        try:
            self._waiting.put_nowait(task)
        except queue.Full:
            logger.debug("The publisher is busy; task %s is left to the sweep", task_hash(task.task_id))

    def stop(self) -> None:
        with self._waiting.mutex:
            self._waiting.queue.clear()
        self._waiting.put(None)
        self._thread.join(timeout=SOCKET_TIMEOUT)

    def _run(self) -> None:
        while (task := self._waiting.get()) is not None:
            try:
                self._publish(task)
            except Exception as error:
                logger.warning("Task %s could not be published: %s", task_hash(task.task_id), error)
                self._hang_up(_drop)
        self._hang_up(_release)

    def _publish(self, task: Task) -> None:
        """Send a message; a second time over a new connection if the one that there was has been lost."""
        if self._connection is not None:
            try:
                self._send(self._connection, task)
            except Exception as error:
                logger.info("The connection to the broker was lost: %s", error)
                self._hang_up(_drop)
            else:
                return
        self._connection = self._connect()
        self._send(self._connection, task)

    def _send(self, connection: Connection, task: Task) -> None:
        to, producer = self._queue_of(task.queue), self._app.amqp.Producer(connection, auto_declare=False)
        failpoint("Publication", "before")
        _send(self._app, producer, task, to, [to])
        failpoint("Publication", "after")

    def _hang_up(self, close: Callable[[Connection], None]) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            close(connection)


def _length(connection: Connection, name: str) -> int:
    channel = connection.default_channel
    # On Redis a declaration leaves nothing behind, and kombu's passive one looks for a key without
    # `global_keyprefix`, so that every queue seems empty.
    passive = not isinstance(channel, kombu_redis.Channel)
    try:
        return int(channel.queue_declare(queue=name, passive=passive).message_count)
    except ChannelError:
        return 0  # there is no such queue


def _release(connection: Connection) -> None:
    try:
        connection.release()
    except Exception as error:
        logger.debug("A broker connection did not close cleanly: %s", error)


def _drop(connection: Connection) -> None:
    """Close a connection that failed, without the farewell of AMQP that waits for an answer."""
    if connection.connected and isinstance(connection.connection, amqp.Connection):
        connection.connection.collect()
    _release(connection)
