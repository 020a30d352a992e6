"""MCP over HTTP for the revisions that begin with a handshake: 2025-11-25 and those before it.

These have sessions, streams that the server sends requests on, and answers that arrive by themselves. None of
that is kept in a process: a session is a row in the store, so that any front end may receive any POST, GET
or DELETE (see `store.sessions`).
"""

from __future__ import annotations

from typing import Any, Final

from mcp.server.lowlevel import Server
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types.jsonrpc import INVALID_REQUEST
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...audit_log import audited
from ...domain.errors import LimitExceeded, StoreUnavailable
from ...domain.limits import Limits
from ...domain.rates import RateExceeded
from ...store.sessions import Session
from ..access.authentication import Authentication
from ..core import wire_common
from ..core.catalogue import Catalogue
from ..core.field_limits import fields_of
from ..core.overload import retry_after
from ..transport.body import parse, read_body
from ..transport.http_headers import LAST_EVENT_HEADER, SESSION_HEADER, check_content, headers_of
from ..transport.jsonrpc import Message as JsonRpcMessage
from ..transport.jsonrpc import (
    Notification,
    Request,
    Response,
    encode,
    has_envelope,
    parse_batch,
    parse_message,
)
from ..transport.outgoing import JSON, send_whole
from ..transport.rejection import Disconnected, Rejection
from ..transport.responding import reject
from . import wire
from .initialize import initialize
from .session_requests import HttpRequest, SessionRequests
from .session_services import SessionServices


