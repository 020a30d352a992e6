"""Revision 2026-07-28 on the wire, with the tasks extension (SEP-2663, `io.modelcontextprotocol/tasks`).

Requests are parsed, results rendered, refusals turned into error codes.
Every name that this revision uses in a message is here and nowhere else. Results are plain dicts: the SDK's
typed models drop fields that are null and required.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pydantic_core
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LOG_LEVEL_META_KEY,
    ErrorData,
    SubscriptionFilter,
)
from mcp_types.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, MISSING_REQUIRED_CLIENT_CAPABILITY

from ...authoring.tool import Rendered
from ...domain import questions
from ...domain.decide import poll_interval_ms, ttl_ms
from ...domain.errors import InvalidArguments, LimitExceeded, TasksServiceError, UnknownResource
from ...domain.reports import LogLevel
from ...domain.scopes import ANSWER, CANCEL, READ
from ...domain.task import ClientCapability, Failure, FailureKind, Task, TaskStatus
from ...domain.tools import OfferedTool, ToolSet
from ...extension import TASK_META, TASKS_EXTENSION
from ...store.announcements import Listed
from ...store.clients import TaskView
from ..core import wire_common as common
from ..core.catalogue import Catalogue, OfVersion
from ..core.requests import (
    CapabilityRequired,
    HandleRequired,
    InputRequired,
    InvalidRequest,
    PromptCall,
    ToolCall,
    Wanted,
)
from ..transport.jsonrpc import EncodedList
from ..transport.refusals import TaskError
from .structured_results import bare_schema, complete_result

logger = logging.getLogger(__name__)

VERSION: Final = "2026-07-28"

TASKS_GET: Final = "tasks/get"
TASKS_UPDATE: Final = "tasks/update"
TASKS_CANCEL: Final = "tasks/cancel"
DISCOVER: Final = "server/discover"
LISTEN: Final = "subscriptions/listen"

MOST_WATCHED: Final = 100
"""Tasks, and resources, that a `subscriptions/listen` may name; the latest of each fit a stream's buffer."""

TASK_METHODS: Final = frozenset({TASKS_GET, TASKS_UPDATE, TASKS_CANCEL})

LIST_TTL_MS: Final = 60_000
"""How long a client may keep the lists and `server/discover`; they change only with a deployment."""

CAPABILITY_OF_NEED: Final[Mapping[ClientCapability, Mapping[str, Any]]] = {
    ClientCapability.FORM: {"elicitation": {"form": {}}},
    ClientCapability.URL: {"elicitation": {"url": {}}},
    ClientCapability.SAMPLING: {"sampling": {}},
    ClientCapability.ROOTS: {"roots": {}},
}
"""What a client declares so that it can be asked."""


_SCOPES: Final[Mapping[str, tuple[str, ...]]] = {
    TASKS_GET: (READ,),
    TASKS_UPDATE: (ANSWER,),
    TASKS_CANCEL: (CANCEL,),
    LISTEN: (READ,),
}
"""The scopes that the methods of this revision need."""

# --- requests ----------------------------------------------------------------------------------------


def declares_tasks(capabilities: Any) -> bool:
    """Whether a request's client capabilities include the tasks extension (SEP-2663, negotiation)."""
    extensions = capabilities.get("extensions") if isinstance(capabilities, Mapping) else None
    return isinstance(extensions, Mapping) and isinstance(extensions.get(TASKS_EXTENSION), Mapping)


def client_capabilities(params: Mapping[str, Any] | None) -> Any:
    """The capabilities that a request declares in its envelope, whatever their shape."""
    return common.request_meta(params).get(CLIENT_CAPABILITIES_META_KEY)


def require_tasks(params: Mapping[str, Any] | None) -> None:
    """Refuse a `tasks/*` request whose client did not declare the extension.

    Raises:
        MCPError: -32021 with what is missing (SEP-2663: servers MUST).
    """
    if not declares_tasks(client_capabilities(params)):
        raise _extension_missing("Missing required client capability: the tasks extension")


def scopes_needed(
    method: str, params: Mapping[str, Any] | None, tools: ToolSet[OfferedTool]
) -> tuple[str, ...]:
    """See `wire_common.scopes_needed`; a request that is repeated with answers also answers."""
    needed = common.scopes_needed(method, params, tools, _SCOPES)
    answers = method in (common.TOOLS_CALL, common.PROMPTS_GET) and "inputResponses" in (
        params or common.EMPTY
    )
    return (*needed, ANSWER) if answers and ANSWER not in needed else needed


