"""An MCP client for this service: the official client, with the tasks extension.

`connect` opens a connection. `ServiceClient.call` is enough for most uses: it calls a tool, polls the task if
the server makes one, no faster than the server asks for, and cancels it when the caller is cancelled.
`start`, `get`, `update` and `cancel` are its steps. With an `answer` function the client can be asked
questions, before there is a task and while there is one.

Source: MCP extension `io.modelcontextprotocol/tasks` (SEP-2663); field names are those of its schema.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import anyio
import httpx2
import mcp_types
from mcp.client import Client, ClientExtension
from mcp.client.extension import ClaimContext, ResultClaim
from mcp.client.session import ClientRequestContext
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolResult,
    ElicitRequestParams,
    ElicitResult,
    ErrorData,
    InputRequest,
    InputRequiredResult,
    InputResponses,
    Tool,
)

from ..domain.errors import ConfigurationError, TasksServiceError
from ..extension import IDEMPOTENCY_META, REQUEST_CANCELLED, TASKS_EXTENSION
from .messages import (
    CancelTask,
    DetailedTask,
    GetTask,
    NewTask,
    TaskParams,
    TaskState,
    UpdateParams,
    UpdateTask,
    retry_seconds,
)

#: Seconds for the server to accept a connection, and to answer any request but a tool call.
CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 30.0
#: Seconds that a call which is cancelled stays for the task that it may have become.
LEAVE_SECONDS = 3.0
#: Seconds that a tool call without a task may take; the server has its own limit.
CALL_SECONDS = 24 * 3600.0
#: Seconds for which a request is sent again, as the server asks for it or after a lost connection.
OUTAGE_SECONDS = 60.0
#: Seconds before the next try to reach a server that does not listen yet.
LISTEN_SECONDS = 0.2
#: Seconds before a request is sent again whose connection was lost.
RECONNECT_SECONDS = 1.0


class CannotConnect(ConfigurationError):
    """No MCP server answers at the address, or it refuses the key; the message says what to do."""


class StillRuns(TasksServiceError):
    """The wait for a task was given up, and nobody could be told to cancel it: it goes on."""


class TaskEnded(TasksServiceError):
    """The task ended without a result: it failed with a JSON-RPC error, or was cancelled."""


_EVENTS = "text/event-stream"

T = TypeVar("T")

Watch = Callable[[TaskState], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Questions of a server, which may be answered in part.

    Attributes:
        requests: The open questions, by key.
        task_id: The task that waits for the answers; None if there is none yet.
        problem: Why the server refused the last answers, if it did.
    """

    requests: Mapping[str, InputRequest]
    task_id: str | None = None
    problem: str | None = None


Answer = Callable[[Asked], Awaitable[Mapping[str, ElicitResult]]]
"""Answers questions: returns the answer to at least one of the requests, by key."""


class _TasksExtension(ClientExtension):
    """The declaration of the extension, so that the server may answer a call with a task."""

    identifier = TASKS_EXTENSION

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return (ResultClaim(result_type="task", model=NewTask, resolve=_follow),)


