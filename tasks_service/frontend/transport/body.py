"""The guard at the door: what is refused before anybody has looked at what a request means.

Addresses that a browser could be tricked into using, bodies that are too large, JSON that is not strict.
The SDK reads bodies with a parser that takes NaN, half a surrogate pair and any depth; what is let in here
can be stored, and written out again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pydantic_core
from mcp_types.jsonrpc import INVALID_REQUEST, PARSE_ERROR
from starlette.types import Receive

from ...domain.errors import LimitExceeded
from ...domain.limits import MIB, Limits, check_depth, truncate
from .jsonrpc import request_id
from .rejection import Disconnected, Rejection

BODY_BYTES = 2 * MIB
"""Largest request body: the largest arguments, and room for the rest."""

NAME_BYTES = 128
"""Longest name of a member that an error repeats."""

ENVELOPE_DEPTH = 4
"""How deep in a message the values are whose own depth is limited."""


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


def parse(body: bytes, limits: Limits) -> Any:
    """A request body as strict JSON.

    Raises:
        Rejection: 400; not JSON (NaN, an infinity, half a surrogate pair, bytes that are not UTF-8 and two
            members of one name are not JSON), or nested too deeply.
    """
    try:
        decoded = pydantic_core.from_json(body, allow_inf_nan=False)
        _check_names(body, decoded)
    except ValueError as error:
        raise Rejection(
            400,
            PARSE_ERROR,
            f"Parse error: the body is not strict JSON: {error}. "
            "NaN, Infinity, lone surrogates, invalid UTF-8, excessive nesting and repeated names are refused",
        ) from None
    if body.count(b"{") + body.count(b"[") > limits.depth:
        _check_depth(decoded, limits.depth + ENVELOPE_DEPTH)
    return decoded


def _check_names(body: bytes, decoded: Any) -> None:
    """Refuse two members of one name, of which one reader would see the first and another the last.

    Raises:
        ValueError: It names the member.
    """
    # Each member has a colon. So if there are no more colons than members, text and names have none of their
    # own, and no member is hidden by another.
    if body.count(b":") > _members(decoded):
        _NAMES.decode(body.decode())


def _members(decoded: Any) -> int:
    count, waiting = 0, [decoded]
    while waiting:
        value = waiting.pop()
        if type(value) is dict:
            count += len(value)
            waiting.extend(value.values())
        elif type(value) is list:
            waiting.extend(value)
    return count


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


def _check_depth(decoded: Any, maximum: int) -> None:
    try:
        check_depth("request", decoded, maximum)
    except LimitExceeded as error:
        raise Rejection(
            400, INVALID_REQUEST, f"Over the limit: {error}", request_id=request_id(decoded)
        ) from None


def _too_large() -> Rejection:
    return Rejection(413, INVALID_REQUEST, f"The request body is larger than {BODY_BYTES} bytes")
