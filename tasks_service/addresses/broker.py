"""URLs of brokers: the server that one means, and the transport options that kombu needs for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlencode, urlsplit

from ..domain.errors import ConfigurationError
from .encryption import redis_encryption, secured, split
from .redis import SENTINEL_PORT, Address, parse_address
from .url_options import AMQP, DATABASES, LOGIN, check_options, check_place, database_of, query_of

SOCKET_TIMEOUT = 10.0
"""Seconds that a command to the broker may take; kombu's default is to wait for ever."""


CONNECT_TIMEOUT = 5.0
"""Seconds that a connection to the broker may take."""


AMQP_SCHEMES = frozenset({"amqp", "amqps", "pyamqp"})
"""Schemes of AMQP brokers, such as RabbitMQ."""


REDIS_SCHEMES = frozenset({"redis", "rediss", "sentinel"})
"""Schemes of Redis brokers in kombu; of a scheme with a plus sign, the first part."""


class Server(NamedTuple):
    """A database of a Redis, and the user; two URLs are equivalent if theirs are equal."""

    address: str
    database: int
    username: str
    encrypted: bool


def listed(configured: str | Sequence[str] | None) -> str:
    """The URL of a broker as one text, whichever way a Celery app has it.

    Args:
        configured: One URL, several separated by semicolons, or a list of them; None: none.
    """
    return (configured if isinstance(configured, str) else ";".join(configured)) if configured else ""


def redis_server(url: str, *, master_name: str = "", encrypted: bool = False) -> Server | None:
    """The Redis that a URL means; None if it is neither a single server nor a master behind sentinels.

    Args:
        url: A URL of `TASKS_REDIS_URL`, or one of kombu's: `redis+socket://`, `sentinel://`.
        master_name: The master's name in kombu's transport options.
        encrypted: Whether the app uses TLS, if kombu's URL does not say so.
    """
    parts = split(url)
    if parts.scheme == "sentinel":
        return _watched(_sentinel_urls(url), master_name, encrypted=encrypted) if master_name else None
    if parts.scheme in ("redis+sentinel", "rediss+sentinel"):
        group = parse_address(url)
        urls = [urlsplit(broker_url) for broker_url in _kombu_urls(group)]
        return _watched(urls, group.service, encrypted=group.encrypted)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    username = unquote(parts.username or query.get("username", ""))
    if parts.scheme in ("redis", "rediss"):
        database = query.get("db") or query.get("virtual_host") or parts.path.strip("/") or "0"
        address = f"{parts.hostname or 'localhost'}:{parts.port or 6379}".replace("localhost:", "127.0.0.1:")
    elif parts.scheme in ("unix", "redis+socket"):
        database = query.get("db") or query.get("virtual_host") or "0"
        address = parts.path if parts.hostname is None else f"/{parts.hostname}{parts.path}"
    else:
        return None
    if not database.isdigit() or ";" in url:
        return None
    return Server(address, int(database), "" if username == "default" else username, parts.scheme == "rediss")


def _watched(urls: Sequence[SplitResult], master_name: str, *, encrypted: bool) -> Server:
    hosts = sorted(f"{url.hostname}:{url.port or SENTINEL_PORT}" for url in urls)
    where = ",".join(hosts).replace("localhost:", "127.0.0.1:")
    username = unquote(urls[0].username or "")
    database = int(urls[0].path.strip("/") or "0")
    return Server(f"{master_name}@{where}", database, "" if username == "default" else username, encrypted)


def _sentinel_urls(broker_url: str) -> list[SplitResult]:
    return [urlsplit(url) for url in broker_url.split(";")]


def _kombu_urls(address: Address) -> list[str]:
    login = ":".join(quote(part, safe="") for part in (address.username, address.password))
    login = f"{login}@" if login != ":" else ""
    return [f"sentinel://{login}{node}/{address.database}" for node in address.nodes]


class Broker(NamedTuple):
    """A broker in Celery's terms.

    Attributes:
        url: The URL for kombu.
        options: The options for kombu's transport.
        ssl: The TLS options; None if the URL says enough, or the connection is not encrypted.
    """

    url: str
    options: Mapping[str, Any] = {}
    ssl: Mapping[str, Any] | None = None


_NO_CLUSTER = (
    "A Redis Cluster cannot be Celery's broker. Set TASKS_BROKER_URL to one that can, for example "
    "amqp://user:password@host// or a single Redis, redis://host:6379/0"
)

_LISTED = frozenset({"redis", "rediss", "sentinel", *AMQP_SCHEMES})
"""Schemes of which several URLs may be given: kombu goes on to the next when one does not answer."""


