"""Prompts: named templates of messages that a person chooses and fills in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypedDict, Unpack

from ..domain.errors import ConfigurationError, UnknownPrompt
from ..durable.content import recorded_message
from ..durable.questions import Form, Link, Question, declared_questions
from .function import DEFAULT_TIMEOUT, Function, build_function, check_options, checked_name

_SDK_MESSAGES: Final = ("PromptMessage", "Message")
"""The SDK's classes of messages: of the protocol, and of its own prompts."""


class PromptOptions(TypedDict, total=False):
    """The options of a prompt.

    Attributes:
        name: The name by which clients ask for it; defaults to the function's name.
        title: For people; shown by clients in place of the name.
        description: What it is for; defaults to the docstring.
        ask: Questions that the client answers before the function runs, by name; the answers are in
            `RequestContext.answers`. Default: none.
        timeout: How long the function may take. Default 30 seconds, at most 10 minutes.
    """

    name: str | None
    title: str | None
    description: str | None
    ask: Mapping[str, Form | Link]
    timeout: timedelta


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a prompt; its value is a text.

    Attributes:
        name: The name of the function's parameter.
        description: A text for the person who fills it in.
        required: Whether it must be given.
    """

    name: str
    description: str | None
    required: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt.

    Attributes:
        name: The name by which clients ask for it.
        function: The function that returns its messages.
        arguments: Its arguments, in the order of the function's parameters.
        title: For people.
        description: What it is for.
        ask: Questions that are asked before the function runs, by name.
    """

    name: str
    function: Function
    arguments: tuple[Argument, ...]
    title: str | None
    description: str | None
    ask: Mapping[str, Question]


def build_prompt(
    fn: Callable[..., Any],
    namespace: Mapping[str, Any] | None = None,
    /,
    **options: Unpack[PromptOptions],
) -> Prompt:
    """Make a prompt of a function.

    Args:
        fn: A sync or async function; its parameters are the prompt's arguments.
        namespace: Names around the decorator, for hints that are texts.
        options: See `PromptOptions`.

    Raises:
        ConfigurationError: It cannot work; the message says why.
    """
    name = checked_name("Prompt", fn, options.get("name"))
    what = f"Prompt {name!r}"
    check_options(what, fn, options, PromptOptions.__annotations__)
    function = build_function(what, fn, options.get("timeout", DEFAULT_TIMEOUT), namespace)
    required = function.schema.get("required", ())
    return Prompt(
        name=name,
        function=function,
        arguments=tuple(
            Argument(argument, schema.get("description"), argument in required)
            for argument, schema in function.schema.get("properties", {}).items()
        ),
        title=options.get("title"),
        description=options.get("description") or inspect.getdoc(fn),
        ask=_questions(what, function, options.get("ask", {})),
    )


def _questions(what: str, function: Function, ask: Mapping[str, Form | Link]) -> dict[str, Question]:
    """The declared questions, checked; the function must be able to see their answers."""
    if ask and function.context_parameter is None:
        raise ConfigurationError(f"{what}: ask=: take a RequestContext, for the answers to be of any use")
    return declared_questions(what, ask)


def messages_of(value: Any) -> list[dict[str, Any]]:
    """Make messages, as MCP has them, of what a prompt's function returned.

    Texts and content blocks become messages of the user; messages stay as they are; a list becomes one
    message for each item. Those of the SDK do in place of ours.

    Raises:
        TypeError: It is none of these.
    """
    items = value if isinstance(value, list | tuple) else [value]
    return [_message(item) for item in items]


def _message(item: Any) -> dict[str, Any]:
    try:
        return recorded_message(item, *_SDK_MESSAGES)
    except TypeError:
        raise TypeError(
            "a prompt returns text, content blocks or messages, alone or in a list, not "
            f"{type(item).__name__}"
        ) from None


class PromptRegistry:
    """The prompts of a service, by name, in the order of their names."""

    def __init__(self) -> None:
        self._prompts: dict[str, Prompt] = {}

    def add(self, prompt: Prompt) -> None:
        """Register a prompt.

        Raises:
            ConfigurationError: The name is taken.
        """
        if prompt.name in self._prompts:
            raise ConfigurationError(
                f"There is a prompt {prompt.name!r} already; give one of them another name="
            )
        self._prompts[prompt.name] = prompt
        self._prompts = dict(sorted(self._prompts.items()))

    def find(self, name: str) -> Prompt:
        """The prompt of that name.

        Raises:
            UnknownPrompt: There is none.
        """
        try:
            return self._prompts[name]
        except KeyError:
            raise UnknownPrompt(name) from None

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self._prompts.values())

    def __len__(self) -> int:
        return len(self._prompts)
