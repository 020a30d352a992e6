"""`initialize`: how a session begins."""

from __future__ import annotations

from typing import Any

from mcp.server.connection import Connection
from mcp.server.lowlevel import Server

from ...domain.names import new_session_id
from ...store.sessions import Session
from ..core.requests import Caller
from ..transport.jsonrpc import Request
from ..transport.sdk_kernel import NoChannel, run_request
from . import wire


async def initialize(
    server: Server[dict[str, Any]], request: Request, caller: Caller, *, kind: str, service: str
) -> tuple[Session | None, dict[str, Any]]:
    """Answer an `initialize`.

    Args:
        server: Has the methods.
        request: The request.
        caller: Who sent it.
        kind: The SDK's name for the transport.
        service: The service that the session is with; see `SessionServices`.

    Returns:
        The session that it begins, which nobody keeps yet, and the response. No session if it was refused.
    """
    connection = Connection.for_loop(NoChannel())
    message = await run_request(server, request, connection, None, kind=kind)
    if "error" in message:
        return None, message
    session = Session(
        session_id=new_session_id(caller.owner),
        owner=caller.owner,
        service=service,
        version=connection.protocol_version,
        client=wire.client_name(request.params),
        capabilities=wire.client_capabilities(request.params, connection.protocol_version),
    )
    capabilities = message["result"]["capabilities"]
    wire.announce_changes(capabilities)
    if wire.has_tasks(session.version):
        capabilities["tasks"] = wire.TASKS_CAPABILITY
    return session, message
