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
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from mcp.server.connection import Connection
from mcp.server.runner import modern_error_data, serve_one
from mcp.shared.inbound import InboundLadderRejection, InboundModernRoute, classify_inbound_request
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import ErrorData
from mcp_types.jsonrpc import INVALID_REQUEST, METHOD_NOT_FOUND, UNSUPPORTED_PROTOCOL_VERSION
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from ..domain.errors import StoreUnavailable
from ..domain.limits import Limits
from ..domain.task import JsonText
from ..store.sessions import Session
from .app import FrontEnd
from .assembly import Servers
from .core.requests import RequestScope
from .transport.body import BODY_BYTES, parse
from .transport.jsonrpc import error_message, has_envelope, request_id
from .transport.outgoing import Outgoing
from .transport.pipe import Pipe
from .transport.rejection import Rejection
from .transport.sdk_kernel import Exchange
from .v2025_11_25 import wire
from .v2025_11_25.initialize import initialize
from .v2025_11_25.methods import SessionRequest
from .v2025_11_25.session_stream import SessionStream
from .v2026_07_28 import wire as later

logger = logging.getLogger(__name__)

MOST_REQUESTS: Final = 1_000
"""Requests of the client that are served at a time; of more, the newest are refused."""

LINGER_SECONDS: Final = 0.5
"""How long what was asked before the end of input may still be answered."""

END_SECONDS: Final = 1.2
"""How long the calls of a client that has gone may take to be cancelled."""

FLUSH_SECONDS: Final = 0.2
"""How long the last messages may take to be read."""

RETRY_SECONDS: Final = 0.1
"""Between two attempts to reach a store that is not there yet."""

REOPEN_SECONDS: Final = 1.0
"""Before the session's own stream is taken up again, after the store has not answered."""

_LOCAL: Final = TransportContext(kind="stdio", can_send_request=False)


