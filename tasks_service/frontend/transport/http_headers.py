"""Headers of HTTP requests: names, media types and weights are compared without case (RFC 9110)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from mcp_types.jsonrpc import INVALID_REQUEST
from starlette.types import Scope

from ...domain.limits import KIB, truncate
from .rejection import Rejection

SESSION_HEADER: Final = "mcp-session-id"
LAST_EVENT_HEADER: Final = "last-event-id"

DOCUMENT: Final = "application/json"
"""The media type of one message."""

EVENTS: Final = "text/event-stream"
"""The media type of a stream of messages."""

HEADER_BYTES: Final = 8 * KIB
"""Longest value of a header that no table names."""

SHORT_HEADER: Final = 256
"""A value of so many bytes fits in every header."""

KNOWN_VALUES: Final = 256
"""How many values of a header are remembered with what they mean."""

_SENT_ONCE: Final = frozenset(
    {"content-encoding", "content-type", "host", LAST_EVENT_HEADER, "origin", SESSION_HEADER}
)
"""The headers that decide whence a call comes and what it is: of two, a proxy may have looked at the other.

`Authorization` is one more, which is checked where it is read (see `Authentication`)."""

_CHARSETS: Final = frozenset({"utf-8", "utf8", "us-ascii"})
"""The encodings of text that JSON may be declared to have: it is UTF-8 (RFC 8259), or a part of it."""


def headers_of(scope: Scope) -> list[tuple[str, str]]:
    """The headers of a request, names in lower case.

    White space around a value is no part of it (RFC 9110, 5.5), and not every server takes it off.
    """
    return [
        (name.decode("latin-1"), value.decode("latin-1").strip(" \t")) for name, value in scope["headers"]
    ]


def check_repeated(headers: Sequence[tuple[str, str]]) -> None:
    """Refuse a request that has one of the headers twice that are sent once.

    Those that repeat what is in a message are checked with it (see `Admission`).

    Raises:
        Rejection: 400; it names the header.
    """
    seen = set()
    for name, _ in headers:
        if name in seen and name in _SENT_ONCE:
            raise Rejection(400, INVALID_REQUEST, f"{name.title()}: expected once")
        seen.add(name)


def check_lengths(headers: Mapping[str, str], maxima: Mapping[str, int]) -> None:
    """Refuse headers that are too long to be meant.

    Args:
        headers: By name in lower case.
        maxima: The most bytes of each; of others, `HEADER_BYTES`.

    Raises:
        Rejection: 431; it names the header.
    """
    for name, value in headers.items():
        if len(value) > SHORT_HEADER and len(value) > (most := maxima.get(name, HEADER_BYTES)):
            problem = f"{truncate(name, SHORT_HEADER)}: {len(value)} bytes, at most {most} allowed"
            raise Rejection(431, INVALID_REQUEST, problem)


def check_content(headers: Mapping[str, str]) -> None:
    """Refuse a body that is declared to be no plain JSON, and a client that takes none for an answer.

    Raises:
        Rejection: 406 or 415; it names the header and what was expected.
    """
    if not accepted(headers.get("accept", "")).document:
        raise Rejection(406, INVALID_REQUEST, f"Accept: expected {DOCUMENT} and {EVENTS}")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Rejection(
            415,
            INVALID_REQUEST,
            "Content-Encoding: expected none; send the body as it is",
            headers=((b"accept-encoding", b"identity"),),
        )
    if not _is_json(headers.get("content-type", "")):
        raise Rejection(415, INVALID_REQUEST, f"Content-Type: expected {DOCUMENT}")


def takes_stream(headers: Mapping[str, str]) -> bool:
    """Whether a client takes a stream of events for an answer."""
    return accepted(headers.get("accept", "")).stream


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a client takes for an answer.

    Attributes:
        document: One JSON document.
        stream: A stream of events.
        prefers_stream: Whether it would rather have the stream: that weighs more, or is named first.
    """

    document: bool
    stream: bool
    prefers_stream: bool


@lru_cache(KNOWN_VALUES)
def accepted(accept: str) -> Accepted:
    """What an `Accept` header means; an empty one, as a missing one, takes everything (RFC 9110, 12.5.1)."""
    weights = _weights(accept) if accept else {"*/*": 1.0}
    document, stream = _weight_of(DOCUMENT, weights), _weight_of(EVENTS, weights)
    named = [name for name in weights if name in (DOCUMENT, EVENTS)]
    return Accepted(
        document=document > 0,
        stream=stream > 0,
        prefers_stream=stream > document > 0 or (stream == document > 0 and named == [EVENTS, DOCUMENT]),
    )


def _weights(accept: str) -> dict[str, float]:
    """The media ranges of an `Accept` header with their weights, in its order."""
    weights = {}
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((p.removeprefix("q=") for p in parameters if p.startswith("q=")), "1")
        try:
            weights[name] = float(weight)
        except ValueError:
            weights[name] = 1.0
    return weights


def _weight_of(media_type: str, weights: Mapping[str, float]) -> float:
    """The weight of a media type: the most specific range that it is in decides."""
    ranges = (media_type, f"{media_type.partition('/')[0]}/*", "*/*")
    return next((weights[name] for name in ranges if name in weights), 0.0)


@lru_cache(KNOWN_VALUES)
def _is_json(content_type: str) -> bool:
    name, *parameters = (piece.strip() for piece in content_type.lower().split(";"))
    charset = next((p.removeprefix("charset=") for p in parameters if p.startswith("charset=")), "utf-8")
    return name == DOCUMENT and charset.strip('"') in _CHARSETS
