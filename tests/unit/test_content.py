"""The types of content: how they are recorded, and that those of the SDK do in their place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mcp_types
import pytest
from mcp.server.mcpserver import Audio as SDKAudio
from mcp.server.mcpserver import Image as SDKImage
from pydantic import BaseModel, Field

from tasks_service import (
    Annotations,
    Audio,
    EmbeddedResource,
    Image,
    Message,
    ResourceLink,
    Text,
    ToolAnnotations,
    ToolResult,
)
from tasks_service.durable.annotations import as_annotations, as_tool_annotations
from tasks_service.durable.content import (
    as_tool_result,
    is_content,
    is_content_type,
    is_result_type,
    recorded_block,
    recorded_message,
)

HINTS = Annotations(audience=["user"], priority=0.5, last_modified="2026-07-28T00:00:00Z")
SDK_HINTS = mcp_types.Annotations(audience=["user"], priority=0.5, last_modified="2026-07-28T00:00:00Z")

PAIRS: list[tuple[Any, Any]] = [
    (Text("Hi"), mcp_types.TextContent(text="Hi")),
    (
        Text("Hi", annotations=HINTS, meta={"a": 1}),
        mcp_types.TextContent(text="Hi", annotations=SDK_HINTS, _meta={"a": 1}),
    ),
    (Image(data=b"\xff"), SDKImage(data=b"\xff")),
    (Image(data=b"\xff", format="JPEG"), SDKImage(data=b"\xff", format="JPEG")),
    (
        Image(data=b"\xff", annotations=HINTS),
        mcp_types.ImageContent(data="/w==", mime_type="image/png", annotations=SDK_HINTS),
    ),
    (
        Image(data=b"\xff", mime_type="image/x-icon"),
        mcp_types.ImageContent(data="/w==", mime_type="image/x-icon"),
    ),
    (Audio(data=b"\xff"), SDKAudio(data=b"\xff")),
    (
        Audio(data=b"\xff", mime_type="audio/x-mod"),
        mcp_types.AudioContent(data="/w==", mime_type="audio/x-mod"),
    ),
    (ResourceLink("a://b", "b"), mcp_types.ResourceLink(uri="a://b", name="b")),
    (
        ResourceLink(
            "a://b", "b", title="B", description="It", mime_type="text/csv", size=3, annotations=HINTS
        ),
        mcp_types.ResourceLink(
            uri="a://b",
            name="b",
            title="B",
            description="It",
            mime_type="text/csv",
            size=3,
            annotations=SDK_HINTS,
        ),
    ),
    (
        EmbeddedResource("a://b", "x,y", mime_type="text/csv", meta={"a": 1}),
        mcp_types.EmbeddedResource(
            resource=mcp_types.TextResourceContents(uri="a://b", text="x,y", mime_type="text/csv"),
            _meta={"a": 1},
        ),
    ),
    (
        EmbeddedResource("a://b", b"\xff"),
        mcp_types.EmbeddedResource(resource=mcp_types.BlobResourceContents(uri="a://b", blob="/w==")),
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda value: type(value).__name__)
def test_each_block_is_recorded_as_the_sdks_is(ours: Any, theirs: Any) -> None:
    assert recorded_block(ours) == recorded_block(theirs)
    for block in (ours, theirs):
        assert is_content(block)
        assert is_content_type(type(block))
        assert not is_result_type(type(block))


@pytest.mark.parametrize("ours", [ours for ours, _ in PAIRS], ids=lambda value: type(value).__name__)
def test_each_block_is_what_the_specification_wants(ours: Any) -> None:
    sent = mcp_types.CallToolResult.model_validate({"content": [ours.recorded()]})
    (block,) = sent.content
    assert block.model_dump(mode="json", by_alias=True, exclude_none=True) == ours.recorded()


def test_blocks_are_values() -> None:
    assert Image(data=b"a") == Image(data=bytearray(b"a"))  # type: ignore[arg-type]
    assert Image(data=b"a") != Image(data=b"b")
    assert Image(data=b"a" * 1000) != Audio(data=b"a" * 1000)
    assert len(repr(Image(data=b"a" * 1000))) < 100, "a picture in a log is of no use"


@pytest.mark.parametrize(
    ("name", "mime_type"),
    [("a.png", "image/png"), ("a.JPG", "image/jpeg"), ("b.svg", "image/svg+xml"), ("c.webp", "image/webp")],
)
def test_the_suffix_of_a_file_says_what_image_it_is(tmp_path: Path, name: str, mime_type: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"img")
    image = Image(path)
    path.unlink()
    assert (image.mime_type, image.data) == (mime_type, b"img")


def test_a_file_whose_suffix_says_nothing_needs_a_format(tmp_path: Path) -> None:
    path = tmp_path / "chart"
    path.write_bytes(b"img")
    with pytest.raises(ValueError, match=re.escape("Image: 'chart': its suffix does not say what it is")):
        Image(path)
    assert Image(path, format="jpg").mime_type == "image/jpeg"
    assert Audio(path, mime_type="audio/basic").mime_type == "audio/basic"


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Image(), "Image: expected either path= or data="),
        (lambda: Audio("a.wav", b""), "Audio: expected either path= or data="),
        (lambda: Image(data="aW1n"), "Image: data: expected bytes (not base64), not str"),
        (lambda: Text(3), "Text: expected a str, not int"),
        (lambda: EmbeddedResource("a://b", 3), "EmbeddedResource: contents: expected str or bytes, not int"),
        (lambda: ToolResult([3]), "ToolResult: content: expected text or a block, not int"),
        (lambda: ToolResult({"a": 1}), "ToolResult: content: expected text or a block, not dict"),
        (lambda: Message(3), "Message: content: expected text or a block, not int"),
        (lambda: Message("Hi", "system"), "Message: role: expected user or assistant, not 'system'"),
        (lambda: Annotations(audience="user"), "audience: expected user, assistant or both"),
        (lambda: Annotations(audience=["me"]), "audience: expected user, assistant or both, not 'me'"),
        (lambda: Annotations(priority=2), "priority: expected 0 to 1, not 2"),
    ],
)
def test_content_that_cannot_be_is_refused_where_it_is_made(make: Any, problem: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(problem)):
        make()


def test_a_result_may_say_more_than_a_value() -> None:
    result = ToolResult(
        ["Two rows", Image(data=b"img")], structured_content={"rows": 2}, is_error=True, meta={"a.b/c": 1}
    )
    sent = mcp_types.CallToolResult.model_validate(result.recorded())
    assert [block.type for block in sent.content] == ["text", "image"]
    assert (sent.structured_content, sent.is_error, sent.meta) == ({"rows": 2}, True, {"a.b/c": 1})
    assert ToolResult("Done").recorded() == {"content": [{"type": "text", "text": "Done"}]}
    assert ToolResult().recorded() == {"content": []}


def test_a_result_of_the_sdk_says_the_same() -> None:
    theirs = mcp_types.CallToolResult(
        content=[mcp_types.TextContent(text="Hi")], structured_content={"a": 1}, is_error=True, _meta={"b": 2}
    )
    ours = ToolResult("Hi", structured_content={"a": 1}, is_error=True, meta={"b": 2})
    converted = as_tool_result(theirs)
    assert converted is not None
    assert converted.recorded() == ours.recorded()
    assert as_tool_result(ours) is ours
    assert is_result_type(mcp_types.CallToolResult)
    assert is_result_type(ToolResult)


def test_blocks_of_the_sdk_may_stand_in_results_and_messages_of_ours() -> None:
    theirs = mcp_types.TextContent(text="Hi")
    assert ToolResult([theirs, "Hi"]).recorded()["content"] == 2 * [Text("Hi").recorded()]
    assert Message(theirs).recorded() == Message("Hi").recorded()


@pytest.mark.parametrize("value", [None, 3, {"type": "text"}, ["Hi"], b"Hi", object()])
def test_other_values_are_no_content(value: Any) -> None:
    assert not is_content(value)
    assert as_tool_result(value) is None
    with pytest.raises(TypeError, match="expected text or a content block"):
        recorded_block(value)


@pytest.mark.parametrize("hint", [str, list[Text], Text | Image, Any, None, "Text"])
def test_other_hints_are_no_content(hint: Any) -> None:
    assert not is_content_type(hint)
    assert not is_result_type(hint)


@pytest.mark.parametrize(
    "message",
    [
        "Hi",
        Text("Hi"),
        Message("Hi"),
        mcp_types.PromptMessage(role="user", content=mcp_types.TextContent(text="Hi")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_message_is_a_text_a_block_or_a_message(message: Any) -> None:
    assert recorded_message(message, "PromptMessage") == {
        "role": "user",
        "content": {"type": "text", "text": "Hi"},
    }


def test_annotations_of_the_sdk_become_ours() -> None:
    assert as_annotations(SDK_HINTS) == HINTS
    assert as_annotations(HINTS) is HINTS
    assert as_annotations(None) is None
    theirs = mcp_types.ToolAnnotations(title="T", read_only_hint=True, idempotent_hint=False)
    ours = as_tool_annotations(theirs)
    assert ours == ToolAnnotations(title="T", read_only_hint=True, idempotent_hint=False)
    assert ours is not None
    assert ours.recorded() == theirs.model_dump(by_alias=True, exclude_none=True)
    assert as_tool_annotations(None) is None
    for convert in (as_annotations, as_tool_annotations):
        with pytest.raises(TypeError, match="not dict"):
            convert({"audience": ["user"]})


def release_1() -> SimpleNamespace:
    """Classes as release 1 of the SDK has them: in `mcp.types`, attributes spelled as in MCP."""

    class Annotated(BaseModel):
        audience: list[str] | None = None
        priority: float | None = None

    class TextContent(BaseModel):
        type: str = "text"
        text: str
        annotations: Annotated | None = None
        meta: dict[str, Any] | None = Field(alias="_meta", default=None)

    class CallToolResult(BaseModel):
        meta: dict[str, Any] | None = Field(alias="_meta", default=None)
        content: list[TextContent]
        structuredContent: dict[str, Any] | None = None  # noqa: N815
        isError: bool = False  # noqa: N815

    class ToolAnnotations(BaseModel):
        title: str | None = None
        readOnlyHint: bool | None = None  # noqa: N815
        destructiveHint: bool | None = None  # noqa: N815
        idempotentHint: bool | None = None  # noqa: N815
        openWorldHint: bool | None = None  # noqa: N815

    Annotated.__name__ = "Annotations"
    for kind in (Annotated, TextContent, CallToolResult, ToolAnnotations):
        kind.__module__ = "mcp.types"
    return SimpleNamespace(
        Annotations=Annotated, TextContent=TextContent, CallToolResult=CallToolResult, Hints=ToolAnnotations
    )


def test_objects_of_the_sdks_release_1_do_as_well() -> None:
    sdk = release_1()
    hi = sdk.TextContent(text="Hi", annotations=sdk.Annotations(audience=["user"]))
    result = sdk.CallToolResult(content=[hi], structuredContent={"a": 1}, isError=True)
    converted = as_tool_result(result)
    assert converted is not None
    assert converted.recorded() == {
        "content": [{"type": "text", "text": "Hi", "annotations": {"audience": ["user"]}}],
        "structuredContent": {"a": 1},
        "isError": True,
    }
    assert as_tool_annotations(sdk.Hints(readOnlyHint=True)) == ToolAnnotations(read_only_hint=True)
    assert as_annotations(sdk.Annotations(priority=1)) == Annotations(priority=1)


def test_a_class_of_an_author_that_is_only_called_like_one_of_the_sdk_is_none() -> None:
    class TextContent:
        text = "Hi"

    assert not is_content(TextContent())


def test_what_is_derived_from_a_class_is_taken_as_that_class() -> None:
    class Loud(mcp_types.TextContent):
        pass

    class Quiet(Text):
        pass

    assert recorded_block(Loud(text="Hi")) == recorded_block(Quiet("Hi"))


def test_structured_content_is_recorded_as_it_is() -> None:
    nan = mcp_types.CallToolResult(content=[], structured_content={"x": float("nan")})
    converted = as_tool_result(nan)
    assert converted is not None
    assert "NaN" in json.dumps(converted.recorded()), "to be refused, not to become null"
