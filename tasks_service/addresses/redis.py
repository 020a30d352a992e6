"""Parsing of `TASKS_REDIS_URL`: a single server, a master behind sentinels, or a cluster.

    redis://[user:password@]host:port/<db>, rediss://, unix://          one server
    redis+sentinel://[user:password@]host:port[,...]/<db>?service=<name> the master that the sentinels watch
    redis+cluster://[user:password@]host:port[,...]                     the nodes of a cluster

`rediss+sentinel://` and `rediss+cluster://` are encrypted. What else may stand in the query
is in `url_options`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from .encryption import split
from .url_options import LOGIN, SENTINEL, check_options, check_place

SENTINEL_PORT = 26379
REDIS_PORT = 6379

CLUSTER_SHARDS = 16
"""Shards of a store on a cluster by default: enough for a dozen nodes, few enough for a sweep to read all."""


class Kind(StrEnum):
    """The kinds of deployment that a URL can mean."""

    SINGLE = ""
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


class Node(NamedTuple):
    """A server: Redis or a sentinel."""

    host: str
    port: int
    is_sentinel: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed URL.

    Attributes:
        kind: The kind of deployment.
        nodes: The sentinels, or nodes of the cluster, that it names; empty for a single server.
        service: The name under which sentinels know the master.
        database: The number of the database.
        username: The Redis user; empty: the default user.
        password: The Redis password; empty: none.
        sentinel_username: The user at sentinels.
        sentinel_password: The password at sentinels.
        encrypted: Whether connections use TLS.
        query: Options for redis-py: those of encryption.
        single: The URL itself, for a single server.
    """

    kind: Kind
    nodes: tuple[Node, ...] = ()
    service: str = ""
    database: int = 0
    username: str = ""
    password: str = ""
    sentinel_username: str = ""
    sentinel_password: str = ""
    encrypted: bool = False
    query: tuple[tuple[str, str], ...] = ()
    single: str = ""

    @property
    def user(self) -> str:
        """The Redis user who logs in."""
        if self.kind is not Kind.SINGLE:
            return self.username or "default"
        parts = urlsplit(self.single)
        return unquote(parts.username or "") or dict(parse_qsl(parts.query)).get("username", "default")

    @property
    def shards(self) -> int:
        """The number of shards that a store there has by default."""
        return CLUSTER_SHARDS if self.kind is Kind.CLUSTER else 1

    def url_of(self, node: Node | None) -> str:
        """The URL with which redis-py connects to a node; None: to the single server."""
        if node is None:
            return self.single
        names = (
            (self.sentinel_username, self.sentinel_password)
            if node.is_sentinel
            else (self.username, self.password)
        )
        login = ":".join(quote(name, safe="") for name in names) + "@" if any(names) else ""
        database = 0 if node.is_sentinel else self.database
        query = f"?{urlencode(self.query)}" if self.query else ""
        return f"{'rediss' if self.encrypted else 'redis'}://{login}{node}/{database}{query}"


def parse_address(url: str) -> Address:
    """Parse a URL of Redis.

    Raises:
        ValueError: It is none; the message says what was expected, and shows no password.
    """
    if url.count("://") > 1:
        raise ValueError(
            "expected one URL. For a master with replicas, name the sentinels that watch it: "
            "redis+sentinel://host:port,host:port/0?service=name"
        )
    if ";" in url:
        raise ValueError("a semicolon would end the URL for Celery; in a password, write %3B")
    scheme, _, group = split(url).scheme.partition("+")
    if not group and scheme in ("redis", "rediss", "unix"):
        check_options(url, LOGIN | {"db"})
        check_place(split(url))
        return Address(Kind.SINGLE, single=url, database=_database(url))
    if scheme not in ("redis", "rediss") or group not in (Kind.SENTINEL, Kind.CLUSTER):
        raise ValueError(
            "expected redis://, rediss:// or unix://, redis+sentinel:// or redis+cluster:// (rediss+... with "
            f"TLS), not {split(url).scheme}://"
        )
    return _group(url, Kind(group), encrypted=scheme == "rediss")


def _database(url: str) -> int:
    """The number of the database of a single server."""
    parts = split(url)
    behind_host = "" if parts.scheme == "unix" else parts.path.strip("/")
    number = dict(parse_qsl(parts.query)).get("db") or behind_host
    return int(number) if number.isdigit() else 0


def _group(url: str, kind: Kind, *, encrypted: bool) -> Address:
    check_options(url, SENTINEL | {"db"})
    parts = split(url)
    login, _, hosts = parts.netloc.rpartition("@")
    username, _, password = login.partition(":")
    query = dict(parse_qsl(parts.query))
    service = query.pop("service", "")
    sentinel_username, sentinel_password = (
        query.pop(name, "") for name in ("sentinel_username", "sentinel_password")
    )
    database = query.pop("db", "") or parts.path.strip("/") or "0"
    if not database.isdigit():
        raise ValueError(f"expected the number of a database behind the hosts, not {database!r}")
    if kind is Kind.CLUSTER and int(database):
        raise ValueError("a cluster has no other database than 0")
    if (kind is Kind.SENTINEL) != bool(service):
        raise ValueError(
            "?service= names the master that sentinels watch: redis+sentinel:// needs it, and nothing else "
            "has it"
        )
    return Address(
        kind,
        nodes=_nodes(hosts.split(","), is_sentinel=kind is Kind.SENTINEL),
        service=service,
        database=int(database),
        username=unquote(username),
        password=unquote(password),
        sentinel_username=sentinel_username,
        sentinel_password=sentinel_password,
        encrypted=encrypted,
        query=tuple(query.items()),
    )


def _nodes(texts: Sequence[str], *, is_sentinel: bool) -> tuple[Node, ...]:
    nodes = []
    for text in texts:
        parts = urlsplit(f"//{text.strip()}")
        if not parts.hostname:
            raise ValueError("expected host:port[,host:port...], and a host is missing")
        check_place(parts)
        port = parts.port or (SENTINEL_PORT if is_sentinel else REDIS_PORT)
        nodes.append(Node(parts.hostname, port, is_sentinel))
    return tuple(nodes)
