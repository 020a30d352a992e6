"""How connections to Redis are made: the same for both stores."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse
from redis.exceptions import TimeoutError as RedisTimeoutError

from ...addresses.redis import Node
from ..findings import Finding, Severity
from .layout import Command
from .redis_py import PROTOCOL, pack_command, retries
from .timings import DEFAULT_TIMINGS, Timings

P = TypeVar("P")

NO_TEXT_BYTES = "surrogateescape"
"""How bytes that are no UTF-8 are read and written."""


def connection_options(
    retry: type[Any],
    url: str = "redis://",
    *,
    timings: Timings = DEFAULT_TIMINGS,
    reply: float | None = None,
    on_connect: Callable[[Any], Any] | None = None,
) -> dict[str, Any]:
    """Options of a connection pool.

    Args:
        retry: `redis.retry.Retry` or its asyncio twin. The library's own retries are switched off: it
            cannot know whether a write whose reply was lost has been applied. Ours look for its token.
        url: Where Redis is.
        timings: How long to wait.
        reply: Give up a connection when a reply takes longer, in seconds; None: the caller sets a limit.
        on_connect: Called with each new connection, instead of its own `on_connect`; see `connect_to_master`.
    """
    # redis-py's Unix socket connections do not take what only TCP has.
    tcp_only = {} if url.startswith("unix:") else {"socket_keepalive": True}
    return {
        "retry": retry(NoBackoff(), 0),
        "decode_responses": True,
        # Bytes that are no text are read as what `pack` writes as the same bytes: so whatever a hand has left
        # in Redis can be named, reported and removed, and no read of it fails.
        "encoding_errors": NO_TEXT_BYTES,
        "socket_timeout": reply,
        "socket_connect_timeout": timings.connect,
        "health_check_interval": 0,
        "redis_connect_func": on_connect,
        **PROTOCOL,
        **tcp_only,
    }


def connect_to_master(connection: redis.Connection) -> None:
    """Prepare a new connection to the server that sentinels name, and make sure that it takes writes.

    A pool replaces a connection that its server has closed, and sentinels let a master that they replace
    close all of them. Without this look the new connection would lead to what is a replica by now, whose
    answers to reads are old, and which refuses nothing as long as nobody writes.

    Raises:
        redis.exceptions.ConnectionError: The server is a replica.
    """
    connection.on_connect()
    connection.send_command(*_ASK_ROLE, check_health=False)
    _require_master(connection.read_response())


async def connect_to_master_async(connection: redis.asyncio.Connection) -> None:
    """The same as `connect_to_master`, for connections of asyncio."""
    await connection.on_connect()
    await connection.send_command(*_ASK_ROLE, check_health=False)
    _require_master(await connection.read_response())


_ASK_ROLE = ("INFO", "replication")
"""ROLE would say the same, but needs a right that nobody has for anything else."""


def _require_master(replication: str) -> None:
    if "role:master" not in replication.splitlines():
        raise RedisConnectionError("the server is a replica now; the sentinels name another master, or will")


FAILURES = (RedisConnectionError, RedisTimeoutError, InvalidResponse, OSError)
"""Errors of a connection that was lost or could not be made; `reason` explains them."""

_ADVICE = (
    ("certificate has expired", "Renew the certificate of Redis."),
    ("mismatch", "Write the name into the URL that its certificate is for."),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "Name the certificate of its CA in the URL: ?ssl_ca_certs=/path/ca.pem.",
    ),
    ("Timeout connecting", "If Redis speaks no TLS on this port, the URL begins with redis://."),
    ("WRONG_VERSION_NUMBER", "If Redis speaks no TLS on this port, the URL begins with redis://."),
)
"""What to do, by a part of the error of an encrypted connection."""

_PLAIN_TO_TLS = ("reset by peer", "closed by server", "Protocol error")
"""Parts of the errors of a plain connection to a server that speaks TLS, among others."""


def reason(error: Exception, url: str) -> str:
    """Why there is no connection, as sentences that an operator can act on.

    Args:
        error: One of `FAILURES`.
        url: Where Redis is.
    """
    text = str(error) or type(error).__name__
    if url.startswith("rediss"):
        return next((f"{text} {advice}" for mark, advice in _ADVICE if mark in text), text)
    if any(mark in text for mark in _PLAIN_TO_TLS):
        return f"{text} If Redis speaks TLS on this port, the URL begins with rediss://."
    return text


class Pools(Generic[P]):
    """A pool of connections to each server, made when first needed. Thread-safe.

    Args:
        make: Makes the pool of a server; None is the single one.
    """

    def __init__(self, make: Callable[[Node | None], P]) -> None:
        self._make = make
        self._pools: dict[Node | None, P] = {}
        self._lock = threading.Lock()

    def of(self, node: Node | None) -> P:
        """The pool of a server."""
        pool = self._pools.get(node)
        if pool is None:
            with self._lock:
                pool = self._pools.get(node)
                if pool is None:
                    pool = self._pools[node] = self._make(node)
        return pool

    def __iter__(self) -> Iterator[P]:
        return iter(list(self._pools.values()))


def client_findings(options: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with how a pool makes its connections.

    A client that sends again what it got no answer to would apply writes twice; redis-py's own for a cluster
    would even send an EXEC without the WATCH before it, and overwrite what others have written.

    Args:
        options: The pool's `connection_kwargs`.
    """
    retry = options.get("retry")
    if retry is None or retries(retry) != 0:
        yield Finding(
            severity=Severity.ERROR,
            what="The Redis client would repeat writes by itself, and not know whether they were applied.",
            fix="Make its pools with the options of tasks_service.store.redis.connection.",
        )


def pack(commands: Iterable[Command]) -> list[bytes]:
    """Commands as one packet."""
    commands = tuple(commands)
    try:
        return [b"".join(map(pack_command, commands))]
    except UnicodeEncodeError:
        return [b"".join(pack_command(tuple(map(_as_read, command))) for command in commands)]


def _as_read(part: str | bytes | int | float) -> str | bytes | int | float:
    """A part of a command, as the bytes that it was read as if those were no text."""
    return part.encode(errors=NO_TEXT_BYTES) if isinstance(part, str) else part
