"""`initialize`: how a session begins."""

from __future__ import annotations

from collections.abc import Mapping
from secrets import token_urlsafe
from typing import Any, Final

from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_one

from ...store.sessions import Session
from ..core.requests import Caller
from ..transport.sdk_kernel import Exchange
from . import wire

SESSION_BYTES: Final = 24
"""Random bytes in a session's id: 192 bits."""


async def initialize(
    server: Server[dict[str, Any]], exchange: Exchange, params: Mapping[str, Any] | None, caller: Caller
) -> tuple[Session, dict[str, Any]]:
    """Answer an `initialize`: the session that it begins, which nobody keeps yet, and the result.

    Raises:
        Exception: What the SDK's kernel raises for a request that it refuses.
    """
    connection = Connection.for_loop(exchange)
    result = await serve_one(
        server, exchange, wire.INITIALIZE, params, connection=connection, lifespan_state={}
    )
    session = Session(
        session_id=token_urlsafe(SESSION_BYTES),
        owner=caller.owner,
        version=connection.protocol_version,
        capabilities=wire.client_capabilities(params, connection.protocol_version),
    )
    wire.announce_changes(result["capabilities"])
    if wire.has_tasks(session.version):
        result["capabilities"]["tasks"] = wire.TASKS_CAPABILITY
    return session, result
