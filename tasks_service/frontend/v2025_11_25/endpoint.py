"""MCP over HTTP for the revisions that begin with a handshake: 2025-11-25 and those before it.

These have sessions, streams that the server sends requests on, and answers that arrive by themselves. None of
that is kept in a process: a session is a row in the store, so that any front end may receive any POST, GET
or DELETE (see `store.sessions`). Requests run on the SDK's own kernel (`serve_one`).

A request is answered with JSON if nothing is sent before its answer and it does not take long; otherwise with
a stream of events. A client that hangs up cancels nothing; `notifications/cancelled` does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pydantic_core
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import modern_error_data, serve_one
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import ErrorData
from mcp_types.jsonrpc import INVALID_REQUEST, METHOD_NOT_FOUND
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...domain.errors import StoreUnavailable
from ...domain.limits import Limits
from ...domain.task import JsonText
from ...store.sessions import Session, calls_name
from ..access.address_guard import AddressGuard
from ..access.api_keys import Authenticator
from ..core import wire_common
from ..core.change_feed import HEAL_SECONDS
from ..core.requests import Caller
from ..transport.body import parse, read_body
from ..transport.http_headers import LAST_EVENT_HEADER, SESSION_HEADER, check_accept, headers_of
from ..transport.jsonrpc import error_message, has_envelope, request_id
from ..transport.outgoing import JSON, Outgoing, send_whole, wait_for_disconnect
from ..transport.rejection import Disconnected, Rejection, reject
from ..transport.responding import Answer, respond, stream
from ..transport.sdk_kernel import Exchange
from . import wire
from .initialize import initialize
from .methods import SessionRequest
from .resumption import PollLater, ResumePoint
from .session_stream import SessionStream
from .task_stream import SessionServices

logger = logging.getLogger(__name__)


_WAITING: Final = frozenset(
    {
        wire_common.TOOLS_CALL,
        wire.RESUMED_CALL,
        wire.CREATE_TASK,
        wire.TASKS_RESULT,
        wire_common.RESOURCES_READ,
        wire_common.PROMPTS_GET,
    }
)


@dataclass(frozen=True, slots=True)
class _Request:
    """A JSON-RPC request in a session."""

    identity: str | int
    method: str
    params: Mapping[str, Any] | None
    headers: Mapping[str, str]

    @property
    def may_stream(self) -> bool:
        """Whether the client takes a stream of events for an answer."""
        return _takes_events(self.headers)

    @property
    def prefers_stream(self) -> bool:
        """Whether the client names streams of events before JSON, with no weights that say otherwise."""
        accept = self.headers.get("accept", "")
        events, document = accept.find("text/event-stream"), accept.find("application/json")
        return 0 <= events < document and "q=" not in accept


class SessionEndpoint:
    """The ASGI application for sessions.

    Args:
        server: Answers requests.
        desk: Sessions, questions and wake-ups.
        authenticator: Says who calls.
        guard: Says from where one may call.
        limits: How deep a message may be.
        modern: Serves a message without version header that names 2026-07-28 itself.
    """

    def __init__(
        self,
        *,
        server: Server[dict[str, Any]],
        desk: SessionServices,
        authenticator: Authenticator,
        guard: AddressGuard,
        limits: Limits,
        modern: ASGIApp,
    ) -> None:
        self._server, self._desk, self._modern = server, desk, modern
        self._authenticator, self._guard, self._limits = authenticator, guard, limits
        self._brief: set[asyncio.Task[Any]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        headers = dict(headers_of(scope))
        try:
            await self._guard.check(scope, headers)
            caller = self._authenticator.authenticate(headers)
            match scope["method"]:
                case "POST":
                    await self._post(scope, caller, headers, receive, send)
                case "GET":
                    session = await self._session(caller, headers)
                    await self._get(caller, session, headers, receive, send)
                case "DELETE":
                    session = await self._session(caller, headers)
                    await self._desk.sessions.remove(session.session_id)
                    await send_whole(send, 200, b"")
                case _:
                    await reject(_NOT_ALLOWED, send)
        except Rejection as rejection:
            await reject(rejection, send)
        except StoreUnavailable as error:
            refusal = wire.refusal(error).error
            await reject(Rejection(503, refusal.code, refusal.message, data=refusal.data), send)
        except Disconnected:
            return

    def drain(self) -> None:
        """End what clients can begin again elsewhere: sessions' streams, and waits for results."""
        for work in tuple(self._brief):
            work.cancel()

    # --- sessions ---

    async def _session(
        self, caller: Caller, headers: Mapping[str, str], identity: str | int | None = None
    ) -> Session:
        """The caller's session; to others, and once it is over, there is none (404)."""
        version = headers.get(MCP_PROTOCOL_VERSION_HEADER)
        if version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            known = ", ".join(HANDSHAKE_PROTOCOL_VERSIONS)
            message = f"MCP-Protocol-Version: expected one of {known}"
            raise Rejection(400, INVALID_REQUEST, message, request_id=identity)
        session_id = headers.get(SESSION_HEADER)
        if session_id is None:
            message = "Mcp-Session-Id is missing: begin with initialize, and send the id that it answers with"
            raise Rejection(400, INVALID_REQUEST, message, request_id=identity)
        session = await self._desk.sessions.find(caller.owner, session_id)
        if session is None:
            message = "Session not found: it has ended, or never was; begin again with initialize"
            raise Rejection(404, INVALID_REQUEST, message, request_id=identity)
        return session

    async def _initialize(self, caller: Caller, request: _Request, send: Send) -> None:
        exchange = _exchange(request, None)
        try:
            session, result = await initialize(self._server, exchange, request.params, caller)
        except Exception as error:
            body = pydantic_core.to_json(error_message(request.identity, modern_error_data(error)))
            await send_whole(send, 200, body, (JSON,))
            return
        await self._desk.sessions.create(session)
        body = pydantic_core.to_json({"jsonrpc": "2.0", "id": request.identity, "result": result})
        await send_whole(send, 200, body, (JSON, (SESSION_HEADER.encode(), session.session_id.encode())))

    # --- messages ---

    async def _post(
        self, scope: Scope, caller: Caller, headers: Mapping[str, str], receive: Receive, send: Send
    ) -> None:
        check_accept(headers.get("accept", ""))
        body = await read_body(receive, headers)
        decoded = parse(body, self._limits)
        if MCP_PROTOCOL_VERSION_HEADER not in headers and has_envelope(decoded):
            await self._modern(scope, _replayed(body, receive), send)
            return
        match decoded:
            case {"jsonrpc": "2.0", "id": str() | int() as identity, "method": str() as method} if (
                not isinstance(identity, bool)
            ):
                request = _Request(identity, method, _params(decoded), headers)
                if method == wire.INITIALIZE:
                    await self._initialize(caller, request, send)
                else:
                    session = await self._session(caller, headers, identity)
                    await self._answer(caller, session, request, receive, send)
            case {"jsonrpc": "2.0", "method": str() as method} if "id" not in decoded:
                session = await self._session(caller, headers)
                if method == wire.CANCELLED:
                    await self._cancel(session, decoded.get("params"))
                await send_whole(send, 202, b"")
            case {"jsonrpc": "2.0", "id": _, "result": _} | {"jsonrpc": "2.0", "id": _, "error": _}:
                session = await self._session(caller, headers)
                await self._desk.questions.receive(session.owner, decoded)
                await send_whole(send, 202, b"")
            case _:
                raise Rejection(
                    400,
                    INVALID_REQUEST,
                    "Body must be a single JSON-RPC 2.0 request, notification or response object",
                    request_id=request_id(decoded),
                )

    async def _cancel(self, session: Session, params: Any) -> None:
        request = wire.cancelled_request(params)
        if request is not None:
            await self._desk.sessions.cancel(session.session_id, request)

    async def _answer(
        self,
        caller: Caller,
        session: Session,
        request: _Request,
        receive: Receive,
        send: Send,
        bookmark: ResumePoint | None = None,
    ) -> None:
        polls = wire.has_polling(session.version)
        visit = SessionRequest(
            session=session,
            outgoing=Outgoing(),
            can_be_asked=request.may_stream,
            reconnects_as=request.identity if request.may_stream and polls else None,
            bookmark=bookmark,
        )
        method = wire.served_method(request.method, request.params, session.version)
        if bookmark is not None:
            method = wire.RESUMED_CALL
        work = asyncio.create_task(self._serve(request, method, visit))
        if method in (wire.TASKS_RESULT, wire.RESUMED_CALL):
            self._may_end(work, caller)
        gone = asyncio.create_task(wait_for_disconnect(receive))
        name = wire.request_name(request.identity) if method in _WAITING else None
        watch = None if name is None else asyncio.create_task(self._watch_for_cancel(visit, name, work))
        try:
            if bookmark is not None:
                await stream(work, visit.outgoing, gone, send)
            else:
                await respond(
                    work,
                    visit.outgoing,
                    gone,
                    send,
                    may_stream=request.may_stream,
                    prefers_stream=request.prefers_stream,
                )
        finally:
            for task in (gone, work, watch):
                if task is not None:
                    task.cancel()
            await asyncio.wait({task for task in (gone, work, watch) if task is not None})

    async def _serve(self, request: _Request, method: str, visit: SessionRequest) -> Answer | None:
        """Run a request through the SDK's kernel; no answer for a client that is let go."""
        exchange, connection = _exchange(request, visit), _connection(visit.session)
        try:
            if not method:
                return Answer(error_message(request.identity, _METHOD_NOT_FOUND))
            result = await serve_one(
                self._server, exchange, method, request.params, connection=connection, lifespan_state={}
            )
        except PollLater:
            return None
        except Exception as error:
            return Answer(error_message(request.identity, modern_error_data(error)))
        return Answer({"jsonrpc": "2.0", "id": request.identity, "result": result})

    async def _watch_for_cancel(self, visit: SessionRequest, name: JsonText, work: asyncio.Task[Any]) -> None:
        """Stop the work when its client cancels it, through whichever front end."""
        session_id = visit.session.session_id
        with self._desk.feed.watch(calls_name(session_id)) as watcher:
            while not work.done():
                await watcher.changed(HEAL_SECONDS)
                try:
                    visit.cancelled = await self._desk.sessions.is_cancelled(session_id, name)
                except StoreUnavailable as error:
                    logger.warning("Whether a request was cancelled is not known for now: %s", error)
                if visit.cancelled:
                    work.cancel()
                    return

    async def _resume(
        self,
        caller: Caller,
        session: Session,
        headers: Mapping[str, str],
        receive: Receive,
        send: Send,
    ) -> None:
        bookmark = self._desk.bookmarks.open(session, headers[LAST_EVENT_HEADER])
        if bookmark is None:
            message = "Last-Event-ID: expected the id of an event that was sent in this session"
            raise Rejection(400, INVALID_REQUEST, message)
        request = _Request(bookmark.request_id, wire_common.TOOLS_CALL, None, headers)
        await self._answer(caller, session, request, receive, send, bookmark)

    def _may_end(self, work: asyncio.Task[Any], caller: Caller) -> None:
        """End work when the service stops, and when the proof of who asked for it runs out."""
        self._brief.add(work)
        work.add_done_callback(self._brief.discard)
        if caller.expires_at is not None:
            timer = asyncio.get_running_loop().call_later(caller.expires_at - time.time(), work.cancel)
            work.add_done_callback(lambda _: timer.cancel())

    async def _get(
        self,
        caller: Caller,
        session: Session,
        headers: Mapping[str, str],
        receive: Receive,
        send: Send,
    ) -> None:
        if not _takes_events(headers):
            raise Rejection(406, INVALID_REQUEST, "Accept: expected text/event-stream")
        if LAST_EVENT_HEADER in headers:
            await self._resume(caller, session, headers, receive, send)
            return
        outgoing = Outgoing()
        work = asyncio.create_task(_follow(SessionStream(self._desk, session, outgoing)))
        self._may_end(work, caller)
        gone = asyncio.create_task(wait_for_disconnect(receive))
        try:
            await stream(work, outgoing, gone, send)
        finally:
            work.cancel()
            gone.cancel()
            await asyncio.wait({work, gone})


