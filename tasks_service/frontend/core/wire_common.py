"""What the revisions have in common on the wire: method names, notifications, refusals."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Final, NamedTuple

import pydantic_core
from mcp.shared.exceptions import MCPError
from mcp_types import PaginatedRequestParams
from mcp_types.jsonrpc import INTERNAL_ERROR, INVALID_PARAMS, UNSUPPORTED_PROTOCOL_VERSION
from mcp_types.methods import serialize_server_result
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from ...domain.digests import KEY_BYTES
from ...domain.errors import (
    AnswerRefused,
    ExecutionForgotten,
    IdempotencyConflict,
    InvalidArguments,
    LimitExceeded,
    NotJson,
    Overloaded,
    QuotaExceeded,
    StoreFull,
    StoreRefuses,
    StoreUnavailable,
    TaskNotFound,
    TasksServiceError,
    UnknownPrompt,
    UnknownResource,
    UnknownTool,
)
from ...domain.limits import KIB, truncate
from ...domain.questions import SamplingQuestion
from ...domain.rates import RateExceeded
from ...domain.reports import LogMessage
from ...domain.scopes import CALL, READ
from ...domain.task import ClientCapability, Progress
from ...domain.tools import OfferedTool, ToolDefinition, ToolSet
from ...domain.traces import is_trace_parent
from ...extension import IDEMPOTENCY_META, REQUEST_CANCELLED
from ...metrics.series import REFUSED, Refused
from ..transport.jsonrpc import EncodedList, encode
from ..transport.refusals import OVERLOADED, RATE_LIMITED, STOPPING
from ..transport.rejection import Rejection
from .overload import retry_after
from .requests import (
    CallCancelled,
    CallTooLong,
    CapabilityRequired,
    FunctionFailed,
    InvalidRequest,
    QuestionWithoutHandle,
    StateRefused,
)
from .stopping import FrontEndStops

logger = logging.getLogger(__name__)

TOOLS_LIST: Final = "tools/list"
TOOLS_CALL: Final = "tools/call"
RENDERED_LIST: Final = "tools/list, rendered"
"""`tools/list` under a name of its own: its result is rendered once for each version of the catalogue, so the
SDK need not render it for each request. No method of the protocol has a space in its name."""

RESOURCES_LIST: Final = "resources/list"
TEMPLATES_LIST: Final = "resources/templates/list"
RESOURCES_READ: Final = "resources/read"
PROMPTS_LIST: Final = "prompts/list"
PROMPTS_GET: Final = "prompts/get"
COMPLETE: Final = "completion/complete"
SERVED_VERSIONS: Final = (*HANDSHAKE_PROTOCOL_VERSIONS, *MODERN_PROTOCOL_VERSIONS)
"""Every revision that is served here, of both eras: a client that is refused one may choose another."""

PROBLEMS_BYTES: Final = 4 * KIB
"""Longest list of argument problems that a caller is shown."""

NAME_CHARACTERS: Final = 128
"""Longest tool name that an error repeats."""

EMPTY: Final[Mapping[str, Any]] = {}
"""No fields."""

_SCOPES: Final[Mapping[str, tuple[str, ...]]] = dict.fromkeys(
    (RESOURCES_READ, PROMPTS_GET, COMPLETE), (READ,)
)
"""The scopes that methods need, beside `tools/call`; what is not here tells nothing that is anybody's own."""


def scopes_needed(
    method: str,
    params: Mapping[str, Any] | None,
    tools: ToolSet[OfferedTool],
    known: Mapping[str, tuple[str, ...]],
) -> tuple[str, ...]:
    """The scopes that a request needs; none, if whoever has a token for this service may send it.

    Args:
        method: Its method, as it was sent.
        params: Its parameters; nothing of them is checked yet.
        tools: The tools of the path.
        known: What the methods need that only this revision has.
    """
    if method != TOOLS_CALL:
        return known.get(method) or _SCOPES.get(method, ())
    name = (params or EMPTY).get("name")
    tool = tools.get(name) if isinstance(name, str) else None
    return (CALL,) if tool is None else tool.definition.scopes_of_calls


