"""What the store asks of its Redis servers, checked at start and by `doctor`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from redis.crc import REDIS_CLUSTER_HASH_SLOTS
from redis.exceptions import ResponseError

from ...addresses.redis import Node
from ...domain.errors import StoreFull
from ..findings import Finding, Severity
from .layout import Command, Layout
from .refusals import READ_ONLY, is_replica
from .servers import Cluster, Sentinels, Servers
from .transaction import Failure, Program, once

OLDEST_VERSION = (7, 0)
"""From here on a watched key that expires voids the transaction, and PEXPIRE and ZADD know GT."""

_READS: Sequence[Command] = (
    ("INFO", "server"),
    ("INFO", "memory"),
    ("INFO", "persistence"),
    ("INFO", "replication"),
)
"""INFO alone, so that nobody needs CONFIG for it."""


def examine(servers: Servers, layout: Layout, deadline: float) -> Program[list[Finding]]:
    """What is wrong with the servers, errors first; empty when all is well.

    Args:
        servers: Where they are.
        layout: What was laid out on them; its number of shards is noted there the first time.
        deadline: Seconds that each question may take.

    Raises:
        StoreRefuses: One takes no work.
        StoreUnavailable: No answer in time.
    """
    primaries = yield from servers.locate()
    found = []
    if isinstance(servers, Cluster):
        found += yield from _cluster(servers, deadline)
    if not _has_error(found):
        for node in primaries:
            found += yield from _primary(node, deadline, is_one_of_many=len(primaries) > 1)
        found += yield from _shards(layout, deadline)
        found += yield from _counts(layout, deadline)
    if isinstance(servers, Sentinels):
        found += yield from _sentinels(servers, deadline)
    return sorted(found, key=lambda finding: finding.severity is not Severity.ERROR)


def take_writes(deadline: float) -> Program[None]:
    """Make sure that the server that commands go to takes writes.

    A replica answers every read, and so does a server whose disk is full.

    Raises:
        StoreRefuses: It takes none.
        StoreUnavailable: No answer in time.
    """
    _, replication = yield from once([("PING",), ("INFO", "replication")], deadline)
    if is_replica(replication):
        raise Failure("the server is a replica", READ_ONLY).error()


def _has_error(found: Sequence[Finding]) -> bool:
    return any(finding.severity is Severity.ERROR for finding in found)


def _primary(node: Node | None, deadline: float, *, is_one_of_many: bool) -> Program[list[Finding]]:
    # A server that cannot write to its disk answers every read, and refuses PING.
    *replies, _ = yield from once([*_READS, ("PING",)], deadline, node)
    told = _values("\n".join(replies))
    found = [*_role(told), *_version(told), *_eviction(told), *_persistence(told)]
    if node is not None:
        found += _replicas(told)
    return [replace(f, what=f"{node}: {f.what}") for f in found] if is_one_of_many else found


def _shards(layout: Layout, deadline: float) -> Program[list[Finding]]:
    """Compare the number of shards with the one that the store was laid out with, or note it."""
    actual = len(layout.shards)
    (noted,) = yield from once([("GET", layout.shard_count)], deadline)
    if noted is None:
        try:
            (noted,) = yield from once([("SET", layout.shard_count, actual, "NX", "GET")], deadline)
        except StoreFull:
            return []
    if noted is None or noted == str(actual):
        return []
    if not (isinstance(noted, str) and noted.isdecimal()):
        return [
            _error(
                f"{layout.shard_count} does not say how many shards the store has: {noted!a:.80}.",
                f"If it had {actual}, as this process has, run: redis-cli SET {layout.shard_count} {actual}",
            )
        ]
    return [
        _error(
            f"The store was laid out with {noted} shards, and this process has {actual}: it would not find "
            "the tasks of the others.",
            f"Set TASKS_SHARDS={noted} for every process.",
        )
    ]


def _counts(layout: Layout, deadline: float) -> Program[list[Finding]]:
    """Look whether tasks can be counted, without which none can be created."""
    counts: list[Command] = [
        ("ZCARD", shard.index(kind)) for shard in layout.shards for kind in ("expired", "overdue")
    ]
    replies = yield from once(counts, deadline)
    return [
        _warning(f"{key!s} is damaged, so that no task can be created: {reply}.", "Run tasks-service repair.")
        for (_, key), reply in zip(counts, replies, strict=True)
        if isinstance(reply, ResponseError)
    ]


def _cluster(servers: Cluster, deadline: float) -> Program[list[Finding]]:
    (info,) = yield from once([("CLUSTER", "INFO")], deadline, servers.guide)
    told = _values(info)
    served = int(told.get("cluster_slots_ok", 0))
    if told.get("cluster_state") == "ok" and served == REDIS_CLUSTER_HASH_SLOTS:
        return []
    return [
        _error(
            f"The cluster's state is {told.get('cluster_state')}, and {served} of {REDIS_CLUSTER_HASH_SLOTS} "
            "slots are served.",
            "Run redis-cli --cluster check, and bring the nodes back that are missing.",
        )
    ]


def _sentinels(servers: Sentinels, deadline: float) -> Program[list[Finding]]:
    (quorum,) = yield from once([("SENTINEL", "CKQUORUM", servers.service)], deadline, servers.guide)
    found = []
    if isinstance(quorum, Exception):
        found.append(
            _warning(
                f"The sentinels cannot let a replica take over: {quorum}",
                "Let at least three of them run, each on a machine of its own.",
            )
        )
    (replication,) = yield from once([("INFO", "replication")], deadline)
    # Told only where a minimum of replicas is set.
    if "min_slaves_good_slaves" not in _values(replication):
        found.append(
            _warning(
                "A master that was cut off would go on taking writes, and lose them: its "
                "min-replicas-to-write is 0.",
                "Run CONFIG SET min-replicas-to-write 1 on every server, and set it in redis.conf as well.",
            )
        )
    return found


def _replicas(told: Mapping[str, str]) -> Iterator[Finding]:
    if told.get("connected_slaves") == "0":
        yield _warning("No replica is connected: when it dies, nothing takes over.", "Start a replica.")


def run_id(info: str) -> str:
    """Which run of which server answered INFO."""
    return _values(info).get("run_id", "")


def _role(told: Mapping[str, str]) -> Iterator[Finding]:
    if told.get("role") == "slave":
        yield _error(f"Redis {READ_ONLY.told}.", READ_ONLY.remedy)


def _version(told: Mapping[str, str]) -> Iterator[Finding]:
    text = told.get("redis_version", "0")
    if tuple(int(part) for part in text.split(".")[:2]) < OLDEST_VERSION:
        yield _error(f"Redis {text} is too old.", "Use Redis 7.0 or newer, or Valkey.")


def _eviction(told: Mapping[str, str]) -> Iterator[Finding]:
    policy = told.get("maxmemory_policy")
    if policy != "noeviction":
        yield _error(
            f"Redis may evict tasks: its maxmemory-policy is {policy}.",
            "Run CONFIG SET maxmemory-policy noeviction, and set it in redis.conf as well.",
        )


def _persistence(told: Mapping[str, str]) -> Iterator[Finding]:
    if told.get("aof_enabled") != "1":
        yield _warning(
            "Redis keeps no append-only file: tasks are lost when it stops.",
            "Run CONFIG SET appendonly yes, and set it in redis.conf as well.",
        )


def _values(info: str) -> dict[str, str]:
    """What INFO and its like say, line by line."""
    return dict(line.split(":", 1) for line in info.splitlines() if ":" in line)


def _error(what: str, fix: str) -> Finding:
    return Finding(severity=Severity.ERROR, what=what, fix=fix)


def _warning(what: str, fix: str) -> Finding:
    return Finding(severity=Severity.WARNING, what=what, fix=fix)
