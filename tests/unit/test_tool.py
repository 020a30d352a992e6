"""Tools: from a signature to schemas, from arguments to values, from values to results."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

import pytest
from mcp.server.mcpserver.utilities.types import Image
from mcp_types import CallToolResult, ImageContent, TextContent
from pydantic import BaseModel, Field

from tasks_service import AsyncTaskContext, ConfigurationError, RetryPolicy, TaskContext
from tasks_service.authoring.tool import Tool, ToolRegistry, build_tool, error_result
from tasks_service.domain.errors import InvalidArguments, LimitExceeded, NotJson, UnknownTool
from tasks_service.domain.limits import Limits


class Size(BaseModel):
    width: int
    height: int


@dataclass
class Report:
    title: str
    pages: int


def draw(
    scene: str, size: Size, ctx: TaskContext, frames: Annotated[int, Field(ge=1, le=100)] = 24
) -> Report:
    """Draw a scene."""
    return Report(title=scene, pages=frames)


def returning(annotation: Any) -> Tool:
    def tool() -> Any:
        """Return something."""

    tool.__annotations__["return"] = annotation
    return build_tool(tool)


def recorded(tool: Tool, value: Any) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(tool.render(value).result)
    return decoded


class TestSchemas:
    def test_come_from_the_signature_without_the_context(self) -> None:
        tool = build_tool(draw)
        assert set(tool.definition.input_schema["properties"]) == {"scene", "size", "frames"}
        assert tool.definition.input_schema["required"] == ["scene", "size"]
        assert tool.context_parameter == "ctx"

    def test_know_the_result_too(self) -> None:
        schema = build_tool(draw).definition.output_schema
        assert schema is not None
        assert set(schema["properties"]) == {"title", "pages"}

    def test_name_and_description_come_from_the_function(self) -> None:
        tool = build_tool(draw)
        assert (tool.name, tool.definition.description, tool.is_async) == ("draw", "Draw a scene.", False)

    def test_an_async_function_is_known_as_one(self) -> None:
        async def fetch(url: str, ctx: AsyncTaskContext) -> str:
            return url

        tool = build_tool(fetch)
        assert tool.is_async
        assert tool.context_parameter == "ctx"

    def test_a_sync_tool_cannot_take_the_async_context(self) -> None:
        def confused(ctx: AsyncTaskContext) -> None: ...

        with pytest.raises(ConfigurationError, match="takes TaskContext"):
            build_tool(confused)

    def test_a_tool_with_two_contexts_is_refused(self) -> None:
        def doubled(ctx: TaskContext, again: TaskContext) -> None: ...

        with pytest.raises(ConfigurationError, match=r"ctx, again.*one context is enough"):
            build_tool(doubled)

    @pytest.mark.parametrize("name", ["", "with space", "ü", "x" * 129, "a/b"])
    def test_a_name_that_the_specification_forbids_is_refused(self, name: str) -> None:
        if not name:
            return
        with pytest.raises(ConfigurationError, match="Tool name"):
            build_tool(draw, name=name)


class TestArguments:
    def test_are_validated_and_converted(self) -> None:
        bound = build_tool(draw).bind({"scene": "sea", "size": {"width": 2, "height": 1}})
        assert bound == {"scene": "sea", "size": Size(width=2, height=1), "frames": 24}

    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            ({"size": {"width": 1, "height": 1}}, "scene"),
            ({"scene": "sea", "size": {"width": "wide", "height": 1}}, "size.width"),
            ({"scene": "sea", "size": {"width": 1, "height": 1}, "frames": 0}, "frames"),
        ],
    )
    def test_that_do_not_match_are_refused_by_the_fields_name(
        self, arguments: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidArguments) as refused:
            build_tool(draw).check_arguments(arguments)
        assert [path for path, _ in refused.value.problems] == [field]
        assert field in str(refused.value)

    def test_that_json_does_not_have_are_refused(self) -> None:
        def echo(value: float) -> float:
            return value

        with pytest.raises(NotJson):
            build_tool(echo).check_arguments({"value": math.nan})

    def test_over_the_limit_are_refused(self) -> None:
        def echo(value: str) -> str:
            return value

        with pytest.raises(LimitExceeded, match="arguments"):
            build_tool(echo).check_arguments({"value": "x" * 100}, Limits(arguments_bytes=50))


class TestResults:
    def test_text_is_content_and_structure(self) -> None:
        assert recorded(returning(str), "hello") == {
            "content": [{"type": "text", "text": "hello"}],
            "structuredContent": {"result": "hello"},
        }

    def test_a_dataclass_is_structured(self) -> None:
        assert recorded(build_tool(draw), Report("sea", 3))["structuredContent"] == {
            "title": "sea",
            "pages": 3,
        }

    def test_none_is_kept_in_structured_content(self) -> None:
        assert recorded(returning(int | None), None)["structuredContent"] == {"result": None}

    def test_an_image_is_image_content(self) -> None:
        content = recorded(returning(Image), Image(data=b"\x89PNG", format="png"))["content"]
        assert content == [{"type": "image", "data": "iVBORw==", "mimeType": "image/png"}]

    def test_content_blocks_and_images_mix_in_a_list(self) -> None:
        blocks = [
            TextContent(type="text", text="see"),
            ImageContent(type="image", data="AA==", mime_type="image/png"),
        ]
        kinds = [block["type"] for block in recorded(returning(list[Any]), blocks)["content"]]
        assert kinds == ["text", "image"]

    def test_a_whole_call_tool_result_passes_as_it_is(self) -> None:
        given = CallToolResult(content=[TextContent(type="text", text="no")], is_error=True)
        rendered = returning(CallToolResult).render(given)
        assert rendered.is_error
        assert json.loads(rendered.result)["isError"] is True

    @pytest.mark.parametrize("value", [[math.nan], [math.inf]])
    def test_what_json_does_not_have_is_refused(self, value: list[float]) -> None:
        with pytest.raises(NotJson):
            returning(list[float]).render(value)

    def test_what_violates_the_output_schema_is_refused_by_its_field(self) -> None:
        with pytest.raises(NotJson, match="width"):
            returning(Size).render({"width": "wide", "height": 1})

    def test_what_cannot_be_serialised_is_refused_without_saying_what_it_was(self) -> None:
        class Secret:
            def __repr__(self) -> str:
                return "s3cr3t"

        with pytest.raises(NotJson) as refused:
            returning(dict[str, Any]).render({"key": Secret()})
        assert "s3cr3t" not in str(refused.value)

    def test_over_the_limit_is_refused(self) -> None:
        with pytest.raises(LimitExceeded, match="result"):
            returning(str).render("x" * 100, Limits(result_bytes=50))

    def test_an_error_carries_one_sentence(self) -> None:
        rendered = error_result("Out of paper.")
        assert rendered.is_error
        assert json.loads(rendered.result) == {
            "content": [{"type": "text", "text": "Out of paper."}],
            "isError": True,
        }


class TestRegistry:
    def test_lists_tools_in_the_order_of_their_names(self) -> None:
        registry = ToolRegistry()
        for name in ("zebra", "ant", "mole"):
            registry.add(build_tool(draw, name=name))
        assert list(registry) == ["ant", "mole", "zebra"]

    def test_refuses_a_name_that_is_taken(self) -> None:
        registry = ToolRegistry()
        registry.add(build_tool(draw))
        with pytest.raises(ConfigurationError, match="another name="):
            registry.add(build_tool(draw))

    def test_does_not_know_what_was_not_added(self) -> None:
        with pytest.raises(UnknownTool, match="ghost"):
            ToolRegistry().find("ghost")


def test_retries_wait_longer_each_time_up_to_a_bound() -> None:
    policy = RetryPolicy(first_delay=timedelta(seconds=1), factor=3, longest_delay=timedelta(seconds=5))
    assert [policy.delay_ms(tries) for tries in (1, 2, 3, 4)] == [1_000, 3_000, 5_000, 5_000]


def test_many_tries_do_not_overflow_the_delay() -> None:
    assert RetryPolicy().delay_ms(5_000) == 300_000
