"""What goes out over HTTP: one JSON document, or events on a stream that a slow reader cannot hold up."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.types import Receive, Send

from ...failpoints import failpoint
from .jsonrpc import encode

STREAM_EVENTS: Final = 256
"""Events that wait for a reader; of more, the oldest are dropped."""

STREAM_REPORTS: Final = 64
"""How many of them may be reports, which are dropped before anything else."""

JSON: Final = (b"content-type", b"application/json")
PING: Final = b": ping\r\n\r\n"

_STREAM_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class Outgoing:
    """Messages on their way to one stream.

    Whoever puts one in never waits: a reader that does not keep up loses the oldest, and nobody else notices.
    """

    def __init__(self) -> None:
        self._events: OrderedDict[str, Mapping[str, Any]] = OrderedDict()
        self._reports: deque[str] = deque()
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._count = 0
        self._priming = b""

    def put(self, message: Mapping[str, Any], *, instead_of: str = "", report: bool = False) -> None:
        """Add a message.

        Args:
            message: A JSON-RPC message.
            instead_of: Names what it is the latest of; an older one that still waits is dropped.
            report: It is one of many that a running tool makes, and the first to be dropped.
        """
        self._count += 1
        name = instead_of or f"#{self._count}"
        self._events.pop(name, None)
        self._events[name] = message
        if report:
            self._reports.append(name)
        if len(self._reports) > STREAM_REPORTS or (self._reports and len(self._events) > STREAM_EVENTS):
            del self._events[self._reports.popleft()]
        elif len(self._events) > STREAM_EVENTS:
            self._events.popitem(last=False)
        self._filled.set()
        self._emptied.clear()

    def prime(self, event_id: str, retry_ms: int) -> None:
        """Have the client know how to come back, should the stream end without an answer.

        Args:
            event_id: What it then names.
            retry_ms: How many milliseconds later.
        """
        self._priming = f"id: {event_id}\r\nretry: {retry_ms}\r\ndata:\r\n\r\n".encode()
        self._filled.set()

    def take_priming(self) -> bytes:
        """The event that primes the client; empty if there is none, or it was taken."""
        priming, self._priming = self._priming, b""
        return priming

    def __len__(self) -> int:
        return len(self._events)

    async def filled(self) -> None:
        """Return when there is something to take."""
        await self._filled.wait()

    async def emptied(self) -> None:
        """Return when all has been taken; for whoever makes a message only when it can be sent."""
        await self._emptied.wait()

    def take(self) -> list[Mapping[str, Any]]:
        """All that waits, oldest first."""
        taken = list(self._events.values())
        self._events.clear()
        self._reports.clear()
        self._filled.clear()
        self._emptied.set()
        return taken


async def wait_for_disconnect(receive: Receive) -> None:
    """Return when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        """Parts of a body that was read already."""


async def send_whole(
    send: Send, status: int, body: bytes, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    """Answer with one body."""
    length = (b"content-length", str(len(body)).encode())
    failpoint("Answer", "before")
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
    failpoint("Answer", "after")


async def begin_stream(send: Send, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """Answer with a stream of events."""
    await send({"type": "http.response.start", "status": 200, "headers": [*_STREAM_HEADERS, *headers]})


async def send_part(send: Send, part: bytes) -> None:
    """Some of a stream; waits for a reader that is slow."""
    failpoint("Stream", "before")
    await send({"type": "http.response.body", "body": part, "more_body": True})
    failpoint("Stream", "after")


async def end_stream(send: Send, part: bytes = b"") -> None:
    """The last of a stream."""
    await send({"type": "http.response.body", "body": part, "more_body": False})


def event(message: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> bytes:
    """A message, or a batch of them, as an event.

    Without an id: what went out is not sent again, see `Outgoing.prime`.
    """
    return b"event: message\r\ndata: " + encode(message) + b"\r\n\r\n"
