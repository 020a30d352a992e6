"""Addresses that a person may be sent to."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

from ..domain.errors import ConfigurationError


def check_link(url: object) -> str:
    """Refuse an address that a client must not open, or should not.

    Raises:
        ConfigurationError: It is no absolute URL with https, or with http to this machine, or it holds a user
            name or a password.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"A link's url: expected a str, not {type(url).__name__}")
    problem = _problem(url)
    if problem is not None:
        raise ConfigurationError(
            f"A link's url {_shown(url)!r}: {problem}. Expected https://..., or http://... on a loopback "
            "address"
        )
    return url


def _problem(url: str) -> str | None:
    if any(character.isspace() or not character.isprintable() or character == "\\" for character in url):
        return "it has a space, a control character or a backslash in it"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"it is no URL: {error}"
    if not host:
        return "it is no absolute URL with a host"
    if "@" in parts.netloc:
        return "it holds a user name or a password, which the client would show and keep"
    return _scheme_problem(parts, host)


def _scheme_problem(parts: SplitResult, host: str) -> str | None:
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)):
        return None
    return "http is not safe from readers on the way" if parts.scheme == "http" else "it is not https"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(url: str) -> str:
    """The URL for the error, without what it may hold of a secret."""
    scheme, found, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    shown = f"{scheme}{found}{authority.rpartition('@')[2]}{slash}{path}"
    return shown if len(shown) <= 100 else f"{shown[:99]}…"
