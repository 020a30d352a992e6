"""The address that a request came from, which limits and the audit log go by.

A connection has one address, that of whoever opened it. Behind a proxy that is the proxy, whose header names
the caller. Everybody can send such a header, so it counts only on a connection of a proxy that the operator
has named (`Settings.trusted_proxies`), and only as far as proxies wrote it: each of them adds, at the right
end, the address that it was called from. So the caller is the rightmost address that is no trusted proxy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from starlette.types import Scope

from ...addresses.web import UNIX_SOCKETS, parse_proxy

KNOWN_CALLERS: Final = 1024
"""How many callers are remembered with what the headers said."""

HOPS: Final = 32
"""How many proxies one behind another are believed, at most."""

IPV6_PREFIX: Final = 64
"""Bits of an IPv6 address that tell callers apart: whoever has one address has all that begin so."""

_Address = IPv4Address | IPv6Address

_X_FORWARDED_FOR: Final = b"x-forwarded-for"
_FORWARDED: Final = b"forwarded"

_PAIR: Final = re.compile(
    r"[ \t]*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:\"(?P<quoted>[^\"\\]*)\"|(?P<token>[^\s\",;=]+))[ \t]*"
)
"""A parameter of `Forwarded` (RFC 7239, 4); an address needs no backslashes, so there are none."""

_HOP: Final = re.compile(r"(?:\[(?P<bracketed>[0-9A-Fa-f:.]+)\]|(?P<plain>[0-9.]+))(?::[0-9]{1,5})?")
"""An address with an optional port."""


@dataclass(frozen=True, slots=True)
class CallerAddress:
    """Where a request came from.

    Attributes:
        address: The IP address, for people to read; `unix` for a socket of this machine, and empty if the
            server does not say.
        network: What limits count by. The same, but for IPv6 the network of `IPV6_PREFIX` bits.
    """

    address: str
    network: str


class TrustedProxies:
    """The proxies that are believed when they say who called them.

    Args:
        proxies: Addresses and networks as `parse_proxy` takes them, and `UNIX_SOCKETS`.

    Raises:
        ValueError: One is no address and no network.
    """

    def __init__(self, proxies: Iterable[str]) -> None:
        named = frozenset(proxies)
        self._unix_sockets = UNIX_SOCKETS in named
        self._networks = tuple(parse_proxy(proxy) for proxy in named - {UNIX_SOCKETS})
        self._find = lru_cache(KNOWN_CALLERS)(self._find_caller)

    def __contains__(self, peer: str) -> bool:
        """Whether whoever opened a connection, by `CallerAddress.address`, is a trusted proxy."""
        if peer == UNIX_SOCKETS:
            return self._unix_sockets
        address = _parse(peer)
        return address is not None and self._trusts(address)

    def caller_address(self, scope: Scope) -> CallerAddress:
        """Find where a request came from.

        Args:
            scope: Of the ASGI connection; what `client` names is the other end of the connection.

        Returns:
            The caller that trusted proxies name; else the other end of the connection. Where a proxy passes
            on `X-Forwarded-For` and `Forwarded`, and they name different callers, one of them is the
            caller's own invention, and the proxy counts as the caller.
        """
        client = scope.get("client")
        if client is not None:
            peer = str(client[0])
        else:
            peer = UNIX_SOCKETS if scope.get("server") is not None else ""
        if peer not in self:
            return address_of(peer)
        headers = scope["headers"]
        return self._find(
            peer,
            tuple(value for name, value in headers if name == _X_FORWARDED_FOR),
            tuple(value for name, value in headers if name == _FORWARDED),
        )

    def _find_caller(
        self, peer: str, x_forwarded: Sequence[bytes], forwarded: Sequence[bytes]
    ) -> CallerAddress:
        lists = [
            hops(b",".join(values).decode("latin-1"))
            for values, hops in ((x_forwarded, _listed), (forwarded, _hops_of_forwarded))
            if values
        ]
        callers = {self._rightmost_untrusted(hops) for hops in lists}
        caller = callers.pop() if len(callers) == 1 else None
        return address_of(peer if caller is None else str(caller))

    def _rightmost_untrusted(self, hops: Sequence[str]) -> _Address | None:
        """The first from the right that is no proxy of ours; None if not even the last is an address."""
        found = None
        for hop in reversed(hops[-HOPS:]):
            address = _parse_hop(hop)
            if address is None:
                break
            found = address
            if not self._trusts(address):
                break
        return found

    def _trusts(self, address: _Address) -> bool:
        return any(address.version == network.version and address in network for network in self._networks)


@lru_cache(KNOWN_CALLERS)
def address_of(peer: str) -> CallerAddress:
    """An address with its network; what is no IP address stands for itself."""
    address = _parse(peer)
    if address is None:
        return CallerAddress(peer, peer)
    if address.version == 4:
        return CallerAddress(str(address), str(address))
    prefix = int(address) >> (128 - IPV6_PREFIX) << (128 - IPV6_PREFIX)
    return CallerAddress(str(address), f"{IPv6Address(prefix)}/{IPV6_PREFIX}")


def _parse(text: str) -> _Address | None:
    """An IP address; IPv4 in IPv6 clothes is IPv4, and a zone is no part of it."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def _parse_hop(hop: str) -> _Address | None:
    """What a proxy names: an address, with or without a port; None for anything else, as `unknown`."""
    found = _HOP.fullmatch(hop)
    return _parse(hop if found is None else found["bracketed"] or found["plain"])


def _listed(header: str) -> list[str]:
    return [hop.strip(" \t") for hop in header.split(",")]


def _hops_of_forwarded(header: str) -> list[str]:
    """The `for` of each element of `Forwarded` (RFC 7239); none if the header is not of its form.

    What is not of its form may have been begun by a caller and ended by a proxy: a quote that the caller left
    open would swallow what the proxy adds.
    """
    hops: list[str] = []
    hop, position = "", 0
    while True:
        pair = _PAIR.match(header, position)
        if pair is None:
            return []
        if pair["name"].lower() == "for":
            hop = pair["quoted"] or pair["token"] or ""
        position = pair.end()
        if position == len(header):
            return [*hops, hop]
        if header[position] == ",":
            hops.append(hop)
            hop = ""
        elif header[position] != ";":
            return []
        position += 1
