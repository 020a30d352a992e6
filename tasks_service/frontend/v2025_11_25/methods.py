"""The methods of the revisions that begin with a handshake, on the SDK's own server.

Like `server` for 2026-07-28: where a method meets its parser, its handler and its renderer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any, TypeVar

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

from ...authoring.tool import Rendered, ToolRegistry
from ...crypto.sealing import SealBroken, Sealer
from ...domain.errors import (
    ExecutionForgotten,
    InvalidArguments,
    InvalidTransition,
    QuotaExceeded,
    StoreUnavailable,
    TaskNotFound,
    TasksServiceError,
)
from ...domain.events import Cancel, Create
from ...domain.reports import LogLevel
from ...domain.task import Owner, Task
from ...store.clients import TaskView
from ...store.sessions import SUBSCRIPTIONS, Session, SessionTask
from ..core import wire_common
from ..core.companion_tools import CompanionTools
from ..core.executions import Handlers
from ..core.library import LibraryHandlers, add_methods
from ..core.reports import Reporting, Threshold
from ..core.requests import (
    CallTooLong,
    CapabilityRequired,
    InputRequired,
    InvalidRequest,
    PromptCall,
    QuestionWithoutHandle,
    ToolCall,
)
from ..transport.outgoing import Outgoing
from . import wire
from .questions_on_stream import QuestionsOnStream
from .resumption import RETRY_MS, PollLater, ResumePoint
from .task_stream import MOST_REFUSALS, SessionServices, StreamPolicy, TaskStream, reporting_of

logger = logging.getLogger(__name__)

PAGE_TASKS = 50
"""Tasks on a page of `tasks/list`."""


@dataclass(slots=True, kw_only=True)
class SessionRequest:
    """One request, as the transport hands it to the methods.

    Attributes:
        session: The session that it was sent in.
        outgoing: Goes to its client before the answer.
        can_be_asked: Whether requests reach the client that way.
        cancelled: Whether the client has cancelled it; otherwise, what ends it is a lost connection.
        gone: Whether the client has gone for good, and its session with it.
        reconnects_as: The request's id, if the client can come back for the answer on another stream.
        bookmark: Where an earlier stream ended that this one goes on with.
    """

    session: Session
    outgoing: Outgoing
    can_be_asked: bool
    cancelled: bool = False
    gone: bool = False
    reconnects_as: str | int | None = None
    bookmark: ResumePoint | None = None


Context = ServerRequestContext[dict[str, Any], SessionRequest]
Result = dict[str, Any]
Params = TypeVar("Params", bound=RequestParams)
Handler = Callable[[Context, Params], Awaitable[Result | GetPromptResult]]


def build_handshake_server(
    *,
    name: str,
    version: str,
    instructions: str | None,
    tools: ToolRegistry,
    handlers: Handlers,
    library: LibraryHandlers,
    companions: CompanionTools | None,
    desk: SessionServices,
    cursors: Sealer,
    wait_limit: float,
) -> Server[dict[str, Any]]:
    """The server that answers the revisions before 2026-07-28.

    Args:
        name: What clients see as the server's name.
        version: And as its version.
        instructions: For the model.
        tools: Listed as they are now.
        handlers: Make the record of a call.
        library: What the methods do that are not about tools.
        companions: The tools with which models follow tasks, if they are listed.
        desk: What waiting for a task needs.
        cursors: Seals positions in lists of tasks.
        wait_limit: Seconds that a call without a task may wait.
    """
    server: Server[dict[str, Any]] = Server(name, version=version, instructions=instructions)
    # As in `server`: tracing that nobody collects costs a fifth of a poll.
    server.middleware.clear()
    calls = _Calls(tools, handlers, companions, desk, wait_limit)
    tasks = _Tasks(wire.Results(tools), handlers, desk, cursors)
    add = server.add_request_handler
    add(wire_common.TOOLS_LIST, PaginatedRequestParams, _refusing(calls.list_tools))
    add(wire_common.TOOLS_CALL, CallToolRequestParams, _refusing(calls.call_tool))
    add(wire.RESUMED_CALL, RequestParams, _refusing(calls.resume))
    add(wire.CREATE_TASK, CallToolRequestParams, _refusing(calls.create_task))
    add(wire.TASKS_GET, RequestParams, _refusing(tasks.get))
    add(wire.TASKS_RESULT, RequestParams, _refusing(tasks.result))
    add(wire.TASKS_LIST, PaginatedRequestParams, _refusing(tasks.list))
    add(wire.TASKS_CANCEL, RequestParams, _refusing(tasks.cancel))
    get_prompt = _Prompts(library, desk).get
    add_methods(server, library, owner=_owner, get_prompt=get_prompt, refusing=_refusing)
    if len(library.library.resources):
        subscriptions = _Subscriptions(library, desk)
        add(wire.RESOURCES_SUBSCRIBE, SubscribeRequestParams, _refusing(subscriptions.subscribe))
        add(wire.RESOURCES_UNSUBSCRIBE, UnsubscribeRequestParams, _refusing(subscriptions.unsubscribe))
    add(wire.SET_LEVEL, SetLevelRequestParams, _refusing(calls.set_level))
    return server


class _Calls:
    """`tools/*`, and what the session is told meanwhile."""

    def __init__(
        self,
        tools: ToolRegistry,
        handlers: Handlers,
        companions: CompanionTools | None,
        desk: SessionServices,
        wait_limit: float,
    ) -> None:
        self._tools, self._handlers, self._desk, self._wait_limit = tools, handlers, desk, wait_limit
        self._companions = companions
        self._results = wire.Results(tools)

    async def list_tools(self, context: Context, params: PaginatedRequestParams) -> Result:
        if params.cursor is not None:
            raise InvalidRequest("cursor: all tools are on the first page, no other was offered")
        return self._results.listing(_visit(context).session.version)

    async def call_tool(self, context: Context, params: CallToolRequestParams) -> Result:
        visit = _visit(context)
        call, token = self._call(visit, context, params), wire_common.progress_token(context.params)
        try:
            if self._companions is not None and call.tool in self._companions.tools:
                wait = partial(self._wait, visit, token)
                outcome = await self._companions.call(
                    visit.session.owner, call, wait=wait, ask=_on_the_stream
                )
            else:
                event = await self._creation(visit, call, visible=False)
                outcome = await self._to_the_end(visit, call, event, token)
        except (InvalidArguments, CapabilityRequired) as error:
            return self._results.refused_call(error)
        if isinstance(outcome, Rendered):
            return self._results.rendered(outcome)
        return self._results.call(outcome)

    async def resume(self, context: Context, params: RequestParams) -> Result:
        """Go on with a call whose first stream has ended."""
        visit = _visit(context)
        bookmark = visit.bookmark
        if bookmark is None:
            raise RuntimeError("the transport did not say which call goes on")
        policy = replace(_policy(visit, bookmark.progress_token), resumed=True)
        self._prime(visit, bookmark.task_id, bookmark.progress_token)
        try:
            async with asyncio.timeout(self._wait_limit):
                view = await TaskStream(self._desk, bookmark.task_id, policy).run()
        except TimeoutError:
            await self._handlers.abandon(visit.session.owner, bookmark.task_id, may_reconnect=True)
            raise CallTooLong(self._wait_limit) from None
        except asyncio.CancelledError:
            if visit.cancelled:
                await self._handlers.abandon(visit.session.owner, bookmark.task_id)
            raise
        return self._results.call(view)

    def _prime(
        self, visit: SessionRequest, task_id: str, token: str | int | None, retry_ms: int = RETRY_MS
    ) -> None:
        """Have the client know how to come back for the end of the execution."""
        if visit.reconnects_as is not None:
            bookmark = ResumePoint(task_id=task_id, request_id=visit.reconnects_as, progress_token=token)
            visit.outgoing.prime(self._desk.bookmarks.event_id(visit.session, bookmark), retry_ms)

    async def create_task(self, context: Context, params: CallToolRequestParams) -> Result:
        visit = _visit(context)
        call, token = self._call(visit, context, params), wire_common.progress_token(context.params)
        task = await self._handlers.record(await self._creation(visit, call, visible=True))
        enlisted = SessionTask(task.task_id, token)
        try:
            await self._desk.sessions.enlist(visit.session.session_id, enlisted, at_ms=task.created_ms)
        except StoreUnavailable as error:
            logger.warning("A task is not reported on its session's stream: %s", error)
        return self._results.handle(task)

    async def set_level(self, context: Context, params: SetLevelRequestParams) -> Result:
        await self._desk.sessions.set_log_level(_visit(context).session, LogLevel(params.level))
        return {}

    def _call(self, visit: SessionRequest, context: Context, params: CallToolRequestParams) -> ToolCall:
        call = wire.tool_call(
            params.name,
            params.arguments,
            context.params,
            version=visit.session.version,
            capabilities=visit.session.capabilities,
        )
        wire.require_support(self._tools.find(call.tool), call)
        return call

    async def _creation(self, visit: SessionRequest, call: ToolCall, *, visible: bool) -> Create:
        """The event that records a call, once the client has answered what is asked before."""
        interview = QuestionsOnStream(self._desk, visit.session, visit.outgoing)
        for _ in range(MOST_REFUSALS):
            event = self._handlers.creation(visit.session.owner, call, visible=visible)
            if not isinstance(event, InputRequired):
                return event
            if not visit.can_be_asked:
                break
            call = replace(call, answers=await interview.ask(event.questions), state=event.state)
        raise QuestionWithoutHandle

    async def _to_the_end(
        self, visit: SessionRequest, call: ToolCall, event: Create, token: str | int | None
    ) -> TaskView | Rendered:
        """Wait for the execution; only a client that cancels ends it."""
        may_reconnect = call.idempotency_key is not None
        tool = self._tools.find(call.tool)
        give_up_after = self._handlers.hands_over_after(tool, call)
        may_poll_later = tool.release_client and visit.reconnects_as is not None
        policy = replace(_policy(visit, token), may_poll_later=may_poll_later)
        task: Task | None = None
        try:
            # Heard before there is a task, so that nothing that its tool says is missed.
            with self._desk.feed.subscribe_reports(event.task_id, policy.reporting):
                async with asyncio.timeout(self._wait_limit):
                    task = (await self._desk.store.create(event)).task
                    if may_poll_later:
                        self._prime(visit, task.task_id, token)
                    view = await TaskStream(self._desk, task.task_id, policy).run(give_up_after)
                    return view if view.task.status.is_final else await self._handlers.hand_over(view.task)
        except PollLater as leave:
            self._prime(visit, leave.task_id, token, leave.retry_ms)
            raise
        except TaskNotFound:
            raise ExecutionForgotten from None
        except TimeoutError:
            if task is not None and give_up_after is not None:
                return await self._handlers.hand_over(task)
            task_id = event.task_id if task is None else task.task_id
            await self._handlers.abandon(event.owner, task_id, may_reconnect=may_reconnect)
            raise CallTooLong(self._wait_limit) from None
        except asyncio.CancelledError:
            # Under its key a call may have found an execution, or a task whose handle somebody has.
            if (visit.cancelled or visit.gone) and (task is None or not task.visible):
                task_id = event.task_id if task is None else task.task_id
                may_reconnect = may_reconnect and not visit.cancelled
                await self._handlers.abandon(event.owner, task_id, may_reconnect=may_reconnect)
            raise

    async def _wait(
        self, visit: SessionRequest, token: str | int | None, task: Task, seconds: float
    ) -> TaskView | None:
        """Wait for a task on behalf of a model; its client is asked meanwhile, and may take longer."""
        attendance = TaskStream(self._desk, task.task_id, _policy(visit, token))
        try:
            async with asyncio.timeout(self._wait_limit):
                return await attendance.run(seconds)
        except TimeoutError:
            return None


class _Tasks:
    """`tasks/*`."""

    def __init__(
        self, results: wire.Results, handlers: Handlers, desk: SessionServices, cursors: Sealer
    ) -> None:
        self._results, self._handlers, self._desk, self._cursors = results, handlers, desk, cursors

    async def get(self, context: Context, params: RequestParams) -> Result:
        view = await self._handlers.get(_owner(context), wire_common.task_id(context.params))
        return self._results.task(view.task)

    async def result(self, context: Context, params: RequestParams) -> Result:
        visit = _visit(context)
        task_id = wire_common.task_id(context.params)
        policy = StreamPolicy(
            session=visit.session,
            outgoing=visit.outgoing,
            can_be_asked=visit.can_be_asked,
            reporting=await self._reporting(visit, task_id),
            takes_reports=True,
        )
        view = await TaskStream(self._desk, task_id, policy).run()
        return self._results.outcome(view)

    async def _reporting(self, visit: SessionRequest, task_id: str) -> Reporting | None:
        """What takes the reports of a task of this session; those of others are not reported here."""
        if not visit.can_be_asked:
            return None
        try:
            enlisted = await self._desk.sessions.enlisted(visit.session.session_id, task_id)
        except StoreUnavailable as error:
            logger.warning("A task is not reported while its result is waited for: %s", error)
            return None
        if enlisted is None:
            return None
        threshold, token = Threshold(visit.session.log_level), enlisted.progress_token
        return reporting_of(visit.outgoing, token=token, threshold=threshold, task_id=task_id)

    async def list(self, context: Context, params: PaginatedRequestParams) -> Result:
        owner = _owner(context)
        after = None if params.cursor is None else self._position(owner, params.cursor)
        page = await self._desk.store.page(owner, after=after, limit=PAGE_TASKS)
        cursor = None if page.last is None else self._cursors.seal(page.last, owner)
        return self._results.page(page.tasks, cursor)

    def _position(self, owner: Owner, cursor: str) -> str:
        try:
            return str(self._cursors.open(cursor, owner))
        except SealBroken:
            raise InvalidRequest("cursor: expected one that tasks/list has returned to this caller") from None

    async def cancel(self, context: Context, params: RequestParams) -> Result:
        try:
            task: Task = await self._desk.store.apply(
                _owner(context), wire_common.task_id(context.params), Cancel()
            )
        except InvalidTransition:
            # 2025-11-25, tasks, cancellation: receivers MUST refuse this with -32602.
            raise MCPError(INVALID_PARAMS, "Cannot cancel task: it has ended already") from None
        return self._results.task(task)


class _Prompts:
    """`prompts/get`."""

    def __init__(self, library: LibraryHandlers, desk: SessionServices) -> None:
        self._library, self._desk = library, desk

    async def get(self, context: Context, params: GetPromptRequestParams) -> GetPromptResult:
        """The messages, once the client has answered what is asked before."""
        visit = _visit(context)
        session = visit.session
        call = PromptCall(
            prompt=params.name, arguments=params.arguments or {}, capabilities=session.capabilities
        )
        interview = QuestionsOnStream(self._desk, session, visit.outgoing)
        for _ in range(MOST_REFUSALS):
            outcome = await self._library.prompt(session.owner, call)
            if not isinstance(outcome, InputRequired):
                return outcome
            if not visit.can_be_asked:
                break
            call = replace(call, answers=await interview.ask(outcome.questions), state=outcome.state)
        raise QuestionWithoutHandle


class _Subscriptions:
    """`resources/subscribe` and `resources/unsubscribe`: changes are told on the session's stream."""

    def __init__(self, library: LibraryHandlers, desk: SessionServices) -> None:
        self._library, self._desk = library, desk

    async def subscribe(self, context: Context, params: SubscribeRequestParams) -> Result:
        self._library.library.resources.find(params.uri)
        session_id = _visit(context).session.session_id
        if not await self._desk.sessions.subscribe(session_id, params.uri):
            raise QuotaExceeded(
                "subscriptions of a session",
                maximum=SUBSCRIPTIONS,
                actual=SUBSCRIPTIONS + 1,
                unit="resources",
            )
        return {}

    async def unsubscribe(self, context: Context, params: UnsubscribeRequestParams) -> Result:
        await self._desk.sessions.unsubscribe(_visit(context).session.session_id, params.uri)
        return {}


def _on_the_stream(_: Task, __: Mapping[str, str]) -> None:
    """Clients of these revisions are asked while a call waits, not by its result."""


def _policy(visit: SessionRequest, token: str | int | None) -> StreamPolicy:
    """Who hears of a task on the stream of a call that does not name it."""
    reporting = None
    if visit.can_be_asked:
        threshold = Threshold(visit.session.log_level)
        reporting = reporting_of(visit.outgoing, token=token, threshold=threshold, task_id=None)
    return StreamPolicy(
        session=visit.session,
        outgoing=visit.outgoing,
        can_be_asked=visit.can_be_asked,
        names_task=False,
        reporting=reporting,
    )


def _visit(context: Context) -> SessionRequest:
    if context.request is None:
        raise RuntimeError("the transport did not say in which session")
    return context.request


def _owner(context: Context) -> Owner:
    return _visit(context).session.owner


def _refusing(handler: Handler[Params]) -> Handler[Params]:
    """Let a handler's refusals reach the caller as errors of the protocol."""

    @wraps(handler)
    async def handle(context: Context, params: Params) -> Result | GetPromptResult:
        try:
            return await handler(context, params)
        except TasksServiceError as error:
            raise wire.refusal(error) from error

    return handle
