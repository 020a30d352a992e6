"""The metadata of a protected resource, which tells clients where to sign in (RFC 9728).

It is public, and read without a token. A web page may read it if it may call: the same addresses and origins
are let in as at `/mcp`.
"""

from __future__ import annotations

from typing import Final

from mcp.shared.auth import ProtectedResourceMetadata
from mcp_types.jsonrpc import INVALID_REQUEST
from starlette.types import Receive, Scope, Send

from ..transport.http_headers import headers_of
from ..transport.outgoing import JSON, send_whole
from ..transport.rejection import Rejection
from ..transport.responding import reject
from .address_guard import AddressGuard
from .cross_origin import opened_to

_CACHE: Final = (b"cache-control", b"public, max-age=3600")

_NOT_ALLOWED: Final = Rejection(405, INVALID_REQUEST, "Use GET", headers=((b"allow", b"GET, HEAD"),))


class ResourceMetadata:
    """The ASGI application for the metadata of one resource.

    Args:
        metadata: What it says.
        guard: Says from where one may ask.
    """

    def __init__(self, metadata: ProtectedResourceMetadata, guard: AddressGuard) -> None:
        self._document = metadata.model_dump_json(exclude_none=True).encode()
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        headers = dict(headers_of(scope))
        try:
            origin = self._guard.check(scope, headers)
        except Rejection as rejection:
            await reject(rejection, send)
            return
        if origin is not None:
            answer = await opened_to(origin, scope, headers, send)
            if answer is None:
                return
            send = answer
        if scope["method"] not in ("GET", "HEAD"):
            await reject(_NOT_ALLOWED, send)
            return
        await send_whole(send, 200, self._document, (JSON, _CACHE))
