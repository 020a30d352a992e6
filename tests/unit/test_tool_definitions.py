"""Tools as data: what travels between processes and releases, and how a front end checks calls with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from mcp_types import ToolAnnotations
from pydantic import BaseModel

from tasks_service import ConfigurationError, Form, Link, TaskService
from tasks_service.authoring.defined_tool import DefinedTool
from tasks_service.authoring.tool import build_tool
from tasks_service.domain.errors import InvalidArguments, LimitExceeded, NotJson
from tasks_service.domain.limits import Limits
from tasks_service.domain.tools import TaskSupport, ToolDefinition


class Size(BaseModel):
    width: int
    height: int


class Approval(BaseModel):
    approved: bool


def draw(scene: str, size: Size, frames: int = 24) -> list[int]:
    """Draw a scene."""
    return [size.width] * frames


def definition() -> ToolDefinition:
    service = TaskService("defining")
    service.tool(
        title="Draw",
        annotations=ToolAnnotations(read_only_hint=True),
        task="required",
        timeout=timedelta(minutes=2),
        queue="gpu",
        ask={"zoom": Form("Zoom?", Approval), "first": Link("Read this.", "https://terms.example")},
    )(draw)
    return service.tools["draw"].definition


def travelled(document: Mapping[str, Any]) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(json.dumps(document, sort_keys=True))
    return decoded


def test_a_definition_is_the_same_after_it_has_travelled_as_json() -> None:
    made = definition()
    arrived = ToolDefinition.from_document(travelled(made.to_document()))
    assert arrived == made
    assert list(arrived.ask) == ["zoom", "first"]
    assert arrived.digest == made.digest


def test_a_definition_of_defaults_travels_too() -> None:
    made = ToolDefinition(name="bare", input_schema={})
    assert ToolDefinition.from_document(travelled(made.to_document())) == made


def test_names_of_a_newer_release_are_ignored_and_missing_ones_get_defaults() -> None:
    document = {"name": "draw", "input_schema": {"type": "object"}, "colour": "red", "policy": {"x": 1}}
    assert ToolDefinition.from_document(document) == ToolDefinition(
        name="draw", input_schema={"type": "object"}
    )


@pytest.mark.parametrize(
    "change",
    [
        {"name": None},
        {"input_schema": None},
        {"grace_ms": "1"},
        {"grace_ms": True},
        {"support": "sometimes"},
        {"policy": {"ttl_ms": "1"}},
        {"ask": {"a": 1}},
        {"ask": [["a", {"kind": "riddle"}]]},
        {"ask": [1]},
    ],
)
def test_what_is_no_definition_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is no definition of a tool"):
        ToolDefinition.from_document({**definition().to_document(), **change})


def test_definitions_that_differ_have_other_digests() -> None:
    made = definition()
    others = [
        replace(made, description="Paint a scene."),
        replace(made, support=TaskSupport.OPTIONAL),
        replace(made, policy=replace(made.policy, max_attempts=7)),
        replace(made, ask={}),
        replace(made, output_schema=None),
    ]
    assert len({made.digest, *(other.digest for other in others)}) == 6


class TestArgumentsOfAToolKnownByItsDefinition:
    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            ({"size": {"width": 1, "height": 1}}, "scene"),
            ({"scene": "sea", "size": {"width": "wide", "height": 1}}, "size.width"),
            ({"scene": "sea", "size": {"height": 1}}, "size.width"),
            ({"scene": "sea", "size": {"width": 1, "height": 1}, "frames": None}, "frames"),
        ],
    )
    def test_are_refused_at_the_same_field_as_by_the_function(
        self, arguments: dict[str, Any], field: str
    ) -> None:
        tool = build_tool(draw)
        for offered in (tool, DefinedTool(tool.definition)):
            with pytest.raises(InvalidArguments) as refused:
                offered.check_arguments(arguments)
            assert [path for path, _ in refused.value.problems] == [field]
            assert field in str(refused.value)

    def test_are_recorded_as_they_came(self) -> None:
        text = DefinedTool(definition()).check_arguments({"scene": "sea", "size": {"width": 2, "height": 1}})
        assert json.loads(text) == {"scene": "sea", "size": {"width": 2, "height": 1}}

    def test_are_bounded_in_size_and_are_json(self) -> None:
        tool = DefinedTool(ToolDefinition(name="echo", input_schema={"type": "object"}))
        with pytest.raises(LimitExceeded):
            tool.check_arguments({"value": "x" * 100}, Limits(arguments_bytes=50))
        with pytest.raises(NotJson):
            tool.check_arguments({"value": float("nan")})


def test_an_unknown_argument_is_named_where_the_schema_forbids_others() -> None:
    schema = {"type": "object", "properties": {"a": {}}, "additionalProperties": False}
    with pytest.raises(InvalidArguments, match="b: there is no such argument"):
        DefinedTool(ToolDefinition(name="echo", input_schema=schema)).check_arguments({"a": 1, "b": 2})


def test_references_of_a_schema_are_never_fetched() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "https://schemas.example/a.json"}}}
    with pytest.raises(ConfigurationError, match="leads nowhere"):
        build_tool(draw, input_schema=schema)
