"""The dispatcher, which makes the Celery messages of recorded tasks.

A message is a hint: it holds only the task's reference, may be lost, doubled or late, and the record decides
whether the task runs. Where the broker is the Redis that holds the record, the message is part of the same
MULTI: Celery's own code builds it on a channel that collects instead of sending. With any other broker, a
thread publishes after the commit, and a sweep redispatches what it cannot send.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from celery import Celery
from kombu import Connection, Queue
from kombu.exceptions import ChannelError
from kombu.transport import redis as kombu_redis

from ..addresses.broker import (
    CONNECT_TIMEOUT,
    SOCKET_TIMEOUT,
    Server,
    bounded,
    broker_of,
    listed,
    redis_server,
)
from ..domain.task import Task
from ..store.outbox import Push
from .app import direct_queue
from .message import MessageBuilder, key_prefix
from .publisher import BACKLOG, MessagePublisher, drop, release
from .signature import MessageSigner

logger = logging.getLogger(__name__)


INSPECT_TIMEOUT = 2.0
"""Seconds that the broker may take to tell the length of a queue; a sweep waits for it."""

INSPECT_BACKOFF = 5.0
"""Seconds until a broker that did not answer is asked again; sweeps go on without it."""


class Dispatcher:
    """Makes the Celery messages of tasks that are pending and due; the `Outbox` of the Redis store.

    Safe to share between threads, and to use after a fork.

    Args:
        app: The Celery app whose workers run the tools.
        redis_url: The URL of the store; None if it is not Redis.
        broker_url: The broker, in a form that `broker_of` takes; the app's own broker if not given.
        backlog: Messages that may wait for the publisher thread, if the broker is not the store's Redis.
        declares: Whether a queue is declared before a message is sent there. Only an app knows with which
            arguments; without it, the workers that consume from it have declared it.
        signer: Signs messages; None: they are not signed.
    """

    def __init__(
        self,
        app: Celery,
        *,
        redis_url: str | None,
        broker_url: str | None = None,
        backlog: int = BACKLOG,
        declares: bool = True,
        signer: MessageSigner | None = None,
    ) -> None:
        self._app, self._signer = app, signer
        self._redis_url = redis_url
        self._broker = broker_of(broker_url) if broker_url else None
        self._backlog, self._declares = backlog, declares
        self._lock = threading.Lock()
        self._local = threading.local()
        self._queues: dict[str, Queue] = {}
        self._in_store: bool | None = None
        self._publisher: MessagePublisher | None = None
        self._inspector: Connection | None = None
        self._no_inspection_until = 0.0
        self._pid = os.getpid()

    @property
    def in_store(self) -> bool:
        """Whether the broker is the store's Redis, so that messages are part of the record's MULTI."""
        if self._in_store is None:
            server = redis_server(self._redis_url) if self._redis_url else None
            self._in_store = server is not None and server == self._broker_server()
        return self._in_store

    @property
    def broker_url(self) -> str:
        """The URL of the broker."""
        return self._broker.url if self._broker else listed(self._app.conf.broker_write_url)

    @property
    def messages(self) -> str | None:
        """The prefix of the keys of the broker's queues; None if the broker is not the store's Redis."""
        return key_prefix(self._app) if self.in_store else None

    def _options(self) -> dict[str, Any]:
        """The transport options of the app, and those that the broker's URL implies."""
        return {**self._app.conf.broker_transport_options, **(self._broker.options if self._broker else {})}

    def _broker_server(self) -> Server | None:
        encrypted = bool(self._broker.ssl if self._broker else self._app.conf.broker_use_ssl)
        name = str(self._options().get("master_name", ""))
        return redis_server(self.broker_url, master_name=name, encrypted=encrypted)

    def pushes(self, task: Task, now_ms: int) -> Sequence[Push]:
        """The message of a task, to write with its record; empty if the broker is not the store's Redis."""
        if not self.in_store:
            return ()
        builder: MessageBuilder | None = getattr(self._local, "builder", None)
        if builder is None:
            builder = self._local.builder = MessageBuilder(self._app, self._signer)
        return (builder.build(task, self.queue(task.queue)),)

    def committed(self, task: Task) -> None:
        """Publish a task's message, if it was not written with the record; returns at once, never raises."""
        if not self.in_store:
            self._running_publisher().offer(task)

    def queue_length(self, name: str) -> int | None:
        """The number of messages in a queue; None if the broker does not answer, or did not a moment ago."""
        with self._lock:
            self._forget_after_fork()
            if time.monotonic() < self._no_inspection_until:
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
                    drop(self._inspector)
                self._inspector = None
                self._no_inspection_until = time.monotonic() + INSPECT_BACKOFF
                return None

    def queue(self, name: str) -> Queue:
        """The queue of that name: as the app declares it, else as Celery would create it."""
        found = self._queues.get(name)
        if found is None:
            declared = self._app.amqp.queues
            found = self._queues[name] = declared[name] if name in declared else direct_queue(name)
        return found

    def close(self) -> None:
        """Stop publishing; a sweep redispatches the messages that still wait."""
        with self._lock:
            publisher, self._publisher = self._publisher, None
            inspector, self._inspector = self._inspector, None
        if publisher is not None:
            publisher.stop()
        if inspector is not None:
            release(inspector)

    def _running_publisher(self) -> MessagePublisher:
        with self._lock:
            self._forget_after_fork()
            if self._publisher is None:
                self._publisher = MessagePublisher(
                    self._app,
                    self._connection,
                    self.queue,
                    self._backlog,
                    declares=self._declares,
                    signer=self._signer,
                )
            return self._publisher

    def _forget_after_fork(self) -> None:
        if self._pid != os.getpid():
            self._pid, self._publisher, self._inspector = os.getpid(), None, None

    def _connection(self, timeout: float = SOCKET_TIMEOUT) -> Connection:
        options = {**bounded(self.broker_url, timeout), **self._options()}
        # It is idle for long, and nothing would answer heartbeats: the broker would close it.
        connection: Connection = self._app.connection_for_write(
            url=self.broker_url,
            ssl=self._broker and self._broker.ssl,
            connect_timeout=min(CONNECT_TIMEOUT, timeout),
            transport_options=options,
            heartbeat=0,
        )
        return connection


def _length(connection: Connection, name: str) -> int:
    channel = connection.default_channel
    # On Redis a declaration leaves nothing behind, and kombu's passive one looks for a key without
    # `global_keyprefix`, so that every queue seems empty.
    passive = not isinstance(channel, kombu_redis.Channel)
    try:
        return int(channel.queue_declare(queue=name, passive=passive).message_count)
    except ChannelError:
        return 0  # there is no such queue
