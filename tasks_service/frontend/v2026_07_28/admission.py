"""Which requests are let in: the checks of revision 2026-07-28 that come before any method is run.

Address, authentication, size, strict JSON, one JSON-RPC request, headers that agree with the body, a version
that is spoken. The ladder of header checks is the SDK's own (`classify_inbound_request`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    MCP_NAME_HEADER,
    InboundLadderRejection,
    InboundModernRoute,
    classify_inbound_request,
    decode_header_value,
    find_duplicated_routing_header,
    validate_mcp_param_headers,
)
from mcp_types.jsonrpc import HEADER_MISMATCH, INVALID_REQUEST
from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from ...authoring.tool import ToolRegistry
from ...domain.limits import Limits
from ..access.address_guard import AddressGuard
from ..access.api_keys import Authenticator
from ..core import wire_common
from ..core.requests import Caller
from ..transport.body import parse, read_body
from ..transport.http_headers import check_accept, headers_of
from ..transport.jsonrpc import request_id
from ..transport.rejection import Rejection
from . import wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A request that passed every check that does not need to know what it means.

    Attributes:
        id: To be repeated in the answer.
        method: The JSON-RPC method.
        params: Its params, with the envelope in `_meta`.
        route: The envelope, as the SDK's ladder read it.
        caller: Who sent it.
        headers: By name in lower case.
    """

    id: str | int
    method: str
    params: Mapping[str, Any] | None
    route: InboundModernRoute
    caller: Caller
    headers: Mapping[str, str]

    @property
    def may_stream(self) -> bool:
        """Whether the client takes an event stream for an answer."""
        return "text/event-stream" in (accept := self.headers.get("accept", "")) or "*/*" in accept


class Admission:
    """Lets requests in, or says why not.

    Args:
        tools: Their schemas say which arguments must be repeated in headers.
        authenticator: Says who calls.
        guard: Says from where one may call.
        limits: How deep a message may be.
    """

    def __init__(
        self, *, tools: ToolRegistry, authenticator: Authenticator, guard: AddressGuard, limits: Limits
    ) -> None:
        self._authenticator = authenticator
        self._guard = guard
        self._limits = limits
        self._tools = tools

    async def admit(self, scope: Scope, receive: Receive) -> Admitted | None:
        """Check a request; each step trusts those before it (docs/protocol.md, "order of checks").

        Returns:
            The request, or None for a notification, which is acknowledged and dropped.

        Raises:
            Rejection: It gets no further.
            Disconnected: The client is gone.
        """
        raw = headers_of(scope)
        headers = dict(raw)
        await self._guard.check(scope, headers)
        if scope["method"] != "POST":
            raise Rejection(405, INVALID_REQUEST, "Use POST", headers=((b"allow", b"POST"),))
        caller = self._authenticator.authenticate(headers)
        check_accept(headers.get("accept", ""))
        decoded = parse(await read_body(receive, headers), self._limits)
        if _is_notification(decoded):
            return None
        identity, method, params = _request(decoded)
        route = _checked(classify_inbound_request(decoded, headers=headers), identity)
        duplicate = find_duplicated_routing_header(raw) if len(raw) != len(headers) else None
        if duplicate is not None:
            message = f"{duplicate} header appears more than once"
            raise Rejection(400, HEADER_MISMATCH, message, request_id=identity)
        self._check_mirrors(identity, method, params, headers, scope)
        return Admitted(
            id=identity, method=method, params=params, route=route, caller=caller, headers=headers
        )

    def _check_mirrors(
        self,
        identity: str | int,
        method: str,
        params: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        scope: Scope,
    ) -> None:
        """Headers that repeat what is in the body must repeat it truly (docs/protocol.md, "Mcp-Name")."""
        named = wire.routing_name(method, params)
        header = headers.get(MCP_NAME_HEADER)
        if named is not None and header is not None and decode_header_value(header) != named:
            message = f"{MCP_NAME_HEADER} header does not match the task that the body names"
            raise Rejection(400, HEADER_MISMATCH, message, request_id=identity)
        if method != wire_common.TOOLS_CALL or params is None:
            return
        tool, arguments = self._tools.get(str(params.get("name"))), params.get("arguments") or {}
        if tool is not None and tool.has_headers and isinstance(arguments, Mapping):
            problem = validate_mcp_param_headers(tool.input_schema, arguments, Headers(scope=scope))
            if problem is not None:
                raise _ladder(problem, identity)


def _is_notification(decoded: Any) -> bool:
    """JSON-RPC 2.0, 4.1: no `id` member at all."""
    return isinstance(decoded, Mapping) and "id" not in decoded and isinstance(decoded.get("method"), str)


def _request(decoded: Any) -> tuple[str | int, str, Mapping[str, Any] | None]:
    """The parts of a JSON-RPC request; batches, responses (clients send none) and the rest are refused."""
    match decoded:
        case {"jsonrpc": "2.0", "id": str() | int() as identity, "method": str() as method} if not isinstance(
            identity, bool
        ):
            params = decoded.get("params")
            if params is None or isinstance(params, Mapping):
                return identity, method, params
    raise Rejection(
        400,
        INVALID_REQUEST,
        "Body must be a single JSON-RPC 2.0 request or notification object",
        request_id=request_id(decoded),
    )


def _checked(verdict: InboundModernRoute | InboundLadderRejection, identity: str | int) -> InboundModernRoute:
    if isinstance(verdict, InboundLadderRejection):
        raise _ladder(verdict, identity)
    return verdict


def _ladder(problem: InboundLadderRejection, identity: str | int) -> Rejection:
    status = ERROR_CODE_HTTP_STATUS.get(problem.code, 400)
    return Rejection(status, problem.code, problem.message, data=problem.data, request_id=identity)