class SessionEndpoint:
    """The ASGI application for sessions.

    Args:
        server: Answers requests.
        services: Sessions, questions and wake-ups.
        catalogue: Its tools say which scopes their calls need.
        authentication: Says who calls, and what they may do.
        limits: How deep a message may be.
        modern: Serves a message that names a revision without sessions itself.
    """

    def __init__(
        self,
        *,
        server: Server[dict[str, Any]],
        services: SessionServices,
        catalogue: Catalogue,
        authentication: Authentication,
        limits: Limits,
        modern: ASGIApp,
    ) -> None:
        self._server, self._services, self._modern = server, services, modern
        self._catalogue, self._authentication, self._limits = catalogue, authentication, limits
        self._requests = SessionRequests(server, services)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        raw = headers_of(scope)
        headers = dict(raw)
        try:
            caller = await self._authentication.authenticate(scope, raw, headers)
            http = HttpRequest(caller, headers, receive, send)
            match scope["method"]:
                case "POST":
                    await self._post(scope, http)
                case "GET":
                    await self._get(http)
                case "DELETE":
                    session = await self._session(http)
                    await self._services.sessions.remove(session.session_id)
                    await send_whole(send, 200, b"")
                case _:
                    await reject(_NOT_ALLOWED, send)
        except Rejection as rejection:
            await reject(rejection, send)
        except StoreUnavailable as error:
            refusal = wire.refusal(error).error
            later = retry_after(error.retry_after_ms)
            busy = Rejection(503, refusal.code, refusal.message, data=refusal.data, headers=later)
            await reject(busy, send)
        except RateExceeded as error:
            refusal, later = wire.refusal(error).error, retry_after(error.retry_after_ms)
            await reject(
                Rejection(429, refusal.code, refusal.message, data=refusal.data, headers=later), send
            )
        except LimitExceeded as error:
            refusal = wire.refusal(error).error
            await reject(Rejection(400, refusal.code, refusal.message, data=refusal.data), send)
        except Disconnected:
            return

    def drain(self) -> None:
        """See `SessionRequests.drain`."""
        self._requests.drain()

    async def _session(self, http: HttpRequest, request_id: str | int | None = None) -> Session:
        """The caller's session; to others, and once it is over, there is none (404)."""
        version = http.headers.get(MCP_PROTOCOL_VERSION_HEADER)
        if version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS:
            known = ", ".join(HANDSHAKE_PROTOCOL_VERSIONS)
            message = f"MCP-Protocol-Version: expected one of {known}"
            raise Rejection(400, INVALID_REQUEST, message, request_id=request_id)
        session_id = http.headers.get(SESSION_HEADER)
        if session_id is None:
            message = "Mcp-Session-Id is missing: begin with initialize, and send the id that it answers with"
            raise Rejection(400, INVALID_REQUEST, message, request_id=request_id)
        session = await self._services.sessions.find(http.caller.owner, session_id)
        if session is None or session.service != self._services.service:
            message = "Session not found: it has ended, or never was; begin again with initialize"
            raise Rejection(404, INVALID_REQUEST, message, request_id=request_id)
        return session

    async def _post(self, scope: Scope, http: HttpRequest) -> None:
        check_content(http.headers)
        async with self._services.stopping.ends_wait():
            body = await read_body(http.receive, http.headers, self._services.timings.body)
        decoded = parse(body, self._limits, fields_of)
        if isinstance(decoded, list):
            await self._batch(http, decoded)
            return
        message = parse_message(decoded)
        if has_envelope(message) and not _begins_session(message):
            await self._modern(scope, _replayed(body, http.receive), http.send)
            return
        match message:
            case Request(method=wire.INITIALIZE):
                await self._initialize(http, message)
            case Request():
                session = await self._session(http, message.id)
                self._require_scopes(http, message)
                await self._requests.answer(http, session, message)
            case _:
                session = await self._session(http)
                self._require_scopes(http, message)
                await self._take(session, message)
                await send_whole(http.send, 202, b"")

    def _require_scopes(self, http: HttpRequest, *messages: JsonRpcMessage) -> None:
        """Refuse messages that the caller's token does not allow, all of them or none.

        Raises:
            Rejection: 403; it names all scopes that they need.
        """
        needed: dict[str, None] = {}
        for message in messages:
            match message:
                case Request():
                    tools = self._catalogue.tools
                    needed |= dict.fromkeys(wire.scopes_needed(message.method, message.params, tools))
                case Response():
                    needed |= dict.fromkeys(wire.RESPONSE_SCOPES)
        first = messages[0]
        request_id = first.id if len(messages) == 1 and isinstance(first, Request) else None
        self._authentication.require_scopes(http.caller, tuple(needed), request_id)

    async def _take(self, session: Session, message: Notification | Response) -> None:
        """Take a message that is not answered."""
        with audited("notification" if isinstance(message, Notification) else "response"):
            if isinstance(message, Notification):
                await self._cancel(session, message)
            else:
                await self._services.questions.receive(session.owner, message)

    async def _batch(self, http: HttpRequest, decoded: list[Any]) -> None:
        """Answer several messages at once, in the revision that has that."""
        session = await self._session(http)
        if not wire.has_batches(session.version):
            parse_message(decoded)  # refuses it
        messages = parse_batch(decoded)
        requests = [message for message in messages if isinstance(message, Request)]
        if any(_begins_session(request) for request in requests):
            raise Rejection(400, INVALID_REQUEST, "initialize: expected alone, not in a batch")
        self._require_scopes(http, *messages)
        for message in messages:
            if not isinstance(message, Request):
                await self._take(session, message)
        if requests:
            await self._requests.answer_batch(http, session, requests)
        else:
            await send_whole(http.send, 202, b"")

    async def _initialize(self, http: HttpRequest, request: Request) -> None:
        session, message = await initialize(
            self._server, request, http.caller, kind="streamable-http", service=self._services.service
        )
        headers = [JSON]
        if session is not None:
            await self._services.sessions.create(session)
            headers.append((SESSION_HEADER.encode(), session.session_id.encode()))
        await send_whole(http.send, 200, encode(message), tuple(headers))

    async def _cancel(self, session: Session, notification: Notification) -> None:
        name = wire.cancelled_request(notification.method, notification.params)
        if name is not None:
            await self._services.sessions.cancel(session.session_id, name)

    async def _get(self, http: HttpRequest) -> None:
        session = await self._session(http)
        if not http.may_stream:
            raise Rejection(406, INVALID_REQUEST, "Accept: expected text/event-stream")
        event_id = http.headers.get(LAST_EVENT_HEADER)
        scopes = wire.STREAM_SCOPES if event_id is None else wire.RESUMED_SCOPES
        self._authentication.require_scopes(http.caller, scopes)
        if event_id is None:
            await self._requests.stream_session(http, session)
            return
        resume_point = self._services.resume_points.open(session, event_id)
        if resume_point is None:
            message = "Last-Event-ID: expected the id of an event that was sent in this session"
            raise Rejection(400, INVALID_REQUEST, message)
        request = Request(resume_point.request_id, wire_common.TOOLS_CALL, None)
        await self._requests.answer(http, session, request, resume_point)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The rest of a request whose body was read already, with the body in front again."""
    unread = [body]

    async def replay() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return replay


def _begins_session(message: JsonRpcMessage) -> bool:
    return isinstance(message, Request) and message.method == wire.INITIALIZE


_NOT_ALLOWED: Final = Rejection(
    405, INVALID_REQUEST, "Use POST, GET or DELETE", headers=((b"allow", b"GET, POST, DELETE"),)
)
