"""Tools: functions with their schemas and options, the binding of arguments and the rendering of results.

Schemas come from the signature and the type hints (`signature`, `arguments`, `results`). Arguments are
checked where they arrive; the worker binds them again from the record. Results become the JSON text of a
`CallToolResult`, which the wire modules translate for each revision of the protocol.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..domain.errors import ConfigurationError
from ..domain.limits import DEFAULT_LIMITS, Limits, to_json
from ..domain.task import JsonText
from ..domain.tools import ToolDefinition, ToolSet
from ..durable.annotations import ToolAnnotations
from ..durable.context import AsyncTaskContext, TaskContext
from ..durable.questions import Question
from ..durable.retry import RetryPolicy
from ..durable.schema_costs import unlinear_patterns
from .arguments import Arguments, build_arguments
from .headers import has_headers
from .refusals import Place, Refusal
from .results import Results, build_results
from .schemas import explicit_schema
from .signature import Contexts, Signature, check_function, is_coroutine_function, name_of, read_signature

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
"""The names that the specification allows for a tool."""

_NAME_FOR_HOSTS = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""The names that all hosts accept: the rule of the models' own interfaces for functions."""

_SYNC = Contexts(TaskContext, {AsyncTaskContext: Refusal.ASYNC_CONTEXT})
_ASYNC = Contexts(AsyncTaskContext, {TaskContext: Refusal.SYNC_CONTEXT})
_EXPOSED = Contexts(
    None,
    {TaskContext: Refusal.EXPOSED_CONTEXT, AsyncTaskContext: Refusal.EXPOSED_CONTEXT},
    names_alone=True,
)


