"""The limits of connections, in one place, so that tests can run a server with smaller ones."""

from __future__ import annotations

import logging
import resource
from dataclasses import dataclass
from typing import Final

from ...domain.limits import KIB, MIB
from ...settings import Settings

logger = logging.getLogger(__name__)

PROBES: Final = 16
"""Connections beyond the limit on which whether the process is alive and ready may still be asked."""

LINGERING: Final = 64
"""Refused connections that are kept for a moment, so that their clients can read why."""

OTHER_DESCRIPTORS: Final = 100
"""File descriptors that are neither connections of clients nor of the pool: logs, listeners, the broker."""

FEWEST: Final = 16
"""Connections that are allowed however few file descriptors there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What connections may cost; times are in seconds, rates in bytes per second.

    Attributes:
        connections: How many may be open.
        per_address: How many of one address (of one network, for IPv6) may be open.
        head_bytes: Size of a request line with its headers.
        headers: How many headers a request may have.
        framing_bytes: What may be sent around the chunks of a body: their sizes, extensions, trailers.
        pipelined_bytes: What may be sent of further requests before one is answered.
        discarded_bytes: What is read and thrown away of a body that nobody wants any more.
        bodies_bytes: What may have been received of all bodies that are not complete.
        unread_bytes: What may wait in all for clients that take it too slowly.
        small_read_bytes: What comes in pieces that are smaller costs more time than its bytes are worth.
        small_reads: How many such pieces of a request are read as they come; then several at a time.
        head_seconds: From the beginning of a connection, or of a request on it, to the end of the headers.
        body_seconds: For a body, beside what its size takes at `body_rate`.
        body_rate: At which a body must arrive, at least.
        most_body_seconds: For a body, whatever its size.
        write_seconds: How long a client may take nothing of what waits to be sent to it.
        write_rate: At which it must take that, at least, after this time.
        linger_seconds: How long a refused connection is kept.
    """

    connections: int = 4096
    per_address: int = 1024
    head_bytes: int = 16 * KIB
    headers: int = 100
    framing_bytes: int = 64 * KIB
    pipelined_bytes: int = 64 * KIB
    discarded_bytes: int = 16 * MIB
    bodies_bytes: int = 64 * MIB
    unread_bytes: int = 64 * MIB
    small_read_bytes: int = 256
    small_reads: int = 1000
    head_seconds: float = 10.0
    body_seconds: float = 10.0
    body_rate: int = 16 * KIB
    most_body_seconds: float = 30.0
    write_seconds: float = 10.0
    write_rate: int = 16 * KIB
    linger_seconds: float = 2.0


def limits_of(settings: Settings) -> ConnectionLimits:
    """The limits of a deployment, within what this process may open.

    The soft limit of open files is raised as far as needed and allowed. Where that is not enough, fewer
    connections are allowed than the settings say, and the log says so.
    """
    others = settings.pool + PROBES + LINGERING + OTHER_DESCRIPTORS
    wanted = settings.max_connections
    connections = min(wanted, max(FEWEST, _descriptors(wanted + others) - others))
    if connections < wanted:
        logger.warning(
            "This process may open %d files (ulimit -n), so at most %d connections are served at a time, not "
            "the %d of TASKS_MAX_CONNECTIONS. Allow it %d files",
            connections + others,
            connections,
            wanted,
            wanted + others,
        )
    return ConnectionLimits(
        connections=connections, per_address=min(settings.max_connections_per_address, connections)
    )


def _descriptors(wanted: int) -> int:
    """How many files this process may open, after its soft limit was raised to what is wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    except (OSError, ValueError):
        return soft
    return raised
