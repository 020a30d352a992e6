"""The methods of the revisions that begin with a handshake, on the SDK's own server.

This file is where a method meets its parser, its action and its renderer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NoReturn, TypeVar

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CallToolRequestParams,
    GetPromptRequestParams,
    GetPromptResult,
    PaginatedRequestParams,
    RequestParams,
    SetLevelRequestParams,
    SubscribeRequestParams,
    UnsubscribeRequestParams,
)
from mcp_types.jsonrpc import INVALID_PARAMS

from ...authoring.tool import Rendered
from ...crypto.sealing import SealBroken, Sealer
from ...domain.errors import (
    InvalidArguments,
    InvalidTransition,
    LimitExceeded,
    QuotaExceeded,
    StoreUnavailable,
)
from ...domain.events import Cancel, Create
from ...domain.reports import LogLevel
from ...domain.task import Identity, Owner, Task
from ...store.clients import TaskView
from ...store.sessions import SUBSCRIPTIONS, Session, SessionTask
from ..core import wire_common
from ..core.catalogue import Catalogue
from ..core.companion_tools import CompanionTools
from ..core.executions import Executions
from ..core.library import LibraryHandlers, add_methods
from ..core.offer import Offer
from ..core.reports import Reporting, Threshold
from ..core.requests import (
    CapabilityRequired,
    InputRequired,
    InvalidRequest,
    PromptCall,
    QuestionWithoutHandle,
    ToolCall,
)
from ..core.waiting_calls import Departure, WaitingCall
from ..transport.outgoing import Outgoing
from . import wire
from .pre_task_questions_on_stream import QuestionsOnStream
from .resumption import RETRY_MS, PollLater, ResumePoint
from .session_services import SessionServices, StreamPolicy
from .task_questions import MOST_REFUSALS
from .task_stream import TaskStream, reporting_of

logger = logging.getLogger(__name__)

PAGE_TASKS = 50
"""Tasks on a page of `tasks/list`."""


@dataclass(slots=True, kw_only=True)
class SessionRequest:
    """A request in a session, as the transport hands it to the methods.

    Attributes:
        session: The session that it was sent in.
        caller: Who sent it.
        outgoing: Goes to its client before the answer.
        can_be_asked: Whether requests reach the client that way.
        departure: What it means for a call of a tool if the request is cancelled.
        reconnects_as: The request's id, if the client can come back for the answer on another stream.
        resume_point: Where an earlier stream ended that this one goes on with.
    """

    session: Session
    caller: Identity
    outgoing: Outgoing
    can_be_asked: bool
    departure: Departure = Departure.LOST
    reconnects_as: str | int | None = None
    resume_point: ResumePoint | None = None


Context = ServerRequestContext[dict[str, Any], SessionRequest]
Result = dict[str, Any]
Call = TypeVar("Call", ToolCall, PromptCall)
Made = TypeVar("Made")

_refusing = wire_common.refusing(wire.refusal)


def build_handshake_server(
    offer: Offer,
    *,
    executions: Executions,
    library: LibraryHandlers,
    companion_tools: CompanionTools | None,
    services: SessionServices,
    cursors: Sealer,
) -> Server[dict[str, Any]]:
    """Make the server that answers the revisions before 2026-07-28.

    Args:
        offer: Its tools are listed as they are now.
        executions: Makes the record of a call.
        library: Does the work of the methods that are not about tools.
        companion_tools: The tools with which models follow tasks, if they are listed.
        services: What waiting for a task needs.
        cursors: Seals positions in lists of tasks.
    """
    server: Server[dict[str, Any]] = Server(
        offer.name, version=offer.version, instructions=offer.instructions
    )
    # As in `v2026_07_28.methods`: tracing that nobody collects costs a fifth of a poll.
    server.middleware.clear()
    calls = _Calls(offer.catalogue, executions, companion_tools, services)
    tasks = _Tasks(wire.Results(offer.catalogue), executions, services, cursors)
    add = server.add_request_handler
    for name in (wire_common.TOOLS_LIST, wire_common.RENDERED_LIST):
        add(name, PaginatedRequestParams, _refusing(calls.list_tools))
    add(wire_common.TOOLS_CALL, CallToolRequestParams, _refusing(calls.call_tool))
    add(wire.RESUMED_CALL, RequestParams, _refusing(calls.resume))
    add(wire.CREATE_TASK, CallToolRequestParams, _refusing(calls.create_task))
    add(wire.TASKS_GET, RequestParams, _refusing(tasks.get))
    add(wire.TASKS_RESULT, RequestParams, _refusing(tasks.result))
    add(wire.TASKS_LIST, PaginatedRequestParams, _refusing(tasks.list))
    add(wire.TASKS_CANCEL, RequestParams, _refusing(tasks.cancel))
    methods = _Library(library, services)
    add_methods(server, library, sender=_sender, get_prompt=methods.get_prompt, refusing=_refusing)
    if len(library.library.resources):
        add(wire.RESOURCES_SUBSCRIBE, SubscribeRequestParams, _refusing(methods.subscribe))
        add(wire.RESOURCES_UNSUBSCRIBE, UnsubscribeRequestParams, _refusing(methods.unsubscribe))
    add(wire.SET_LEVEL, SetLevelRequestParams, _refusing(calls.set_level))
    return server


class _Calls:
    """`tools/*`, and what the session is told meanwhile."""

    def __init__(
        self,
        catalogue: Catalogue,
        executions: Executions,
        companion_tools: CompanionTools | None,
        services: SessionServices,
    ) -> None:
        self._catalogue, self._executions, self._services = catalogue, executions, services
        self._companion_tools = companion_tools
        self._results = wire.Results(catalogue)

    async def list_tools(self, context: Context, params: PaginatedRequestParams) -> Result:
        wire_common.require_first_page("tools", params)
        return self._results.listing(_request(context).session.version)

    async def call_tool(self, context: Context, params: CallToolRequestParams) -> Result:
        request = _request(context)
        call, token = self._call(request, context, params), wire_common.progress_token(context.params)
        try:
            if self._companion_tools is not None and call.tool in self._companion_tools.tools:
                wait = partial(self._wait, request, token)
                outcome = await self._companion_tools.call(
                    request.session.owner, call, wait=wait, ask=_on_the_stream
                )
            else:
                event = await self._creation(request, call, visible=False)
                outcome = await self._to_the_end(request, call, event, token)
        except (InvalidArguments, CapabilityRequired) as error:
            return self._results.refused_call(error)
        if isinstance(outcome, Rendered):
            return self._results.rendered(outcome)
        return self._results.call(outcome)

    async def resume(self, context: Context, params: RequestParams) -> Result:
        """Go on with a call whose first stream has ended."""
        request = _request(context)
        resume_point = request.resume_point
        if resume_point is None:
            raise RuntimeError("the transport did not say which call goes on")
        policy = replace(_policy(request, resume_point.progress_token), resumed=True)
        self._prime(request, resume_point.task_id, resume_point.progress_token)
        waiting = WaitingCall(request.session.owner, resume_point.task_id, True, policy.reporting)
        run = self._stream(resume_point.task_id, policy, None)
        view = await self._services.waiting_calls.hold(
            waiting, run, departure=lambda: request.departure, at_stop=_come_back
        )
        return self._results.call(view)

    def _prime(
        self, request: SessionRequest, task_id: str, token: str | int | None, retry_ms: int = RETRY_MS
    ) -> None:
        """Have the client know how to come back for the end of the execution."""
        if request.reconnects_as is not None:
            resume_point = ResumePoint(
                task_id=task_id, request_id=request.reconnects_as, progress_token=token
            )
            request.outgoing.prime(
                self._services.resume_points.event_id(request.session, resume_point), retry_ms
            )

    async def create_task(self, context: Context, params: CallToolRequestParams) -> Result:
        request = _request(context)
        call, token = self._call(request, context, params), wire_common.progress_token(context.params)
        task = await self._executions.record(await self._creation(request, call, visible=True))
        enlisted = SessionTask(task.task_id, token)
        try:
            await self._services.sessions.enlist(request.session.session_id, enlisted, at_ms=task.created_ms)
        except (StoreUnavailable, LimitExceeded) as error:
            logger.warning("A task is not reported on its session's stream: %s", error)
        return self._results.handle(task)

    async def set_level(self, context: Context, params: SetLevelRequestParams) -> Result:
        await self._services.sessions.set_log_level(_request(context).session, LogLevel(params.level))
        return {}

    def _call(self, request: SessionRequest, context: Context, params: CallToolRequestParams) -> ToolCall:
        call = wire.tool_call(
            params.name,
            params.arguments,
            context.params,
            version=request.session.version,
            capabilities=request.session.capabilities,
            client=request.session.client,
        )
        wire.require_support(self._catalogue.tools.find(call.tool).definition, call)
        return replace(call, caller=request.caller)

    async def _creation(self, request: SessionRequest, call: ToolCall, *, visible: bool) -> Create:
        """Make the event that records a call, once the client has answered what is asked before."""

        async def create(call: ToolCall) -> Create | InputRequired:
            return self._executions.creation(request.session.owner, call, visible=visible)

        return await _ask_first(self._services, request, call, create)

    async def _to_the_end(
        self, request: SessionRequest, call: ToolCall, event: Create, token: str | int | None
    ) -> TaskView | Rendered:
        """Wait for the execution; a client that only loses its stream does not end it."""
        tool = self._catalogue.tools.find(call.tool).definition
        give_up_after = self._executions.hands_over_after(tool, call)
        may_poll_later = tool.release_client and request.reconnects_as is not None
        policy = replace(_policy(request, token), may_poll_later=may_poll_later)
        may_reconnect = call.idempotency_key is not None
        waiting = WaitingCall(event.owner, event.task_id, may_reconnect, policy.reporting)

        handed_over = None if give_up_after is None else self._executions.hand_over
        may_come_back = _come_back if request.reconnects_as is not None else None

        async def run() -> TaskView | Rendered:
            task = waiting.found((await self._services.store.create(event)).task)
            if may_poll_later:
                self._prime(request, task.task_id, token)
            view = await self._stream(task.task_id, policy, give_up_after)
            return view if view.task.status.is_final else await self._executions.hand_over(view.task)

        try:
            return await self._services.waiting_calls.hold(
                waiting,
                run(),
                departure=lambda: request.departure,
                too_late=handed_over,
                at_stop=handed_over or may_come_back,
            )
        except PollLater as leave:
            self._prime(request, leave.task_id, token, leave.retry_ms)
            raise

    async def _wait(
        self, request: SessionRequest, token: str | int | None, task: Task, seconds: float
    ) -> TaskView:
        """Wait for a task on behalf of a model; its client is asked meanwhile, and may take longer."""
        return await self._stream(task.task_id, _policy(request, token), seconds)

    async def _stream(self, task_id: str, policy: StreamPolicy, give_up_after: float | None) -> TaskView:
        """See `TaskStream.run`; also `TimeoutError` for a call that has waited as long as it may."""
        async with asyncio.timeout(self._services.waiting_calls.wait_limit):
            return await TaskStream(self._services, task_id, policy).run(give_up_after)


class _Tasks:
    """`tasks/*`."""

    def __init__(
        self, results: wire.Results, executions: Executions, services: SessionServices, cursors: Sealer
    ) -> None:
        self._results, self._executions, self._services, self._cursors = (
            results,
            executions,
            services,
            cursors,
        )

    async def get(self, context: Context, params: RequestParams) -> Result:
        view = await self._executions.get(_owner(context), wire_common.task_id(context.params))
        return self._results.task(view.task)

    async def result(self, context: Context, params: RequestParams) -> Result:
        request = _request(context)
        task_id = wire_common.task_id(context.params)
        policy = StreamPolicy(
            session=request.session,
            outgoing=request.outgoing,
            can_be_asked=request.can_be_asked,
            reporting=await self._reporting(request, task_id),
            takes_reports=True,
        )
        async with self._services.stopping.ends_wait():
            view = await TaskStream(self._services, task_id, policy).run()
        return self._results.outcome(view)

    async def _reporting(self, request: SessionRequest, task_id: str) -> Reporting | None:
        """Make what takes the reports of a task of this session; those of others are not reported here."""
        if not request.can_be_asked:
            return None
        try:
            enlisted = await self._services.sessions.enlisted(request.session.session_id, task_id)
        except StoreUnavailable as error:
            logger.warning("A task is not reported while its result is waited for: %s", error)
            return None
        if enlisted is None:
            return None
        threshold, token = Threshold(request.session.log_level), enlisted.progress_token
        return reporting_of(request.outgoing, token=token, threshold=threshold, task_id=task_id)

    async def list(self, context: Context, params: PaginatedRequestParams) -> Result:
        owner = _owner(context)
        after = None if params.cursor is None else self._position(owner, params.cursor)
        page = await self._services.store.page(owner, after=after, limit=PAGE_TASKS)
        cursor = None if page.last is None else self._cursors.seal(page.last, owner)
        return self._results.page(page.tasks, cursor)

    def _position(self, owner: Owner, cursor: str) -> str:
        try:
            return str(self._cursors.open(cursor, owner))
        except SealBroken:
            raise InvalidRequest("cursor: expected one that tasks/list has returned to this caller") from None

    async def cancel(self, context: Context, params: RequestParams) -> Result:
        try:
            task: Task = await self._services.store.apply(
                _owner(context), wire_common.task_id(context.params), Cancel()
            )
        except InvalidTransition:
            # 2025-11-25, tasks, cancellation: receivers MUST refuse this with -32602.
            raise MCPError(INVALID_PARAMS, "Cannot cancel task: it has ended already") from None
        return self._results.task(task)


class _Library:
    """`prompts/get`, `resources/subscribe` and `resources/unsubscribe`."""

    def __init__(self, library: LibraryHandlers, services: SessionServices) -> None:
        self._library, self._services = library, services

    async def get_prompt(self, context: Context, params: GetPromptRequestParams) -> GetPromptResult:
        """Write the messages, once the client has answered what is asked before."""
        request, arguments = _request(context), params.arguments or {}
        session = request.session
        call = PromptCall(prompt=params.name, arguments=arguments, capabilities=session.capabilities)
        prompt = partial(self._library.prompt, *_sender(context))
        return await _ask_first(self._services, request, call, prompt)

    async def subscribe(self, context: Context, params: SubscribeRequestParams) -> Result:
        """Let changes of a resource be told on the session's stream."""
        self._library.finder.find(params.uri)
        if not await self._services.sessions.subscribe(_request(context).session, params.uri):
            raise QuotaExceeded(
                "subscriptions of a session",
                maximum=SUBSCRIPTIONS,
                actual=SUBSCRIPTIONS + 1,
                unit="resources",
            )
        return {}

    async def unsubscribe(self, context: Context, params: UnsubscribeRequestParams) -> Result:
        await self._services.sessions.unsubscribe(_request(context).session.session_id, params.uri)
        return {}


