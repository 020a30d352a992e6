"""MCP over stdio, for one client: 2026-07-28 and the revisions that begin with a handshake.

The first request that is let in decides which: `initialize`, or one that names its revision in `_meta`. From
then on the other era is refused. Requests run on the same servers as over HTTP, concurrently.

The process is the connection: when input ends, calls that wait without a task are cancelled
(docs/protocol.md, "a client that disconnects"), and tasks go on. In the eras with a handshake it is also one
session, whose own stream is the pipe.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from mcp.server.connection import Connection
from mcp_types.jsonrpc import INVALID_REQUEST, METHOD_NOT_FOUND

from ..domain.errors import StoreUnavailable
from ..domain.limits import Limits
from ..domain.task import JsonText
from ..observability.context import Source, asked_by
from ..store.sessions import Session
from .app import FrontEnd
from .assembly import Servers
from .core.field_limits import fields_of
from .core.requests import RequestScope
from .core.waiting_calls import Departure
from .core.wire_common import version_refused
from .transport.body import BODY_BYTES, parse
from .transport.jsonrpc import (
    Message,
    Notification,
    Request,
    Response,
    has_envelope,
    parse_batch,
    parse_message,
    rejection_message,
    result_message,
)
from .transport.outgoing import Outgoing
from .transport.pipe import Pipe
from .transport.rejection import Rejection
from .transport.sdk_kernel import run_request
from .v2025_11_25 import wire
from .v2025_11_25.initialize import initialize
from .v2025_11_25.methods import SessionRequest
from .v2025_11_25.session_stream import SessionStream
from .v2026_07_28 import wire as later
from .v2026_07_28.admission import connection_of

logger = logging.getLogger(__name__)

MOST_REQUESTS: Final = 1_000
"""Requests of the client that are served at a time; of more, the newest are refused."""

_KIND: Final = "stdio"
"""The SDK's name for this transport."""


@dataclass(slots=True)
class _Served:
    """A request that is being served."""

    work: asyncio.Task[dict[str, Any]]
    session_request: SessionRequest | None
    listens: bool