def routing_name(method: str, params: Any) -> str | None:
    """The text that `Mcp-Name` must repeat on `tasks/*` (SEP-2663, routing headers); None elsewhere."""
    if method not in TASK_METHODS or not isinstance(params, Mapping):
        return None
    value = params.get("taskId")
    return value if isinstance(value, str) else None


def served_method(method: str) -> str:
    """The name under which a request is served; empty for one that no client may send."""
    if method == common.TOOLS_LIST:
        return common.RENDERED_LIST
    return "" if " " in method else method


def tool_call(name: str, arguments: Mapping[str, Any] | None, params: Mapping[str, Any] | None) -> ToolCall:
    """A `tools/call` request in the service's own words.

    Raises:
        InvalidRequest: The idempotency key is not text of a sensible length, or what should answer an
            `InputRequiredResult` has the wrong shape.
    """
    meta, capabilities = common.request_meta(params), client_capabilities(params)
    return ToolCall(
        tool=name,
        arguments=arguments if arguments is not None else {},
        era=VERSION,
        takes_handle=declares_tasks(capabilities),
        capabilities=common.askable(capabilities),
        client=common.client_name(meta.get(CLIENT_INFO_META_KEY)),
        trace=common.trace_parent(meta),
        idempotency_key=common.idempotency_key(meta),
        answers=_responses(params) if "inputResponses" in (params or common.EMPTY) else common.EMPTY,
        state=_state(params),
    )


def prompt_call(
    name: str, arguments: Mapping[str, str] | None, params: Mapping[str, Any] | None
) -> PromptCall:
    """A `prompts/get` request in the service's own words.

    Raises:
        InvalidRequest: What should answer an `InputRequiredResult` has the wrong shape.
    """
    return PromptCall(
        prompt=name,
        arguments=arguments if arguments is not None else {},
        capabilities=common.askable(client_capabilities(params)),
        answers=_responses(params) if "inputResponses" in (params or common.EMPTY) else common.EMPTY,
        state=_state(params),
    )


def listen(filters: SubscriptionFilter, params: Mapping[str, Any] | None) -> Wanted:
    """The changes that a `subscriptions/listen` request wants to be told of.

    Raises:
        InvalidRequest: `taskIds` is no list of texts.
        LimitExceeded: More is named than one stream may watch.
        MCPError: -32021; tasks are named, and the client did not declare the extension (SEP-2663).
    """
    named = (filters.model_extra or {}).get("taskIds")
    if named is not None:
        require_tasks(params)
        if not isinstance(named, list) or not all(isinstance(value, str) for value in named):
            raise InvalidRequest("notifications.taskIds: expected a list of task ids")
    uris = filters.resource_subscriptions or []
    for what, names in (("notifications.taskIds", named or []), ("resourceSubscriptions", uris)):
        if len(names) > MOST_WATCHED:
            raise LimitExceeded(what, maximum=MOST_WATCHED, actual=len(names), unit="names")
    lists = {
        Listed.TOOLS: filters.tools_list_changed,
        Listed.PROMPTS: filters.prompts_list_changed,
        Listed.RESOURCES: filters.resources_list_changed,
    }
    return Wanted(
        task_ids=None if named is None else tuple(dict.fromkeys(named)),
        lists=tuple(listed for listed, wanted in lists.items() if wanted),
        resources=tuple(dict.fromkeys(uris)),
    )


