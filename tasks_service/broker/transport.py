"""Redis transports for kombu that keep one client per channel, and drop what is no message at all.

kombu's own create a new `redis.Redis` for each command, run scripts (see `scriptless`), and something that
is no message ends whoever listens for remote control or events. What workers read from queues is judged in
`guard`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from queue import Empty
from typing import Any

import redis
from celery.app.amqp import AMQP
from kombu import Connection
from kombu import connection as kombu_connection
from kombu.transport import redis as kombu_redis
from redis.exceptions import ConnectionError as RedisConnectionError

from .events import EXCHANGE, problem_of_event
from .scriptless import Scriptless, without_scripts

logger = logging.getLogger(__name__)

UNREADABLE = (AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What kombu raises over something that has not the shape of its own."""

MOST_SAID = 200
"""Characters of what is wrong with something that is dropped, in a log line: senders can make it long."""


class _KeptClient:
    """A mixin for channels: one client per channel, instead of one per command.

    The client belongs to the current connection pool: kombu drops the pool after a fork and when the
    connection is lost, and then a new client is created.
    """

    _pool: Any
    connection: Any
    _create_client: Callable[[], redis.Redis]

    _kept: redis.Redis | None = None

    @contextmanager
    def conn_or_acquire(self, client: redis.Redis | None = None) -> Iterator[redis.Redis]:
        """The given client, or the kept one."""
        yield client or self._kept_client()

    def _kept_client(self) -> redis.Redis:
        if self.connection is None or self.connection.client is None:
            # Celery closes the channel of a lost connection a second time. If a message is still
            # unacknowledged, kombu fails there with an error that ends the worker; it handles this one.
            raise RedisConnectionError("the channel's connection was given up")
        kept = self._kept
        if kept is None or kept.connection_pool is not self._pool:
            kept = self._kept = without_scripts(self._create_client())
        return kept


class _OwnMessagesQoS(kombu_redis.QoS):  # type: ignore[misc]
    """Looks for the messages of lost workers only where messages are taken.

    kombu does so in every process that waits for anything, as for the answers to remote control, and whoever
    asks workers something may not be one that may take messages.
    """

    def restore_visible(self, *args: Any, **options: Any) -> None:
        """Put back the messages of lost workers, if this channel takes any itself."""
        if any(not queue.endswith(REPLIES) for queue in self.channel.active_queues):
            super().restore_visible(*args, **options)


REPLIES = ".reply.celery.pidbox"
"""How the names of the queues end in which answers to remote control come."""


class _Listening:
    """A mixin for channels: what is published and cannot even be read is as if there was nothing.

    kombu reads what has arrived one by one, and stops at the first that it cannot read: what came behind it
    would wait, unread, for the next that comes.
    """

    connection: Any

    def _receive_one(self, client: Any) -> Any:
        try:
            return super()._receive_one(client)  # type: ignore[misc]
        except (Empty, *UNREADABLE) as error:
            self.connection.dropped("", f"it was published and cannot be read ({type(error).__name__})")
            return None


class KeptClientChannel(_Listening, _KeptClient, Scriptless, kombu_redis.Channel):  # type: ignore[misc]
    """A channel to one Redis."""

    QoS = _OwnMessagesQoS


class _DroppingTransport(kombu_redis.Transport):  # type: ignore[misc]
    """A transport that drops what would end whoever listens: a worker, or what shows Flower its events."""

    def dropped(self, queue: str, problem: str) -> None:
        """Something was dropped; workers count it (`guard`)."""
        logger.warning("Dropped from %r: %s", queue, problem[:MOST_SAID])

    def _deliver(self, message: Any, queue: str) -> None:
        if not _is_message(message):
            self.dropped(queue, "it is no message")
        elif exchanges := [
            channel._fanout_queues[queue][0]
            for channel in self.channels
            if queue in channel.active_fanout_queues
        ]:
            self._deliver_or_drop(message, queue, is_event=EXCHANGE in exchanges)
        else:
            super()._deliver(message, queue)

    def _deliver_or_drop(self, message: Any, queue: str, *, is_event: bool) -> None:
        """Remote control and events: who published them may have meant anything."""
        if is_event and (problem := problem_of_event(message)):
            self.dropped(queue, problem)
            return
        try:
            super()._deliver(message, queue)
        except (
            self.connection_errors
        ):  # else: one that cannot be decoded is acknowledged, which may be denied
            raise
        except Exception as error:  # of any class: also bodies are decoded here, by whatever they name
            self.dropped(queue, f"{type(error).__name__}: {error}")


class KeptClientTransport(_DroppingTransport):
    """The Redis transport, with channels that keep their client."""

    Channel = KeptClientChannel


def _is_message(message: Any) -> bool:
    """Whether Celery can read the task's name from a message; any other message would end the worker."""
    if not isinstance(message, dict) or not isinstance(message.get("properties"), dict):
        return False
    headers = message.get("headers")
    return headers is None or (isinstance(headers, dict) and isinstance(headers.get("task", ""), str))


class KeptClientSentinelChannel(
    _Listening,
    _KeptClient,
    Scriptless,
    kombu_redis.SentinelChannel,  # type: ignore[misc]
):
    """A channel to the master that sentinels name."""

    QoS = _OwnMessagesQoS


class KeptClientSentinelTransport(_DroppingTransport, kombu_redis.SentinelTransport):  # type: ignore[misc]
    """The Sentinel transport, with channels that keep their client."""

    Channel = KeptClientSentinelChannel


_KEPT_TRANSPORTS: Mapping[type[Any], type[Any]] = {
    kombu_redis.Transport: KeptClientTransport,
    kombu_redis.SentinelTransport: KeptClientSentinelTransport,
}


class KeptClientConnection(Connection):  # type: ignore[misc]
    """A connection that uses our transports in place of kombu's for Redis, and kombu's for other brokers."""

    def get_transport_cls(self) -> type[Any]:
        """The transport of the URL."""
        found: type[Any] = super().get_transport_cls()
        return _KEPT_TRANSPORTS.get(found, found)

    def Pool(self, limit: int | None = None, **options: Any) -> Any:  # noqa: N802 - kombu's name
        """A pool of such connections."""
        if _BasePooled is None:
            return super().Pool(limit, **options)
        return _KeptClientPool(self, limit, **options)


_BasePooled: Any = getattr(kombu_connection, "PooledConnection", None)
"""What kombu's pools are made of since 5.4, whatever the class of their connection; before, of that class."""


class _PooledConnection(KeptClientConnection, _BasePooled or Connection):  # type: ignore[misc]
    """A connection of a pool."""


class _KeptClientPool(kombu_connection.ConnectionPool):  # type: ignore[misc]
    """A pool whose connections use our transports."""

    def new(self) -> Any:
        """Another connection."""
        return _PooledConnection(self, **dict(self.connection._info(resolve=False)))


class KeptClientAMQP(AMQP):  # type: ignore[misc]
    """Celery's AMQP utilities over `KeptClientConnection`."""

    Connection = KeptClientConnection
