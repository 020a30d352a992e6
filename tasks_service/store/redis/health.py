"""What the store asks of a Redis server, checked at start and by `doctor`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...domain.errors import StoreForbidden
from ..base import Finding, Severity
from .layout import Command
from .transaction import Program, once

OLDEST_VERSION = (7, 0)
"""From here on a watched key that expires voids the transaction, and PEXPIRE and ZADD know GT."""


_READS: list[Command] = [("INFO", "server"), ("INFO", "memory"), ("INFO", "persistence")]
"""INFO alone, so that nobody needs CONFIG for it."""


def check(deadline: float) -> Program[list[Finding]]:
    """What is wrong with the server, errors first; empty when all is well.

    Args:
        deadline: Seconds to try.

    Raises:
        StoreUnavailable: No answer in time.
    """
    try:
        replies = yield from once(_READS, deadline)
    except StoreForbidden:
        return [
            _warning(
                "The server's version, eviction policy and persistence could not be read.",
                "Allow the command INFO, or make sure yourself that it is Redis 7.0 or newer, with "
                "maxmemory-policy noeviction and appendonly yes.",
            )
        ]
    told = dict(line.split(":", 1) for reply in replies for line in reply.splitlines() if ":" in line)
    found = [*_version(told), *_eviction(told), *_persistence(told)]
    return sorted(found, key=lambda finding: finding.severity is not Severity.ERROR)


def _version(told: Mapping[str, str]) -> Iterator[Finding]:
    text = told.get("redis_version", "0")
    if tuple(int(part) for part in text.split(".")[:2]) < OLDEST_VERSION:
        yield Finding(
            severity=Severity.ERROR,
            what=f"Redis {text} is too old.",
            mend="Use Redis 7.0 or newer, or Valkey.",
        )


def _eviction(told: Mapping[str, str]) -> Iterator[Finding]:
    policy = told.get("maxmemory_policy")
    if policy is None:
        yield _warning(
            "The server does not tell its eviction policy.",
            "Make sure yourself that maxmemory-policy is noeviction.",
        )
    elif policy != "noeviction":
        yield Finding(
            severity=Severity.ERROR,
            what=f"Redis may evict tasks: its maxmemory-policy is {policy}.",
            mend="Run CONFIG SET maxmemory-policy noeviction, and set it in redis.conf as well.",
        )


def _persistence(told: Mapping[str, str]) -> Iterator[Finding]:
    if told.get("aof_enabled") == "0":
        yield _warning(
            "Redis keeps no append-only file: tasks are lost when it stops.",
            "Run CONFIG SET appendonly yes, and set it in redis.conf as well.",
        )


def _warning(what: str, mend: str) -> Finding:
    return Finding(severity=Severity.WARNING, what=what, mend=mend)