def answers(params: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The answers of a `tasks/update` request, by key; nothing in them is checked yet.

    Raises:
        InvalidRequest: `inputResponses` is not an object.
    """
    return _responses(params)


def log_level(params: Mapping[str, Any] | None) -> LogLevel | None:
    """The level from which on a request wants log messages; None if it wants none.

    Raises:
        InvalidRequest: There is no such level (2026-07-28, logging: servers SHOULD refuse it).
    """
    level = common.request_meta(params).get(LOG_LEVEL_META_KEY)
    if level is None:
        return None
    try:
        return LogLevel(level)
    except ValueError:
        names = ", ".join(LogLevel)
        raise InvalidRequest(f"_meta.{LOG_LEVEL_META_KEY}: expected one of {names}") from None


def _responses(params: Mapping[str, Any] | None) -> Mapping[str, Any]:
    responses = (params or common.EMPTY).get("inputResponses")
    if not isinstance(responses, Mapping):
        raise InvalidRequest("inputResponses: expected an object of answers by key")
    return responses


def _state(params: Mapping[str, Any] | None) -> str | None:
    state = (params or common.EMPTY).get("requestState")
    if state is not None and not isinstance(state, str):
        raise InvalidRequest("requestState: expected the text that the server sent")
    return state


# --- results -----------------------------------------------------------------------------------------


class Results:
    """Renders results; structured ones as `structured_results` says.

    Args:
        catalogue: The tools of the service.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._bare_schemas = OfVersion(catalogue, _bare_schemas)
        self._renderer = common.ListRenderer(VERSION, self._listing([]))
        self._listed = OfVersion(catalogue, self._rendered)

    def listing(self) -> dict[str, Any]:
        """The result of `tools/list`: every tool, in the order of their names, on one page."""
        return self._listing(self._listed())

    def _listing(self, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        ttl_ms = self._catalogue.ttl_ms
        return {"resultType": "complete", "tools": tools, "ttlMs": ttl_ms, "cacheScope": "public"}

    def _rendered(self, tools: ToolSet[OfferedTool]) -> EncodedList:
        bare, definitions = self._bare_schemas(), [tool.definition for tool in tools.values()]
        return self._renderer.render(
            common.listed_tool(tool, bare.get(tool.name, tool.output_schema)) for tool in definitions
        )

    def handle(self, task: Task) -> dict[str, Any]:
        """A `CreateTaskResult`: a task instead of a result; never with result, error or questions."""
        return {"resultType": "task", **_task_fields(task)}

    def task(self, view: TaskView) -> dict[str, Any]:
        """The result of `tasks/get`: a `DetailedTask`."""
        task, fields = view.task, _task_fields(view.task)
        if task.status is TaskStatus.COMPLETED:
            fields["result"] = self.call(view)
        elif task.status is TaskStatus.FAILED:
            fields["error"] = _error_of(task).model_dump(exclude_none=True)
        elif task.status is TaskStatus.INPUT_REQUIRED:
            fields["inputRequests"] = {
                key: _input_request(question) for key, question in questions.open_questions(task).items()
            }
        return {"resultType": "complete", **fields}

    def call(self, view: TaskView) -> dict[str, Any]:
        """The `CallToolResult` that a task has completed with.

        Raises:
            MCPError: The task has failed; this is its error.
        """
        if view.result is None:
            raise TaskError.from_error_data(_error_of(view.task))
        return complete_result(view.result, bare=view.task.tool in self._bare_schemas())

    def rendered(self, made: Rendered) -> dict[str, Any]:
        """A `CallToolResult` that the service has made itself."""
        return {"resultType": "complete", **pydantic_core.from_json(made.result)}

    def questions(self, required: InputRequired) -> dict[str, Any]:
        """An `InputRequiredResult`: the call goes on when it is repeated with answers and the state."""
        return {
            "resultType": "input_required",
            "inputRequests": {key: _input_request(asked) for key, asked in required.questions.items()},
            "requestState": required.state,
        }

    def acknowledgement(self) -> dict[str, Any]:
        """The empty result of `tasks/update` and `tasks/cancel`."""
        return {"resultType": "complete"}

    def argument_problems(self, error: InvalidArguments) -> dict[str, Any]:
        """Bad arguments as a result that the model can read and fix (docs/protocol.md)."""
        return {"resultType": "complete", **common.refused_call(error)}


def _input_request(question: questions.RecordedQuestion) -> dict[str, Any]:
    """A question as the request that asks it (2026-07-28, `InputRequest`)."""
    match question:
        case questions.FormQuestion(message=message, schema=schema):
            params = {"mode": "form", "message": message, "requestedSchema": schema}
            return {"method": "elicitation/create", "params": params}
        case questions.LinkQuestion(message=message, url=url):
            params = {"mode": "url", "message": message, "url": url}
            return {"method": "elicitation/create", "params": params}
        case questions.SamplingQuestion():
            return {"method": "sampling/createMessage", "params": common.sampling_params(question)}
        case questions.RootsQuestion():
            return {"method": "roots/list"}


def _task_fields(task: Task) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "taskId": task.task_id,
        "status": task.status.value,
        "createdAt": common.timestamp(task.created_ms),
        "lastUpdatedAt": common.timestamp(task.updated_ms),
        "ttlMs": ttl_ms(task),
        "pollIntervalMs": poll_interval_ms(task),
    }
    if task.status_message is not None:
        fields["statusMessage"] = task.status_message
    if own := _own_meta(task):
        fields["_meta"] = {TASK_META: own}
    return fields


def _own_meta(task: Task) -> dict[str, Any]:
    own: dict[str, Any] = {}
    if task.progress is not None:
        own["progress"] = common.progress_fields(task.progress)
    if task.variables:
        own["variables"] = {name: pydantic_core.from_json(text) for name, text in task.variables.items()}
    return own


def _bare_schemas(tools: ToolSet[OfferedTool]) -> dict[str, dict[str, Any]]:
    """The bare output schemas of the tools that have one, by their names."""
    bare = ((name, bare_schema(tool.definition)) for name, tool in tools.items())
    return {name: schema for name, schema in bare if schema is not None}


# --- what the server sends by itself -----------------------------------------------------------------


def acknowledged(honoured: Wanted, subscription: str | int) -> dict[str, Any]:
    """The first message on a stream of `subscriptions/listen`: what of the wishes will be met."""
    notifications: dict[str, Any] = {f"{listed}ListChanged": True for listed in honoured.lists}
    if honoured.resources:
        notifications["resourceSubscriptions"] = list(honoured.resources)
    if honoured.task_ids is not None:
        notifications["taskIds"] = list(honoured.task_ids)
    params = {"notifications": notifications}
    return _on_stream("notifications/subscriptions/acknowledged", params, subscription)


def task_notification(task: Mapping[str, Any], subscription: str | int) -> dict[str, Any]:
    """A `notifications/tasks`: what `tasks/get` says (see `Results.task`), as a notification."""
    fields = {name: value for name, value in task.items() if name != "resultType"}
    return _on_stream("notifications/tasks", fields, subscription)


def list_changed(listed: Listed, subscription: str | int) -> dict[str, Any]:
    """A notification that a list has changed."""
    return _on_stream(f"notifications/{listed}/list_changed", {}, subscription)


def resource_updated(uri: str, subscription: str | int) -> dict[str, Any]:
    """A notification that a resource has changed."""
    return _on_stream("notifications/resources/updated", {"uri": uri}, subscription)


def listen_result(subscription: str | int) -> dict[str, Any]:
    """The result with which a stream of `subscriptions/listen` ends."""
    return {"resultType": "complete", "_meta": {SUBSCRIPTION_ID_META_KEY: subscription}}


def listen_over(request_id: str | int) -> dict[str, Any]:
    """The notification after that result: the stream has ended (basic/patterns/cancellation, MUST).

    After it, since a client that sees this first takes the stream for lost.
    """
    params = {"requestId": request_id, "reason": "The server has ended the subscription."}
    return common.notification("notifications/cancelled", params)


def _on_stream(method: str, params: Mapping[str, Any], subscription: str | int) -> dict[str, Any]:
    meta = {**params.get("_meta", {}), SUBSCRIPTION_ID_META_KEY: subscription}
    return common.notification(method, {**params, "_meta": meta})


# --- refusals ----------------------------------------------------------------------------------------


def refusal(error: TasksServiceError) -> MCPError:
    """The JSON-RPC error that tells a caller why."""
    match error:
        case HandleRequired():
            return _extension_missing(str(error))
        case CapabilityRequired():
            return MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, str(error), _required(*error.needs))
        case UnknownResource():
            return common.resource_missing(error, INVALID_PARAMS)
        case _:
            return common.refusal(error)


