"""MCP over HTTP, revision 2026-07-28: one POST, one request, one answer.

There is no session and no handshake: each request carries its version and its client's capabilities
(2026-07-28, transports, streamable HTTP). This is a thin front on the SDK's own kernel
(`serve_one`); the SDK's transport serves the same, at twice the cost for a poll, with a parser that is less
strict.

`tools/call` may take long, so it alone is watched: when the client hangs up the call is cancelled
(docs/protocol.md, "a client that hangs up"), and an answer that takes longer than `DEFERRAL_SECONDS` becomes
an event stream, kept alive.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
import pydantic_core
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import modern_error_data, serve_one
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import ErrorData
from starlette.types import Receive, Scope, Send

from .admission import Admission, Admitted
from .ingress import Disconnected, Rejection
from .streams import JSON, PING, begin_stream, end_stream, error_message, hang_up, send_part, send_whole
from .wire import v2026_07_28 as wire

logger = logging.getLogger(__name__)

DEFERRAL_SECONDS: Final = 15.0
"""How long a call may take before its answer becomes an event stream, and between two signs of life on it."""


@dataclass(slots=True)
class Exchange:
    """What the SDK's kernel must know of the transport; nothing travels back but the answer."""

    transport: TransportContext
    request_id: str | int
    message_metadata: ServerMessageMetadata
    can_send_request: bool = False
    cancel_requested: anyio.Event = field(default_factory=anyio.Event)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Refuse: requests to clients are not sent from within a method."""
        raise NoBackChannelError(method)

    async def notify(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> None:
        """Drop a notification."""
        logger.debug("dropped %s: the answer is all that is sent", method)

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Drop a report of progress."""
        logger.debug("dropped progress: the answer is all that is sent")


class McpEndpoint:
    """The ASGI application behind `/mcp`.

    Args:
        server: Answers requests.
        admission: Says which are let in.
    """

    def __init__(self, *, server: Server[dict[str, Any]], admission: Admission) -> None:
        self._server = server
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        try:
            call = await self._admission.admit(scope, receive)
        except Rejection as rejection:
            await reject(rejection, send)
        except Disconnected:
            return
        else:
            await self._answer(call, receive, send)

    async def _answer(self, call: Admitted | None, receive: Receive, send: Send) -> None:
        if call is None:
            await send_whole(send, 202, b"")
        elif call.method == wire.TOOLS_CALL:
            await _watched(self._serve(call), call.may_stream, receive, send)
        else:
            status, body = await self._serve(call)
            await send_whole(send, status, body, (JSON,))

    async def _serve(self, call: Admitted) -> tuple[int, bytes]:
        """Run a request through the SDK's kernel; the HTTP status and the body of the answer."""
        route = call.route
        exchange = Exchange(
            transport=TransportContext(kind="streamable-http", can_send_request=False, headers=call.headers),
            request_id=call.id,
            message_metadata=ServerMessageMetadata(request_context=call.caller),
        )
        try:
            connection = Connection.from_envelope(
                route.protocol_version, route.client_info, route.client_capabilities
            )
            result = await serve_one(
                self._server, exchange, call.method, call.params, connection=connection, lifespan_state={}
            )
            return 200, pydantic_core.to_json({"jsonrpc": "2.0", "id": call.id, "result": result})
        except Exception as error:
            data = modern_error_data(error)
            return ERROR_CODE_HTTP_STATUS.get(data.code, 200), _error(call.id, data)


async def _watched(
    service: Coroutine[Any, Any, tuple[int, bytes]], may_stream: bool, receive: Receive, send: Send
) -> None:
    """Answer, unless the client hangs up first: then the service is cancelled."""
    work = asyncio.create_task(service)
    gone = asyncio.create_task(hang_up(receive))
    try:
        if await _done_first(work, gone, DEFERRAL_SECONDS if may_stream else None):
            status, body = work.result()
            await send_whole(send, status, body, (JSON,))
        elif not gone.done():
            await _stream(work, gone, send)
    finally:
        gone.cancel()
        work.cancel()
        await asyncio.wait({work, gone})


async def _done_first(work: asyncio.Task[Any], gone: asyncio.Task[None], seconds: float | None) -> bool:
    """Whether the work is done; False if the client has gone before, or after so many seconds."""
    await asyncio.wait({work, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    return work.done()


async def _stream(work: asyncio.Task[tuple[int, bytes]], gone: asyncio.Task[None], send: Send) -> None:
    """An event stream of one event, with signs of life before it, so that no proxy thinks it idle."""
    await begin_stream(send)
    while not gone.done():
        await send_part(send, PING)
        if await _done_first(work, gone, DEFERRAL_SECONDS):
            await end_stream(send, b"event: message\r\ndata: " + work.result()[1] + b"\r\n\r\n")
            return


async def reject(rejection: Rejection, send: Send) -> None:
    """Answer a request that was not let in."""
    error = ErrorData(code=rejection.code, message=rejection.message, data=rejection.data)
    body = _error(rejection.request_id, error)
    await send_whole(send, rejection.status, body, (JSON, *rejection.headers))


def _error(identity: str | int | None, error: ErrorData) -> bytes:
    return pydantic_core.to_json(error_message(identity, error))
