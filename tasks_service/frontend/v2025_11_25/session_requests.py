"""Answering one request in a session: run it, send what comes before its answer, stop when it is cancelled.

A request is answered with JSON if nothing is sent before its answer and it does not take long; otherwise with
a stream of events. A client that hangs up cancels nothing; `notifications/cancelled` does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp_types import ErrorData
from mcp_types.jsonrpc import METHOD_NOT_FOUND
from starlette.types import Receive, Send

from ...audit_log import audited
from ...domain.errors import StoreUnavailable
from ...domain.task import JsonText
from ...store.sessions import Session, calls_name
from ..core import wire_common
from ..core.overload import overload_answer
from ..core.requests import Caller
from ..core.waiting_calls import Departure
from ..transport.http_headers import accepted, takes_stream
from ..transport.jsonrpc import Request, error_message
from ..transport.outgoing import Outgoing
from ..transport.responding import Answer, Work, respond
from ..transport.sdk_kernel import UNKNOWN_METHOD, run_request
from . import wire
from .methods import SessionRequest
from .resumption import PollLater, ResumePoint
from .session_services import SessionServices
from .session_stream import SessionStream

logger = logging.getLogger(__name__)


_CANCELLABLE: Final = frozenset(
    {
        wire_common.TOOLS_CALL,
        wire.RESUMED_CALL,
        wire.CREATE_TASK,
        wire.TASKS_RESULT,
        wire_common.RESOURCES_READ,
        wire_common.PROMPTS_GET,
    }
)
"""Methods that may take long."""

_METHOD_NOT_FOUND: Final = ErrorData(code=METHOD_NOT_FOUND, message="Method not found")


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """An HTTP request that was let in, and the way back to its client.

    Attributes:
        caller: Who sent it.
        headers: By name in lower case.
        receive: Of the ASGI connection.
        send: Of the ASGI connection.
    """

    caller: Caller
    headers: Mapping[str, str]
    receive: Receive
    send: Send

    @property
    def may_stream(self) -> bool:
        """Whether the client takes a stream of events for an answer."""
        return takes_stream(self.headers)

    @property
    def prefers_stream(self) -> bool:
        """See `Accepted.prefers_stream`."""
        return accepted(self.headers.get("accept", "")).prefers_stream


class SessionRequests:
    """Answers the requests of sessions over HTTP.

    Args:
        server: Has the methods.
        services: What waiting for a task needs.
    """

    def __init__(self, server: Server[dict[str, Any]], services: SessionServices) -> None:
        self._server, self._services = server, services
        self._resumable: set[asyncio.Task[Any]] = set()

    def drain(self) -> None:
        """End what clients go on with elsewhere by themselves: sessions' streams, and resumed ones."""
        for work in tuple(self._resumable):
            work.cancel()

    async def answer(
        self, http: HttpRequest, session: Session, request: Request, resume_point: ResumePoint | None = None
    ) -> None:
        """Run a request and send its answer.

        Args:
            http: How it came.
            session: The session that it was sent in.
            request: What to run.
            resume_point: Where an earlier stream of the request has ended that this one goes on with.
        """
        outgoing = Outgoing()
        async with self._running(http, session, request, outgoing, resume_point) as work:
            await self._respond(http, outgoing, work, streams_at_once=resume_point is not None)

    async def answer_batch(self, http: HttpRequest, session: Session, requests: Sequence[Request]) -> None:
        """Run several requests at the same time and send their answers together."""
        outgoing = Outgoing()
        async with AsyncExitStack() as stack:
            works = [
                await stack.enter_async_context(self._running(http, session, request, outgoing))
                for request in requests
            ]
            work = asyncio.create_task(_together(works))
            await self._respond(http, outgoing, work, streams_at_once=False)

    @asynccontextmanager
    async def _running(
        self,
        http: HttpRequest,
        session: Session,
        request: Request,
        outgoing: Outgoing,
        resume_point: ResumePoint | None = None,
    ) -> AsyncIterator[Work]:
        """Run a request, for as long as its answer is wanted, and stop it when its client cancels it."""
        method = wire.served_method(request.method, request.params, session.version)
        session_request = SessionRequest(
            session=session,
            caller=http.caller.identity,
            outgoing=outgoing,
            can_be_asked=http.may_stream,
            reconnects_as=request.id if http.may_stream and wire.has_polling(session.version) else None,
            resume_point=resume_point,
        )
        if resume_point is not None:
            method = wire.RESUMED_CALL
        work = asyncio.create_task(self._run(http, replace(request, method=method), session_request))
        if method in (wire.TASKS_RESULT, wire.RESUMED_CALL):
            self._end_with_its_proof(work, http.caller)
        if method == wire.RESUMED_CALL:
            self._end_at_drain(work)
        name = wire.request_name(request.id) if method in _CANCELLABLE else None
        watch = (
            None if name is None else asyncio.create_task(self._watch_for_cancel(session_request, name, work))
        )
        try:
            yield work
        finally:
            if watch is not None:
                watch.cancel()
                await asyncio.wait({watch})

    async def stream_session(self, http: HttpRequest, session: Session) -> None:
        """Send what becomes of a session's tasks, until the session, the service or the client ends it."""
        outgoing = Outgoing()
        work = asyncio.create_task(_run_stream(SessionStream(self._services, session, outgoing)))
        self._end_with_its_proof(work, http.caller)
        self._end_at_drain(work)
        await self._respond(http, outgoing, work, streams_at_once=True)

    async def _respond(
        self, http: HttpRequest, outgoing: Outgoing, work: Work, *, streams_at_once: bool
    ) -> None:
        await respond(
            work,
            outgoing,
            http.receive,
            http.send,
            self._services.timings.deferral,
            may_stream=http.may_stream,
            prefers_stream=http.prefers_stream,
            streams_at_once=streams_at_once,
        )

    async def _run(
        self, http: HttpRequest, request: Request, session_request: SessionRequest
    ) -> Answer | None:
        """Run a request; no answer for a client that is to come back for it."""
        if not request.method:
            with audited(UNKNOWN_METHOD) as entry:
                entry.outcome, entry.code = "error", METHOD_NOT_FOUND
            return Answer(error_message(request.id, _METHOD_NOT_FOUND))
        try:
            message = await run_request(
                self._server,
                request,
                Connection.from_envelope(session_request.session.version, None, None),
                session_request,
                kind="streamable-http",
                headers=http.headers,
                passing=PollLater,
            )
        except PollLater:
            return None
        return overload_answer(message) or Answer(message)

    async def _watch_for_cancel(
        self, session_request: SessionRequest, name: JsonText, work: asyncio.Task[Any]
    ) -> None:
        """Stop the work when its client cancels it, through whichever front end."""
        session_id = session_request.session.session_id
        with self._services.feed.watch(calls_name(session_id)) as waiter:
            while not work.done():
                await waiter.changed()
                try:
                    if await self._services.sessions.is_cancelled(session_id, name):
                        session_request.departure = Departure.CANCELLED
                        work.cancel()
                        return
                except StoreUnavailable as error:
                    logger.warning("Whether a request was cancelled is not known for now: %s", error)

    def _end_with_its_proof(self, work: asyncio.Task[Any], caller: Caller) -> None:
        """End work when the proof of who asked for it runs out, or is taken back."""
        if caller.may_end:
            proof = asyncio.create_task(caller.proof_ended(self._services.timings.recheck))
            proof.add_done_callback(lambda _: work.cancel())
            work.add_done_callback(lambda _: proof.cancel())

    def _end_at_drain(self, work: asyncio.Task[Any]) -> None:
        self._resumable.add(work)
        work.add_done_callback(self._resumable.discard)


async def _together(works: Sequence[Work]) -> Answer:
    """The answers of a batch; a request that its client has cancelled has none."""
    try:
        await asyncio.wait(works)
    finally:
        for work in works:
            work.cancel()
    answers = [work.result() for work in works if not work.cancelled()]
    return Answer([answer.message for answer in answers if answer is not None])  # type: ignore[misc]


async def _run_stream(session_stream: SessionStream) -> None:
    """Run a session's stream; it ends without a last message."""
    try:
        await session_stream.run()
    except StoreUnavailable as error:
        logger.warning("A session's stream ends: %s", error)
