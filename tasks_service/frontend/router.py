"""Which revision answers a request."""

from __future__ import annotations

from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.types import ASGIApp, Receive, Scope, Send

from .transport.http_headers import SESSION_HEADER, headers_of
from .v2025_11_25.endpoint import SessionEndpoint


class EraRouter:
    """Sends each request to the front of its revision.

    The header says which; where there is none, what the message itself says. A version that nobody speaks is
    refused by the front that the rest of the request belongs to.

    Args:
        modern: Serves 2026-07-28.
        legacy: Serves what begins with a handshake; hands on what turns out to be the other's.
    """

    def __init__(self, *, modern: ASGIApp, legacy: SessionEndpoint) -> None:
        self._modern, self._legacy = modern, legacy

    def drain(self) -> None:
        """See `SessionEndpoint.drain`."""
        self._legacy.drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        headers = dict(headers_of(scope))
        version = headers.get(MCP_PROTOCOL_VERSION_HEADER)
        if version is None or version in HANDSHAKE_PROTOCOL_VERSIONS or SESSION_HEADER in headers:
            await self._legacy(scope, receive, send)
        else:
            await self._modern(scope, receive, send)
