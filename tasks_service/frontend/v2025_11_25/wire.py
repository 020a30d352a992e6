"""Revision 2025-11-25 on the wire, with its tasks; and the earlier revisions that begin with a handshake.

Every name that these revisions use in a message is here and nowhere else. Tasks, `execution` and the mode of
an elicitation are of 2025-11-25 only: the earlier ones get plain calls. Results are
plain dicts: the SDK's typed models drop fields that are null and required.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import pydantic_core
from mcp.shared.exceptions import MCPError
from mcp_types.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from ...authoring.tool import Rendered
from ...domain import questions
from ...domain.decide import poll_interval_ms, ttl_ms
from ...domain.errors import InvalidArguments, TasksServiceError, UnknownResource
from ...domain.limits import KIB, to_json
from ...domain.reports import LogLevel, LogMessage
from ...domain.scopes import ANSWER, CALL, CANCEL, READ
from ...domain.task import ClientCapability, Failure, FailureKind, JsonText, Progress, Task, TaskStatus
from ...domain.tools import OfferedTool, TaskSupport, ToolDefinition, ToolSet
from ...extension import REQUEST_CANCELLED
from ...store.announcements import Listed
from ...store.clients import TaskView
from ..core import wire_common as common
from ..core.catalogue import Catalogue, OfVersion
from ..core.requests import (
    CallTooLong,
    CapabilityRequired,
    HandleRequired,
    InvalidRequest,
    QuestionWithoutHandle,
    ToolCall,
)
from ..transport.jsonrpc import EncodedList
from ..transport.refusals import TaskError

VERSION: Final = "2025-11-25"

PING: Final = "ping"
INITIALIZE: Final = "initialize"
RESOURCES_SUBSCRIBE: Final = "resources/subscribe"
RESOURCES_UNSUBSCRIBE: Final = "resources/unsubscribe"
SET_LEVEL: Final = "logging/setLevel"
TASKS_GET: Final = "tasks/get"
TASKS_RESULT: Final = "tasks/result"
TASKS_LIST: Final = "tasks/list"
TASKS_CANCEL: Final = "tasks/cancel"
CANCELLED: Final = "notifications/cancelled"
INITIALIZED: Final = "notifications/initialized"

CREATE_TASK: Final = "tools/call, as a task"
RESUMED_CALL: Final = "tools/call, resumed"
"""A `tools/call` with `params.task`, under a name of its own: its result has another shape. No method of the
protocol has a space in its name."""

RELATED_TASK: Final = "io.modelcontextprotocol/related-task"
IMMEDIATE_RESPONSE: Final = "io.modelcontextprotocol/model-immediate-response"

RESOURCE_NOT_FOUND: Final = -32002
"""The code of an unknown resource (2025-11-25, resources, error handling); the later revision retired it."""


TASKS_CAPABILITY: Final[Mapping[str, Any]] = {
    "list": {},
    "cancel": {},
    "requests": {"tools": {"call": {}}},
}

REQUEST_ID_BYTES: Final = 1 * KIB
"""Longest id of a request that can be cancelled."""

_STORED: Final = frozenset(
    {
        common.TOOLS_CALL,
        CREATE_TASK,
        common.PROMPTS_GET,
        SET_LEVEL,
        RESOURCES_SUBSCRIBE,
        RESOURCES_UNSUBSCRIBE,
    }
)

_TOOL_ERROR: Final = "The tool reported an error."

STREAM_SCOPES: Final = (READ,)
"""What a session's own stream needs."""

RESUMED_SCOPES: Final = (CALL,)
"""What the rest of a call's stream needs."""

RESPONSE_SCOPES: Final = (ANSWER,)
"""What a response needs: it answers what a tool has asked."""

_SCOPES: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(
        (TASKS_GET, TASKS_RESULT, TASKS_LIST, RESOURCES_SUBSCRIBE, RESOURCES_UNSUBSCRIBE), (READ,)
    ),
    TASKS_CANCEL: (CANCEL,),
}
"""The scopes that the methods of these revisions need."""


# --- requests ----------------------------------------------------------------------------------------


def scopes_needed(
    method: str, params: Mapping[str, Any] | None, tools: ToolSet[OfferedTool]
) -> tuple[str, ...]:
    """See `wire_common.scopes_needed`."""
    return common.scopes_needed(method, params, tools, _SCOPES)


