"""The door of `/mcp`: from where one may call, and which revision answers."""

from __future__ import annotations

from collections.abc import Mapping

from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..audit_log import Entry, is_on, write
from ..observability.context import Context, new_request_id, within
from .access.address_guard import AddressGuard
from .access.caller_address import TrustedProxies
from .access.cross_origin import opened_to
from .core.field_limits import HEADERS
from .core.stopping import FrontEndStops
from .core.wire_common import stopped
from .transport.http_headers import SESSION_HEADER, check_lengths, check_repeated, headers_of
from .transport.rejection import Rejection
from .transport.responding import reject
from .v2025_11_25.endpoint import SessionEndpoint


class EraRouter:
    """Lets requests in from where they may come, and sends each to the front of its revision.

    The version header says which; where there is none, or one of another era, what the message itself says. A
    session's header decides nothing where either names a revision without sessions; it does where the version
    is one that nobody speaks, which is refused by the front that the rest of the request belongs to.

    Args:
        guard: Says from where one may call.
        proxies: Are believed when they say who called them.
        modern: Serves 2026-07-28.
        legacy: Serves what begins with a handshake; hands on what turns out to be the other's.
    """

    def __init__(
        self, *, guard: AddressGuard, proxies: TrustedProxies, modern: ASGIApp, legacy: SessionEndpoint
    ) -> None:
        self._guard, self._proxies = guard, proxies
        self._modern, self._legacy = modern, legacy

    def drain(self) -> None:
        """See `SessionEndpoint.drain`."""
        self._legacy.drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request; the audit log has at least a line about each."""
        context = Context(request=new_request_id())
        with within(context):
            if not is_on():
                await self._take(scope, receive, send)
                return
            context.source.address = self._proxies.caller_address(scope).address
            exchange = _Exchange(scope, context, send)
            try:
                await self._take(scope, receive, exchange.send)
            finally:
                exchange.ended()

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        listed = headers_of(scope)
        headers = dict(listed)
        try:
            if len(headers) < len(listed):
                check_repeated(listed)
            origin = self._guard.check(scope, headers)
            check_lengths(headers, HEADERS)
        except Rejection as rejection:
            await reject(rejection, send)
            return
        if origin is not None:
            answer = await opened_to(origin, scope, headers, send)
            if answer is None:
                return
            send = answer
        try:
            await self._answer(headers, scope, receive, send)
        except FrontEndStops as error:
            await reject(stopped(error), send)

    async def _answer(self, headers: Mapping[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        version = headers.get(MCP_PROTOCOL_VERSION_HEADER)
        has_handshake = version is None or version in HANDSHAKE_PROTOCOL_VERSIONS or SESSION_HEADER in headers
        if has_handshake and version not in MODERN_PROTOCOL_VERSIONS:
            await self._legacy(scope, receive, send)
        else:
            await self._modern(scope, receive, send)


class _Exchange:
    """An HTTP request of which the audit log has a line, also if no method of the protocol saw it."""

    def __init__(self, scope: Scope, context: Context, send: Send) -> None:
        method = scope["method"]
        self._action = f"http {method if method in _METHODS else 'other'}"
        self._context, self._send, self._status = context, send, 0

    async def send(self, message: Message) -> None:
        """Pass on what is sent, and note the status."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
        await self._send(message)

    def ended(self) -> None:
        """Write the line, unless a method has."""
        if self._context.source.lines:
            return
        status = self._status
        outcome = "ok" if status < 400 else "refused" if status < 500 or status == 503 else "error"
        if not status:
            outcome = "cancelled"
        write(Entry(self._action, self._context, outcome=outcome, status=status or None))


_METHODS = frozenset({"GET", "POST", "DELETE", "OPTIONS"})
"""Methods of HTTP that the audit log names; any other is a text of the caller's."""
