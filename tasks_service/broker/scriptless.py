"""What kombu's Redis transport does by Lua, done by plain commands.

Scripts need `SCRIPT LOAD` and `EVALSHA`, and whoever has those can stop a Redis for everybody by one that
never ends. kombu needs them for two things: to give back the lock under which a worker looks for messages
of lost workers, and, since 5.7, to keep what says which queues an exchange has for as long as somebody uses
it. Both are as good without: the lock only spares work, since each message is put back in a transaction of
its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from redis.client import Pipeline

MARGIN = 0.9
"""The part of its life after which a lock is left to expire, and given back no more: it may be another's."""


class ExpiringLock:
    """A lock in Redis, as redis-py's, that nobody can hold for longer than it was taken for.

    Args:
        client: kombu's.
        name: Its key.
        timeout: Seconds.
    """

    def __init__(self, client: Any, name: str, timeout: float) -> None:
        self._client, self._name, self._timeout = client, name, timeout
        self._until = 0.0

    def acquire(self, blocking: bool = False) -> bool:
        """Take it; False if somebody else has it."""
        self._until = time.monotonic() + self._timeout * MARGIN
        return bool(self._client.set(self._name, "held", nx=True, px=int(self._timeout * 1000)))

    def release(self) -> None:
        """Give it back, if it cannot be another's yet."""
        if time.monotonic() < self._until:
            self._client.delete(self._name)


def without_scripts(client: Any) -> Any:
    """A client whose locks are `ExpiringLock`s."""
    client.lock = partial(ExpiringLock, client)
    return client


class Scriptless:
    """A mixin for channels; see also `make_scriptless`."""

    keyprefix_queue: str
    keyprefix_binding_deadlines: str
    keyprefix_binding_permanent: str
    conn_or_acquire: Callable[..., Any]

    def _refresh_binding(self, keys: Sequence[str], args: Sequence[Any], client: Any) -> None:
        """Note that a queue belongs to an exchange, and until when that holds; as kombu's script does."""
        (table, _), (member, exchange, ttl_ms) = keys, args
        until = {exchange: time.time() * 1000 + ttl_ms}
        if isinstance(client, Pipeline):
            client.zadd(self.keyprefix_binding_deadlines, until, gt=True)
            client.sadd(table, member)
            return
        with client.pipeline() as pipe:
            self._refresh_binding(keys, args, pipe)
            pipe.execute()

    def _sweep_bindings(self, keys: Sequence[str], args: Sequence[Any], client: Any) -> int:
        """Forget exchanges whose time is over, unless they have queues for good; as kombu's script does."""
        (deadlines,), (_, _, limit) = keys, args
        overdue = _overdue(client, deadlines, limit)
        for exchange in overdue:
            client.transaction(
                partial(self._forget_exchange, exchange, limit),
                deadlines,
                self.keyprefix_binding_permanent % (exchange,),
            )
        return len(overdue)

    def _forget_exchange(self, exchange: str, limit: int, pipe: Any) -> None:
        deadlines = self.keyprefix_binding_deadlines
        if exchange not in _overdue(pipe, deadlines, limit):
            return
        is_permanent = pipe.smembers(self.keyprefix_binding_permanent % (exchange,))
        pipe.multi()
        if not is_permanent:
            pipe.delete(self.keyprefix_queue % (exchange,))
        pipe.zrem(deadlines, exchange)


def _overdue(client: Any, deadlines: str, limit: int) -> list[str]:
    found = client.zrange(deadlines, "-inf", time.time() * 1000, byscore=True, offset=0, num=limit)
    return [name.decode() if isinstance(name, bytes) else str(name) for name in found]


def make_scriptless(channel: Any) -> None:
    """Let one channel of kombu's own do without scripts; its class, and so all others, stay as they are."""
    acquire = channel.conn_or_acquire

    @contextmanager
    def conn_or_acquire(client: Any = None) -> Iterator[Any]:
        with acquire(client) as found:
            yield without_scripts(found)

    channel.conn_or_acquire = conn_or_acquire
    for name, method in vars(Scriptless).items():
        if isinstance(method, FunctionType):
            setattr(channel, name, MethodType(method, channel))