async def _follow(following: SessionStream) -> None:
    """The stream ends without a last message."""
    try:
        await following.run()
    except StoreUnavailable as error:
        logger.warning("A session's stream ends: %s", error)


def _exchange(request: _Request, visit: SessionRequest | None) -> Exchange:
    return Exchange(
        transport=TransportContext(kind="streamable-http", can_send_request=False, headers=request.headers),
        request_id=request.identity,
        message_metadata=ServerMessageMetadata(request_context=visit),
    )


def _connection(session: Session) -> Connection:
    return Connection.from_envelope(session.version, None, None)


def _params(decoded: Mapping[str, Any]) -> Mapping[str, Any] | None:
    params = decoded.get("params")
    if params is not None and not isinstance(params, Mapping):
        raise Rejection(400, INVALID_REQUEST, "params: expected an object", request_id=request_id(decoded))
    return params


def _takes_events(headers: Mapping[str, str]) -> bool:
    accept = headers.get("accept", "")
    return "text/event-stream" in accept or "*/*" in accept


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The rest of a request whose body was read already, with the body in front again."""
    unread = [body]

    async def replay() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return replay


_NOT_ALLOWED: Final = Rejection(
    405, INVALID_REQUEST, "Use POST, GET or DELETE", headers=((b"allow", b"GET, POST, DELETE"),)
)
_METHOD_NOT_FOUND: Final = ErrorData(code=METHOD_NOT_FOUND, message="Method not found")
