"""Repair of what a Redis broker holds: messages that no worker would be given, and keys of a wrong type.

Workers drop such messages when they come to them; this finds them while no worker runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import KombuError
from kombu.transport import redis as kombu_redis
from kombu.utils.json import loads
from redis.exceptions import RedisError, ResponseError

from ..addresses.broker import CONNECT_TIMEOUT
from ..store.maintenance import Repair
from .incoming import Sender, problem_of
from .message import key_prefix
from .signature import MessageSigner

WALK = 500
"""Messages that are read at a time."""


class MessageRepair:
    """Finds and removes what no worker would be given.

    Args:
        app: The Celery app whose broker is looked at.
        sender_of: Says whose task a name is.
        is_alone: Whether nobody else uses a queue.
        dry_run: Only tell.
        signer: Verifies signatures; None: none is asked for.
    """

    def __init__(
        self,
        app: Celery,
        sender_of: Callable[[str], Sender],
        is_alone: Callable[[str], bool],
        *,
        dry_run: bool,
        signer: MessageSigner | None = None,
    ) -> None:
        self._signer = signer
        self._app, self._sender_of, self._is_alone, self._dry_run = app, sender_of, is_alone, dry_run
        self._prefix = key_prefix(app)

    def through(self, queues: Iterable[str]) -> Iterator[Repair]:
        """Each finding as it is met; nothing where the broker is not Redis.

        Args:
            queues: The names of the queues to look at.
        """
        try:
            with self._app.connection_for_write(connect_timeout=CONNECT_TIMEOUT) as connection:
                connection.ensure_connection(max_retries=1, timeout=CONNECT_TIMEOUT)
                channel = connection.default_channel
                if isinstance(channel, kombu_redis.Channel):
                    yield from self._redis(redis.Redis(connection_pool=channel.pool), channel, queues)
        except (KombuError, RedisError, OSError) as error:
            yield Repair(task="", what=f"the broker's messages were not looked at: {error}", fixed=False)

    def _redis(self, client: Any, channel: Any, queues: Iterable[str]) -> Iterator[Repair]:
        for queue in dict.fromkeys(queues):
            for priority in channel.priority_steps:
                yield from self._queue(client, self._prefix + channel._q_for_pri(queue, priority), queue)
        yield from self._unacknowledged(client, channel)

    def _queue(self, client: Any, key: str, queue: str) -> Iterator[Repair]:
        alone, start = self._is_alone(queue), 0
        while True:
            try:
                found = client.lrange(key, start, start + WALK - 1)
            except ResponseError as error:
                if alone:
                    yield self._removed(client, key, error)
                return
            if not found:
                return
            wrong = [(raw, problem) for raw in found if (problem := self._problem(raw, queue, alone=alone))]
            for raw, problem in wrong:
                if not self._dry_run:
                    client.lrem(key, 1, raw)
                yield Repair(
                    task="", what=f"{key}: a message that no worker is given: {problem}", fixed=self._fixes
                )
            start += len(found) - (0 if self._dry_run else len(wrong))

    def _problem(self, raw: bytes, queue: str, *, alone: bool) -> str | None:
        return problem_of(raw, self._sender_of, alone=alone, queue=queue, signer=self._signer)

    def _unacknowledged(self, client: Any, channel: Any) -> Iterator[Repair]:
        """What kombu would put back into its queue when a worker is lost."""
        key, index = self._prefix + channel.unacked_key, self._prefix + channel.unacked_index_key
        try:
            client.zrange(index, 0, 0)
        except ResponseError as error:
            yield self._removed(client, index, error)
        try:
            entries = client.hgetall(key)
        except ResponseError as error:
            yield self._removed(client, key, error)
            return
        for tag, text in entries.items():
            if not _is_restorable(text):
                if not self._dry_run:
                    client.hdel(key, tag)
                    client.zrem(index, tag)
                yield Repair(task="", what=f"{key}: {tag!r} holds no message", fixed=self._fixes)

    @property
    def _fixes(self) -> bool:
        return not self._dry_run

    def _removed(self, client: Any, key: str, error: ResponseError) -> Repair:
        if not self._dry_run:
            client.delete(key)
        return Repair(task="", what=f"{key}: it is of a wrong type: {error}", fixed=self._fixes)


def _is_restorable(text: bytes) -> bool:
    try:
        message, exchange, routing_key = loads(text)
    except Exception:
        return False
    return isinstance(message, dict) and isinstance(exchange, str) and isinstance(routing_key, str)
