"""Tools: functions with their schemas and options, the binding of arguments and the rendering of results.

Schemas come from the signature and the type hints, through the official SDK's `func_metadata`, so that a tool
here behaves as on any server built on that SDK. Arguments are checked once, where they arrive; the worker
binds them again from the record. Results become the JSON text of a `CallToolResult`, which the wire modules
translate for each revision of the protocol.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pydantic_core
from mcp.server.mcpserver.utilities.func_metadata import FuncMetadata, func_metadata
from mcp_types import CallToolResult, TextContent
from pydantic import ValidationError

from ..domain.errors import ConfigurationError, InvalidArguments, NotJson
from ..domain.limits import DEFAULT_LIMITS, Limits, to_json
from ..domain.task import JsonText
from ..domain.tools import ToolDefinition, ToolSet
from ..durable.annotations import ToolAnnotations
from ..durable.context import AsyncTaskContext, TaskContext
from ..durable.questions import Question
from ..durable.retry import RetryPolicy
from .headers import has_headers
from .schemas import ExplicitSchema, explicit_schema

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
"""The names that the specification allows for a tool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The result of a tool as it is recorded: the JSON text of a `CallToolResult`."""

    result: JsonText
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that clients may call: its definition, which front ends see, and its code.

    Attributes:
        definition: What front ends and operators must know of it.
        fn: The function; None for a Celery task that was exposed.
        celery_name: The exposed Celery task's own name; None for a function.
        retry: Which exceptions of the tool are retried; None: none.
        context_parameter: Name of the parameter that receives the context, if there is one.
        ask: The questions of the definition, as they read their answers.
        explicit_schema: The schema of the arguments if the author wrote it; None if it is the signature's.
    """

    definition: ToolDefinition
    fn: Callable[..., Any] | None
    metadata: FuncMetadata
    retry: RetryPolicy | None = None
    celery_name: str | None = None
    context_parameter: str | None = None
    ask: Mapping[str, Question] = field(default_factory=dict)
    explicit_schema: ExplicitSchema | None = None

    @property
    def name(self) -> str:
        """The name by which clients call it."""
        return self.definition.name

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return inspect.iscoroutinefunction(self.fn)

    def check_arguments(self, arguments: Mapping[str, Any], limits: Limits = DEFAULT_LIMITS) -> JsonText:
        """Check the arguments of a call, and return their JSON text as it is recorded.

        Raises:
            NotJson: NaN, an infinity or a lone surrogate.
            LimitExceeded: Too large or too deep.
            InvalidArguments: They do not match the schema; it names each field.
        """
        text = to_json("arguments", arguments, maximum=limits.arguments_bytes, depth=limits.depth)
        self.bind(arguments)
        return text

    def bind(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Convert recorded arguments to keyword arguments of the function, and validate them.

        Raises:
            InvalidArguments: They do not match the schema.
        """
        if self.explicit_schema is not None:
            return self.explicit_schema.bind(self.name, arguments)
        schema = self.definition.input_schema
        unknown = set(arguments) - set(schema.get("properties", {}))
        if unknown and schema.get("additionalProperties") is False:
            raise InvalidArguments(self.name, tuple((name, "unknown argument") for name in sorted(unknown)))
        try:
            return self.metadata.validate_arguments(dict(arguments))
        except ValidationError as error:
            raise InvalidArguments(self.name, tuple(_problems(error))) from None

    def render(self, value: Any, limits: Limits = DEFAULT_LIMITS) -> Rendered:
        """Convert what the function returned to the result that is recorded.

        Text, numbers, models, dataclasses, images and MCP content blocks are supported, alone or in lists; a
        `CallToolResult` stays as it is.

        Raises:
            NotJson: It cannot be serialised, or violates the output schema.
            LimitExceeded: It is too large, or nested too deeply.
        """
        try:
            result = self.metadata.convert_result(value)
        except ValidationError as error:
            raise NotJson("result", f"it does not match the output schema: {_first_problem(error)}") from None
        except (pydantic_core.PydanticSerializationError, TypeError, ValueError) as error:
            raise NotJson("result", "it cannot be serialised") from error
        if not isinstance(result, CallToolResult):
            raise NotJson("result", "a tool asks through its context, it does not return a question")
        return rendered(result, limits)


_STRUCTURED = str(CallToolResult.model_fields["structured_content"].alias)
"""The SDK's JSON name of structured content."""


def error_result(message: str) -> Rendered:
    """The result of a tool that failed, with one sentence for the caller."""
    result = CallToolResult(content=[TextContent(type="text", text=message)], is_error=True)
    return rendered(result)


def rendered(result: CallToolResult, limits: Limits = DEFAULT_LIMITS) -> Rendered:
    """Write a result as it is recorded.

    Raises:
        NotJson: It cannot be serialised.
        LimitExceeded: It is too large, or nested too deeply.
    """
    omitted = {"result_type"} if result.is_error else {"result_type", "is_error"}
    try:
        value = result.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=omitted)
    except (pydantic_core.PydanticSerializationError, UnicodeError, ValueError) as error:
        raise NotJson("result", "it cannot be serialised") from error
    if result.structured_content is not None:
        value[_STRUCTURED] = result.structured_content  # pydantic would turn NaN into null
    text = to_json("result", value, maximum=limits.result_bytes, depth=limits.depth)
    return Rendered(result=text, is_error=bool(result.is_error))