def check_broker(url: str) -> None:
    """Refuse a URL of a broker, or several between semicolons, that Celery could not use.

    Raises:
        ValueError: The message says what was expected, and shows no password.
    """
    ones = url.split(";")
    for one in ones:
        if one.count("://") != 1:
            raise ValueError(
                "expected a URL, such as amqp://user:password@host// or redis://host:6379/0; several are "
                "separated by semicolons"
            )
        _check_one(one)
    schemes = {split(one).scheme for one in ones}
    if len(ones) > 1 and (len(schemes) > 1 or not schemes <= _LISTED):
        raise ValueError(
            "of several URLs all must have the same scheme, one of "
            f"{', '.join(f'{scheme}://' for scheme in sorted(_LISTED))}"
        )
    if len({str(secured(_kombu_url(one))[1]) for one in ones if split(one).scheme == "rediss"}) > 1:
        raise ValueError("of several URLs all must have the same options of encryption")


def _check_one(url: str) -> None:
    parts = split(url)
    if parts.scheme.endswith("+cluster"):
        raise ValueError(_NO_CLUSTER)
    if parts.scheme in ("redis", "rediss"):
        check_options(url, LOGIN | {*DATABASES})
        check_place(parts)
    elif parts.scheme in ("redis+socket", "sentinel"):
        check_options(url, frozenset(DATABASES if parts.scheme == "redis+socket" else ()))
        check_place(parts)
    elif parts.scheme in AMQP_SCHEMES:
        check_options(url, AMQP)
    elif parts.scheme == "unix" or parts.scheme.endswith("+sentinel"):
        parse_address(url)
    else:
        _ask_kombu(url)


def _ask_kombu(url: str) -> None:
    from kombu import Connection  # not at the top: what needs no other broker starts without it

    try:
        Connection(url)
    except ImportError:
        return  # whoever sends messages needs the package, and says so; not every command does
    except Exception as error:
        reason = error.args[0] if error.args else type(error).__name__
        raise ValueError(f"Celery's library for brokers, kombu, does not take it: {reason}") from None


def broker_of(url: str) -> Broker:
    """Convert a URL of `TASKS_REDIS_URL` or of kombu to a broker for Celery.

    Raises:
        ConfigurationError: It is a cluster, which no transport of kombu supports.
    """
    scheme = split(url).scheme
    if scheme.endswith("+cluster"):
        raise ConfigurationError(_NO_CLUSTER)
    if scheme not in ("redis+sentinel", "rediss+sentinel"):
        brokers = [secured(_kombu_url(one)) for one in url.split(";")]
        return Broker(";".join(bare_url for bare_url, _ in brokers), ssl=brokers[0][1])
    address = parse_address(url)
    tls = redis_encryption(dict(address.query)) if address.encrypted else {}
    guarded: dict[str, Any] = {"ssl": True, **tls} if tls else {}
    if address.sentinel_password:
        guarded |= {"username": address.sentinel_username or None, "password": address.sentinel_password}
    options: dict[str, Any] = {"master_name": address.service}
    if guarded:
        options["sentinel_kwargs"] = {"socket_timeout": SOCKET_TIMEOUT, **guarded}
    return Broker(";".join(_kombu_urls(address)), options, tls or None)


def _kombu_url(url: str) -> str:
    """The same place in kombu's words, which knows no options for it but that of a socket's database."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix", "redis+socket") or not (
        parts.query or parts.scheme == "unix"
    ):
        return url
    query = query_of(parts)
    username = parts.username or quote(query.get("username", ""), safe="")
    password = parts.password or quote(query.get("password", ""), safe="")
    login = f"{username}:{password}@" if username or password else ""
    others = {name: value for name, value in query.items() if name not in {*LOGIN, *DATABASES}}
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme in ("redis", "rediss"):
        path = f"/{database_of(parts)}"
        return parts._replace(netloc=f"{login}{host}", path=path, query=urlencode(others)).geturl()
    query_text = urlencode({"virtual_host": database_of(parts), **others})
    return f"redis+socket://{login}{host}{parts.path}?{query_text}"


def bounded(broker_url: str, timeout: float) -> dict[str, Any]:
    """The transport options that limit how long a command may take; empty if the transport has none.

    With them RabbitMQ also confirms each message: otherwise one sent over a dead connection seems published.

    Args:
        broker_url: The broker.
        timeout: Seconds.
    """
    scheme = split(broker_url).scheme
    if scheme.partition("+")[0] in REDIS_SCHEMES:
        return {"socket_timeout": timeout, "socket_connect_timeout": CONNECT_TIMEOUT}
    if scheme in AMQP_SCHEMES:
        return {"read_timeout": timeout, "write_timeout": timeout, "confirm_publish": True}
    return {}
