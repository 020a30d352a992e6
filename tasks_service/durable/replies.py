"""What a tool gets that has asked the client's model, or for the client's roots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Base64Bytes, BaseModel, BeforeValidator, ConfigDict, Field

from .annotations import Role, given
from .content import Audio, Image, Text, recorded_block
from .sdk_objects import is_sdk_object, sdk_json


@dataclass(frozen=True, slots=True)
class ModelReply:
    """What the client's model has said.

    Attributes:
        content: What it said, most often one text.
        model: The model's name.
        role: Who says it.
        stop_reason: Why the model stopped: `endTurn`, `maxTokens`, ...; None if the client does not say.
    """

    content: Sequence[Text | Image | Audio]
    model: str
    role: Role = field(default="assistant", kw_only=True)
    stop_reason: str | None = field(default=None, kw_only=True)

    @property
    def text(self) -> str:
        """The texts of what it said."""
        return "".join(block.text for block in self.content if isinstance(block, Text))

    def recorded(self) -> dict[str, Any]:
        """The reply as a client would send it."""
        blocks = [recorded_block(block) for block in self.content]
        said = {"role": self.role, "content": blocks[0] if len(blocks) == 1 else blocks, "model": self.model}
        return {**said, **given(stopReason=self.stop_reason)}


@dataclass(frozen=True, slots=True)
class Root:
    """A directory or file that the client offers to work on.

    Attributes:
        uri: Its URI, `file://...`.
        name: A name for people.
    """

    uri: str
    name: str | None = None

    def recorded(self) -> dict[str, Any]:
        """The root as a client would send it."""
        return {"uri": str(self.uri), **given(name=self.name)}


class _Sent(BaseModel):
    """What a client sends; its validator is made at the first answer, since few processes ever see one."""

    model_config = ConfigDict(defer_build=True)


class _SentText(_Sent):
    type: Literal["text"]
    text: str

    def block(self) -> Text:
        return Text(self.text)


class _SentImage(_Sent):
    type: Literal["image"]
    data: Base64Bytes
    mime_type: str = Field(alias="mimeType")

    def block(self) -> Image:
        return Image(data=self.data, mime_type=self.mime_type)


class _SentAudio(_Sent):
    type: Literal["audio"]
    data: Base64Bytes
    mime_type: str = Field(alias="mimeType")

    def block(self) -> Audio:
        return Audio(data=self.data, mime_type=self.mime_type)


_SentBlock = Annotated[_SentText | _SentImage | _SentAudio, Field(discriminator="type")]


def _listed(content: Any) -> Any:
    """One block as a list of blocks; MCP allows either."""
    return content if isinstance(content, list) else [content]


class SentReply(_Sent):
    """A model's reply as a client sends it."""

    role: Role
    content: Annotated[list[_SentBlock], BeforeValidator(_listed)]
    model: str
    stop_reason: str | None = Field(default=None, alias="stopReason")

    def reply(self) -> ModelReply:
        """The reply for the tool."""
        content = tuple(block.block() for block in self.content)
        return ModelReply(content, self.model, role=self.role, stop_reason=self.stop_reason)


class _SentRoot(_Sent):
    uri: str = Field(pattern="^file://")
    name: str | None = None


class SentRoots(_Sent):
    """A client's roots as it sends them."""

    roots: list[_SentRoot]

    def read(self) -> list[Root]:
        """The roots for the tool."""
        return [Root(root.uri, root.name) for root in self.roots]


def recorded_reply(value: Any) -> dict[str, Any]:
    """A reply, ours or the SDK's `CreateMessageResult`, as a client would send it.

    Raises:
        TypeError: It is neither.
    """
    return _recorded(value, ModelReply, "CreateMessageResult")


def recorded_root(value: Any) -> dict[str, Any]:
    """A root, ours or the SDK's, as a client would send it.

    Raises:
        TypeError: It is neither.
    """
    return _recorded(value, Root, "Root")


def _recorded(value: Any, ours: type[ModelReply] | type[Root], sdk: str) -> dict[str, Any]:
    if isinstance(value, ours):
        return value.recorded()
    if not is_sdk_object(value, sdk):
        raise TypeError(f"expected a {ours.__name__}, not {type(value).__name__}")
    return sdk_json(value)
