"""Functions of authors that the front end runs: for resources, prompts and completions.

Their signatures are read like those of tools. Arguments arrive as texts, because arguments of prompts and
variables of URIs are texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ..domain.errors import ConfigurationError
from ..domain.task import NOT_RECORDED, Identity
from ..durable.context import AsyncTaskContext, TaskContext
from .arguments import Arguments, build_arguments
from .refusals import Place, Refusal
from .signature import Contexts, check_function, is_coroutine_function, name_of, read_signature
from .tool_options import check_known, quoted_duration

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
        caller: See the attribute.
        answers: See the attribute.
        arguments: See the attribute.

    Attributes:
        owner: The caller: an opaque, stable hash, the same as `TaskContext.owner` in a tool.
        caller: Who calls, the same as `TaskContext.caller` in a tool.
        answers: In a prompt: the answers to the questions that it declared with `ask=`, by their names.
        arguments: In a completion: the other arguments that the client has filled in already, by their names.
    """

    __slots__ = ("answers", "arguments", "caller", "owner")

    def __init__(
        self,
        *,
        owner: str,
        caller: Identity = NOT_RECORDED,
        answers: Mapping[str, Any] | None = None,
        arguments: Mapping[str, str] | None = None,
    ) -> None:
        self.owner, self.caller = owner, caller
        self.answers: Mapping[str, Any] = answers or {}
        self.arguments: Mapping[str, str] = arguments or {}


_CONTEXTS = Contexts(
    RequestContext, {TaskContext: Refusal.TASK_CONTEXT, AsyncTaskContext: Refusal.TASK_CONTEXT}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function, and what a front end must know to run it.

    Attributes:
        fn: The function, sync or async.
        arguments: What it takes.
        timeout: Seconds that it may take.
    """

    fn: Callable[..., Any]
    arguments: Arguments
    timeout: float

    @property
    def schema(self) -> Mapping[str, Any]:
        """JSON schema of its arguments, an object."""
        return self.arguments.schema

    @property
    def context_parameter(self) -> str | None:
        """Name of the parameter that receives the `RequestContext`, if there is one."""
        return self.arguments.signature.context

    @property
    def is_async(self) -> bool:
        """Whether it is a coroutine function."""
        return self.arguments.signature.is_async

    def bind(self, name: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        """Convert a request's texts to values of the function's parameters, and validate them.

        Args:
            name: The name of the resource or prompt, for the error.
            arguments: The texts as they came.

        Raises:
            InvalidArguments: Some do not fit; it names each.
        """
        return self.arguments.bind_texts(name, arguments)

    def passed(self, bound: Mapping[str, Any], context: RequestContext) -> tuple[list[Any], dict[str, Any]]:
        """How the function is called with what `bind` returned: by position, and by name."""
        parameter = self.context_parameter
        return self.arguments.passed(bound if parameter is None else {**bound, parameter: context})


def build_function(
    what: str, fn: Callable[..., Any], timeout: timedelta, namespace: Mapping[str, Any] | None = None
) -> Function:
    """Read the signature of an author's function.

    Args:
        what: Its name in errors, such as "Prompt 'summary'".
        fn: A sync or async function.
        timeout: How long it may take; more than 0, at most 10 minutes.
        namespace: Names around the decorator, for hints that are texts.

    Raises:
        ConfigurationError: It cannot work; the message says why.
    """
    place = Place(what, fn)
    check_function(place)
    if not isinstance(timeout, timedelta) or not timedelta(0) < timeout <= LONGEST_TIMEOUT:
        raise ConfigurationError(
            f"{place}: timeout={timeout!r}: expected a datetime.timedelta of more than 0 and at most "
            f"{LONGEST_TIMEOUT}{quoted_duration(timeout)}; what takes longer should be a tool"
        )
    signature = read_signature(place, _CONTEXTS, namespace, is_async=is_coroutine_function(fn))
    for parameter in signature.parameters:
        if parameter.kind in ("rest", "extras"):
            raise place.refuse(Refusal.TOO_MANY_NAMES, parameter.name)
    arguments = build_arguments(signature)
    _check_texts(arguments)
    return Function(fn=fn, arguments=arguments, timeout=timeout.total_seconds())


def checked_name(what: str, fn: Callable[..., Any], name: str | None) -> str:
    """The name of a prompt or resource: the one that was given, or the function's own.

    Args:
        what: "Prompt" or "Resource", for the error.
        fn: The function.
        name: What was given.

    Raises:
        ConfigurationError: There is none, or it has other characters than names may have.
    """
    place = Place(f"{what} {name or name_of(fn) or '?'!r}", fn)
    found = name or name_of(fn)
    if found is None:
        raise place.refuse(Refusal.NAMELESS)
    if not isinstance(found, str) or not NAME.fullmatch(found):
        raise ConfigurationError(f"{place}: use 1 to 128 of the characters A-Z a-z 0-9 _ . and -")
    return found


def check_options(what: str, fn: Any, options: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Refuse unknown options.

    Raises:
        ConfigurationError: There are some; the message names them, and the nearest that there are.
    """
    check_known(Place(what, fn), options, known)


def _check_texts(arguments: Arguments) -> None:
    definitions = arguments.schema.get("$defs", {})
    for parameter in arguments.signature.parameters:
        schema = arguments.schema["properties"][parameter.argument]
        resolved = definitions.get(str(schema.get("$ref")).rpartition("/")[2], schema)
        if resolved.get("type") in ("array", "object"):
            raise arguments.signature.place.refuse(Refusal.NOT_TEXT, parameter.name)
