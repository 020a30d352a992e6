"""What the store asks of a Redis server, checked at start and by `doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..base import Finding, Severity
from .layout import Command

OLDEST_VERSION = (7, 0)
"""From here on a watched key that expires voids the transaction, and PEXPIRE and ZADD know GT."""


def health_reads() -> list[Command]:
    """The commands whose replies `findings` reads."""
    return [("INFO", "server"), ("CONFIG", "GET", "maxmemory-policy"), ("CONFIG", "GET", "appendonly")]


def findings(replies: list[Any]) -> list[Finding]:
    """What is wrong with the server, errors first; empty when all is well."""
    info, policy, appendonly = replies
    found = [*_version(info), *_eviction(policy), *_persistence(appendonly)]
    return sorted(found, key=lambda finding: finding.severity is not Severity.ERROR)


def run_id(info: Any) -> str:
    """Which run of which server answered INFO; empty if it may not be asked."""
    return "" if not isinstance(info, str) else _values(info).get("run_id", "")


def _values(info: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in info.splitlines() if ":" in line)


def _version(info: Any) -> Iterator[Finding]:
    if not isinstance(info, str):
        yield _warning("The server's version could not be read.", "Allow the command INFO.")
        return
    text = _values(info).get("redis_version", "0")
    if tuple(int(part) for part in text.split(".")[:2]) < OLDEST_VERSION:
        yield Finding(
            severity=Severity.ERROR,
            what=f"Redis {text} is too old.",
            mend="Use Redis 7.0 or newer, or Valkey.",
        )


def _eviction(policy: Any) -> Iterator[Finding]:
    if not isinstance(policy, list) or len(policy) < 2:
        yield _warning(
            "The eviction policy could not be read.",
            "Allow CONFIG GET, or make sure yourself that maxmemory-policy is noeviction.",
        )
    elif policy[1] != "noeviction":
        yield Finding(
            severity=Severity.ERROR,
            what=f"Redis may evict tasks: its maxmemory-policy is {policy[1]}.",
            mend="Run CONFIG SET maxmemory-policy noeviction, and set it in redis.conf as well.",
        )


def _persistence(appendonly: Any) -> Iterator[Finding]:
    if isinstance(appendonly, list) and len(appendonly) > 1 and appendonly[1] != "yes":
        yield _warning(
            "Redis keeps no append-only file: tasks are lost when it stops.",
            "Run CONFIG SET appendonly yes, and set it in redis.conf as well.",
        )


def _warning(what: str, mend: str) -> Finding:
    return Finding(severity=Severity.WARNING, what=what, mend=mend)