class StdioFront:
    """One client, at the other end of a pipe.

    Args:
        servers: Answer the requests.
        pipe: To the client.
        limits: How deep a message may be.
        store_timeout: Seconds that a request waits for a store that is only starting.
    """

    def __init__(self, servers: Servers, pipe: Pipe, *, limits: Limits, store_timeout: float) -> None:
        self._servers, self._pipe, self._limits = servers, pipe, limits
        self._timings = servers.services.timings
        self._gate = _Gate(servers, store_timeout)
        self._modern = False
        self._session: Session | None = None
        self._has_stream = False
        self._served: dict[JsonText, _Served] = {}
        self._answers: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve the client until its input ends, or `stop` is set; then end promptly."""
        reading = asyncio.create_task(self._read())
        events = [asyncio.create_task(event.wait()) for event in (self._pipe.ended, stop)]
        try:
            await asyncio.wait({reading, *events}, return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                await asyncio.wait({reading}, timeout=self._timings.linger)
                works = {served.work for served in self._served.values() if not served.listens}
                if works:
                    await asyncio.wait(works, timeout=self._timings.linger)
        finally:
            await self._end(reading, *events)
        if reading.done() and not reading.cancelled():
            reading.result()

    async def refuse_unworkable(self) -> None:
        """Check the set-up of the store, once it is reached.

        Raises:
            ConfigurationError: It would lose tasks.
        """
        await self._gate.reached()
        await self._servers.readiness.refuse_unworkable()

    async def _end(self, *others: asyncio.Task[Any]) -> None:
        for task in others:
            task.cancel()
        self._servers.subscriptions.end()
        for served in self._served.values():
            if served.session_request is not None:
                served.session_request.departure = Departure.GONE
            if not served.listens:
                served.work.cancel()
        works = {served.work for served in self._served.values()}
        if works:
            await asyncio.wait(works, timeout=self._timings.end)
        try:
            async with asyncio.timeout(self._timings.flush):
                if self._answers:
                    await asyncio.wait(self._answers)
                await self._pipe.flush()
                if self._session is not None:
                    await self._servers.services.sessions.remove(self._session.session_id)
        except (TimeoutError, StoreUnavailable):
            logger.debug("the session's row stays until it has been silent for long enough")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*others, *self._tasks, return_exceptions=True)

    # --- messages ---

    async def _read(self) -> None:
        async for line in self._pipe.lines():
            try:
                await self._take(line)
            except Rejection as rejection:
                await self._pipe.send(rejection_message(rejection))

    async def _take(self, line: bytes | None) -> None:
        if line is None:
            raise Rejection(413, INVALID_REQUEST, f"The message is longer than {BODY_BYTES} bytes")
        if not line.strip():
            return
        decoded = parse(line, self._limits, fields_of)
        if isinstance(decoded, list) and self._session and wire.has_batches(self._session.version):
            for message in parse_batch(decoded):
                await self._take_message(message)
        else:
            await self._take_message(parse_message(decoded))

    async def _take_message(self, message: Message) -> None:
        match message:
            case Request():
                try:
                    await self._request(message)
                except Rejection as rejection:
                    await self._pipe.send(rejection_message(rejection))
            case Notification():
                self._notification(message)
            case Response() if self._session is not None:
                self._spawn(self._answered(self._session, message))

    def _notification(self, notification: Notification) -> None:
        name = wire.cancelled_request(notification.method, notification.params)
        served = None if name is None else self._served.get(name)
        if served is not None:
            if served.session_request is not None:
                served.session_request.departure = Departure.CANCELLED
            served.work.cancel()
        elif notification.method == wire.INITIALIZED and self._session is not None and not self._has_stream:
            self._has_stream = True
            self._spawn(self._stream_session(self._session))

    async def _request(self, request: Request) -> None:
        name = wire.request_name(request.id)
        if name is None:
            raise _refused(f"id: longer than {wire.REQUEST_ID_BYTES} bytes", request)
        if name in self._served:
            raise _refused("id: a request of this id is being served; each needs its own", request)
        if len(self._tasks) >= MOST_REQUESTS:
            raise _refused(f"{MOST_REQUESTS} requests are being served; wait for their answers", request)
        if request.method == wire.INITIALIZE:
            await self._initialize(request)
        elif self._session is not None:
            if has_envelope(request):
                raise _refused(
                    "This connection began with initialize: expected no revision in _meta", request
                )
            self._serve_in_session(self._session, name, request)
        elif self._modern or has_envelope(request):
            self._serve_modern(name, request)
        elif request.method == wire.PING:
            await self._pipe.send(result_message(request.id, {}))
        else:
            raise _refused("Begin with initialize, or name the protocol's revision in _meta", request)

    async def _initialize(self, request: Request) -> None:
        if self._modern:
            why = "This connection has begun without initialize, in a revision that has none"
            raise version_refused(wire.requested_version(request.params), request.id, why)
        if self._session is not None:
            raise _refused("initialize: this connection is initialized already", request)
        self._session, message = await initialize(
            self._servers.handshake,
            request,
            self._servers.local,
            kind=_KIND,
            service=self._servers.services.service,
        )
        await self._pipe.send(message)

    def _serve_in_session(self, session: Session, name: JsonText, request: Request) -> None:
        method = wire.served_method(request.method, request.params, session.version)
        if not method:
            raise Rejection(404, METHOD_NOT_FOUND, "Method not found", request_id=request.id)
        level = wire.log_level(request.method, request.params)
        if level is not None:
            self._session = replace(session, log_level=level)
        session_request = SessionRequest(
            session=session,
            caller=self._servers.local.identity,
            outgoing=Outgoing(),
            can_be_asked=True,
        )
        run = partial(
            run_request,
            self._servers.handshake,
            replace(request, method=method),
            Connection.from_envelope(session.version, None, None),
            session_request,
            kind=_KIND,
        )
        self._serve(name, request.id, method, run, session_request.outgoing, session_request)

    def _serve_modern(self, name: JsonText, request: Request) -> None:
        connection = connection_of(request)
        self._modern = True
        scope = RequestScope(caller=self._servers.local, outgoing=Outgoing(), may_stream=True)
        served = replace(request, method=later.served_method(request.method))
        run = partial(run_request, self._servers.modern, served, connection, scope, kind=_KIND)
        self._serve(name, request.id, request.method, run, scope.outgoing, None)

    # --- what goes out ---

    def _serve(
        self,
        name: JsonText,
        id_: str | int,
        method: str,
        run: Callable[[], Awaitable[dict[str, Any]]],
        outgoing: Outgoing,
        session_request: SessionRequest | None,
    ) -> None:
        """Serve a request beside the others; a cancelled one gets no answer."""

        async def work() -> dict[str, Any]:
            await self._gate.passed(method)
            return await run()

        listens = self._modern and method == later.LISTEN
        served = self._served[name] = _Served(asyncio.create_task(work()), session_request, listens)

        async def answer() -> None:
            try:
                await self._pass_on(outgoing, served.work)
            finally:
                del self._served[name]
            if served.work.cancelled():
                return
            message = served.work.result()
            await self._pipe.send(message)
            if listens and "result" in message:
                await self._pipe.send(later.listen_over(id_))

        answering = self._spawn(answer())
        self._answers.add(answering)
        answering.add_done_callback(self._answers.discard)

    async def _pass_on(self, outgoing: Outgoing, work: asyncio.Task[Any]) -> None:
        """Send what goes out until the work is done; what a slow reader does not take waits in `outgoing`."""
        while True:
            for message in outgoing.take():
                await self._pipe.send(message)
            if outgoing:
                continue
            if work.done():
                return
            filled = asyncio.create_task(outgoing.filled())
            await asyncio.wait({work, filled}, return_when=asyncio.FIRST_COMPLETED)
            filled.cancel()

    async def _stream_session(self, session: Session) -> None:
        """Keep up the session's own stream for as long as the process lives."""
        outgoing, services = Outgoing(), self._servers.services
        while True:
            await self._gate.reached()
            try:
                session = self._session or session
                await services.sessions.create(session)
                stream = asyncio.create_task(SessionStream(services, session, outgoing).run())
                try:
                    await self._pass_on(outgoing, stream)
                    await stream
                finally:
                    stream.cancel()
            except StoreUnavailable as error:
                logger.warning("The session's own messages wait for the store: %s", error)
            await asyncio.sleep(self._timings.retry)

    async def _answered(self, session: Session, response: Response) -> None:
        """Record the client's answer to a question; it is sent once, so an outage is waited for."""
        while True:
            try:
                await self._servers.services.questions.receive(session.owner, response)
            except StoreUnavailable as error:
                logger.warning("An answer waits for the store: %s", error)
                await asyncio.sleep(self._timings.retry)
            else:
                return

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("A part of the connection failed", exc_info=error)


