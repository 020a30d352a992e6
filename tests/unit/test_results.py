"""A tool's result as `tasks-service call` prints it."""

from __future__ import annotations

from typing import Any

import pytest
from mcp_types import CallToolResult, TextContent

from tasks_service.cli.results import readable_text


@pytest.mark.parametrize(
    ("structured", "printed"),
    [("cat.png", "cat.png"), (3, "3"), ({"a": ["é"]}, '{\n  "a": [\n    "é"\n  ]\n}'), (None, "as text")],
)
def test_a_text_is_printed_as_it_is_and_anything_else_as_json(structured: Any, printed: str) -> None:
    content = [TextContent(type="text", text="as text")]
    assert readable_text(CallToolResult(content=content, structured_content=structured)) == printed


def test_an_error_is_printed_as_its_sentence() -> None:
    error = CallToolResult(
        content=[TextContent(type="text", text="No.")], structured_content={"a": 1}, is_error=True
    )
    assert readable_text(error) == "No."
