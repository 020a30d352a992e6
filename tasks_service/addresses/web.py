"""The hosts that HTTP is served under, the origins of the web pages that may call, and the proxies in front.

Hosts and origins are compared exactly, without case: `localhost:8787.example.org` begins like a host that is
served, and is not one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import SplitResult, urlsplit

ANY_PORT: Final = "*"
"""What stands for the port of an origin whose every port is meant."""

LOOPBACK_HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")
"""The names under which a machine reaches itself."""

LOOPBACK_ORIGINS: Final = tuple(
    f"{scheme}://{host}:{ANY_PORT}" for scheme in ("http", "https") for host in LOOPBACK_HOSTS
)
"""The origins of pages that this machine serves to itself, on any port."""

UNIX_SOCKETS: Final = "unix"
"""Stands among the trusted proxies for whoever calls by a Unix socket of this machine."""

_HOST: Final = r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?)"

_HOST_WITH_PORT: Final = re.compile(rf"{_HOST}(?::(?P<port>[0-9]{{1,5}}))?")

_HOST_HEADER: Final = re.compile(rf"{_HOST}(?::[0-9]*)?")

_ORIGIN: Final = re.compile(rf"(?P<scheme>[a-z][a-z0-9+.-]*)://{_HOST}(?::(?P<port>[0-9]{{1,5}}|\*))?/?")

_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


def parse_host(text: str) -> tuple[str, str]:
    """The name and the port of a host, in lower case; the port is empty if it is not named.

    Raises:
        ValueError: It is neither a host nor a host with a port.
    """
    found = _HOST_WITH_PORT.fullmatch(text.lower())
    if found is None:
        raise ValueError(f"{text!r} is not of the form host or host:port, as in mcp.example.com")
    return found["name"], found["port"] or ""


def is_host(text: str) -> bool:
    """Whether a `Host` header is one that a request may have (RFC 9112, 3.2), whoever it names."""
    return _HOST_HEADER.fullmatch(text.lower()) is not None


def parse_origin(text: str) -> tuple[str, str, str]:
    """The scheme, host and port of an origin, in lower case; the port is empty if it is the scheme's own.

    Raises:
        ValueError: It is no origin: a page has a scheme, a host, and perhaps a port, and no path.
    """
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        raise ValueError(
            f"{text!r} is not of the form scheme://host or scheme://host:port, as in https://app.example.com "
            f"(a port of {ANY_PORT} means every port)"
        )
    port = found["port"] or ""
    return found["scheme"], found["name"], "" if port == _DEFAULT_PORTS.get(found["scheme"]) else port


def parse_proxy(text: str) -> IPv4Network | IPv6Network:
    """The network of a proxy; one address is a network of its own.

    Raises:
        ValueError: It is neither an address nor a network, or bits are set behind its prefix.
    """
    try:
        return ip_network(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither an IP address nor a network, as in 10.0.0.2 or 10.0.0.0/24, "
            f"nor {UNIX_SOCKETS!r}"
        ) from None


class Hosts:
    """A list of hosts: one without a port stands for every port.

    Args:
        names: Hosts as `parse_host` takes them.

    Raises:
        ValueError: One is no host.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._listed = frozenset(parse_host(name) for name in names)

    def __contains__(self, host: str) -> bool:
        """Whether a `Host` header names one of them."""
        try:
            name, port = parse_host(host)
        except ValueError:
            return False
        return (name, port) in self._listed or (name, "") in self._listed


class Origins:
    """A list of origins; a port of `*` stands for every port.

    Args:
        origins: Origins as `parse_origin` takes them.

    Raises:
        ValueError: One is no origin.
    """

    def __init__(self, origins: Iterable[str]) -> None:
        self._listed = frozenset(parse_origin(origin) for origin in origins)

    def __contains__(self, origin: str) -> bool:
        """Whether an `Origin` header names one of them."""
        try:
            scheme, name, port = parse_origin(origin)
        except ValueError:
            return False
        return (scheme, name, port) in self._listed or (scheme, name, ANY_PORT) in self._listed


def is_same_host(origin: str, host: str) -> bool:
    """Whether a page's origin is the host that it calls: the page was served from here.

    The scheme is not compared, since a proxy may take off the encryption.
    """
    try:
        scheme, name, port = parse_origin(origin)
        served, served_port = parse_host(host)
    except ValueError:
        return False
    return (name, port) == (served, "" if served_port == _DEFAULT_PORTS.get(scheme) else served_port)


def check_secure_url(text: str) -> SplitResult:
    """The parts of a URL by which secrets may travel: `https`, or `http` on this machine.

    Raises:
        ValueError: It is none; the message says what was expected, without the URL's user and password.
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("expected a URL, as in https://login.example.com") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("expected a URL without user and password")
    if not host or parts.scheme not in ("https", "http") or re.search(r"[^!#-\[\]-~]", text):
        raise ValueError(f"{text!r}: expected a URL, as in https://login.example.com")
    if parts.scheme == "http" and not is_loopback_host(host):
        raise ValueError(f"{text!r}: expected https; http is for addresses of this machine only")
    if parts.fragment or text.endswith("#"):
        raise ValueError(f"{text!r}: expected a URL without a fragment")
    return parts


def is_loopback_host(host: str) -> bool:
    """Whether the host of a URL is this machine, by an address or as `localhost`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
