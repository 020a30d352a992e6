"""Uvicorn's protocol of one connection, with limits on all that a client may send, and leave unread.

The parser (httptools) is given the headers of a request when they are whole, and nothing of the next request
before this one is answered: what has been counted is bounded, whatever the parser would make of it. A body
goes to the parser as it comes. Nothing here ends a connection on which an answer is being made, or a stream
whose client takes what it is sent: those may last for hours.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Final, cast

import httptools
import uvicorn
from mcp_types.jsonrpc import INVALID_REQUEST
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from ...addresses.web import UNIX_SOCKETS
from ..access.caller_address import CallerAddress
from ..transport.jsonrpc import encode, rejection_message
from ..transport.outgoing import JSON
from ..transport.rejection import Rejection
from .guard import NO_REQUEST, ConnectionGuard
from .request_head import (
    END,
    bad_request,
    check_begun,
    check_lines,
    check_request,
    content_length,
    too_large,
    without_upgrade,
)

PROBED: Final = (b"/healthz", b"/readyz")
"""How the paths end on which a server is asked whether it is alive and ready."""


GATHER_SECONDS: Final = 0.02
"""Pause in which pieces gather that are too small to be read one by one."""

_EMPTY_LINE: Final = (b"\r\n", b"\r", b"\n")


class GuardedProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        guard: Of the server, which counts all of its connections.
        config: Of uvicorn.
        server_state: Of uvicorn.
        app_state: Of the application's lifespan.
        _loop: The event loop, under the name that uvicorn gives it.

    Attributes:
        peer: The address of the other end.
    """

    peer: CallerAddress

    def __init__(
        self,
        guard: ConnectionGuard,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._guard = guard
        self._serves_all = True
        self._ending = False
        # What was received and not yet given to the parser; of that, what was searched for the end of a head.
        self._unread, self._searched = bytearray(), 0
        # Of the request that is being received.
        self._rejection: Rejection | None = None
        self._in_body = self._feeds_body = self._in_surplus = False
        self._body_left: int | None = None
        self._body_bytes = self._framing_bytes = 0
        self._discarded_bytes = self._small_reads = 0
        # When this phase of receiving began; None: nothing is awaited that has a deadline of ours.
        self._receiving_since: float | None = None
        # What waited to be sent when a reader was first too slow for it, and when that last became less.
        self._backlog = self._backlog_left = 0
        self._backlog_since: float | None = None
        self._taken_at = 0.0
        self._closing_since: float | None = None

    # --- the connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or refuse it."""
        super().connection_made(transport)
        self._receiving_since = self.loop.time()
        peer = UNIX_SOCKETS if self.client is None else self.client[0]
        try:
            self._serves_all = self._guard.admit(self, peer)
        except Rejection as rejection:
            self.refuse("too many connections", rejection)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        super().connection_lost(exc)
        self._ending = True
        self._guard.has_gone(self)

    def refuse(self, reason: str, rejection: Rejection) -> None:
        """Answer with a refusal, and close; without an answer if one has begun.

        Args:
            reason: For the counter and the log.
            rejection: What the client reads.
        """
        if self._ending:
            return
        self._end(reason)
        if self._is_answering():
            if self.cycle.response_started:
                self.transport.abort()
                return
            self.cycle.disconnected = True
            self.cycle.waiting_for_100_continue = False  # it may not have asked for the body yet
            self.cycle.message_event.set()
        self.transport.write(self._answer(rejection))
        if self.transport.can_write_eof() and self._guard.may_linger():
            # To close at once, with something unread, would reset the connection, and the answer be lost.
            self.transport.write_eof()
            self._closing_since = self.loop.time()
        else:
            self.transport.close()

    def leave(self, reason: str, rejection: Rejection) -> None:
        """Close a connection that waits for a request: without a word, unless some of one has come."""
        if self._unread:
            self.refuse(reason, rejection)
        elif not self._ending:
            self._end(NO_REQUEST)
            self.transport.close()

    def _end(self, reason: str) -> None:
        self._ending, self._receiving_since = True, None
        self._unset_keepalive_if_required()
        self._unread.clear()
        self._guard.ends(self, reason)

    def abort(self, reason: str) -> None:
        """Close without a word, whatever is under way."""
        if not self._ending:
            self._end(reason)
        self.transport.abort()

    def _answer(self, rejection: Rejection) -> bytes:
        body = encode(rejection_message(rejection))
        headers = [
            *self.server_state.default_headers,
            *rejection.headers,
            JSON,
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        status = HTTPStatus(rejection.status)
        lines = [f"HTTP/1.1 {status} {status.phrase}".encode(), *(b"%s: %s" % header for header in headers)]
        return b"\r\n".join([*lines, b"", body])

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # --- what takes too long ---

    def check(self, now: float) -> bool:
        """End the connection if its client takes too long; whether that was so."""
        if self.transport.is_closing() or self._ending:
            return self._check_closing(now)
        if self._backlog_since is not None and self._is_slow_reader(now, self._backlog_since):
            self.abort("an answer was not read")
            return True
        return self._receiving_since is not None and self._check_receiving(now - self._receiving_since)

    def _check_closing(self, now: float) -> bool:
        if self._closing_since is None:
            self._closing_since = now
        seconds = self._guard.limits.linger_seconds if self._ending else self._guard.limits.write_seconds
        if now - self._closing_since < seconds:
            return False
        self.abort("an answer was not read")
        return True

    def _check_receiving(self, seconds: float) -> bool:
        if not self._in_body:
            if seconds < self._guard.limits.head_seconds:
                return False
            message = f"The headers did not arrive within {self._guard.limits.head_seconds:g} s"
            self.leave("headers did not arrive in time", Rejection(408, INVALID_REQUEST, message))
            return True
        allowed = self._guard.limits.body_seconds + self._body_bytes / self._guard.limits.body_rate
        if self.flow.read_paused or seconds < min(allowed, self._guard.limits.most_body_seconds):
            return False
        if self.cycle.response_complete:
            self.abort("a body did not arrive in time")
        else:
            message = f"The request body did not arrive within {seconds:.0f} s"
            self.refuse("a body did not arrive in time", Rejection(408, INVALID_REQUEST, message))
        return True

    def _is_slow_reader(self, now: float, since: float) -> bool:
        left = self.transport.get_write_buffer_size()
        if left < self._backlog_left:
            self._taken_at = now
        self._backlog, self._backlog_left = max(self._backlog, left), left
        allowed = self._guard.limits.write_seconds + self._backlog / self._guard.limits.write_rate
        return now - self._taken_at >= self._guard.limits.write_seconds or now - since >= allowed

    def pause_writing(self) -> None:
        """Begin to watch how fast a client takes what is sent."""
        super().pause_writing()
        self._backlog_since = self._taken_at = self.loop.time()
        self._backlog = self._backlog_left = self.transport.get_write_buffer_size()
        if not self._ending:
            self._guard.is_behind(self, self._backlog)

    def resume_writing(self) -> None:
        """The client has taken it."""
        super().resume_writing()
        self._backlog_since = None
        self._guard.has_caught_up(self)

    # --- what is received ---

    def data_received(self, data: bytes) -> None:
        """Take what has come, as far as it is wanted."""
        if len(data) < self._guard.limits.small_read_bytes:
            self._read_less_often()
        if self._ending:
            self._discard(len(data))
            return
        if not self._in_body and not self._unread and data in _EMPTY_LINE:
            return  # it means nothing before a request (RFC 9112, 2.2), and some send one behind each
        self._unset_keepalive_if_required()
        self._unread += data
        self._read()

    def _read_less_often(self) -> None:
        """After many small pieces, let some gather before they are read: each costs as much as a large."""
        self._small_reads += 1
        if self._small_reads > self._guard.limits.small_reads and not self.transport.is_closing():
            self.transport.pause_reading()
            self.loop.call_later(GATHER_SECONDS, self._read_again)

    def _read_again(self) -> None:
        if not self.flow.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _discard(self, size: int) -> None:
        self._discarded_bytes += size
        if self._discarded_bytes > self._guard.limits.discarded_bytes:
            self.abort("what nobody reads was sent on and on")

    def _read(self) -> None:
        """Give to the parser what it may have."""
        try:
            while self._unread and not self._ending and self.parser is not None:
                if self._in_body:
                    self._read_body()
                elif self._is_answering():
                    self._keep_for_later()
                    return
                elif not self._read_head():
                    return
        except Rejection as rejection:
            self.refuse(_reason(rejection), rejection)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            malformed = bad_request("it is not HTTP/1.1")
            self.refuse(_reason(malformed), malformed)

    def _keep_for_later(self) -> None:
        """Keep what comes before the answer, if it is not too much; then the answer will be the last."""
        if len(self._unread) > self._guard.limits.pipelined_bytes:
            self.cycle.keep_alive = False
            self._discard(len(self._unread))
            self._unread.clear()

    def _read_head(self) -> bool:
        """Give the parser a head that is whole; whether there was one."""
        if self._searched == 0 and self._unread.startswith(b"\r\n"):
            del self._unread[:2]
            if not self._unread:
                return False
        if self._receiving_since is None:
            self._receiving_since = self.loop.time()
        at = self._unread.find(END, max(0, self._searched - len(END)), self._guard.limits.head_bytes)
        if at < 0:
            check_begun(self._unread)
            if len(self._unread) >= self._guard.limits.head_bytes:
                raise too_large(self._guard.limits)
            self._searched = len(self._unread)
            return False
        head = bytes(self._unread[: at + len(END)])
        del self._unread[: len(head)]
        self._searched = 0
        check_lines(head, self._guard.limits)
        self._rejection = None
        self.parser.feed_data(without_upgrade(head))
        if self._rejection is not None:
            raise self._rejection
        return True

    def _read_body(self) -> None:
        """Give the parser what belongs to the body, of which only its chunks may say where it ends."""
        size = len(self._unread) if self._body_left is None else min(self._body_left, len(self._unread))
        part = bytes(self._unread[:size])
        del self._unread[:size]
        if self._body_left is not None:
            self._body_left -= size
        before = self._body_bytes
        self._feeds_body = True
        try:
            self.parser.feed_data(part)
        except httptools.HttpParserError:
            if not self._in_surplus:
                raise
        finally:
            self._feeds_body = False
        self._framing_bytes += size - (self._body_bytes - before)
        if self._in_surplus:
            self._end_after_this()
        elif self._framing_bytes > self._guard.limits.framing_bytes:
            raise bad_request(
                f"more than {self._guard.limits.framing_bytes} bytes around the chunks of the body"
            )

    def _end_after_this(self) -> None:
        """Make this answer the last: what came behind the chunks of a body went to the parser with them."""
        if self._is_answering():
            self.cycle.keep_alive = False
        else:
            self.transport.close()

    # --- what the parser has found ---

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._in_surplus = self._feeds_body
        if not self._in_surplus:
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take the target of a request."""
        if not self._in_surplus:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what comes behind a body is none, whatever its name (RFC 9110, 6.5.1)."""
        if not self._in_surplus and not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check a request, and begin to answer it."""
        if self._in_surplus:
            return
        try:
            self._check_request()
        except Rejection as rejection:
            self._rejection = rejection
            return
        self._in_body, self._receiving_since = True, self.loop.time()
        self._body_left = content_length(self.headers)
        self._body_bytes = self._framing_bytes = 0
        super().on_headers_complete()
        if not self._serves_all:
            self.cycle.keep_alive = False

    def _check_request(self) -> None:
        check_request(self.parser.get_http_version(), self.url, self.headers)
        if not self._serves_all and not self.url.partition(b"?")[0].endswith(PROBED):
            raise self._guard.full()
        self._guard.has_request(self, cast("Scope", self.scope))

    def on_body(self, body: bytes) -> None:
        """Take some of a body."""
        if self._in_surplus or self._ending:
            return
        self._body_bytes += len(body)
        super().on_body(body)
        if self.cycle.response_complete:
            self._discard(len(body))
        else:
            self._guard.holds(self, len(body))

    def on_message_complete(self) -> None:
        """The request is there."""
        if self._in_surplus or self._rejection is not None:
            return
        super().on_message_complete()
        self._in_body, self._receiving_since, self._small_reads = False, None, 0
        self._guard.has_body(self)

    def on_response_complete(self) -> None:
        """The answer is on its way: go on with what has come meanwhile."""
        super().on_response_complete()
        if self._ending:
            return
        self._guard.has_answer(self)
        self._guard.has_body(self)
        if self._in_body and self.expect_100_continue and not self._body_bytes:
            self.transport.close()  # nobody knows whether the client will send the body that it asked about
        if self._unread and not self.transport.is_closing():
            self.loop.call_soon(self._read)


def _reason(rejection: Rejection) -> str:
    """What a refusal is counted under: there are as many messages as a client wants."""
    return f"HTTP {rejection.status} {HTTPStatus(rejection.status).phrase}"
