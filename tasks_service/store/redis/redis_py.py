"""Where the releases of redis-py differ, from 4.6 to 8: the one place that knows.

Everything else in this package uses what all of them have. hiredis, which does in C what redis-py otherwise
does in Python, is used where it is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import redis

from .layout import Command

RELEASE = redis.VERSION[:2]
"""The major and minor number of the redis-py that is installed."""

PROTOCOL: Mapping[str, int] = {"protocol": 2} if RELEASE >= (5, 0) else {}
"""The option of a connection that speaks RESP2; 4.6 speaks nothing else, and has no such option."""

COMMAND_OF_CHECKOUT: tuple[str, ...] = ("PING",) if RELEASE < (5, 3) else ()
"""What `get_connection` of a pool takes: up to 5.2 the name of a command, which it ignores; 5.3 and newer
warn of one."""


def retries(retry: Any) -> int:
    """How often a `Retry` of redis-py, blocking or asyncio, tries again; releases before 6 do not say it."""
    return int(retry._retries)


def is_connected(connection: Any) -> bool:
    """Whether a blocking connection has a socket; releases before 8 do not say it.

    Connections of asyncio have `is_connected` in all of them.
    """
    return connection._sock is not None


def pack_in_python(command: Command) -> bytes:
    """A command in the protocol of Redis, as hiredis packs it."""
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def _choose_packing() -> Callable[[Command], bytes]:
    try:
        # redis-py's own packing costs several times as much, even where it calls this.
        from hiredis import pack_command
    except ImportError:
        return pack_in_python
    # Its stub speaks of a tuple of one; any length works.
    return pack_command  # type: ignore[return-value]


pack_command = _choose_packing()
"""Packs one command: in C where hiredis is installed, which saves a sixth of what a poll costs."""