class ServiceClient:
    """A connection to an MCP server whose tools may run as tasks; made by `connect`."""

    def __init__(self, client: Client, answer: Answer | None = None) -> None:
        self._client = client
        self._answer = answer

    async def tools(self) -> list[Tool]:
        """All tools that the server lists."""
        found: list[Tool] = []
        cursor: str | None = None
        while True:
            page = await send_insistently(partial(self._client.list_tools, cursor=cursor))
            found += page.tools
            cursor = page.next_cursor
            if cursor is None:
                return found

    async def call(
        self, tool: str, arguments: Mapping[str, Any], watch: Watch | None = None
    ) -> CallToolResult:
        """Call a tool and wait for its result; if the wait is cancelled, so is the task.

        Args:
            tool: The tool's name.
            arguments: Arguments that fit its schema.
            watch: Called with each state of the task, from the first to the last.

        Raises:
            MCPError: The server refused.
            TaskEnded: The task failed or was cancelled, perhaps before the server named it.
            StillRuns: The wait was cancelled, and the server did not answer who wanted to cancel the task.
        """
        answer = await self.start(tool, arguments)
        if isinstance(answer, CallToolResult):
            return answer
        return await self.follow(answer, watch)

    async def start(self, tool: str, arguments: Mapping[str, Any]) -> CallToolResult | NewTask:
        """Call a tool, answering any questions before the task; return the result, or the new task.

        A call that the server asks for again, or whose connection is lost, is sent again with the same
        idempotency key: so it runs once.

        Raises:
            MCPError: The server refused.
            TaskEnded: The task was cancelled before the server named it.
        """
        responses: InputResponses | None = None
        state: str | None = None
        while True:
            send = partial(
                self._client.session.call_tool,
                tool,
                dict(arguments),
                read_timeout_seconds=CALL_SECONDS,
                input_responses=responses,
                request_state=state,
                allow_input_required=True,
                allow_claimed=True,
                meta={IDEMPOTENCY_META: secrets.token_urlsafe(16)},
            )
            answer = await self._answer_to(send)
            if isinstance(answer, CallToolResult | NewTask):
                return answer
            if not isinstance(answer, InputRequiredResult) or self._answer is None:
                what = type(answer).__name__
                raise MCPError(mcp_types.INTERNAL_ERROR, f"the server answered with a {what}")
            state = answer.request_state
            asked = Asked(requests=answer.input_requests or {})
            responses = dict(await self._answer(asked)) if asked.requests else None

    async def _answer_to(self, send: Callable[[], Awaitable[Any]]) -> Any:
        """Send a call; if the wait for its answer is cancelled, so is the task that the answer names.

        The server may have made one by then, which nobody would know, and which would run to its end.
        """
        sending = asyncio.ensure_future(send_insistently(send))
        try:
            return await asyncio.shield(sending)
        except MCPError as error:
            if error.code == REQUEST_CANCELLED:
                raise TaskEnded(str(error)) from error
            raise
        except asyncio.CancelledError:
            with anyio.move_on_after(LEAVE_SECONDS, shield=True), suppress(MCPError):
                answer = await sending
                if isinstance(answer, NewTask):
                    await self.cancel(answer.task_id)
            raise
        finally:
            sending.cancel()

    async def follow(self, task: TaskState, watch: Watch | None = None) -> CallToolResult:
        """Poll a task until it ends, and return its result; see `call`."""
        try:
            return await self._poll_to_the_end(task, watch)
        except asyncio.CancelledError:
            if (reason := await self._cancelled_at_last(task.task_id)) is not None:
                raise StillRuns(
                    f"The task could not be cancelled ({reason}), and goes on unless it has ended: "
                    f"{task.task_id}"
                ) from None
            raise

    async def _cancelled_at_last(self, task_id: str) -> str | None:
        """Request the cancellation of a task that nobody will wait for; why it was not accepted, if so."""
        with anyio.move_on_after(LEAVE_SECONDS, shield=True):
            try:
                await self.cancel(task_id)
            except MCPError as error:
                return str(error)
            return None
        return f"no answer for {LEAVE_SECONDS:g} s"

    async def get(self, task_id: str) -> DetailedTask:
        """The current state of a task.

        Raises:
            MCPError: There is no such task for this caller.
        """
        return await send_insistently(lambda: _get(self._client.session, task_id))

    async def update(self, task_id: str, answers: Mapping[str, ElicitResult]) -> None:
        """Answer questions of a task; the server takes all of these answers, or none.

        Raises:
            MCPError: An answer does not fit, or there is no such task for this caller.
        """
        params = UpdateParams(task_id=task_id, input_responses=dict(answers))
        request = UpdateTask(params=params)
        await send_insistently(lambda: self._client.session.send_request(request, mcp_types.EmptyResult))

    async def cancel(self, task_id: str) -> None:
        """Request the cancellation of a task; `get` shows when it has ended.

        Raises:
            MCPError: There is no such task for this caller.
        """
        request = CancelTask(params=TaskParams(task_id=task_id))
        await send_insistently(lambda: self._client.session.send_request(request, mcp_types.EmptyResult))

    async def _poll_to_the_end(self, task: TaskState, watch: Watch | None) -> CallToolResult:
        session = self._client.session
        async for state in _states(session, task, answering=self._answer is not None):
            if watch is not None:
                watch(state)
            if not isinstance(state, DetailedTask):
                continue
            if state.is_final:
                return _outcome(state)
            if state.input_requests and self._answer is not None:
                await self._respond(state, self._answer)
        raise AssertionError("the states of a task end with the final one")

    async def _respond(self, state: DetailedTask, answer: Answer) -> None:
        """Answer a task's questions; if the server refuses the answers, ask again and pass on the reason."""
        problem: str | None = None
        while True:
            asked = Asked(requests=state.input_requests or {}, task_id=state.task_id, problem=problem)
            try:
                return await self.update(state.task_id, await answer(asked))
            except MCPError as error:
                if error.code != INVALID_PARAMS or "key" not in (error.data or {}):
                    raise
                problem = error.message


