"""Hints that authors give clients about blocks, resources and tools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from .sdk_objects import is_sdk_object, sdk_attribute

Role = Literal["user", "assistant"]
"""Who says something, or whom it is for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """Hints for clients about a block or a resource.

    Attributes:
        audience: Whom it is for: `user`, `assistant` or both.
        priority: From 0, may be left out, to 1, is needed.
        last_modified: When it was last changed, in ISO 8601.

    Raises:
        ValueError: An audience or a priority is none of these.
    """

    audience: Sequence[Role] | None = None
    priority: float | None = None
    last_modified: str | None = None

    def __post_init__(self) -> None:
        if unknown := set(self.audience or ()) - set(get_args(Role)):
            raise ValueError(f"audience: expected user, assistant or both, not {unknown.pop()!r}")
        if self.priority is not None and not 0 <= self.priority <= 1:
            raise ValueError(f"priority: expected 0 to 1, not {self.priority!r}")

    def recorded(self) -> dict[str, Any]:
        """The hints as they are recorded, without those that are not given."""
        audience = None if self.audience is None else list(self.audience)
        return given(audience=audience, priority=self.priority, lastModified=self.last_modified)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolAnnotations:
    """Hints for clients about a tool; None leaves a hint out.

    Attributes:
        title: A name for people; the tool's own title goes before it.
        read_only_hint: Whether it changes nothing. Left out, it counts as False.
        destructive_hint: Whether it may change or delete what exists. Left out, it counts as True.
        idempotent_hint: Whether a second call with the same arguments changes nothing more. Left out, it
            counts as False.
        open_world_hint: Whether it deals with things outside the service, as a search of the web does. Left
            out, it counts as True.
    """

    title: str | None = None
    read_only_hint: bool | None = None
    destructive_hint: bool | None = None
    idempotent_hint: bool | None = None
    open_world_hint: bool | None = None

    def recorded(self) -> dict[str, Any]:
        """The hints as MCP has them, without those that are not given."""
        return given(
            title=self.title,
            readOnlyHint=self.read_only_hint,
            destructiveHint=self.destructive_hint,
            idempotentHint=self.idempotent_hint,
            openWorldHint=self.open_world_hint,
        )


def as_annotations(value: Any) -> Annotations | None:
    """Hints about a resource, of ours or of the SDK, as ours.

    Raises:
        TypeError: It is neither.
    """
    if value is None or isinstance(value, Annotations):
        return value
    if not is_sdk_object(value, "Annotations"):
        raise TypeError(f"expected Annotations, not {type(value).__name__}")
    modified = getattr(value, "last_modified", None)
    return Annotations(audience=value.audience, priority=value.priority, last_modified=modified)


def as_tool_annotations(value: Any) -> ToolAnnotations | None:
    """Hints about a tool, of ours or of the SDK, as ours.

    Raises:
        TypeError: It is neither.
    """
    if value is None or isinstance(value, ToolAnnotations):
        return value
    if not is_sdk_object(value, "ToolAnnotations"):
        raise TypeError(f"expected ToolAnnotations, not {type(value).__name__}")
    return ToolAnnotations(
        title=value.title,
        read_only_hint=sdk_attribute(value, "read_only_hint", "readOnlyHint"),
        destructive_hint=sdk_attribute(value, "destructive_hint", "destructiveHint"),
        idempotent_hint=sdk_attribute(value, "idempotent_hint", "idempotentHint"),
        open_world_hint=sdk_attribute(value, "open_world_hint", "openWorldHint"),
    )


def given(**values: Any) -> dict[str, Any]:
    """The values that are given: not None."""
    return {name: value for name, value in values.items() if value is not None}