class Binder(Protocol):
    """Checks arguments, and makes of them what a function is called with."""

    @property
    def schema(self) -> Mapping[str, Any]:
        """JSON schema of the arguments."""

    @property
    def signature(self) -> Signature:
        """The function's signature."""

    @property
    def is_linear(self) -> bool:
        """Whether all patterns can be tried in linear time; if not, only workers check arguments."""

    def check_names(self, what: str, arguments: Mapping[str, Any]) -> None:
        """Refuse names that the function does not take; raises `InvalidArguments`."""

    def check(self, what: str, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments that do not fit, where they arrive; raises `InvalidArguments`.

        What cannot be checked in a time that is bounded is left to `bind`, in the worker.
        """

    def bind(self, what: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Values by parameters; raises `InvalidArguments`."""

    def passed(self, bound: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """How a call passes what `bind` returned: by position, and by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The result of a tool as it is recorded: the JSON text of a `CallToolResult`."""

    result: JsonText
    is_error: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposedTask:
    """What an exposed Celery task has set for itself, and a worker honours.

    Attributes:
        name: Its own name.
        soft_time_limit: Seconds after which Celery's `SoftTimeLimitExceeded` is raised in it, if that is
            before the tool's timeout; None: never.
        rate_limit: How often each worker may start it, as Celery writes it; None: without a limit.
        throws: Exceptions that it raises in normal operation, which are logged without a traceback.
    """

    name: str
    soft_time_limit: float | None = None
    rate_limit: str | float | None = None
    throws: tuple[type[BaseException], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that clients may call: its definition, which front ends see, and its code.

    Attributes:
        definition: What front ends and operators must know of it.
        fn: The function; None for a Celery task that was exposed, and for tools of the front end itself.
        binder: Makes what the function is called with of a call's arguments.
        results: Makes what clients get of what the function returned.
        exposed: The Celery task that was exposed; None for a function.
        retry: Which exceptions of the tool are retried; None: none.
        ask: The questions of the definition, as they read their answers.
    """

    definition: ToolDefinition
    fn: Callable[..., Any] | None
    binder: Binder
    results: Results
    retry: RetryPolicy | None = None
    exposed: ExposedTask | None = None
    ask: Mapping[str, Question] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name by which clients call it."""
        return self.definition.name

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return self.binder.signature.is_async

    @property
    def context_parameter(self) -> str | None:
        """The name of the parameter that receives the context, if there is one."""
        return self.binder.signature.context

    def check_arguments(self, arguments: Mapping[str, Any], limits: Limits = DEFAULT_LIMITS) -> JsonText:
        """Check the arguments of a call, and return their JSON text as it is recorded.

        Raises:
            NotJson: NaN, an infinity or a lone surrogate.
            LimitExceeded: Too large or too deep.
            InvalidArguments: They do not match the schema; it names each field.
        """
        text = to_json("arguments", arguments, maximum=limits.arguments_bytes, depth=limits.depth)
        self.binder.check_names(self.name, arguments)
        self.binder.check(self.name, arguments)
        return text

    def bind(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Convert recorded arguments to values of the function's parameters, and validate them.

        What the function does not take is passed over: the task may have been recorded under an older
        signature.

        Raises:
            InvalidArguments: They do not match the schema.
        """
        return self.binder.bind(self.name, arguments)

    def passed(self, bound: Mapping[str, Any], context: Any = None) -> tuple[list[Any], dict[str, Any]]:
        """How the function is called with what `bind` returned: by position, and by name.

        Args:
            bound: What `bind` returned.
            context: For the parameter that takes the context, if there is one.
        """
        parameter = self.context_parameter
        return self.binder.passed(bound if parameter is None else {**bound, parameter: context})

    def render(self, value: Any, limits: Limits = DEFAULT_LIMITS) -> Rendered:
        """Convert what the function returned to the result that is recorded.

        Text, numbers, models, dataclasses, images and MCP content blocks are supported, alone or in lists; a
        `ToolResult` stays as it is.

        Raises:
            NotJson: It cannot be serialised, or violates the output schema.
            LimitExceeded: It is too large, or nested too deeply.
        """
        return rendered(self.results.record(value), limits)


def error_result(message: str) -> Rendered:
    """The result of a tool that failed, with one sentence for the caller."""
    return rendered({"content": [{"type": "text", "text": message}], "isError": True})


def rendered(result: Mapping[str, Any], limits: Limits = DEFAULT_LIMITS) -> Rendered:
    """Write a result as it is recorded.

    Args:
        result: A `CallToolResult` as JSON.
        limits: What is allowed.

    Raises:
        NotJson: It cannot be serialised.
        LimitExceeded: It is too large, or nested too deeply.
    """
    # What is structured and what is text count both, because both are stored and sent.
    both = "result, as text and as structured content together" if "structuredContent" in result else "result"
    text = to_json(both, result, maximum=limits.result_bytes, depth=limits.depth)
    return Rendered(result=text, is_error=bool(result.get("isError")))


def build_tool(
    fn: Callable[..., Any],
    *,
    name: str | None = None,
    description: str | None = None,
    input_schema: Mapping[str, Any] | None = None,
    annotations: ToolAnnotations | None = None,
    retry: RetryPolicy | None = None,
    ask: Mapping[str, Question] | None = None,
    exposed: ExposedTask | None = None,
    namespace: Mapping[str, Any] | None = None,
    **options: Any,
) -> Tool:
    """Make a tool of a function.

    Args:
        fn: A sync or async function. A parameter annotated `TaskContext` (sync) or `AsyncTaskContext` (async)
            receives the context and is not part of the schema.
        name: Defaults to the function's name.
        description: Defaults to the docstring.
        input_schema: JSON Schema 2020-12 of the arguments; by default it is read from the signature.
        annotations: Hints for clients.
        retry: Which of its exceptions are retried.
        ask: Questions that are asked before the task exists, by name.
        exposed: The Celery task whose `run` the function is, if it is one that is exposed.
        namespace: Names around the decorator, for hints that are texts.
        options: Any other field of `ToolDefinition`.

    Raises:
        ConfigurationError: The function or an option cannot work; the message says why.
    """
    place = Place(f"Tool {name or name_of(fn) or '?'!r}", fn)
    check_function(place)
    tool_name = _checked_name(place, name)
    signature = _signature(place, exposed=exposed is not None, namespace=namespace)
    binder: Binder = (
        build_arguments(signature) if input_schema is None else explicit_schema(input_schema, signature)
    )
    _warn_of_costs(place, binder)
    results = build_results(place, signature.returns)
    definition = ToolDefinition(
        name=tool_name,
        description=description or inspect.getdoc(fn) or "",
        input_schema=binder.schema,
        reads_texts=input_schema is None,
        output_schema=results.schema,
        wraps_output=results.wraps,
        annotations=None if annotations is None else annotations.recorded(),
        ask={key: question.recorded() for key, question in (ask or {}).items()},
        has_headers=has_headers(place.what, binder.schema),
        **options,
    )
    return Tool(
        definition=definition,
        fn=fn if exposed is None else None,
        binder=binder,
        results=results,
        retry=retry,
        exposed=exposed,
        ask=dict(ask or {}),
    )


def _warn_of_costs(place: Place, binder: Binder) -> None:
    """Warn of what makes arguments costly to check, with a way to write it that does not."""
    if not binder.is_linear:
        named = "".join(f" {path}: {pattern!r};" for path, pattern in unlinear_patterns(binder.schema))
        named = named or " regex_engine='python-re';"
        warnings.warn(
            f"{place}: patterns that could take for ever:{named} so only workers check the arguments, after "
            "the call was accepted. Write patterns without look-around and back-references, such as several "
            "under allOf, and leave the regex_engine as it is.",
            stacklevel=3,
        )
    if isinstance(binder, Arguments) and (alternatives := binder.alternatives).multiply:
        warnings.warn(
            f"{place}: {alternatives.path}: arms of this union contain values of the union themselves, and "
            "nothing says which arm a value is of, so that deep values are refused. Give the models a field "
            "kind: Literal['...'], and write Annotated[A | B, Field(discriminator='kind')].",
            stacklevel=3,
        )


def _signature(place: Place, *, exposed: bool, namespace: Mapping[str, Any] | None) -> Signature:
    is_async = is_coroutine_function(place.fn)
    contexts = _EXPOSED if exposed else _ASYNC if is_async else _SYNC
    signature = read_signature(place, contexts, namespace, is_async=is_async)
    if exposed:
        refuse_positional(signature)
    return signature


def refuse_positional(signature: Signature) -> None:
    """Refuse what cannot be passed by name.

    Raises:
        ConfigurationError: A parameter is positional-only, or `*args`.
    """
    for parameter in signature.parameters:
        if parameter.kind in ("positional", "rest"):
            raise signature.place.refuse(Refusal.POSITIONAL, parameter.name)


def _checked_name(place: Place, name: str | None) -> str:
    found = name or name_of(place.fn)
    if found is None:
        raise place.refuse(Refusal.NAMELESS)
    if not _NAME.fullmatch(found):
        raise ConfigurationError(
            f"{place}: Tool name {found!r}: use 1 to 128 of the characters A-Z a-z 0-9 _ . and -"
        )
    if not _NAME_FOR_HOSTS.fullmatch(found):
        warnings.warn(
            f"{place}: some hosts refuse the name {found!r}: their models take 1 to 64 of the characters A-Z "
            "a-z 0-9 _ and -, no dots. Give name=.",
            stacklevel=2,
        )
    return found


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
