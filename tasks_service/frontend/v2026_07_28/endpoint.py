"""MCP over HTTP, revision 2026-07-28: one POST, one request, one answer.

There is no session and no handshake: each request carries its version and its client's capabilities
(2026-07-28, transports, streamable HTTP). This is a thin front on the SDK's own kernel
(`serve_one`); the SDK's transport serves the same, at twice the cost for a poll, with a parser that is less
strict.

What runs an author's code may take long, so it is watched: when the client hangs up the call is cancelled
(docs/protocol.md, "a client that hangs up"), and its answer may become a stream of events (see `responding`).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any, Final

from mcp.server.lowlevel import Server
from mcp.shared.inbound import ERROR_CODE_HTTP_STATUS
from mcp_types.jsonrpc import INVALID_REQUEST
from starlette.types import Receive, Scope, Send

from ..core import wire_common
from ..core.overload import overload_answer
from ..core.requests import RequestScope
from ..transport.jsonrpc import encode
from ..transport.outgoing import JSON, Outgoing, send_whole
from ..transport.rejection import Disconnected, Rejection
from ..transport.responding import Answer, reject, respond
from ..transport.sdk_kernel import run_request
from . import wire
from .admission import Admission, Admitted

logger = logging.getLogger(__name__)

_WATCHED: Final = frozenset(
    {
        wire_common.TOOLS_CALL,
        wire_common.RESOURCES_READ,
        wire_common.PROMPTS_GET,
        wire_common.COMPLETE,
        wire.LISTEN,
    }
)
"""Methods that may take long, or send before they answer."""


class RequestEndpoint:
    """The ASGI application behind `/mcp`.

    Args:
        server: Answers requests.
        admission: Says which are let in.
        deferral: See `Timings.deferral`.
    """

    def __init__(self, *, server: Server[dict[str, Any]], admission: Admission, deferral: float) -> None:
        self._server, self._admission, self._deferral = server, admission, deferral

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
        elif call.request.method == wire.LISTEN and not call.may_stream:
            message = "Accept: expected text/event-stream, on which the notifications come"
            await reject(Rejection(406, INVALID_REQUEST, message, request_id=call.request.id), send)
        elif call.request.method in _WATCHED:
            outgoing = Outgoing()
            work = asyncio.create_task(self._serve(call, outgoing))
            await respond(work, outgoing, receive, send, self._deferral, may_stream=call.may_stream)
        else:
            answer = await self._serve(call, Outgoing())
            await send_whole(send, answer.status, encode(answer.message), (JSON, *answer.headers))

    async def _serve(self, call: Admitted, outgoing: Outgoing) -> Answer:
        scope = RequestScope(caller=call.caller, outgoing=outgoing, may_stream=call.may_stream)
        request, method = call.request, wire.served_method(call.request.method)
        if method != request.method:
            request = replace(request, method=method)
        message = await run_request(
            self._server, request, call.connection, scope, kind="streamable-http", headers=call.headers
        )
        if (refused := overload_answer(message)) is not None:
            return refused
        status = ERROR_CODE_HTTP_STATUS.get(message["error"]["code"], 200) if "error" in message else 200
        ends_stream = call.request.method == wire.LISTEN and "result" in message
        return Answer(message, status, last=wire.listen_over(call.request.id) if ends_stream else None)
