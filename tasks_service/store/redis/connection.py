"""How connections to Redis are made: the same for both faces."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import hiredis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse
from redis.exceptions import TimeoutError as RedisTimeoutError

from .layout import Command

SOCKET_SECONDS = 2.0
"""Longest silence in the middle of an exchange before the connection is given up."""

CONNECT_SECONDS = 1.0
"""Longest wait for a connection to be made."""

RECONNECT_SECONDS = 0.5
"""Between two attempts to subscribe again."""


def connection_options(retry: type[Any], url: str = "redis://") -> dict[str, Any]:
    """Options of a connection pool.

    Args:
        retry: `redis.retry.Retry` or its asyncio twin. The library's own retries are switched off: it
            cannot know whether a write whose reply was lost has been applied. Ours look for its token.
        url: Where Redis is.
    """
    # redis-py's Unix socket connections do not take what only TCP has.
    tcp_only = {} if url.startswith("unix:") else {"socket_keepalive": True}
    return {
        "retry": retry(NoBackoff(), 0),
        "protocol": 2,
        "decode_responses": True,
        "socket_timeout": SOCKET_SECONDS,
        "socket_connect_timeout": CONNECT_SECONDS,
        "health_check_interval": 0,
        **tcp_only,
    }


FAILURES = (RedisConnectionError, RedisTimeoutError, InvalidResponse, OSError)
"""What a lost connection, or one that could not be made, raises; `reason` tells it."""

_ADVICE = (
    ("certificate has expired", "Renew the certificate of Redis."),
    ("mismatch", "Write the name into the URL that its certificate is for."),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "Name the certificate of its CA: rediss://...?ssl_ca_certs=/path/to/ca.pem.",
    ),
    ("Timeout connecting", "If Redis speaks no TLS on this port, the URL begins with redis://."),
    ("WRONG_VERSION_NUMBER", "If Redis speaks no TLS on this port, the URL begins with redis://."),
)
"""By what an encrypted connection fails with: what to do."""

_PLAIN_TO_TLS = ("reset by peer", "closed by server", "Protocol error")
"""What a plain connection fails with where TLS is spoken, among other places."""


def reason(error: Exception, url: str) -> str:
    """Why there is no connection, as sentences that an operator can act on.

    Args:
        error: One of `FAILURES`.
        url: Where Redis is.
    """
    text = str(error) or type(error).__name__
    if url.startswith("rediss:"):
        return next((f"{text} {advice}" for mark, advice in _ADVICE if mark in text), text)
    if any(mark in text for mark in _PLAIN_TO_TLS):
        return f"{text} If Redis speaks TLS on this port, the URL begins with rediss://."
    return text


def pack(commands: Iterable[Command]) -> list[bytes]:
    """Commands as one packet; in C, since this is a sixth of what a poll costs otherwise."""
    # Its stub speaks of a tuple of one; any length works.
    return [b"".join(hiredis.pack_command(command) for command in commands)]  # type: ignore[arg-type]


def user_of(options: Mapping[str, Any]) -> str:
    """The Redis user of a connection pool, by its connections' options."""
    return str(options.get("username") or "default")
