"""The options in the query of a URL of Redis or of a broker: which there are, and why others are refused.

redis-py and kombu each know other options, and each fails in its own way over one that it does not know: one
process would start and another die. So a URL says where the server is, who logs in and how the connection is
encrypted, in words that hold for both; everything else is a setting of the service.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from urllib.parse import SplitResult, parse_qsl

from .encryption import split

LOGIN = frozenset({"username", "password"})
"""Options that say who logs in, as redis-py has them; in the URL itself they win."""

DATABASES = ("db", "virtual_host")
"""Options that name the database, in redis-py's word and in kombu's."""

SENTINEL = frozenset({"service", "sentinel_username", "sentinel_password"})
"""Options of sentinels: the name of the master, and who logs in at them."""

AMQP = frozenset({"login_method"})
"""Options that kombu has for AMQP: how the user logs in."""

_WAITING = "how long is waited is for TASKS_STORE_DEADLINE to say"
_TRIES = "the service tries again by itself, because it alone can tell whether a write was applied"
_WATCHED = "the service finds out by itself whether a connection is alive"
_BYTES = "the service needs to read and write in one way alone"

TAKEN_BY_SERVICE: Mapping[str, str] = {
    **dict.fromkeys(("socket_timeout", "socket_connect_timeout", "connect_timeout", "timeout"), _WAITING),
    **dict.fromkeys(("retry_on_timeout", "retry_on_error", "retry"), _TRIES),
    **dict.fromkeys(("health_check_interval", "socket_keepalive", "heartbeat"), _WATCHED),
    **dict.fromkeys(("protocol", "decode_responses", "encoding", "encoding_errors"), _BYTES),
    "max_connections": "how many connections there are is for TASKS_POOL to say",
    "ssl": "an encrypted connection has rediss:// or amqps:// in front",
}
"""Options that other programs have in their URLs, and why there is none here."""


def query_of(parts: SplitResult) -> dict[str, str]:
    """The options of a URL; of one that stands there twice, the last."""
    return dict(parse_qsl(parts.query))


def check_options(url: str, known: frozenset[str]) -> None:
    """Refuse options that are not known; those of encryption are `check_encryption`'s to judge.

    Args:
        url: One URL.
        known: The options that there are.

    Raises:
        ValueError: The message names the option and what to do, and shows no password.
    """
    given = [name for name in query_of(split(url)) if not name.startswith("ssl_")]
    for name in given:
        if name not in known:
            raise ValueError(_refusal(name, known))


def _refusal(name: str, known: frozenset[str]) -> str:
    if (reason := TAKEN_BY_SERVICE.get(name)) is not None:
        return f"the option {name} cannot stand in the URL, since {reason}. Leave it out"
    if nearest := get_close_matches(name, known, n=1):
        return f"the option {name} is not known; did you mean {nearest[0]}?"
    others = f"; expected one of {', '.join(sorted(known))}" if known else ""
    return f"the option {name} is not known{others}. Leave it out"


def check_place(parts: SplitResult) -> None:
    """Refuse a host or port that cannot be read, and a database that is no number.

    Args:
        parts: Of a URL of one Redis.

    Raises:
        ValueError: The message shows nothing of the URL's login.
    """
    try:
        _ = parts.port
    except ValueError:
        # Python's own message quotes what it found, which may be a part of a password.
        raise ValueError(
            "expected host:port, and the port is no number. If the password has one of / ? # @ ; in it, "
            "write %2F, %3F, %23, %40 or %3B"
        ) from None
    database = database_of(parts)
    if not database.isdigit():
        raise ValueError(f"expected the number of a database behind the host, not {database!r}")


def database_of(parts: SplitResult) -> str:
    """The database that the URL of one Redis names, as it is written there; 0 if it names none."""
    query = query_of(parts)
    named = next((query[name] for name in DATABASES if query.get(name)), "")
    in_path = parts.path.strip("/") if parts.scheme in ("redis", "rediss") else ""
    return named or in_path or "0"
