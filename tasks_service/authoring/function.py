"""Functions of authors that the front end runs: for resources, prompts and completions.

The official SDK's `func_metadata` reads their signatures, as it does those of tools. Arguments arrive as
texts, because arguments of prompts and variables of URIs are texts.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, func_metadata
from pydantic import ValidationError

from ..domain.errors import ConfigurationError, InvalidArguments
from ..durable.context import AsyncTaskContext, TaskContext

NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
"""The allowed names of prompts and resources, the same as for tools."""

DEFAULT_TIMEOUT = timedelta(seconds=30)
"""How long a function of a resource or prompt may take by default."""

LONGEST_TIMEOUT = timedelta(minutes=10)
"""The longest timeout of a function; what takes longer should be a tool."""


class RequestContext:
    """The request that a function of a resource, a prompt or a completion answers.

    The function receives it in a parameter of any name that is annotated `RequestContext`.

    Args:
        owner: See the attribute.
        answers: See the attribute.
        arguments: See the attribute.

    Attributes:
        owner: The caller: an opaque, stable hash, the same as `TaskContext.owner` in a tool.
        answers: In a prompt: the answers to the questions that it declared with `ask=`, by their names.
        arguments: In a completion: the other arguments that the client has filled in already, by their names.
    """

    __slots__ = ("answers", "arguments", "owner")

    def __init__(
        self,
        *,
        owner: str,
        answers: Mapping[str, Any] | None = None,
        arguments: Mapping[str, str] | None = None,
    ) -> None:
        self.owner = owner
        self.answers: Mapping[str, Any] = answers or {}
        self.arguments: Mapping[str, str] = arguments or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function, and what a front end must know to run it.

    Attributes:
        fn: The function, sync or async.
        model: The pydantic model of its arguments.
        schema: JSON schema of its arguments, an object.
        context_parameter: Name of the parameter that receives the `RequestContext`, if there is one.
        timeout: Seconds that it may take.
    """

    fn: Callable[..., Any]
    model: type[ArgModelBase]
    schema: Mapping[str, Any]
    context_parameter: str | None
    timeout: float

    @property
    def is_async(self) -> bool:
        """Whether it is a coroutine function."""
        return inspect.iscoroutinefunction(self.fn)

    def bind(self, name: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        """Convert a request's texts to keyword arguments of the function, and validate them.

        Args:
            name: The name of the resource or prompt, for the error.
            arguments: The texts as they came.

        Raises:
            InvalidArguments: Some do not fit; it names each.
        """
        if unknown := sorted(set(arguments) - set(self.schema.get("properties", {}))):
            raise InvalidArguments(name, tuple((argument, "unknown argument") for argument in unknown))
        try:
            return self.model.model_validate_strings(dict(arguments)).model_dump_one_level()
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            listed = tuple((".".join(map(str, problem["loc"])), problem["msg"]) for problem in problems)
            raise InvalidArguments(name, listed) from None


def build_function(what: str, fn: Callable[..., Any], timeout: timedelta) -> Function:
    """Read the signature of an author's function.

    Args:
        what: Its name in errors, such as "Prompt 'summary'".
        fn: A sync or async function with type hints.
        timeout: How long it may take; more than 0, at most 10 minutes.

    Raises:
        ConfigurationError: It cannot work; the message says why.
    """
    if not isinstance(timeout, timedelta) or not timedelta(0) < timeout <= LONGEST_TIMEOUT:
        raise ConfigurationError(
            f"{what}: timeout={timeout!r}: expected a datetime.timedelta of more than 0 and at most "
            f"{LONGEST_TIMEOUT}; what takes longer should be a tool"
        )
    context_parameter = _context_parameter(what, fn)
    try:
        metadata = func_metadata(
            fn, skip_names=(context_parameter,) if context_parameter else (), structured_output=False
        )
        schema = metadata.arg_model.model_json_schema(by_alias=True)
    except Exception as error:
        raise ConfigurationError(f"{what}: its signature has no JSON schema: {error}") from error
    _check_texts(what, schema)
    return Function(
        fn=fn,
        model=metadata.arg_model,
        schema=schema,
        context_parameter=context_parameter,
        timeout=timeout.total_seconds(),
    )


def check_options(what: str, options: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse unknown options.

    Raises:
        ConfigurationError: There are some; the message names them.
    """
    if unknown := sorted(set(options) - set(known)):
        raise ConfigurationError(f"{what}: there is no option {', '.join(unknown)}")


def _check_texts(what: str, schema: Mapping[str, Any]) -> None:
    definitions = schema.get("$defs", {})
    for name, parameter in schema.get("properties", {}).items():
        resolved = definitions.get(str(parameter.get("$ref")).rpartition("/")[2], parameter)
        if resolved.get("type") in ("array", "object"):
            raise ConfigurationError(
                f"{what}: {name}: what clients send is one text, which cannot become this type; take a str, "
                "a number, a bool, an enum or a date"
            )


def _context_parameter(what: str, fn: Callable[..., Any]) -> str | None:
    try:
        parameters = inspect.signature(fn, eval_str=True).parameters
    except (NameError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{what}: its annotations cannot be read: {error}") from error
    if any(parameter.annotation in (TaskContext, AsyncTaskContext) for parameter in parameters.values()):
        raise ConfigurationError(
            f"{what}: only a tool has a task, and so a TaskContext; take a RequestContext, or make it a tool"
        )
    found = [name for name, parameter in parameters.items() if parameter.annotation is RequestContext]
    if len(found) > 1:
        raise ConfigurationError(f"{what}: one RequestContext is enough, not {', '.join(found)}")
    return found[0] if found else None