def progress_token(params: Mapping[str, Any] | None) -> str | int | None:
    """The token under which a request wants progress; None if it wants none.

    Raises:
        InvalidRequest: It is neither text nor an integer (2026-07-28, progress: tokens MUST be).
    """
    token = request_meta(params).get("progressToken")
    if token is None or (isinstance(token, str | int) and not isinstance(token, bool)):
        return token
    raise InvalidRequest("_meta.progressToken: expected text or an integer")


def request_meta(params: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The `_meta` of a request; empty if it has none that is an object."""
    meta = (params or EMPTY).get("_meta")
    return meta if isinstance(meta, Mapping) else EMPTY


def trace_parent(meta: Mapping[str, Any]) -> str:
    """The W3C trace parent in a request's `_meta`; empty if there is none that is well formed."""
    value = meta.get("traceparent")
    return str(value) if is_trace_parent(value) else ""


def idempotency_key(meta: Mapping[str, Any]) -> str | None:
    """The client's own name for a call, in a request's `_meta`; None if it gave none.

    Raises:
        InvalidRequest: It is not text of a sensible length.
    """
    value = meta.get(IDEMPOTENCY_META)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value.encode()) <= KEY_BYTES:
        raise InvalidRequest(f"_meta.{IDEMPOTENCY_META}: expected text of 1 to {KEY_BYTES} bytes")
    return value


def askable(capabilities: Any, *, links: bool = True) -> frozenset[ClientCapability]:
    """What a client can be asked that declares these capabilities, whatever their shape.

    An elicitation without a mode means forms (2025-11-25 and 2026-07-28, client/elicitation, capabilities).

    Args:
        capabilities: As the client declares them.
        links: Whether the revision can send a person to a page.
    """
    declared = capabilities if isinstance(capabilities, Mapping) else EMPTY
    modes = declared.get("elicitation")
    by_link = links and isinstance(modes, Mapping) and "url" in modes
    able = {
        ClientCapability.FORM: isinstance(modes, Mapping) and ("form" in modes or not by_link),
        ClientCapability.URL: by_link,
        ClientCapability.SAMPLING: isinstance(declared.get("sampling"), Mapping),
        ClientCapability.ROOTS: isinstance(declared.get("roots"), Mapping),
    }
    return frozenset(capability for capability, is_able in able.items() if is_able)


def client_name(info: Any) -> str:
    """The name in what a client tells of itself; empty if it tells none."""
    name = info.get("name") if isinstance(info, Mapping) else None
    return truncate(name, NAME_CHARACTERS) if isinstance(name, str) else ""


def sampling_params(question: SamplingQuestion) -> dict[str, Any]:
    """The parameters of a `sampling/createMessage`."""
    params = {"messages": question.messages, "maxTokens": question.max_tokens}
    return params if question.system_prompt is None else {**params, "systemPrompt": question.system_prompt}


def progress_fields(progress: Progress) -> dict[str, Any]:
    """Progress, as notifications and our own `_meta` key show it."""
    fields: dict[str, Any] = {"progress": progress.current}
    if progress.total is not None:
        fields["total"] = progress.total
    if progress.message is not None:
        fields["message"] = progress.message
    return fields


def timestamp(at_ms: int) -> str:
    """A moment in ISO 8601, UTC, to the millisecond."""
    seconds, milliseconds = divmod(at_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat()[:19]}.{milliseconds:03d}Z"


def task_id(params: Mapping[str, Any] | None) -> str:
    """The task that a `tasks/*` request names.

    Raises:
        InvalidRequest: It names none.
    """
    value = (params or EMPTY).get("taskId")
    if not isinstance(value, str):
        raise InvalidRequest("taskId: expected text")
    return value


def progress_notification(token: str | int, progress: Progress) -> dict[str, Any]:
    """A `notifications/progress` for the request that brought the token."""
    return notification("notifications/progress", {"progressToken": token, **progress_fields(progress)})


def log_notification(message: LogMessage) -> dict[str, Any]:
    """A `notifications/message`."""
    params: dict[str, Any] = {"level": message.level.value, "data": pydantic_core.from_json(message.data)}
    if message.logger is not None:
        params["logger"] = message.logger
    return notification("notifications/message", params)