def has_tasks(version: str) -> bool:
    """Whether a revision has tasks."""
    return version == VERSION


def has_polling(version: str) -> bool:
    """Whether clients of a revision expect to be let go, and come back for the rest of a stream."""
    return version == VERSION


def has_batches(version: str) -> bool:
    """Whether clients of a revision may send several messages at once (2025-03-26, base protocol)."""
    return version == "2025-03-26"


def client_capabilities(params: Mapping[str, Any] | None, version: str) -> frozenset[ClientCapability]:
    """The kinds of questions that the client of an `initialize` can be asked."""
    return common.askable((params or common.EMPTY).get("capabilities"), links=version == VERSION)


def client_name(params: Mapping[str, Any] | None) -> str:
    """The client of an `initialize`, as it names itself."""
    return common.client_name((params or common.EMPTY).get("clientInfo"))


def announce_changes(capabilities: dict[str, Any]) -> None:
    """Add to the capabilities of a handshake that changes of every list are told."""
    for listed in Listed:
        if listed in capabilities:
            capabilities[listed]["listChanged"] = True


def served_method(method: str, params: Mapping[str, Any] | None, version: str) -> str:
    """The name under which a request is served; empty for one that may not be sent."""
    if (
        method == common.TOOLS_CALL
        and has_tasks(version)
        and (params or common.EMPTY).get("task") is not None
    ):
        return CREATE_TASK
    if method == common.TOOLS_LIST:
        return common.RENDERED_LIST
    if " " in method or (method.startswith("tasks/") and not has_tasks(version)):
        return ""
    return method


def requested_version(params: Mapping[str, Any] | None) -> str:
    """The revision that an `initialize` asks for, as text whatever it is."""
    return str((params or common.EMPTY).get("protocolVersion"))


def log_level(method: str, params: Mapping[str, Any] | None) -> LogLevel | None:
    """The level from which on a request wants log messages to be sent; None if it is about something else."""
    level = (params or common.EMPTY).get("level")
    return LogLevel(level) if method == SET_LEVEL and level in list(LogLevel) else None


def needs_store(method: str) -> bool:
    """Whether a method, of any revision and under the name that it is served under, looks into the store."""
    return method in _STORED or method.startswith("tasks/")


def tool_call(
    name: str,
    arguments: Mapping[str, Any] | None,
    params: Mapping[str, Any] | None,
    *,
    version: str,
    capabilities: frozenset[ClientCapability],
    client: str,
) -> ToolCall:
    """A `tools/call` request in the service's own words.

    Raises:
        InvalidRequest: The task is no object, its ttl no positive number, or the idempotency key no text of
            a sensible length.
    """
    task = (params or common.EMPTY).get("task") if has_tasks(version) else None
    if task is not None and not isinstance(task, Mapping):
        raise InvalidRequest("task: expected an object")
    meta = common.request_meta(params)
    return ToolCall(
        tool=name,
        arguments=arguments if arguments is not None else {},
        era=version,
        takes_handle=task is not None,
        capabilities=capabilities,
        client=client,
        trace=common.trace_parent(meta),
        idempotency_key=common.idempotency_key(meta),
        ttl_ms=_ttl(task),
    )


def require_support(tool: ToolDefinition, call: ToolCall) -> None:
    """Refuse a call whose `params.task` does not fit the tool's `execution.taskSupport`.

    Raises:
        MCPError: -32601 (2025-11-25, tasks, tool-level negotiation: servers MUST, for a required one).
    """
    if call.takes_handle and tool.support is TaskSupport.FORBIDDEN:
        raise MCPError(METHOD_NOT_FOUND, f"The tool '{tool.name}' never runs as a task; call it without task")
    if not call.takes_handle and tool.support is TaskSupport.REQUIRED:
        raise MCPError(
            METHOD_NOT_FOUND, f"The tool '{tool.name}' runs as a task; call it with task, in {VERSION}"
        )


def cancelled_request(method: str, params: Mapping[str, Any] | None) -> JsonText | None:
    """The id of the request that a notification cancels, as `request_name` writes it; None if it does not."""
    identity = (params or common.EMPTY).get("requestId") if method == CANCELLED else None
    if not isinstance(identity, str | int) or isinstance(identity, bool):
        return None
    return request_name(identity)


