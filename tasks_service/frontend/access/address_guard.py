"""The check of `Host` and `Origin` headers, and of connections to a service that knows no callers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address

from mcp_types.jsonrpc import INVALID_REQUEST
from starlette.types import Scope

from ...addresses.web import LOOPBACK_HOSTS, Hosts, Origins, is_host, is_same_host
from ...settings import Settings
from ..transport.rejection import Rejection

KNOWN_ADDRESSES = 256
"""How many pairs of address headers that passed are remembered."""


class AddressGuard:
    """Refuses foreign `Host` and `Origin` headers.

    Without API keys and sign-in, whoever reaches the service is its one user, so it must not be reached from
    elsewhere. Where it is mounted in another application, the settings do not say where that listens; each
    request does. Nor do they always say that a proxy on this machine passes on what others send; the headers
    do that proxies add.

    A web page may make a browser send requests to this address (DNS rebinding); 2026-07-28, transports:
    servers MUST validate `Origin`. Requests without one come from no browser. A page that was served from the
    host that it calls may always call it: the host is one of ours, or nothing comes this far.

    Args:
        settings: The address that is served, the `allowed_hosts` beside it, and the `allowed_origins`.
    """

    def __init__(self, settings: Settings) -> None:
        address = settings.host.partition("%")[0]  # clients leave out the zone of an IPv6 address
        bound = f"[{address}]" if ":" in address else address
        self._hosts = Hosts((*LOOPBACK_HOSTS, bound, *settings.allowed_hosts))
        self._origins = Origins(settings.allowed_origins)
        self._serves_everybody = not settings.knows_callers
        self._known: set[tuple[str, str | None]] = set()

    def check(self, scope: Scope, headers: Mapping[str, str]) -> str | None:
        """Let a request pass.

        Returns:
            The origin of the page that sent it, as its browser names it; None if no browser did.

        Raises:
            Rejection: 400, 421 or 403; it says which header, and which setting would allow it.
        """
        if self._serves_everybody:
            if not _came_from_this_machine(scope):
                raise Rejection(403, INVALID_REQUEST, _OPEN_DOOR)
            if any(map(_is_of_proxy, headers)):
                raise Rejection(403, INVALID_REQUEST, _OPEN_DOOR_BEHIND_PROXY)
        host, origin = headers.get("host", ""), headers.get("origin")
        if (host, origin) in self._known:
            return origin
        if not is_host(host):
            raise Rejection(400, INVALID_REQUEST, _NO_HOST)
        if host not in self._hosts:
            raise Rejection(421, INVALID_REQUEST, _FOREIGN_HOST)
        if origin is not None and origin not in self._origins and not is_same_host(origin, host):
            raise Rejection(403, INVALID_REQUEST, _FOREIGN_ORIGIN)
        if len(self._known) < KNOWN_ADDRESSES:
            self._known.add((host, origin))
        return origin


_OPEN_DOOR = (
    "Without TASKS_API_KEYS and TASKS_OAUTH_ISSUERS, only connections to a loopback address are served"
)

_OPEN_DOOR_BEHIND_PROXY = (
    "Without TASKS_API_KEYS and TASKS_OAUTH_ISSUERS, requests that a proxy passes on (Forwarded, "
    "X-Forwarded-*) are not served: everybody behind it would be the one user"
)

_NO_HOST = "Host: expected host or host:port, as in tools.example.com"

_FOREIGN_HOST = "Host: not served here; TASKS_ALLOWED_HOSTS names the hosts that are"

_FOREIGN_ORIGIN = "Origin: not allowed here; TASKS_ALLOWED_ORIGINS names the origins whose pages may call"


def _is_of_proxy(name: str) -> bool:
    """Whether a header, by its name in lower case, says that a proxy passed the request on."""
    return name == "forwarded" or name.startswith("x-forwarded-") or name == "x-real-ip"


def _came_from_this_machine(scope: Scope) -> bool:
    """Whether a connection came to a loopback address or a Unix socket; True if the server does not say."""
    server = scope.get("server")
    return server is None or server[1] is None or _is_loopback(server[0])


@lru_cache(KNOWN_ADDRESSES)
def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