async def _come_back(task: Task) -> NoReturn:
    """Answer a call by ending its stream: its client goes on with it elsewhere."""
    raise PollLater(task.task_id, RETRY_MS)


def _on_the_stream(_: Task, __: Mapping[str, str]) -> None:
    """Clients of these revisions are asked while a call waits, not by its result."""


async def _ask_first(
    services: SessionServices,
    request: SessionRequest,
    call: Call,
    attempt: Callable[[Call], Awaitable[Made | InputRequired]],
) -> Made:
    """Attempt a call until the client has answered all that is asked before it."""
    on_stream = QuestionsOnStream(services, request.session, request.outgoing)
    for _ in range(MOST_REFUSALS):
        made = await attempt(call)
        if not isinstance(made, InputRequired):
            return made
        if not request.can_be_asked:
            break
        call = replace(call, answers=await on_stream.ask(made.questions), state=made.state)
    raise QuestionWithoutHandle


def _policy(request: SessionRequest, token: str | int | None) -> StreamPolicy:
    """The policy for the stream of a call, which does not name its task."""
    reporting = None
    if request.can_be_asked:
        threshold = Threshold(request.session.log_level)
        reporting = reporting_of(request.outgoing, token=token, threshold=threshold, task_id=None)
    return StreamPolicy(
        session=request.session,
        outgoing=request.outgoing,
        can_be_asked=request.can_be_asked,
        names_task=False,
        reporting=reporting,
    )


def _request(context: Context) -> SessionRequest:
    if context.request is None:
        raise RuntimeError("the transport did not say in which session")
    return context.request


def _sender(context: Context) -> tuple[Owner, Identity]:
    request = _request(context)
    return request.session.owner, request.caller


def _owner(context: Context) -> Owner:
    return _request(context).session.owner
