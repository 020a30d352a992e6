"""Objects of the official MCP SDK that authors return, pass or raise, recognised without importing it.

A worker does without the SDK. Where it is installed, an author may go on using its content types and errors,
of release 1 or 2: whoever has made such an object has imported the SDK, so that the names of its classes are
enough to know it by.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from pydantic import BaseModel

SDKObject: TypeAlias = BaseModel
"""What a type checker sees of an object of the SDK, where ours or the SDK's may be passed."""

_PACKAGES: Final = frozenset({"mcp", "mcp_types"})

CONTENT: Final = ("TextContent", "ImageContent", "AudioContent", "ResourceLink", "EmbeddedResource")
"""The SDK's classes of content blocks."""

RESULT: Final = "CallToolResult"
"""The SDK's class of a whole result."""

_HELPERS: Final = ("to_image_content", "to_audio_content")
"""The methods by which the SDK's `Image` and `Audio` become blocks."""


SDK_TOOL_ERROR: Final = "ToolError"
"""The SDK's class of errors for the caller, which its releases have in different places."""

SDK_PROTOCOL_ERRORS: Final = ("MCPError", "McpError")
"""The SDK's classes of errors with a code, in release 2 and in release 1."""


def is_sdk_class(kind: Any, *names: str) -> bool:
    """Whether something is a class of the SDK with one of these names, or derives from one."""
    return isinstance(kind, type) and any(
        base.__name__ in names and str(base.__module__).partition(".")[0] in _PACKAGES
        for base in kind.__mro__
    )


def is_sdk_object(value: Any, *names: str) -> bool:
    """Whether a value is an instance of one of these classes of the SDK."""
    return is_sdk_class(type(value), *names)


def is_sdk_content_class(kind: Any) -> bool:
    """Whether something is a class of the SDK whose instances are content blocks, or become one."""
    return is_sdk_class(kind, *CONTENT) or (
        isinstance(kind, type) and any(callable(getattr(kind, helper, None)) for helper in _HELPERS)
    )


def sdk_block(value: Any) -> dict[str, Any] | None:
    """A content block of the SDK as it is recorded; None if the value is none."""
    if is_sdk_object(value, *CONTENT):
        return sdk_json(value)
    for helper in _HELPERS:
        if callable(convert := getattr(type(value), helper, None)):
            return sdk_json(convert(value))
    return None


def sdk_json(value: Any) -> dict[str, Any]:
    """An object of the SDK as MCP has it, without what is not given."""
    plain: dict[str, Any] = value.model_dump(mode="json", by_alias=True, exclude_none=True)
    return plain


def sdk_attribute(value: Any, name: str, name_in_release_1: str) -> Any:
    """An attribute of an object of the SDK, which release 1 spells as MCP does."""
    return getattr(value, name) if hasattr(value, name) else getattr(value, name_in_release_1, None)
