"""Completions: suggestions for an argument of which a person has typed the beginning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ..domain.errors import ConfigurationError, InvalidArguments, UnknownPrompt, UnknownResource
from ..durable.sdk_objects import is_sdk_object, sdk_attribute
from .function import Function, build_function
from .prompt import PromptRegistry
from .resource import ResourceRegistry

TIMEOUT = timedelta(seconds=10)
"""The longest that a completion may take; somebody is typing."""

MOST_VALUES = 100
"""The most values that the specification allows (completion, "values")."""


@dataclass(frozen=True, slots=True)
class Completion:
    """Suggestions, where there are more of them than are given.

    Attributes:
        values: The suggestions; clients get the first 100.
        total: How many there are in all, if that is known.
        has_more: Whether there are more than the values, if that is known.
    """

    values: Sequence[str]
    total: int | None = None
    has_more: bool | None = None


class Completions:
    """The functions that complete arguments of prompts and variables of templates.

    Args:
        prompts: The prompts of the service.
        resources: Its resources and templates.
    """

    def __init__(self, prompts: PromptRegistry, resources: ResourceRegistry) -> None:
        self._prompts, self._resources = prompts, resources
        self._functions: dict[tuple[str, str], Function] = {}

    def add(
        self,
        reference: str,
        argument: str,
        fn: Callable[..., Any],
        namespace: Mapping[str, Any] | None = None,
    ) -> None:
        """Register a completion.

        Args:
            reference: The name of a prompt, or a template; registered before.
            argument: One of its arguments or variables.
            fn: A function of the text that was typed and, optionally, a `RequestContext`.
            namespace: Names around the decorator, for hints that are texts.

        Raises:
            ConfigurationError: There is no such argument, it has a completion, or the function cannot work.
        """
        what = f"Completion of {argument!r} of {reference!r}"
        if (known := self._of_prompt(reference) or self._of_template(reference)) is None:
            raise ConfigurationError(f"{what}: there is no such prompt or template; register that first")
        if argument not in known:
            raise ConfigurationError(f"{what}: it has no such argument, but {', '.join(sorted(known))}")
        if (reference, argument) in self._functions:
            raise ConfigurationError(f"{what}: there is one already")
        function = build_function(what, fn, TIMEOUT, namespace)
        if len(function.schema.get("properties", {})) != 1:
            raise ConfigurationError(
                f"{what}: its function takes one argument, the text that was typed, and a RequestContext "
                "if it needs the other arguments"
            )
        self._functions[reference, argument] = function

    def of_prompt(self, name: str, argument: str) -> Function | None:
        """The function that completes an argument of a prompt; None if there is none.

        Raises:
            UnknownPrompt: There is no such prompt.
            InvalidArguments: It has no such argument.
        """
        known = {found.name for found in self._prompts.find(name).arguments}
        return self._found(name, argument, known)

    def of_template(self, uri: str, argument: str) -> Function | None:
        """The function that completes a variable of a template; None if there is none.

        Raises:
            UnknownResource: There is no such template.
            InvalidArguments: The template has no such variable.
        """
        known = self._of_template(uri)
        if known is None:
            raise UnknownResource(uri)
        return self._found(uri, argument, known)

    def _found(self, reference: str, argument: str, known: set[str]) -> Function | None:
        if argument not in known:
            raise InvalidArguments(reference, ((argument, "unknown argument"),))
        return self._functions.get((reference, argument))

    def _of_prompt(self, name: str) -> set[str] | None:
        try:
            return {argument.name for argument in self._prompts.find(name).arguments}
        except UnknownPrompt:
            return None

    def _of_template(self, uri: str) -> set[str] | None:
        template = self._resources.template(uri)
        return None if template is None else set(template.variables)

    def __len__(self) -> int:
        return len(self._functions)


def completion_of(value: Any) -> Completion:
    """Make a `Completion` of what a function returned, with at most `MOST_VALUES` values.

    Raises:
        TypeError: It is neither a sequence of texts nor a `Completion`, of ours or of the SDK.
    """
    if isinstance(value, list | tuple):
        found = Completion(value, total=len(value), has_more=len(value) > MOST_VALUES)
    elif isinstance(value, Completion) or is_sdk_object(value, "Completion"):
        found = Completion(value.values, value.total, sdk_attribute(value, "has_more", "hasMore"))
    else:
        raise TypeError(f"a completion returns a list of texts, not {type(value).__name__}")
    if not all(isinstance(text, str) for text in found.values):
        raise TypeError("a completion returns a list of texts, and one of these is none")
    sent = list(found.values[:MOST_VALUES])
    return Completion(sent, found.total, True if len(sent) < len(found.values) else found.has_more)
