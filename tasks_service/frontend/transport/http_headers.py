"""Headers of HTTP requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mcp_types.jsonrpc import INVALID_REQUEST
from starlette.types import Scope

from .rejection import Rejection

SESSION_HEADER: Final = "mcp-session-id"
LAST_EVENT_HEADER: Final = "last-event-id"


def headers_of(scope: Scope) -> list[tuple[str, str]]:
    """The headers of a request, names in lower case.

    White space around a value is no part of it (RFC 9110, 5.5), and not every server takes it off.
    """
    return [
        (name.decode("latin-1"), value.decode("latin-1").strip(" \t")) for name, value in scope["headers"]
    ]


def check_accept(accept: str) -> None:
    """Refuse a client that does not take JSON.

    Raises:
        Rejection: 406.
    """
    if not ("application/json" in accept or "*/*" in accept or "application/*" in accept):
        raise Rejection(406, INVALID_REQUEST, "Accept: expected application/json and text/event-stream")


def takes_stream(headers: Mapping[str, str]) -> bool:
    """Whether a client takes a stream of events for an answer."""
    accept = headers.get("accept", "")
    return "text/event-stream" in accept or "*/*" in accept