def _problems(error: ValidationError) -> Iterable[tuple[str, str]]:
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        yield ".".join(str(part) for part in problem["loc"]), problem["msg"]


def _first_problem(error: ValidationError) -> str:
    path, problem = next(iter(_problems(error)))
    return f"{path}: {problem}" if path else problem


def build_tool(
    fn: Callable[..., Any],
    *,
    name: str | None = None,
    description: str | None = None,
    input_schema: Mapping[str, Any] | None = None,
    annotations: ToolAnnotations | None = None,
    retry: RetryPolicy | None = None,
    ask: Mapping[str, Question] | None = None,
    **options: Any,
) -> Tool:
    """Make a tool of a function.

    Args:
        fn: A sync or async function with type hints. A parameter annotated `TaskContext` (sync) or
            `AsyncTaskContext` (async) receives the context and is not part of the schema.
        name: Defaults to the function's name.
        description: Defaults to the docstring.
        input_schema: JSON Schema 2020-12 of the arguments; by default it is read from the signature.
        annotations: Hints for clients.
        retry: Which of its exceptions are retried.
        ask: Questions that are asked before the task exists, by name.
        options: Any other field of `ToolDefinition`.

    Raises:
        ConfigurationError: The function or an option cannot work; the message says why.
    """
    tool_name = name or fn.__name__
    if not _NAME.fullmatch(tool_name):
        raise ConfigurationError(
            f"Tool name {tool_name!r}: use 1 to 128 of the characters A-Z a-z 0-9 _ . and -"
        )
    context_parameter = _context_parameter(fn)
    what, explicit = f"Tool {tool_name!r}", None
    skipped: Iterable[str] = (context_parameter,) if context_parameter else ()
    if input_schema is not None:
        explicit = explicit_schema(what, input_schema, fn, context_parameter)
        skipped = inspect.signature(fn).parameters
    try:
        metadata = func_metadata(fn, skip_names=tuple(skipped))
        schema = metadata.arg_model.model_json_schema(by_alias=True) if explicit is None else explicit.schema
    except Exception as error:
        raise ConfigurationError(f"{what}: its signature has no JSON schema: {error}") from error
    definition = ToolDefinition(
        name=tool_name,
        description=description or inspect.getdoc(fn) or "",
        input_schema=schema,
        output_schema=metadata.output_schema,
        wraps_output=metadata.wrap_output,
        annotations=None if annotations is None else annotations.recorded(),
        ask={key: question.recorded() for key, question in (ask or {}).items()},
        has_headers=has_headers(what, schema),
        **options,
    )
    return Tool(
        definition=definition,
        fn=fn,
        metadata=metadata,
        retry=retry,
        context_parameter=context_parameter,
        ask=dict(ask or {}),
        explicit_schema=explicit,
    )


def _context_parameter(fn: Callable[..., Any]) -> str | None:
    wanted = AsyncTaskContext if inspect.iscoroutinefunction(fn) else TaskContext
    try:
        parameters = inspect.signature(fn, eval_str=True).parameters
    except (NameError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{fn!r}: its annotations cannot be read: {error}") from error
    found = [
        name
        for name, parameter in parameters.items()
        if parameter.annotation in (TaskContext, AsyncTaskContext)
    ]
    if len(found) > 1:
        raise ConfigurationError(f"{fn.__name__}: one context is enough, not {', '.join(found)}")
    for name, parameter in parameters.items():
        if name in found:
            if parameter.annotation is not wanted:
                kind = "an async" if wanted is AsyncTaskContext else "a sync"
                raise ConfigurationError(
                    f"{fn.__name__}: {kind} tool takes {wanted.__name__}, "
                    f"not {parameter.annotation.__name__} (parameter {name!r})"
                )
            return name
    return None


class ToolRegistry(ToolSet[Tool]):
    """The tools of a service, by name, in the order of their names."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}

    def add(self, tool: Tool) -> None:
        """Register a tool.

        Raises:
            ConfigurationError: The name is taken.
        """
        if tool.name in self._tools:
            raise ConfigurationError(f"There is a tool {tool.name!r} already; give one of them another name=")
        self._tools[tool.name] = tool
        self._tools = dict(sorted(self._tools.items()))

    def __getitem__(self, name: str) -> Tool:
        return self._tools[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)
