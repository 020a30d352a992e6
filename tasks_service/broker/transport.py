"""Redis transports for kombu that keep one client per channel, and drop what is no message at all.

kombu's own create a new `redis.Redis` for each command, and something that is no message ends whoever listens
for remote control or events. What workers read from queues is judged in `guard`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis
from celery.app.amqp import AMQP
from kombu import Connection
from kombu.transport import redis as kombu_redis
from redis.exceptions import ConnectionError as RedisConnectionError

logger = logging.getLogger(__name__)


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
            kept = self._kept = self._create_client()
        return kept


class KeptClientChannel(_KeptClient, kombu_redis.Channel):  # type: ignore[misc]
    """A channel to one Redis."""


class _DroppingTransport(kombu_redis.Transport):  # type: ignore[misc]
    """A transport that drops malformed messages, which would end the worker."""

    def _deliver(self, message: Any, queue: str) -> None:
        if _is_message(message):
            super()._deliver(message, queue)
        else:
            logger.warning("Something that is no message was in queue %r and is dropped", queue)


class KeptClientTransport(_DroppingTransport):
    """The Redis transport, with channels that keep their client."""

    Channel = KeptClientChannel


def _is_message(message: Any) -> bool:
    """Whether Celery can read the task's name from a message; any other message would end the worker."""
    if not isinstance(message, dict) or not isinstance(message.get("properties"), dict):
        return False
    headers = message.get("headers")
    return headers is None or (isinstance(headers, dict) and isinstance(headers.get("task", ""), str))


class KeptClientSentinelChannel(_KeptClient, kombu_redis.SentinelChannel):  # type: ignore[misc]
    """A channel to the master that sentinels name."""


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


class KeptClientAMQP(AMQP):  # type: ignore[misc]
    """Celery's AMQP utilities over `KeptClientConnection`."""

    Connection = KeptClientConnection