def request_name(identity: str | int) -> JsonText | None:
    """The id of a request as text that keeps 1 and "1" apart; None if it is too long to be cancelled."""
    if isinstance(identity, str) and len(identity.encode(errors="replace")) > REQUEST_ID_BYTES:
        return None
    return to_json("request id", identity, maximum=8 * REQUEST_ID_BYTES)


def _ttl(task: Mapping[str, Any] | None) -> int | None:
    ttl = None if task is None else task.get("ttl")
    if ttl is None:
        return None
    if not isinstance(ttl, int | float) or isinstance(ttl, bool) or ttl <= 0:
        raise InvalidRequest("task.ttl: expected a positive number of milliseconds")
    return max(int(ttl), 1)


# --- results -----------------------------------------------------------------------------------------


class Results:
    """Renders results.

    Structured results that are not objects go as they are recorded: wrapped.

    Args:
        catalogue: The tools of the service.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._listed = {
            version: OfVersion(catalogue, partial(_listed, common.ListRenderer(version), has_tasks(version)))
            for version in HANDSHAKE_PROTOCOL_VERSIONS
        }

    def listing(self, version: str) -> dict[str, Any]:
        """The result of `tools/list`: every tool, in the order of their names, on one page."""
        return {"tools": self._listed[version]()}

    def handle(self, task: Task) -> dict[str, Any]:
        """A `CreateTaskResult`, with something that the model can be told meanwhile."""
        sentence = f"The tool '{task.tool}' runs in the background, as task {task.task_id}."
        return {"task": task_fields(task), "_meta": {IMMEDIATE_RESPONSE: sentence}}

    def task(self, task: Task) -> dict[str, Any]:
        """The result of `tasks/get` and `tasks/cancel`: a task, without related-task."""
        return task_fields(task)

    def page(self, tasks: tuple[Task, ...], cursor: str | None) -> dict[str, Any]:
        """The result of `tasks/list`."""
        listed: dict[str, Any] = {"tasks": [task_fields(task) for task in tasks]}
        return listed if cursor is None else {**listed, "nextCursor": cursor}

    def outcome(self, view: TaskView) -> dict[str, Any]:
        """The result of `tasks/result`: what the call itself would have returned, marked with its task.

        Raises:
            MCPError: The task has failed with this error; or it was cancelled.
        """
        result = self.call(view)
        meta = result.get("_meta") or {}
        return {**result, "_meta": {**meta, RELATED_TASK: {"taskId": view.task.task_id}}}

    def call(self, view: TaskView) -> dict[str, Any]:
        """The `CallToolResult` that a call has ended with.

        Raises:
            MCPError: It has failed with this error; or it was cancelled.
        """
        task = view.task
        if task.status is TaskStatus.CANCELLED:
            raise MCPError(REQUEST_CANCELLED, "The task was cancelled")
        if view.result is not None:
            result: dict[str, Any] = pydantic_core.from_json(view.result)
            return result
        failure = task.failure or Failure(kind=FailureKind.RESULT_INVALID, message="The task has no result")
        if failure.kind is FailureKind.CLIENT_CANNOT:
            return common.tool_error(failure.message)
        data = None if failure.data is None else pydantic_core.from_json(failure.data)
        code = failure.code if failure.kind is FailureKind.AUTHOR else None
        raise TaskError(INTERNAL_ERROR if code is None else code, failure.message, data)

    def rendered(self, made: Rendered) -> dict[str, Any]:
        """A `CallToolResult` that the service has made itself."""
        result: dict[str, Any] = pydantic_core.from_json(made.result)
        return result

    def refused_call(self, error: InvalidArguments | CapabilityRequired) -> dict[str, Any]:
        """A refusal that a model can act on, as a result."""
        return common.refused_call(error)


def _listed(renderer: common.ListRenderer, with_support: bool, tools: ToolSet[OfferedTool]) -> EncodedList:
    listed = []
    for tool in (tool.definition for tool in tools.values()):
        shown = common.listed_tool(tool, tool.output_schema)
        if with_support:
            shown["execution"] = {"taskSupport": tool.support.value}
        listed.append(shown)
    return renderer.render(listed)


def task_fields(task: Task) -> dict[str, Any]:
    """A `Task` as this revision has it; a result with `isError` makes it `failed`."""
    failed = task.status is TaskStatus.COMPLETED and task.is_error
    fields: dict[str, Any] = {
        "taskId": task.task_id,
        "status": TaskStatus.FAILED.value if failed else task.status.value,
        "createdAt": common.timestamp(task.created_ms),
        "lastUpdatedAt": common.timestamp(task.updated_ms),
        "ttl": ttl_ms(task),
        "pollInterval": poll_interval_ms(task),
    }
    message = task.status_message or (_TOOL_ERROR if failed else None)
    if message is not None:
        fields["statusMessage"] = message
    return fields


# --- what the server sends by itself -----------------------------------------------------------------


def status_notification(task: Task) -> dict[str, Any]:
    """A `notifications/tasks/status`: the whole task, without related-task."""
    return common.notification("notifications/tasks/status", task_fields(task))


def progress_notification(token: str | int, progress: Progress, task_id: str | None) -> dict[str, Any]:
    """A `notifications/progress`; marked with its task, if it has one that the client knows."""
    return _of_task(common.progress_notification(token, progress), task_id)


def log_notification(message: LogMessage, task_id: str | None) -> dict[str, Any]:
    """A `notifications/message`; marked like progress."""
    return _of_task(common.log_notification(message), task_id)


def list_changed(listed: Listed) -> dict[str, Any]:
    """A notification that a list has changed."""
    return {"jsonrpc": "2.0", "method": f"notifications/{listed}/list_changed"}


def resource_updated(uri: str) -> dict[str, Any]:
    """A notification that a resource has changed which the client has subscribed to."""
    return common.notification("notifications/resources/updated", {"uri": uri})


def cancelled_notification(request_id: str | int, reason: str) -> dict[str, Any]:
    """A `notifications/cancelled`: what the client was asked, or has subscribed to, is over."""
    return common.notification(CANCELLED, {"requestId": request_id, "reason": reason})


def input_request(
    question: questions.RecordedQuestion, *, request_id: str, version: str, task_id: str | None, link_id: str
) -> dict[str, Any]:
    """A question as the request that asks it.

    Args:
        question: What is asked.
        request_id: The request's own id.
        version: The revision of the session that is asked.
        task_id: The task that asks, if the client knows it.
        link_id: Names a page that the person is sent to (2025-11-25, elicitation, URL mode).
    """
    params: dict[str, Any]
    match question:
        case questions.FormQuestion():
            method, params = "elicitation/create", _form(question, version)
        case questions.LinkQuestion(message=message, url=url):
            method = "elicitation/create"
            params = {"mode": "url", "message": message, "url": url, "elicitationId": link_id}
        case questions.SamplingQuestion():
            method, params = "sampling/createMessage", common.sampling_params(question)
        case questions.RootsQuestion():
            method, params = "roots/list", {}
    params.update(_related(task_id))
    request: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": method}
    return {**request, "params": params} if params else request


def _form(question: questions.FormQuestion, version: str) -> dict[str, Any]:
    params = {"message": question.message, "requestedSchema": question.schema}
    # Before 2025-11-25 there was one mode, without a name.
    return {"mode": "form", **params} if version == VERSION else params


def _related(task_id: str | None) -> dict[str, Any]:
    return {} if task_id is None else {"_meta": {RELATED_TASK: {"taskId": task_id}}}


def _of_task(notification: dict[str, Any], task_id: str | None) -> dict[str, Any]:
    return {**notification, "params": {**notification["params"], **_related(task_id)}}


# --- refusals ----------------------------------------------------------------------------------------


def refusal(error: TasksServiceError) -> MCPError:
    """The JSON-RPC error that tells a caller why; in the later revision's words, where both have the same."""
    match error:
        case HandleRequired():
            return MCPError(METHOD_NOT_FOUND, f"The tool '{error.tool}' runs as a task; call it with task")
        case CapabilityRequired():
            return MCPError(INVALID_PARAMS, str(error))
        case CallTooLong():
            message = (
                f"The tool did not end within {error.seconds:g} s; call it with task, and it may take longer"
            )
            return MCPError(INTERNAL_ERROR, message)
        case QuestionWithoutHandle():
            message = "Something is asked first, and the client did not answer, or takes no text/event-stream"
            return MCPError(INTERNAL_ERROR, message)
        case UnknownResource():
            return common.resource_missing(error, RESOURCE_NOT_FOUND)
        case _:
            return common.refusal(error)
