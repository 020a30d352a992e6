"""Content that tools and prompts return: text, images, audio, resources, and whole results made of them.

These types need no MCP SDK. Each knows how it is recorded: as MCP has it, in every revision. Where the SDK is
installed its own types may be used in their place (see `sdk_objects`), also mixed with these.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, get_args

from .annotations import Annotations, Role, given
from .sdk_objects import (
    RESULT,
    SDKObject,
    is_sdk_class,
    is_sdk_content_class,
    is_sdk_object,
    sdk_attribute,
    sdk_block,
    sdk_json,
)


@dataclass(frozen=True, slots=True)
class Text:
    """A block of text; a plain `str` does where nothing else is said of it.

    Attributes:
        text: The text.
        annotations: Hints for clients.
        meta: The block's `_meta`.
    """

    text: str
    annotations: Annotations | None = field(default=None, kw_only=True)
    meta: Mapping[str, Any] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise TypeError(f"Text: expected a str, not {type(self.text).__name__}")

    def recorded(self) -> dict[str, Any]:
        """The block as it is recorded."""
        return {"type": "text", "text": self.text, **_hints(self)}


@dataclass(frozen=True, slots=True, init=False)
class _Media:
    """What images and audio share: bytes of a media type."""

    _TYPE: ClassVar[str]
    _DEFAULT: ClassVar[str]
    _FORMATS: ClassVar[Mapping[str, str]]
    """The media types of suffixes and formats that are not called after them."""

    data: bytes = field(repr=False)
    mime_type: str
    annotations: Annotations | None
    meta: Mapping[str, Any] | None

    def __init__(
        self,
        path: str | Path | None = None,
        data: bytes | None = None,
        format: str | None = None,  # noqa: A002 - as the SDK calls it
        *,
        mime_type: str | None = None,
        annotations: Annotations | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        name = type(self).__name__
        if (path is None) is (data is None):
            raise ValueError(f"{name}: expected either path= or data=")
        if path is not None:
            if mime_type is None and format is None:
                format = self._format_of(Path(path))  # noqa: A001
            data = Path(path).read_bytes()
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"{name}: data: expected bytes (not base64), not {type(data).__name__}")
        kind = (format or self._DEFAULT).lower()
        set_ = object.__setattr__
        set_(self, "data", bytes(data))
        set_(self, "mime_type", mime_type or self._FORMATS.get(kind, f"{self._TYPE}/{kind}"))
        set_(self, "annotations", annotations)
        set_(self, "meta", meta)

    def recorded(self) -> dict[str, Any]:
        """The block as it is recorded, its bytes in base64."""
        data = b64encode(self.data).decode()
        return {"type": self._TYPE, "data": data, "mimeType": self.mime_type, **_hints(self)}

    @classmethod
    def _format_of(cls, path: Path) -> str:
        suffix = path.suffix.removeprefix(".").lower()
        if suffix not in cls._FORMATS:
            raise ValueError(
                f"{cls.__name__}: {path.name!r}: its suffix does not say what it is; give format="
            )
        return suffix


class Image(_Media):
    """An image, as `Image(data=png)`, `Image(data=jpeg, format="jpeg")` or `Image("chart.png")`.

    Args:
        path: A file, which is read at once; its suffix says what it is.
        data: The bytes.
        format: `png`, `jpeg`, `gif`, `webp` and the like; by default the path's suffix, or `png`.
        mime_type: The media type, where no format says it.
        annotations: Hints for clients.
        meta: The block's `_meta`.

    Raises:
        ValueError: Not one of path and data is given, or the path's suffix is unknown.
        TypeError: The data are no bytes.
        OSError: The file cannot be read.
    """

    __slots__ = ()
    _TYPE = "image"
    _DEFAULT = "png"
    _FORMATS: ClassVar = {
        **{name: f"image/{name}" for name in ("png", "jpeg", "gif", "webp", "avif", "bmp", "tiff")},
        "jpg": "image/jpeg",
        "svg": "image/svg+xml",
        "tif": "image/tiff",
    }


class Audio(_Media):
    """A piece of audio, as `Audio(data=wav)`, `Audio(data=mp3, format="mp3")` or `Audio("reading.ogg")`.

    Args:
        path: A file, which is read at once; its suffix says what it is.
        data: The bytes.
        format: `wav`, `mp3`, `ogg`, `flac` and the like; by default the path's suffix, or `wav`.
        mime_type: The media type, where no format says it.
        annotations: Hints for clients.
        meta: The block's `_meta`.

    Raises:
        ValueError, TypeError, OSError: See `Image`.
    """

    __slots__ = ()
    _TYPE = "audio"
    _DEFAULT = "wav"
    _FORMATS: ClassVar = {
        **{name: f"audio/{name}" for name in ("wav", "ogg", "flac", "aac", "opus", "webm")},
        "mp3": "audio/mpeg",
        "mpeg": "audio/mpeg",
        "m4a": "audio/mp4",
        "mp4": "audio/mp4",
    }


@dataclass(frozen=True, slots=True)
class ResourceLink:
    """A link to a resource that the client may read; it need not be listed.

    Attributes:
        uri: Its URI.
        name: A name for programs.
        title: A name for people.
        description: What is in it.
        mime_type: The media type of its contents.
        size: Bytes of its contents.
        annotations: Hints for clients.
        meta: The block's `_meta`.
    """

    uri: str
    name: str
    title: str | None = field(default=None, kw_only=True)
    description: str | None = field(default=None, kw_only=True)
    mime_type: str | None = field(default=None, kw_only=True)
    size: int | None = field(default=None, kw_only=True)
    annotations: Annotations | None = field(default=None, kw_only=True)
    meta: Mapping[str, Any] | None = field(default=None, kw_only=True)

    def recorded(self) -> dict[str, Any]:
        """The block as it is recorded."""
        more = given(title=self.title, description=self.description, mimeType=self.mime_type, size=self.size)
        return {"type": "resource_link", "uri": str(self.uri), "name": self.name, **more, **_hints(self)}


@dataclass(frozen=True, slots=True)
class EmbeddedResource:
    """The contents of a resource.

    Attributes:
        uri: Its URI.
        contents: A text, or bytes.
        mime_type: The media type of the contents.
        annotations: Hints for clients.
        meta: The block's `_meta`.
    """

    uri: str
    contents: str | bytes = field(repr=False)
    mime_type: str | None = field(default=None, kw_only=True)
    annotations: Annotations | None = field(default=None, kw_only=True)
    meta: Mapping[str, Any] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.contents, str | bytes):
            raise TypeError(
                f"EmbeddedResource: contents: expected str or bytes, not {type(self.contents).__name__}"
            )

    def recorded(self) -> dict[str, Any]:
        """The block as it is recorded, bytes in base64."""
        text = self.contents if isinstance(self.contents, str) else None
        blob = b64encode(self.contents).decode() if isinstance(self.contents, bytes) else None
        resource = {"uri": str(self.uri), **given(mimeType=self.mime_type, text=text, blob=blob)}
        return {"type": "resource", "resource": resource, **_hints(self)}


Block = Text | Image | Audio | ResourceLink | EmbeddedResource
"""A block of content."""

_BLOCKS = (Text, Image, Audio, ResourceLink, EmbeddedResource)


@dataclass(frozen=True, slots=True)
class ToolResult:
    """A whole result, where a tool says more than a returned value can.

    Attributes:
        content: What the model reads: blocks or texts, alone or in a sequence.
        structured_content: The same for programs, any JSON value; None: there is none.
        is_error: Whether it says that the call failed.
        meta: The result's `_meta`.

    Raises:
        TypeError: The content is neither text nor a block.
    """

    content: str | Block | SDKObject | Sequence[str | Block | SDKObject] = ()
    structured_content: Any = field(default=None, kw_only=True)
    is_error: bool = field(default=False, kw_only=True)
    meta: Mapping[str, Any] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for block in self.blocks:
            if not isinstance(block, str) and not is_content(block):
                raise TypeError(f"ToolResult: content: expected text or a block, not {type(block).__name__}")

    @property
    def blocks(self) -> Sequence[str | Block | SDKObject]:
        """The content, always as a sequence."""
        return self.content if isinstance(self.content, list | tuple) else (self.content,)

    def recorded(self) -> dict[str, Any]:
        """The result as it is recorded; what is structured is left as it is."""
        plain: dict[str, Any] = {"content": [recorded_block(block) for block in self.blocks]}
        if self.structured_content is not None:
            plain["structuredContent"] = self.structured_content
        if self.is_error:
            plain["isError"] = True
        return {**plain, **given(_meta=None if self.meta is None else dict(self.meta))}


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a prompt, or one that a tool sends to the client's model.

    Attributes:
        content: A text or a block.
        role: Who says it.

    Raises:
        TypeError: The content is neither text nor a block.
        ValueError: There is no such role.
    """

    content: str | Block | SDKObject
    role: Role = "user"

    def __post_init__(self) -> None:
        if not isinstance(self.content, str) and not is_content(self.content):
            raise TypeError(f"Message: content: expected text or a block, not {type(self.content).__name__}")
        if self.role not in get_args(Role):
            raise ValueError(f"Message: role: expected user or assistant, not {self.role!r}")

    def recorded(self) -> dict[str, Any]:
        """The message as it is recorded."""
        return {"role": self.role, "content": recorded_block(self.content)}


