"""The thread that publishes messages of tasks, if the broker is not the store's Redis."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

import amqp
from celery import Celery
from kombu import Connection, Queue

from ..addresses.broker import SOCKET_TIMEOUT
from ..domain.names import task_hash
from ..domain.task import Task
from ..failpoints import failpoint
from ..observability.context import of_task
from .message import send_message
from .signature import MessageSigner

logger = logging.getLogger(__name__)


BACKLOG = 10_000
"""Messages that may wait for the publisher; the sweep sends any further ones."""


class MessagePublisher:
    """A thread that publishes messages in the order of commits; a message too many is dropped.

    Args:
        app: The Celery app whose workers get the messages.
        connect: Connects to its broker.
        queue_of: The queue of a name.
        backlog: Messages that may wait.
        declares: Whether a queue is declared before a message is sent there.
        signer: Signs messages; None: they are not signed.
    """

    def __init__(
        self,
        app: Celery,
        connect: Callable[[], Connection],
        queue_of: Callable[[str], Queue],
        backlog: int,
        *,
        declares: bool,
        signer: MessageSigner | None = None,
    ) -> None:
        self._declares, self._signer = declares, signer
        self._app, self._connect, self._queue_of = app, connect, queue_of
        self._waiting: queue.Queue[Task | None] = queue.Queue(maxsize=backlog)
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._run, name="tasks-service-publisher", daemon=True)
        self._thread.start()

    def offer(self, task: Task) -> None:
        """Publish a task's message soon, or leave it to the sweep if too many wait; returns at once."""
        try:
            self._waiting.put_nowait(task)
        except queue.Full:
            logger.debug("The publisher is busy; task %s is left to the sweep", task_hash(task.task_id))

    def stop(self) -> None:
        """End the thread; the messages that still wait are left to the sweep."""
        with self._waiting.mutex:
            self._waiting.queue.clear()
        self._waiting.put(None)
        self._thread.join(timeout=SOCKET_TIMEOUT)

    def _run(self) -> None:
        while (task := self._waiting.get()) is not None:
            with of_task(task.task_id, task.tool):
                try:
                    self._publish(task)
                except Exception as error:
                    logger.warning("Task %s could not be published: %s", task_hash(task.task_id), error)
                    self._close_connection(drop)
        self._close_connection(release)

    def _publish(self, task: Task) -> None:
        """Send a message; if the open connection is lost, send it again over a new one."""
        if self._connection is not None:
            try:
                self._send(self._connection, task)
            except Exception as error:
                logger.info("The connection to the broker was lost: %s", error)
                self._close_connection(drop)
            else:
                return
        self._connection = self._connect()
        self._send(self._connection, task)

    def _send(self, connection: Connection, task: Task) -> None:
        to, producer = self._queue_of(task.queue), self._app.amqp.Producer(connection, auto_declare=False)
        failpoint("Publication", "before")
        send_message(self._app, producer, task, to, [to] if self._declares else [], self._signer)
        failpoint("Publication", "after")

    def _close_connection(self, close: Callable[[Connection], None]) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            close(connection)


def release(connection: Connection) -> None:
    """Close a connection; log an error, if there is one."""
    try:
        connection.release()
    except Exception as error:
        logger.debug("A broker connection did not close cleanly: %s", error)


def drop(connection: Connection) -> None:
    """Close a connection that failed, without AMQP's closing handshake, which would wait for an answer."""
    if connection.connected and isinstance(connection.connection, amqp.Connection):
        connection.connection.collect()
    release(connection)