class _Gate:
    """Lets requests through once the store answers, so that one may be sent while it only starts."""

    def __init__(self, servers: Servers, store_timeout: float) -> None:
        self._store, self._feed, self._store_timeout = servers.store, servers.services.feed, store_timeout

    async def passed(self, method: str) -> None:
        if self._store_timeout and (wire.needs_store(method) or method == later.LISTEN):
            await self.reached()

    async def reached(self) -> None:
        """Return when the store answers, or has not for long enough; whoever asks it then says so."""
        clock = asyncio.get_running_loop().time
        until = clock() + self._store_timeout
        while True:
            try:
                await self._store.ping()
            except StoreUnavailable:
                if clock() >= until:
                    return
                await asyncio.sleep(self._feed.timings.ping)
            else:
                await self._feed.begun()
                return


@asynccontextmanager
async def opened(
    front_end: FrontEnd, *, source: int, sink: int, limits: Limits, store_timeout: float
) -> AsyncIterator[StdioFront]:
    """A front end at the other end of two pipes.

    Args:
        front_end: What is served.
        source: The descriptor that the client writes to.
        sink: The descriptor that the client reads.
        limits: How deep a message may be.
        store_timeout: See `StdioFront`.

    Raises:
        ConfigurationError: There is no Redis to keep tasks in, or no secret.
    """
    async with front_end.opened() as paths:
        local = Source(owner=paths.root.servers.local.owner)
        pipe = Pipe(source, sink, line_bytes=BODY_BYTES)
        with asked_by(local):
            yield StdioFront(paths.root.servers, pipe, limits=limits, store_timeout=store_timeout)


def _refused(message: str, request: Request) -> Rejection:
    return Rejection(400, INVALID_REQUEST, message, request_id=request.id)