@dataclass(slots=True)
class _Call:
    """A request that is being served."""

    work: asyncio.Task[dict[str, Any]]
    visit: SessionRequest | None
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
        self._gate = _Gate(servers, store_timeout)
        self._modern = False
        self._session: Session | None = None
        self._follows = False
        self._calls: dict[JsonText, _Call] = {}
        self._answers: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve the client until its input ends, or `stop` is set; then end promptly."""
        reading = asyncio.create_task(self._read())
        events = [asyncio.create_task(event.wait()) for event in (self._pipe.ended, stop)]
        try:
            await asyncio.wait({reading, *events}, return_when=asyncio.FIRST_COMPLETED)
            if not stop.is_set():
                await asyncio.wait({reading}, timeout=LINGER_SECONDS)
                works = {call.work for call in self._calls.values() if not call.listens}
                if works:
                    await asyncio.wait(works, timeout=LINGER_SECONDS)
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
        self._servers.listeners.end()
        for call in self._calls.values():
            if call.visit is not None:
                call.visit.gone = True
            if not call.listens:
                call.work.cancel()
        works = {call.work for call in self._calls.values()}
        if works:
            await asyncio.wait(works, timeout=END_SECONDS)
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                if self._answers:
                    await asyncio.wait(self._answers)
                await self._pipe.flush()
                if self._session is not None:
                    await self._servers.desk.sessions.remove(self._session.session_id)
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
                error = ErrorData(code=rejection.code, message=rejection.message, data=rejection.data)
                await self._pipe.send(error_message(rejection.request_id, error))

    async def _take(self, line: bytes | None) -> None:
        if line is None:
            raise Rejection(413, INVALID_REQUEST, f"The message is longer than {BODY_BYTES} bytes")
        if not line.strip():
            return
        decoded = parse(line, self._limits)
        match decoded:
            case {"jsonrpc": "2.0", "id": str() | int() as identity, "method": str() as method} if (
                not isinstance(identity, bool)
            ):
                await self._request(identity, method, decoded)
            case {"jsonrpc": "2.0", "method": str() as method} if "id" not in decoded:
                self._notification(method, decoded.get("params"))
            case {"jsonrpc": "2.0", "id": _, "result": _} | {"jsonrpc": "2.0", "id": _, "error": _}:
                if self._session is not None:
                    self._spawn(self._answered(self._session, decoded))
            case _:
                raise Rejection(
                    400,
                    INVALID_REQUEST,
                    "A line must be a single JSON-RPC 2.0 request, notification or response object",
                    request_id=request_id(decoded),
                )

    def _notification(self, method: str, params: Any) -> None:
        if method == wire.CANCELLED:
            name = wire.cancelled_request(params)
            call = None if name is None else self._calls.get(name)
            if call is not None:
                if call.visit is not None:
                    call.visit.cancelled = True
                call.work.cancel()
        elif method == wire.INITIALIZED and self._session is not None and not self._follows:
            self._follows = True
            self._spawn(self._follow(self._session))

    async def _request(self, identity: str | int, method: str, decoded: Mapping[str, Any]) -> None:
        params = decoded.get("params")
        if params is not None and not isinstance(params, Mapping):
            raise _refused("params: expected an object", identity)
        name = wire.request_name(identity)
        if name is None:
            raise _refused(f"id: longer than {wire.REQUEST_ID_BYTES} bytes", identity)
        if name in self._calls:
            raise _refused("id: a request of this id is being served; each needs its own", identity)
        if len(self._tasks) >= MOST_REQUESTS:
            raise _refused(f"{MOST_REQUESTS} requests are being served; wait for their answers", identity)
        if method == wire.INITIALIZE:
            await self._initialize(identity, params)
        elif self._session is not None:
            if has_envelope(decoded):
                raise _refused(
                    "This connection began with initialize: expected no revision in _meta", identity
                )
            self._serve_handshake(self._session, name, identity, method, params)
        elif self._modern or has_envelope(decoded):
            self._serve_modern(name, identity, method, params, decoded)
        elif method == wire.PING:
            await self._pipe.send(_result(identity, {}))
        else:
            raise _refused("Begin with initialize, or name the protocol's revision in _meta", identity)

    async def _initialize(self, identity: str | int, params: Mapping[str, Any] | None) -> None:
        if self._modern:
            raise Rejection(
                400,
                UNSUPPORTED_PROTOCOL_VERSION,
                "This connection has begun without initialize, in a revision that has none",
                data={
                    "supported": list(MODERN_PROTOCOL_VERSIONS),
                    "requested": wire.requested_version(params),
                },
                request_id=identity,
            )
        if self._session is not None:
            raise _refused("initialize: this connection is initialized already", identity)
        exchange = Exchange(_LOCAL, identity, ServerMessageMetadata())
        try:
            session, result = await initialize(self._servers.handshake, exchange, params, self._servers.local)
        except Exception as error:
            await self._pipe.send(error_message(identity, modern_error_data(error)))
            return
        self._session = session
        await self._pipe.send(_result(identity, result))

    def _serve_handshake(
        self,
        session: Session,
        name: JsonText,
        identity: str | int,
        method: str,
        params: Mapping[str, Any] | None,
    ) -> None:
        visit = SessionRequest(session=session, outgoing=Outgoing(), can_be_asked=True)
        served = wire.served_method(method, params, session.version)
        if not served:
            raise Rejection(404, METHOD_NOT_FOUND, "Method not found", request_id=identity)
        exchange = Exchange(_LOCAL, identity, ServerMessageMetadata(request_context=visit))

        async def serve() -> dict[str, Any]:
            await self._gate.passed(served)
            connection = Connection.from_envelope(session.version, None, None)
            return await serve_one(
                self._servers.handshake, exchange, served, params, connection=connection, lifespan_state={}
            )

        level = wire.log_level(method, params)
        if level is not None:
            self._session = replace(session, log_level=level)
        self._converse(name, identity, served, serve, visit.outgoing, visit)

    def _serve_modern(
        self,
        name: JsonText,
        identity: str | int,
        method: str,
        params: Mapping[str, Any] | None,
        decoded: Mapping[str, Any],
    ) -> None:
        route = _route(decoded, identity)
        self._modern = True
        inquiry = RequestScope(caller=self._servers.local, outgoing=Outgoing(), may_stream=True)
        exchange = Exchange(_LOCAL, identity, ServerMessageMetadata(request_context=inquiry))

        async def serve() -> dict[str, Any]:
            await self._gate.passed(method)
            connection = Connection.from_envelope(
                route.protocol_version, route.client_info, route.client_capabilities
            )
            return await serve_one(
                self._servers.modern, exchange, method, params, connection=connection, lifespan_state={}
            )

        self._converse(name, identity, method, serve, inquiry.outgoing, None)

    # --- what goes out ---

    def _converse(
        self,
        name: JsonText,
        identity: str | int,
        method: str,
        serve: Callable[[], Awaitable[dict[str, Any]]],
        outgoing: Outgoing,
        visit: SessionRequest | None,
    ) -> None:
        """Serve a request beside the others; a cancelled one gets no answer."""
        listens = self._modern and method == later.LISTEN
        call = _Call(asyncio.create_task(_answer(identity, serve)), visit, listens)
        self._calls[name] = call

        async def converse() -> None:
            try:
                await self._pass_on(outgoing, call.work)
            finally:
                del self._calls[name]
            if call.work.cancelled():
                return
            answer = call.work.result()
            await self._pipe.send(answer)
            if listens and "result" in answer:
                # 2026-07-28, basic/patterns/subscriptions: on stdio the server says so this way too.
                over = wire.cancelled_notification(identity, "The server has ended the subscription.")
                await self._pipe.send(over)

        conversation = self._spawn(converse())
        self._answers.add(conversation)
        conversation.add_done_callback(self._answers.discard)

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

    async def _follow(self, session: Session) -> None:
        """The session's own stream, for as long as the process lives."""
        outgoing, desk = Outgoing(), self._servers.desk
        while True:
            await self._gate.reached()
            try:
                session = self._session or session
                await desk.sessions.create(session)
                following = asyncio.create_task(SessionStream(desk, session, outgoing).run())
                try:
                    await self._pass_on(outgoing, following)
                    await following
                finally:
                    following.cancel()
            except StoreUnavailable as error:
                logger.warning("The session's own messages wait for the store: %s", error)
            await asyncio.sleep(REOPEN_SECONDS)

    async def _answered(self, session: Session, response: Mapping[str, Any]) -> None:
        """Record the client's answer to a question; it is sent once, so an outage is waited for."""
        while True:
            try:
                await self._servers.desk.questions.receive(session.owner, response)
            except StoreUnavailable as error:
                logger.warning("An answer waits for the store: %s", error)
                await asyncio.sleep(REOPEN_SECONDS)
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
        self._store, self._feed, self._store_timeout = servers.store, servers.desk.feed, store_timeout

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
                await asyncio.sleep(RETRY_SECONDS)
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
    async with front_end.opened() as servers:
        yield StdioFront(
            servers, Pipe(source, sink, line_bytes=BODY_BYTES), limits=limits, store_timeout=store_timeout
        )


async def _answer(identity: str | int, serve: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    try:
        return _result(identity, await serve())
    except Exception as error:
        return error_message(identity, modern_error_data(error))


def _route(decoded: Mapping[str, Any], identity: str | int) -> InboundModernRoute:
    verdict = classify_inbound_request(decoded)
    if isinstance(verdict, InboundLadderRejection):
        raise Rejection(400, verdict.code, verdict.message, data=verdict.data, request_id=identity)
    return verdict


def _result(identity: str | int, result: Mapping[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identity, "result": result}


def _refused(message: str, identity: str | int) -> Rejection:
    return Rejection(400, INVALID_REQUEST, message, request_id=identity)
