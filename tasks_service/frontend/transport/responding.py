"""Answering one HTTP request: one JSON document if that will do, a stream of events where it will not.

An answer is a JSON document if nothing is sent before it and it does not take long. Otherwise it is the last
event of a stream that is kept alive, so that no proxy thinks it idle. A slow reader holds up nobody else (see
`streams.Outgoing`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Send

from ...metrics.series import STREAMS
from .jsonrpc import encode, rejection_message
from .outgoing import (
    JSON,
    PING,
    Outgoing,
    begin_stream,
    end_stream,
    event,
    send_part,
    send_whole,
    wait_for_disconnect,
)
from .refusals import count_rejected
from .rejection import Rejection


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON-RPC response and what goes with it.

    Attributes:
        message: The response; for a batch of requests, all of them.
        status: The HTTP status, where it is not too late for one.
        headers: HTTP headers to send along, likewise.
        last: A notification that comes after the response, on a stream.
    """

    message: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    last: Mapping[str, Any] | None = None


Work = asyncio.Task[Answer | None]
"""Makes the answer; cancelled, or if that is what it says, there is none on this stream."""


async def respond(
    work: Work,
    outgoing: Outgoing,
    receive: Receive,
    send: Send,
    deferral: float,
    *,
    may_stream: bool,
    prefers_stream: bool = False,
    streams_at_once: bool = False,
) -> None:
    """Answer as soon as it is known how; if the client hangs up first, the work is cancelled.

    Args:
        work: Makes the answer.
        outgoing: What goes to the client before it.
        receive: Of the ASGI connection.
        send: Of the ASGI connection.
        deferral: See `Timings.deferral`.
        may_stream: Whether the client takes a stream. If not, it gets the answer alone.
        prefers_stream: Whether it would rather have a stream, however short.
        streams_at_once: Whether it waits for a stream, and for nothing else.
    """
    gone = asyncio.create_task(wait_for_disconnect(receive))
    try:
        if not streams_at_once:
            await _first_sign(work, gone, outgoing, deferral if may_stream else None)
        answer = _outcome(work) if work.done() else None
        if streams_at_once or answer is None or (outgoing and may_stream) or prefers_stream:
            await _stream(work, outgoing, gone, send, deferral)
        elif not gone.done():
            await send_whole(send, answer.status, encode(answer.message), (JSON, *answer.headers))
    finally:
        gone.cancel()
        work.cancel()
        await asyncio.wait({work, gone})


async def reject(rejection: Rejection, send: Send) -> None:
    """Answer a request that was not let in."""
    count_rejected(rejection.status, rejection.code, rejection.data)
    body = encode(rejection_message(rejection))
    await send_whole(send, rejection.status, body, (JSON, *rejection.headers))


async def _stream(
    work: Work, outgoing: Outgoing, gone: asyncio.Task[None], send: Send, deferral: float
) -> None:
    """Send what goes out, and the answer if there is one, as events; with signs of life in between."""
    if gone.done():
        return
    with STREAMS.one_more():
        await _stream_events(work, outgoing, gone, send, deferral)


async def _stream_events(
    work: Work, outgoing: Outgoing, gone: asyncio.Task[None], send: Send, deferral: float
) -> None:
    await begin_stream(send)
    await send_part(send, outgoing.take_priming() or PING)
    while not gone.done():
        messages = outgoing.take()
        if priming := outgoing.take_priming():
            await send_part(send, priming)
        for message in messages:
            await send_part(send, event(message))
        if work.done() and not outgoing:
            answer = _outcome(work)
            await end_stream(send, b"" if answer is None else _events_of(answer))
            return
        if not await _first_sign(work, gone, outgoing, deferral):
            await send_part(send, PING)


def _events_of(answer: Answer) -> bytes:
    return event(answer.message) + (b"" if answer.last is None else event(answer.last))


async def _first_sign(
    work: Work, gone: asyncio.Task[None], outgoing: Outgoing, seconds: float | None
) -> bool:
    """Wait for the answer, the client's end, or so many seconds for something to send; whether one came."""
    filled = asyncio.create_task(outgoing.filled())
    try:
        first = {work, gone} if seconds is None else {work, gone, filled}
        done, _ = await asyncio.wait(first, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        filled.cancel()


def _outcome(work: Work) -> Answer | None:
    """The answer; None if there is none: the client has cancelled, or is let go, or the server stops."""
    return None if work.cancelled() else work.result()
