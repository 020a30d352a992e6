"""The check of `Host` and `Origin` headers, and of connections to a service without API keys."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address

from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from mcp_types.jsonrpc import INVALID_REQUEST
from starlette.requests import Request
from starlette.types import Scope

from ...settings import Settings
from ..transport.rejection import Rejection

KNOWN_ADDRESSES = 256
"""How many address headers that passed are remembered."""


_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class AddressGuard:
    """Refuses foreign `Host` and `Origin` headers, and bodies that are not declared to be JSON.

    Without API keys, whoever reaches the service is its one user, so it must not be reached from elsewhere.
    Where it is mounted in another application, the settings do not say where that listens; each request does.

    A web page may make a browser send requests to this address (DNS rebinding); 2026-07-28, transports:
    servers MUST validate `Origin`. Requests without one come from no browser.

    Args:
        settings: The address that is served, and the `allowed_hosts` beside it.
    """

    def __init__(self, settings: Settings) -> None:
        bound = f"[{settings.host}]" if ":" in settings.host else settings.host
        names = (*_LOOPBACK, bound, *settings.allowed_hosts)
        hosts = [spelled for name in names for spelled in _with_any_port(name)]
        origins = [f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts]
        self._security = TransportSecurityMiddleware(
            TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)
        )
        self._serves_everybody = not settings.api_keys
        self._known: set[tuple[str | None, str | None, str | None]] = set()

    async def check(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Let a request pass.

        Raises:
            Rejection: 421, 403 or 400; it says which header, and which setting would allow it.
        """
        if self._serves_everybody and not _came_from_this_machine(scope):
            raise Rejection(403, INVALID_REQUEST, _OPEN_DOOR)
        address = (headers.get("host"), headers.get("origin"), headers.get("content-type"))
        if address in self._known:
            return
        refused = await self._security.validate_request(Request(scope), is_post=scope["method"] == "POST")
        if refused is not None:
            raise Rejection(refused.status_code, INVALID_REQUEST, _REFUSED[refused.status_code])
        if scope["method"] == "POST" and len(self._known) < KNOWN_ADDRESSES:
            self._known.add(address)


_OPEN_DOOR = "Without TASKS_API_KEYS, only connections to a loopback address are served"


_REFUSED = {
    400: "Content-Type: expected application/json",
    403: "Origin: not allowed here; TASKS_ALLOWED_HOSTS names the hosts whose pages may call",
    421: "Host: not served here; TASKS_ALLOWED_HOSTS names the hosts that are",
}


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


def _with_any_port(host: str) -> tuple[str, ...]:
    """A host as it is if it names its port, otherwise on any port."""
    has_port = ":" in host.rpartition("]")[2]
    return (host,) if has_port else (host, f"{host}:*")
