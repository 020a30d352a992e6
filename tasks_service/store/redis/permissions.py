"""Whether the Redis user of a process may do what the process will do: asked at start, and by `doctor`.

What a user lacks would otherwise show much later, in the one call that needs it. So each command is queued in
a MULTI that is then discarded: Redis judges a command when it is queued, and nothing runs. No right is needed
for it beyond those that are asked about. `docker/users.acl` gives each role what it needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from ..findings import Finding, Severity
from .layout import Command, Layout
from .servers import KEYLESS
from .transaction import LostConnection, Program, Reply, RoundTrip, is_forbidden

_PREFIX = re.compile(r"(%[RW]+)?[~&]")
"""What stands before a pattern of keys or channels in a rule."""

SAMPLE = "none"
"""Stands for an id in keys that are asked about."""


class Role(StrEnum):
    """Whose user it is."""

    FRONT_END = "front end"
    WORKER = "worker"
    OPERATOR = "operator"


_USERS = {Role.FRONT_END: "web", Role.WORKER: "worker", Role.OPERATOR: "operator"}
"""What the users of the roles are called in docker/users.acl."""

_ALL_USERS = {*_USERS.values(), "beat", "flower"}


class Need(NamedTuple):
    """A command that a role runs, and the rule that allows its keys or channels.

    A rule in parentheses, which Redis calls a selector, allows a command for these keys only.
    """

    command: Command
    rule: str

    @property
    def is_selector(self) -> bool:
        """Whether the rule allows the command as well."""
        return self.rule.startswith("(")


_READS: Sequence[Command] = (
    ("HMGET", "key", "field"),
    ("HGETALL", "key"),
    ("GET", "key"),
    ("EXISTS", "key"),
    ("LRANGE", "key", 0, -1),
    ("ZSCORE", "key", "member"),
    ("ZCARD", "key"),
    ("ZCOUNT", "key", 0, 1),
    ("ZRANGE", "key", 0, 0),
    ("ZREVRANGE", "key", 0, 0),
    ("ZSCAN", "key", 0),
    ("SISMEMBER", "key", "member"),
    ("SMEMBERS", "key"),
)
_WRITES: Sequence[Command] = (
    ("HSET", "key", "field", "value"),
    ("HDEL", "key", "field"),
    ("DEL", "key"),
    ("UNLINK", "key"),
    ("PEXPIRE", "key", 1),
    ("PEXPIREAT", "key", 1),
    ("RPUSH", "key", "value"),
    ("LTRIM", "key", 0, 0),
    ("ZADD", "key", 1, "member"),
    ("ZREM", "key", "member"),
    ("SADD", "key", "member"),
    ("SREM", "key", "member"),
)
_TASKS: dict[Role, Sequence[Command]] = {
    Role.FRONT_END: (
        *_READS,
        *_WRITES,
        ("SET", "key", "value"),
        ("HSETNX", "key", "field", "value"),
        ("SCARD", "key"),
        ("ZREVRANGEBYSCORE", "key", 1, 0),
        ("INCRBY", "key", 1),
        ("PTTL", "key"),
    ),
    Role.WORKER: (*_READS, *_WRITES, ("ZRANGEBYSCORE", "key", 0, 1)),
    Role.OPERATOR: (
        *_READS,
        *_WRITES,
        ("SSCAN", "key", 0),
        ("RENAME", "key", "key"),
        ("PEXPIRETIME", "key"),
    ),
}
_SESSIONS: Sequence[Command] = (
    ("SET", "key", "value"),
    ("GET", "key"),
    ("GETEX", "key"),
    ("GETDEL", "key"),
    ("DEL", "key"),
    ("PEXPIRE", "key", 1),
    ("HSETNX", "key", "field", "value"),
    ("HGETALL", "key"),
    ("SADD", "key", "member"),
    ("SREM", "key", "member"),
    ("SCARD", "key"),
    ("SISMEMBER", "key", "member"),
    ("SMEMBERS", "key"),
    ("ZADD", "key", 1, "member"),
    ("ZREM", "key", "member"),
    ("ZRANGE", "key", 0, -1),
    ("ZREMRANGEBYRANK", "key", 0, 0),
    ("ZSCAN", "key", 0),
)
_READS_REGISTRY: Sequence[Command] = (
    ("GET", "key"),
    ("HGETALL", "key"),
    ("ZRANGE", "key", 0, -1),
)
_WRITES_REGISTRY: Sequence[Command] = (
    ("EXISTS", "key"),
    ("HDEL", "key", "field"),
    ("HGET", "key", "field"),
    ("HSET", "key", "field", "value"),
    ("PEXPIRE", "key", 1),
    ("SET", "key", "value"),
    ("UNLINK", "key"),
    ("ZADD", "key", 1, "member"),
    ("ZREM", "key", "member"),
    ("ZSCORE", "key", "member"),
)
_TAKES_MESSAGES: Sequence[Command] = (
    ("BRPOP", "key", 1),
    ("LPUSH", "key", "value"),
    ("LLEN", "key"),
    ("HSET", "key", "field", "value"),
    ("HGET", "key", "field"),
    ("HDEL", "key", "field"),
    ("ZADD", "key", 1, "member"),
    ("ZREM", "key", "member"),
    ("ZRANGE", "key", 0, 1),
    ("SMEMBERS", "key"),
    ("SADD", "key", "member"),
    ("SET", "key", "value"),
)


def needs(layout: Layout, role: Role, messages: str | None, database: int = 0) -> list[Need]:
    """What a role runs, on samples of every kind of key and channel.

    Args:
        layout: Names the keys.
        role: Whose rights are in question.
        messages: In front of the keys of Celery's messages; None: the broker is elsewhere.
        database: The number of the database, which kombu has in the names of channels.
    """
    prefix = layout.prefix
    return [
        *_on(layout.home.task(SAMPLE), f"~{prefix}:{{*", _TASKS[role]),
        Need(("TIME",), ""),
        Need(("INFO",), ""),
        Need(("PUBLISH", layout.changes, "1"), f"&{layout.changes}"),
        *_of_role(layout, role),
        *_of_messages(role, messages, database),
    ]


def _of_role(layout: Layout, role: Role) -> Iterator[Need]:
    prefix, reports = layout.prefix, layout.reports(SAMPLE)
    yield Need(("SET", layout.shard_count, 1, "NX", "GET"), f"~{layout.shard_count}")
    yield from _of_registry(layout, role)
    if role is Role.FRONT_END:
        for kind in ("session", "floor", "interview"):
            yield from _on(f"{prefix}:{kind}:{SAMPLE}", f"~{prefix}:{kind}:*", _SESSIONS)
        yield Need(("SUBSCRIBE", layout.changes), f"&{layout.changes}")
        yield Need(("SUBSCRIBE", reports), f"&{prefix}:reports:*")
        yield Need(("UNSUBSCRIBE", reports), "")
    elif role is Role.WORKER:
        yield Need(("SUBSCRIBE", layout.changes), f"&{layout.changes}")
        yield Need(("PUBLISH", reports, "1"), f"&{prefix}:reports:*")
        yield Need(("SET", layout.lock(SAMPLE), "1", "NX"), f"~{prefix}:lock:*")
        yield Need(("SET", layout.swept, "1", "GET"), f"~{layout.swept}")
    else:
        yield Need(("GET", layout.swept), f"~{layout.swept}")
        yield Need(("SCAN", 0), "")


def _of_registry(layout: Layout, role: Role) -> Iterator[Need]:
    """Workers announce themselves; all others only read what they say."""
    key, pattern = layout.registry.alive(SAMPLE), f"{layout.prefix}:registry:*"
    if role is Role.WORKER:
        yield from _on(key, f"~{pattern}", (*_READS_REGISTRY, *_WRITES_REGISTRY))
    else:
        yield from _on(key, f"%R~{pattern}", _READS_REGISTRY)


def _of_messages(role: Role, messages: str | None, database: int) -> Iterator[Need]:
    if messages is None or role is Role.OPERATOR:
        return
    key, rule = f"{messages}{SAMPLE}", f"~{messages}*"
    if role is Role.FRONT_END:
        yield Need(("LPUSH", key, "value"), f"(%W{rule} +lpush)")
    else:
        yield from _on(key, rule, _TAKES_MESSAGES)
        events = f"{messages}/{database}.celeryev/"
        yield Need(("PUBLISH", f"{events}worker.online", "1"), f"&{events}*")


def _on(key: str, rule: str, commands: Sequence[Command]) -> Iterator[Need]:
    for command in commands:
        yield Need(tuple(key if part == "key" else part for part in command), rule)


def check_permissions(
    layout: Layout, role: Role, *, messages: str | None, user: str, database: int = 0
) -> Program[list[Finding]]:
    """What a user lacks of what its role needs, as one error; empty if it may do all.

    Args:
        layout: Names the keys.
        role: Whose user it is.
        messages: See `needs`.
        user: Its name, for the finding.
        database: See `needs`.

    Raises:
        StoreUnavailable: The connection was lost.
    """
    try:
        denied = yield from _denied_frame(layout)
        # Without a MULTI, what is only to be asked would be done.
        if not any(need.command[0] in ("MULTI", "DISCARD") for need, _ in denied):
            denied += yield from _denied(needs(layout, role, messages, database))
    except LostConnection as error:
        raise error.failure.error() from None
    return _findings(role, denied, user) if denied else []


_Denied = list[tuple[Need, str]]


def _denied_frame(layout: Layout) -> Program[_Denied]:
    """What is denied of that which every transaction needs."""
    watch: Command = ("WATCH", layout.home.task(SAMPLE))
    frame: list[Command] = [watch, ("UNWATCH",), ("MULTI",), ("EXEC",), ("MULTI",), ("DISCARD",)]
    replies = yield RoundTrip(frame)
    return _refused([Need(command, "") for command in frame], replies)


def _denied(wanted: Sequence[Need]) -> Program[_Denied]:
    """What is denied of the rest; each key in a transaction of its own, since a cluster has them apart."""
    by_key: dict[object, list[Need]] = {}
    for need in wanted:
        by_key.setdefault(None if need.command[0] in KEYLESS else need.command[1], []).append(need)
    denied: _Denied = []
    for group in by_key.values():
        commands = [("MULTI",), *(need.command for need in group), ("DISCARD",)]
        _, *replies, _ = yield RoundTrip(commands)
        denied += _refused(group, replies)
    return denied


def _refused(wanted: Sequence[Need], replies: Sequence[Reply]) -> _Denied:
    pairs = zip(wanted, replies, strict=True)
    return [(need, str(reply)) for need, reply in pairs if is_forbidden(reply)]


def _findings(role: Role, denied: _Denied, user: str) -> list[Finding]:
    lacks_command = [need for need, reply in denied if _is_command(reply) and not need.is_selector]
    commands = _once(str(need.command[0]) for need in lacks_command)
    rules = _once(need.rule for need, _ in denied if need not in lacks_command)
    may_not = [f"run {', '.join(commands)}"] if commands else []
    may_not += [f"use {', '.join(map(_used, rules))}"] if rules else []
    allowing = " ".join([*(f"+{name.lower()}" for name in commands), *rules])
    fix = f"Run ACL SETUSER {user} {allowing}, and write it into the ACL file (see docker/users.acl)."
    if user in _ALL_USERS - {_USERS[role]}:  # What it would need is what it must not have.
        fix = f"It is the user of another role: let TASKS_REDIS_URL log in as {_USERS[role]!r}."
    return [
        Finding(
            severity=Severity.ERROR,
            what=f"The Redis user {user!r} of this {role} may not {', nor '.join(may_not)}.",
            fix=fix,
        )
    ]


def _is_command(reply: str) -> bool:
    """Whether the command itself is denied, and not one of its keys or channels."""
    return "the '" in reply


def _used(rule: str) -> str:
    """The pattern of keys or channels that a rule allows."""
    return _PREFIX.sub("", rule.strip("()").partition(" ")[0])


def _once(names: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(names))
