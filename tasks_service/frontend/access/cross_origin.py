"""What lets a web page of an allowed origin call (CORS, the `fetch` standard).

A browser asks before it sends what a page wants to send (a preflight, which carries no credentials), and
shows the page an answer only if its headers say so. No cookies are involved: callers prove who they are by a
header that the page sets itself, or are the one user of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from starlette.types import Message, Scope, Send

from ..transport.outgoing import send_whole

EXPOSED: Final = b"Mcp-Session-Id, WWW-Authenticate, Retry-After"
"""The headers of our answers that a page may read, beside those that every page may."""

METHODS: Final = b"GET, POST, DELETE"
"""The HTTP methods that a page may use."""

PREFLIGHT_SECONDS: Final = b"7200"
"""How long a browser may remember the answer to a preflight; none remembers it for longer."""

_WANTED_HEADERS: Final = "access-control-request-headers"

_HEADER_NAMES: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]+)*")


def is_preflight(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Whether a request only asks what a page may send."""
    return scope["method"] == "OPTIONS" and "access-control-request-method" in headers


def readable_by(origin: str, send: Send) -> Send:
    """A way to answer that lets a page of this origin read what is answered."""
    added = [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", EXPOSED),
        (b"vary", b"Origin"),
    ]

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return answer


async def opened_to(origin: str, scope: Scope, headers: Mapping[str, str], send: Send) -> Send | None:
    """A way to answer a page of an allowed origin; None if it only asked what it may send, and was told."""
    send = readable_by(origin, send)
    if not is_preflight(scope, headers):
        return send
    await answer_preflight(headers, send)
    return None


async def answer_preflight(headers: Mapping[str, str], send: Send) -> None:
    """Say that a page may send what it wants to.

    All the headers that it names are allowed: tools can have arguments repeated in headers of any name, and
    `*` would not include `Authorization`.
    """
    wanted = headers.get(_WANTED_HEADERS, "")
    allowed = [(b"access-control-allow-headers", wanted.encode("latin-1"))]
    await send_whole(
        send,
        200,
        b"",
        (
            (b"access-control-allow-methods", METHODS),
            (b"access-control-max-age", PREFLIGHT_SECONDS),
            *(allowed if _HEADER_NAMES.fullmatch(wanted) else ()),
        ),
    )
