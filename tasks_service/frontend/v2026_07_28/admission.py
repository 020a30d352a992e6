"""The checks of revision 2026-07-28 that come before any method is run.

Address, authentication, size, strict JSON, one JSON-RPC request, headers that agree with the body, a version
that is spoken. The ladder of header checks is the SDK's own (`classify_inbound_request`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mcp.server.connection import Connection
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    InboundLadderRejection,
    classify_inbound_request,
    decode_header_value,
    find_duplicated_routing_header,
    validate_mcp_param_headers,
)
from mcp_types.jsonrpc import HEADER_MISMATCH, INVALID_REQUEST, UNSUPPORTED_PROTOCOL_VERSION
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from ...domain.limits import Limits
from ..access.authentication import Authentication
from ..core import wire_common
from ..core.catalogue import Catalogue
from ..core.field_limits import fields_of
from ..core.requests import Caller
from ..core.stopping import Stopping
from ..transport.body import parse, read_body
from ..transport.http_headers import check_content, headers_of, takes_stream
from ..transport.jsonrpc import Notification, Request, Response, parse_message
from ..transport.rejection import Rejection
from . import wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A request that passed every check that does not need to know what it means.

    Attributes:
        request: With its client's version and capabilities in `_meta`.
        connection: These, as the SDK's kernel takes them.
        caller: Who sent it.
        headers: By name in lower case.
    """

    request: Request
    connection: Connection
    caller: Caller
    headers: Mapping[str, str]

    @property
    def may_stream(self) -> bool:
        """Whether the client takes an event stream for an answer."""
        return takes_stream(self.headers)


class Admission:
    """Lets requests in, or says why not.

    Args:
        catalogue: The schemas of its tools say which arguments must be repeated in headers.
        authentication: Says who calls, and what they may do.
        limits: How deep a message may be.
        body_seconds: How long a client may take to send a body.
        stopping: Ends waiting for it when the front end stops.
    """

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        authentication: Authentication,
        limits: Limits,
        body_seconds: float,
        stopping: Stopping,
    ) -> None:
        self._catalogue, self._authentication = catalogue, authentication
        self._limits, self._body_seconds, self._stopping = limits, body_seconds, stopping

    async def admit(self, scope: Scope, receive: Receive) -> Admitted | None:
        """Check a request; each step trusts those before it (docs/protocol.md, "order of checks").

        Returns:
            The request, or None for a notification, which is acknowledged and dropped: this revision has
            none that a client could send over HTTP.

        Raises:
            Rejection: It gets no further.
            Disconnected: The client is gone.
            FrontEndStops: Its body is not here yet.
        """
        raw = headers_of(scope)
        headers = dict(raw)
        if scope["method"] != "POST":
            raise Rejection(405, INVALID_REQUEST, "Use POST", headers=((b"allow", b"POST"),))
        caller = await self._authentication.authenticate(scope, raw, headers)
        check_content(headers)
        async with self._stopping.ends_wait():
            body = await read_body(receive, headers, self._body_seconds)
        message = parse_message(parse(body, self._limits, fields_of))
        if isinstance(message, Notification):
            _check_notification(message, headers)
            return None
        if isinstance(message, Response):
            raise Rejection(400, INVALID_REQUEST, "No request was sent that this could be a response to")
        connection = connection_of(message, headers)
        duplicate = find_duplicated_routing_header(raw) if len(raw) != len(headers) else None
        if duplicate is not None:
            problem = f"{duplicate} header appears more than once"
            raise Rejection(400, HEADER_MISMATCH, problem, request_id=message.id)
        self._check_mirrors(message, headers, scope)
        needed = wire.scopes_needed(message.method, message.params, self._catalogue.tools)
        self._authentication.require_scopes(caller, needed, message.id)
        return Admitted(request=message, connection=connection, caller=caller, headers=headers)

    def _check_mirrors(self, request: Request, headers: Mapping[str, str], scope: Scope) -> None:
        """Check that headers repeat truly what is in the body (docs/protocol.md, "Mcp-Name")."""
        method, params = request.method, request.params
        named = wire.routing_name(method, params)
        header = headers.get(MCP_NAME_HEADER)
        if named is not None and header is not None and decode_header_value(header) != named:
            message = f"{MCP_NAME_HEADER} header does not match the task that the body names"
            raise Rejection(400, HEADER_MISMATCH, message, request_id=request.id)
        if method != wire_common.TOOLS_CALL or params is None:
            return
        tool, arguments = self._catalogue.tools.get(str(params.get("name"))), params.get("arguments") or {}
        if tool is not None and tool.definition.has_headers and isinstance(arguments, Mapping):
            problem = validate_mcp_param_headers(
                tool.definition.input_schema, arguments, Headers(scope=scope)
            )
            if problem is not None:
                raise _rejection(problem, request)


def connection_of(request: Request, headers: Mapping[str, str] | None = None) -> Connection:
    """The version and capabilities that a request brings in its `_meta`, as the SDK's kernel takes them.

    Args:
        request: The request.
        headers: Must agree with the request; None for a transport without headers.

    Raises:
        Rejection: Something is missing, does not agree, or names a version that is not spoken.
    """
    verdict = classify_inbound_request(request.body, headers=headers)
    if isinstance(verdict, InboundLadderRejection):
        if verdict.code == UNSUPPORTED_PROTOCOL_VERSION:
            raise wire_common.version_refused(verdict.data["requested"], request.id)
        raise _rejection(verdict, request)
    return Connection.from_envelope(
        verdict.protocol_version, verdict.client_info, verdict.client_capabilities
    )


def _check_notification(notification: Notification, headers: Mapping[str, str]) -> None:
    """Refuse a notification that names a revision which is not served, or is not what its header says.

    Raises:
        Rejection: 400; what cannot be accepted is not acknowledged.
    """
    version = headers.get(MCP_PROTOCOL_VERSION_HEADER)
    if version is None:
        problem = f"{MCP_PROTOCOL_VERSION_HEADER} header is missing"
        raise Rejection(400, HEADER_MISMATCH, problem)
    if version not in MODERN_PROTOCOL_VERSIONS:
        raise wire_common.version_refused(version)
    if headers.get(MCP_METHOD_HEADER, notification.method) != notification.method:
        problem = f"{MCP_METHOD_HEADER} header does not match the method of the body"
        raise Rejection(400, HEADER_MISMATCH, problem)


def _rejection(problem: InboundLadderRejection, request: Request) -> Rejection:
    status = ERROR_CODE_HTTP_STATUS.get(problem.code, 400)
    return Rejection(status, problem.code, problem.message, data=problem.data, request_id=request.id)