def notification(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """A JSON-RPC notification."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def refusal(error: TasksServiceError) -> MCPError:
    """The JSON-RPC error that tells a caller why, where the revisions agree.

    Nothing in it depends on whether a task that was not found exists for somebody else.
    """
    match error:
        case AnswerRefused():
            where = {"key": error.key, "path": error.path, "problem": truncate(error.problem, PROBLEMS_BYTES)}
            return MCPError(INVALID_PARAMS, truncate(str(error), PROBLEMS_BYTES), where)
        case StateRefused():
            return MCPError(INVALID_PARAMS, str(error))
        case TaskNotFound():
            return MCPError(INVALID_PARAMS, "Task not found")
        case UnknownTool():
            return MCPError(INVALID_PARAMS, f"Unknown tool: {truncate(error.name, NAME_CHARACTERS)}")
        case UnknownPrompt():
            return MCPError(INVALID_PARAMS, f"Unknown prompt: {truncate(error.name, NAME_CHARACTERS)}")
        case QuotaExceeded():
            told = {**_limit(error), "setting": error.setting, "retryAfterMs": error.retry_after_ms}
            if isinstance(error, RateExceeded):
                told |= {"reason": RATE_LIMITED, "mayHaveBeenRecorded": False}
            return MCPError(INTERNAL_ERROR, f"Over quota: {error}. Try again when {error.until}", told)
        case LimitExceeded():
            return MCPError(INVALID_PARAMS, f"Over the limit: {error}", _limit(error))
        case NotJson() | InvalidRequest() | InvalidArguments() | IdempotencyConflict():
            return MCPError(INVALID_PARAMS, truncate(str(error), PROBLEMS_BYTES))
        case StoreFull():
            logger.warning("%s", error)
            data = {**_limit(error), "retryAfterMs": error.retry_after_ms}
            return MCPError(INTERNAL_ERROR, "The task store is full for now; try again later", data)
        case ExecutionForgotten():
            message = "The task store has lost this call, whose tool may have begun to run; call again"
            return MCPError(INTERNAL_ERROR, message, {"retryAfterMs": error.retry_after_ms})
        case StoreUnavailable():
            return _store_refusal(error)
        case FrontEndStops():
            return MCPError(INTERNAL_ERROR, str(error), stop_facts(error))
        case CallCancelled():
            return MCPError(REQUEST_CANCELLED, str(error))
        case CallTooLong() | QuestionWithoutHandle() | FunctionFailed():
            return MCPError(INTERNAL_ERROR, str(error))
        case _:
            logger.error("A request failed", exc_info=error)
            return MCPError(INTERNAL_ERROR, "Internal server error")


def _store_refusal(error: StoreUnavailable) -> MCPError:
    """Why the store does not take a request, and whether it may have taken it all the same."""
    match error:
        case Overloaded():
            nothing = "" if error.may_have_applied else "nothing was recorded, "
            message = f"This service has too much to do; {nothing}try again"
        case StoreRefuses():
            message = f"The task store {error.told}; try again later"
        case _:
            message = "The task store does not answer; try again"
    if error.may_have_applied:
        message += ". This request may have been recorded; by an idempotency key it runs once even so"
    logger.warning("%s", error.for_operators)
    data: dict[str, Any] = {
        "retryAfterMs": error.retry_after_ms,
        "mayHaveBeenRecorded": error.may_have_applied,
    }
    if isinstance(error, Overloaded):
        data["reason"] = OVERLOADED
    return MCPError(INTERNAL_ERROR, message, data)


def stop_facts(error: FrontEndStops) -> dict[str, Any]:
    """What the data of an error says of a front end that stops."""
    return {
        "retryAfterMs": error.retry_after_ms,
        "mayHaveBeenRecorded": error.may_have_recorded,
        "reason": STOPPING,
    }


def stopped(error: FrontEndStops) -> Rejection:
    """The answer to a request that was not read before the front end stopped."""
    headers = retry_after(error.retry_after_ms)
    return Rejection(503, INTERNAL_ERROR, str(error), data=stop_facts(error), headers=headers)


def version_refused(
    requested: str,
    request_id: str | int | None = None,
    message: str = "Unsupported protocol version",
) -> Rejection:
    """A version that this server, or this connection, does not speak, with the ones that the server does."""
    data = {"supported": list(SERVED_VERSIONS), "requested": requested}
    return Rejection(400, UNSUPPORTED_PROTOCOL_VERSION, message, data=data, request_id=request_id)


def listed_tool(tool: ToolDefinition, output_schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """A tool as `tools/list` shows it."""
    listed: dict[str, Any] = {"name": tool.name, "inputSchema": dict(tool.input_schema)}
    if tool.title is not None:
        listed["title"] = tool.title
    if tool.description:
        listed["description"] = tool.description
    if tool.annotations is not None:
        listed["annotations"] = dict(tool.annotations)
    if output_schema is not None:
        listed["outputSchema"] = dict(output_schema)
    return listed


class _Rendered(NamedTuple):
    """A tool of a list, as it was described, and as it is sent; None if no client could read it."""

    described: Mapping[str, Any]
    sent: dict[str, Any] | None
    text: bytes = b""


class ListRenderer:
    """Renders lists of tools as a revision has them: what it does not know is left out.

    A tool that has not changed is rendered once. One that no client could read is left out, so that it does
    not hide the others.

    Args:
        version: The revision.
        frame: What its `tools/list` result must have beside the tools.
    """

    def __init__(self, version: str, frame: Mapping[str, Any] = EMPTY) -> None:
        self._version, self._frame = version, frame
        self._known: dict[str, _Rendered] = {}

    def render(self, described: Iterable[Mapping[str, Any]]) -> EncodedList:
        """Render a list; see `listed_tool` for how tools are described."""
        self._known = {tool["name"]: self._rendered(tool) for tool in described}
        sent = [tool for tool in self._known.values() if tool.sent is not None]
        text = b"[" + b",".join(tool.text for tool in sent) + b"]"
        return EncodedList((tool.sent for tool in sent if tool.sent is not None), text)

    def _rendered(self, described: Mapping[str, Any]) -> _Rendered:
        known = self._known.get(described["name"])
        if known is not None and known.described == described:
            return known
        try:
            result = serialize_server_result(TOOLS_LIST, self._version, {**self._frame, "tools": [described]})
        except ValidationError as error:
            logger.warning("The tool %s is not listed: %s", described["name"], error)
            return _Rendered(described, None)
        (sent,) = result["tools"]
        return _Rendered(described, sent, encode(sent))


def tool_error(text: str) -> dict[str, Any]:
    """A `CallToolResult` that tells a model what was wrong."""
    return {"content": [{"type": "text", "text": truncate(text, PROBLEMS_BYTES)}], "isError": True}


def refused_call(error: InvalidArguments | CapabilityRequired) -> dict[str, Any]:
    """A refusal of a call that a model can act on, as a result; it is counted as what it is."""
    REFUSED.add(Refused.INVALID)
    return tool_error(str(error))


Method = Callable[[Any, Any], Awaitable[Any]]
"""Answers a request, by its context and its params."""

Refusing = Callable[[Method], Method]


def refusing(refusal: Callable[[TasksServiceError], MCPError]) -> Refusing:
    """Let the refusals of methods reach callers as errors of the protocol: as `refusal` writes them."""

    def decorate(method: Method) -> Method:
        @wraps(method)
        async def run(context: Any, params: Any) -> Any:
            try:
                return await method(context, params)
            except TasksServiceError as error:
                raise refusal(error) from error
            except ValidationError as error:
                # Of a request, these come before the method; this one is a fault of ours or of an author.
                raise RuntimeError("a method has made what does not fit its own model") from error

        return run

    return decorate


def require_first_page(what: str, params: PaginatedRequestParams) -> None:
    """Refuse a cursor to a list that has one page.

    Raises:
        InvalidRequest: There is a cursor.
    """
    if params.cursor is not None:
        raise InvalidRequest(f"cursor: all {what} are on the first page, no other was offered")


def resource_missing(error: UnknownResource, code: int) -> MCPError:
    """There is no such resource; the revisions differ in the code."""
    return MCPError(code, truncate(str(error), PROBLEMS_BYTES), {"uri": error.uri})


def _limit(error: LimitExceeded | StoreFull) -> dict[str, Any]:
    return {"limit": error.what, "maximum": error.maximum, "actual": error.actual, "unit": error.unit}
