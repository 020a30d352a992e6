"""The guard at the door: what is refused before anybody has looked at what a request means.

Addresses that a browser could be tricked into using, bodies that are too large, JSON that is not strict.
The SDK reads bodies with a parser that takes NaN, half a surrogate pair and any depth; what is let in here
can be stored, and written out again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import pydantic_core
from mcp_types.jsonrpc import INVALID_REQUEST, PARSE_ERROR
from starlette.types import Receive

from ...domain.errors import LimitExceeded
from ...domain.limits import MIB, Limits, truncate
from .jsonrpc import request_id
from .message_limits import (
    MESSAGE_VALUES,
    NAME_BYTES,
    Fields,
    check_message,
    check_structure,
    has_hidden_members,
)
from .rejection import Disconnected, Rejection

BODY_BYTES = 2 * MIB
"""Largest request body: the largest arguments, and room for the rest."""


async def read_body(receive: Receive, headers: Mapping[str, str], seconds: float) -> bytes:
    """The body of a request, up to `BODY_BYTES`.

    Raises:
        Rejection: 413, as soon as it is known to be larger; 408 if it is not there within so many seconds.
        Disconnected: The client went away while it sent.
    """
    try:
        async with asyncio.timeout(seconds):
            return await _whole_body(receive, headers)
    except TimeoutError:
        message = f"The request body did not arrive within {seconds:g} s"
        raise Rejection(408, INVALID_REQUEST, message, headers=((b"connection", b"close"),)) from None


async def _whole_body(receive: Receive, headers: Mapping[str, str]) -> bytes:
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > BODY_BYTES:
        raise _too_large()
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Disconnected
        part = message.get("body", b"")
        if (size := size + len(part)) > BODY_BYTES:
            raise _too_large()
        parts.append(part)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def parse(body: bytes, limits: Limits, fields_of: Callable[[Any], Fields]) -> Any:
    """A request body as strict JSON, of which all has been looked at.

    Args:
        body: The body.
        limits: How much a message may hold.
        fields_of: See `check_message`.

    Raises:
        Rejection: 400; not JSON (NaN, an infinity, half a surrogate pair, bytes that are not UTF-8 and two
            members of one name are not JSON), or something in it is over its limit.
    """
    decoded: Any = None
    try:
        check_structure(body, limits)
        decoded = pydantic_core.from_json(body, allow_inf_nan=False)
        members = check_message(body, decoded, limits, fields_of)
        if has_hidden_members(body, members):
            raise ValueError(_repeated(body, members))  # noqa: TRY301
    except LimitExceeded as error:
        raise _over(error, decoded) from None
    except ValueError as error:
        raise Rejection(
            400,
            PARSE_ERROR,
            f"Parse error: the body is not strict JSON: {error}. "
            "NaN, Infinity, lone surrogates, invalid UTF-8, excessive nesting and repeated names are refused",
        ) from None
    return decoded


def _repeated(body: bytes, members: int) -> str:
    """Name the member that a body has two of, unless it is too long a search."""
    if members <= MESSAGE_VALUES:
        try:
            _NAMES.decode(body.decode())
        except ValueError as error:
            return str(error)
    return "an object has two members of one name"


def _distinct(members: list[tuple[str, None]]) -> None:
    if len(dict(members)) == len(members):
        return
    seen: set[str] = set()
    for name, _ in members:
        if name in seen:
            raise ValueError(f"an object has two members of the name {truncate(name, NAME_BYTES)!r}")
        seen.add(name)


_NAMES = json.JSONDecoder(object_pairs_hook=_distinct)
"""Decodes nothing, and raises `ValueError` for two members of one name."""


def _over(error: LimitExceeded, decoded: Any) -> Rejection:
    facts = {"limit": error.what, "maximum": error.maximum, "actual": error.actual, "unit": error.unit}
    id_ = request_id(decoded)
    return Rejection(400, INVALID_REQUEST, f"Over the limit: {error}", data=facts, request_id=id_)


def _too_large() -> Rejection:
    return Rejection(413, INVALID_REQUEST, f"The request body is larger than {BODY_BYTES} bytes")