@asynccontextmanager
async def connect(
    url: str, key: str | None = None, answer: Answer | None = None, *, starting_seconds: float = 0.0
) -> AsyncIterator[ServiceClient]:
    """Connect to an MCP endpoint over HTTP.

    Args:
        url: The endpoint, such as `http://127.0.0.1:8787/mcp`.
        key: An API key, sent as a bearer token.
        answer: Answers questions; None declares to the server that this client cannot be asked.
        starting_seconds: For how long nobody may listen there yet: a server that starts, or starts again.

    Raises:
        CannotConnect: Nothing answers there, or the server refuses the connection.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = httpx2.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS, read=CALL_SECONDS)
    async with _SteadyClient(headers=headers, timeout=timeout) as http:

        def make() -> Client:
            return Client(
                streamable_http_client(url, http_client=http),
                extensions=[_TasksExtension()],
                read_timeout_seconds=ANSWER_SECONDS,
                elicitation_callback=None if answer is None else _refuse_to_be_called,
            )

        client = await _connected(make, url, time.monotonic() + starting_seconds)
        http.is_connected = True
        concealed: tuple[type[BaseException], ...] = ()
        try:
            yield ServiceClient(client, answer)
        except StillRuns:
            concealed = (asyncio.CancelledError,)  # with which the SDK closes after a signal
            raise
        finally:
            with suppress(*concealed):
                await client.__aexit__(None, None, None)


class _SteadyClient(httpx2.AsyncClient):
    """Answers a request itself whose connection was lost: with an error that says when to send it again.

    To the SDK's transport a lost connection is the end of the session, with all requests that wait in it; any
    other front end would serve them.

    Attributes:
        is_connected: Whether a server has answered; until then, nothing is concealed.
    """

    is_connected = False

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """See `httpx2.AsyncClient.send`; a stream of events is left to its reader."""
        try:
            response = await super().send(request, **options)
            if not response.headers.get("content-type", "").startswith(_EVENTS):
                await response.aread()
        except httpx2.TransportError as error:
            if not self.is_connected or request.method != "POST":
                raise
            return httpx2.Response(503, json=_lost(error), request=request)
        return response


def _lost(error: httpx2.TransportError) -> dict[str, Any]:
    """A JSON-RPC error for a request whose connection was lost."""
    message = f"The connection was lost: {error or type(error).__name__}"
    data = {"retryAfterMs": int(RECONNECT_SECONDS * 1000)}
    told = {"code": mcp_types.CONNECTION_CLOSED, "message": message, "data": data}
    return {"jsonrpc": "2.0", "id": None, "error": told}


async def _connected(make: Callable[[], Client], url: str, until: float) -> Client:
    """A client that has connected; tried again until then, while nobody listens at the address."""
    while True:
        client = make()
        try:
            await client.__aenter__()
        except (httpx2.HTTPError, MCPError, ExceptionGroup) as error:
            reason = _innermost(error)
            if untrusted := _untrusted(reason):
                raise CannotConnect(
                    f"The certificate of {url} is not trusted ({untrusted}). If a CA of your own signed it, "
                    "name the file with that CA's certificate: SSL_CERT_FILE=/path/ca.pem"
                ) from error
            if isinstance(reason, httpx2.ConnectError) and time.monotonic() < until:
                await asyncio.sleep(LISTEN_SECONDS)
                continue
            raise CannotConnect(
                f"No MCP server answers at {url} ({reason}). "
                "Is it up (`tasks-service up`), is the address right (--url), does it want a key (--key)?"
            ) from error
        return client


async def _refuse_to_be_called(
    context: ClientRequestContext,  # noqa: ARG001 - the SDK's signature
    params: ElicitRequestParams,  # noqa: ARG001
) -> ElicitResult | ErrorData:
    """Refuse a question that is sent as a request: the SDK declares forms and links only with a callback."""
    return ErrorData(code=mcp_types.METHOD_NOT_FOUND, message="Ask in a result, not by a request")


async def _follow(task: NewTask, context: ClaimContext) -> CallToolResult:
    async for state in _states(context.session, task, answering=False):
        if state.is_final and isinstance(state, DetailedTask):
            return _outcome(state)
    raise AssertionError("the states of a task end with the final one")


async def _states(session: Any, task: TaskState, *, answering: bool) -> AsyncIterator[TaskState]:
    """Poll a task, no faster than the server asks for; yields its states up to the final one.

    Args:
        session: The connection.
        task: The first state.
        answering: Whether the caller answers open questions before it takes the next state.
    """
    while True:
        yield task
        if task.is_final and isinstance(task, DetailedTask):
            return
        answered = answering and isinstance(task, DetailedTask) and bool(task.input_requests)
        if not (task.is_final or answered):
            await asyncio.sleep(task.poll_seconds)
        task = await send_insistently(partial(_get, session, task.task_id))


async def send_insistently(send: Callable[[], Awaitable[T]]) -> T:
    """Send a request, and send it again for as long as the server asks for that, or does not answer.

    Args:
        send: Sends it; must be the same request each time, which does its work once.

    Raises:
        MCPError: The server refused it for good, or still after `OUTAGE_SECONDS`; or there was no connection
            for so long (`CONNECTION_CLOSED`).
    """
    until = time.monotonic() + OUTAGE_SECONDS
    while True:
        try:
            return await send()
        except MCPError as error:
            seconds = _wait_seconds(error)
            if seconds is None or time.monotonic() + seconds > until:
                raise
        await asyncio.sleep(seconds)


def _wait_seconds(error: MCPError) -> float | None:
    """When to send a request again that got this answer; None: never."""
    if error.code == mcp_types.CONNECTION_CLOSED:  # by the SDK: its stream of events has broken off
        return RECONNECT_SECONDS
    return retry_seconds(error)


async def _get(session: Any, task_id: str) -> DetailedTask:
    request = GetTask(params=TaskParams(task_id=task_id))
    state: DetailedTask = await session.send_request(request, DetailedTask)
    return state


def _outcome(task: DetailedTask) -> CallToolResult:
    if task.status == "completed" and task.result is not None:
        return task.result
    if task.error is not None:
        raise TaskEnded(f"{task.error.message} (error {task.error.code})")
    raise TaskEnded(f"The task was {task.status}. {task.status_message or ''}".strip())


def _untrusted(error: BaseException | None) -> str:
    """Why the server's certificate is not trusted; empty if that is not what went wrong."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return ""


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