def _extension_missing(message: str) -> MCPError:
    required: dict[str, Any] = {"requiredCapabilities": {"extensions": {TASKS_EXTENSION: {}}}}
    return MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, message, required)


def _error_of(task: Task) -> ErrorData:
    """The error of a failed task: an author's own code, otherwise ours (docs/protocol.md)."""
    failure = task.failure or Failure(kind=FailureKind.RESULT_INVALID, message="The task has no result")
    code = _FAILURE_CODES.get(failure.kind, INTERNAL_ERROR)
    if failure.kind is FailureKind.AUTHOR and failure.code is not None:
        code = failure.code
    data = None if failure.data is None else pydantic_core.from_json(failure.data)
    if failure.kind is FailureKind.CLIENT_CANNOT and data is not None:
        data = _required(ClientCapability(data["needs"]))
    return MCPError(code, failure.message, data).error


def _required(*needs: ClientCapability) -> dict[str, Any]:
    """The data of a -32021: what the client would have to declare, all of it together."""
    required: dict[str, dict[str, Any]] = {}
    for need in needs:
        for capability, settings in CAPABILITY_OF_NEED[need].items():
            required.setdefault(capability, {}).update(settings)
    return {"requiredCapabilities": required}


_FAILURE_CODES: Final = {FailureKind.CLIENT_CANNOT: MISSING_REQUIRED_CLIENT_CAPABILITY}