def is_content(value: Any) -> bool:
    """Whether a value is a block, of ours or of the SDK."""
    return is_content_type(type(value))


def is_content_type(kind: Any) -> bool:
    """Whether something is a class of blocks, of ours or of the SDK."""
    return (isinstance(kind, type) and issubclass(kind, _BLOCKS)) or is_sdk_content_class(kind)


def is_result_type(kind: Any) -> bool:
    """Whether something is a class of whole results, ours or the SDK's."""
    return (isinstance(kind, type) and issubclass(kind, ToolResult)) or is_sdk_class(kind, RESULT)


def recorded_block(value: Any) -> dict[str, Any]:
    """A block, of ours or of the SDK, or a text as it is recorded.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(value, str):
        return Text(value).recorded()
    if isinstance(value, _BLOCKS):
        return value.recorded()
    if (block := sdk_block(value)) is not None:
        return block
    raise TypeError(f"expected text or a content block, not {type(value).__name__}")


def as_tool_result(value: Any) -> ToolResult | None:
    """A whole result, of ours or of the SDK, as a `ToolResult`; None if the value is none."""
    if isinstance(value, ToolResult):
        return value
    if not is_sdk_object(value, RESULT):
        return None
    return ToolResult(
        tuple(value.content),
        structured_content=sdk_attribute(value, "structured_content", "structuredContent"),
        is_error=bool(sdk_attribute(value, "is_error", "isError")),
        meta=value.meta,
    )


def recorded_message(value: Any, *names: str) -> dict[str, Any]:
    """A message as it is recorded; a text or a block is one of the user.

    Args:
        value: A `Message`, a text, a block, or a message of the SDK.
        names: The SDK's classes of messages that do here.

    Raises:
        TypeError: It is none of these.
    """
    if isinstance(value, Message):
        return value.recorded()
    if is_sdk_object(value, *names):
        return sdk_json(value)
    return {"role": "user", "content": recorded_block(value)}


def _hints(block: Block | _Media) -> dict[str, Any]:
    annotations = None if block.annotations is None else block.annotations.recorded()
    return given(annotations=annotations, _meta=None if block.meta is None else dict(block.meta))
