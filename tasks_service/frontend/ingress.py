"""The guard at the door: what is refused before anybody has looked at what a request means.

Addresses that a browser could be tricked into using, bodies that are too large, JSON that is not strict.
The SDK reads bodies with a parser that takes NaN, half a surrogate pair and any depth; what is let in here
can be stored, and written out again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

import pydantic_core
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from mcp_types.jsonrpc import INVALID_REQUEST, PARSE_ERROR
from starlette.requests import Request
from starlette.types import Receive, Scope

from ..domain.errors import LimitExceeded
from ..domain.limits import MIB, Limits, check_depth
from ..settings import Settings

BODY_BYTES = 2 * MIB
"""Largest request body: the largest arguments, and room for the rest."""

BODY_SECONDS = 30.0
"""How long a client may take to send the body of a request."""

ENVELOPE_DEPTH = 4
"""How deep in a message the values are whose own depth is limited."""

KNOWN_ADDRESSES = 256
"""How many address headers that passed are remembered."""

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Rejection(Exception):
    """A request that gets no further.

    Attributes:
        status: The HTTP status.
        code: The JSON-RPC error code.
        message: What was wrong, what was expected.
        data: The error's data.
        request_id: The id of the request, once it is known.
        headers: To send along.
    """

    def __init__(
        self,
        status: int,
        code: int,
        message: str,
        *,
        data: Any = None,
        request_id: str | int | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.data = status, code, message, data
        self.request_id, self.headers = request_id, headers


class Disconnected(Exception):
    """The client is gone; nothing can be answered."""


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


async def read_body(receive: Receive, headers: Mapping[str, str]) -> bytes:
    """The body of a request, up to `BODY_BYTES`.

    Raises:
        Rejection: 413, as soon as it is known to be larger; 408 if it is not there within `BODY_SECONDS`.
        Disconnected: The client went away while it sent.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _whole_body(receive, headers)
    except TimeoutError:
        message = f"The request body did not arrive within {BODY_SECONDS:g} s"
        raise Rejection(408, INVALID_REQUEST, message, headers=((b"connection", b"close"),)) from None


async def _whole_body(receive: Receive, headers: Mapping[str, str]) -> bytes:
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > BODY_BYTES:
        raise _too_large()
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        part = message.get("body", b"")
        if (size := size + len(part)) > BODY_BYTES:
            raise _too_large()
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def parse(body: bytes, limits: Limits) -> Any:
    """A request body as strict JSON.

    Raises:
        Rejection: 400; not JSON (NaN, an infinity, half a surrogate pair and bytes that are not UTF-8 are not
            JSON), or nested too deeply.
    """
    try:
        decoded = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Rejection(
            400,
            PARSE_ERROR,
            f"Parse error: the body is not strict JSON: {error}. "
            "NaN, Infinity, lone surrogates, invalid UTF-8 and excessive nesting are refused",
        ) from None
    if body.count(b"{") + body.count(b"[") > limits.depth:
        _check_depth(decoded, limits.depth + ENVELOPE_DEPTH)
    return decoded


def _check_depth(decoded: Any, maximum: int) -> None:
    try:
        check_depth("request", decoded, maximum)
    except LimitExceeded as error:
        raise Rejection(
            400, INVALID_REQUEST, f"Over the limit: {error}", request_id=request_id(decoded)
        ) from None


def request_id(decoded: Any) -> str | int | None:
    """The id of a JSON-RPC request, None where there is none that an answer could carry."""
    value = decoded.get("id") if isinstance(decoded, dict) else None
    return value if isinstance(value, str | int) and not isinstance(value, bool) else None


def _too_large() -> Rejection:
    return Rejection(413, INVALID_REQUEST, f"The request body is larger than {BODY_BYTES} bytes")
