"""Requests run on the SDK's kernel, which validates their shape, picks the method and shapes its result."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import modern_error_data, serve_one
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import ErrorData
from mcp_types.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND
from mcp_types.methods import validate_client_request
from pydantic import ValidationError

from ...audit_log import Entry, audited
from ...metrics.series import REFUSED, Refused
from .invalid_params import describe_problems
from .jsonrpc import Request, error_message, result_message
from .refusals import TaskError, count_error

logger = logging.getLogger(__name__)

UNKNOWN_METHOD = "unknown method"
"""What the audit log has for a method that there is not."""


class NoChannel:
    """Stands in for the SDK's way back to a client: nothing travels back but the answer."""

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


@dataclass(slots=True)
class KernelContext(NoChannel):
    """What the SDK's kernel must know of the transport."""

    transport: TransportContext
    request_id: str | int
    message_metadata: ServerMessageMetadata
    can_send_request: bool = False
    cancel_requested: anyio.Event = field(default_factory=anyio.Event)


async def run_request(
    server: Server[dict[str, Any]],
    request: Request,
    connection: Connection,
    scope: object,
    *,
    kind: str,
    headers: Mapping[str, str] | None = None,
    passing: type[Exception] | tuple[()] = (),
) -> dict[str, Any]:
    """Run a request; the response to it, whatever it comes to.

    Args:
        server: Has the methods.
        request: What is to be run.
        connection: The client's version and capabilities.
        scope: What the methods find as `context.request`.
        kind: The SDK's name for the transport.
        headers: Of the HTTP request, by name in lower case.
        passing: What a method may raise that is no answer; it reaches the caller.
    """
    with audited(request.method.partition(", ")[0]) as entry:
        try:
            message = await _run(server, request, connection, scope, kind, headers, passing)
        except passing:
            entry.outcome = "continued"
            raise
        _note_outcome(entry, message)
        return message


def _note_outcome(entry: Entry, message: Mapping[str, Any]) -> None:
    """Say in the audit log what became of a request."""
    error = message.get("error")
    if error is None:
        entry.outcome = "failed" if message["result"].get("isError") is True else "ok"
        return
    entry.code = error["code"]
    if entry.code == METHOD_NOT_FOUND:
        entry.action = UNKNOWN_METHOD  # its name is the client's own text
    data = error.get("data")
    over_quota = isinstance(data, Mapping) and "setting" in data
    entry.outcome = "refused" if over_quota else "error"


async def _run(
    server: Server[dict[str, Any]],
    request: Request,
    connection: Connection,
    scope: object,
    kind: str,
    headers: Mapping[str, str] | None,
    passing: type[Exception] | tuple[()],
) -> dict[str, Any]:
    transport = TransportContext(kind=kind, can_send_request=False, headers=headers)
    context = KernelContext(transport, request.id, ServerMessageMetadata(request_context=scope))
    try:
        _check_shape(request, connection.protocol_version)
        result = await serve_one(
            server, context, request.method, request.params, connection=connection, lifespan_state={}
        )
    except passing:
        raise
    except ValidationError as error:
        REFUSED.add(Refused.INVALID)
        problems = describe_problems(error, request.params)
        return error_message(request.id, ErrorData(code=INVALID_PARAMS, message=problems))
    except Exception as error:
        told = modern_error_data(error)
        if not isinstance(error, TaskError):
            count_error(told.code, told.data)
        return error_message(request.id, told)
    return result_message(request.id, result)


def _check_shape(request: Request, version: str) -> None:
    """Check the shape of a request that is served under another name than it was sent under.

    The SDK does so for the names that it knows; ours have the original in front (`tools/list, rendered`).

    Raises:
        ValidationError: A field has the wrong type.
    """
    method, comma, _ = request.method.partition(", ")
    if comma and request.params is not None:
        validate_client_request(method, version, request.params)
