"""Structured results as 2026-07-28 shows them; older revisions get them as they are recorded.

Results that are not objects were wrapped for older revisions. This one shows them as they are
(docs/protocol.md, "structured results"). Those that may be null stay wrapped: the SDK's serializer drops a
null `structuredContent`, and clients then miss what the output schema promised.

This module needs no MCP SDK, so that `tasks_service.testing` can show results without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pydantic_core

from ...domain.tools import ToolDefinition


def complete_result(recorded: str, *, bare: bool) -> dict[str, Any]:
    """The `CallToolResult` of a recorded result.

    Args:
        recorded: Its JSON text, as it is recorded.
        bare: Whether the tool has a `bare_schema`.
    """
    result: dict[str, Any] = pydantic_core.from_json(recorded)
    structured = result.get("structuredContent")
    if bare and isinstance(structured, dict) and "result" in structured:
        result["structuredContent"] = structured["result"]
    return {"resultType": "complete", **result}


def bare_schema(tool: ToolDefinition) -> dict[str, Any] | None:
    """The output schema without the `{"result": ...}` around it, where there is one to take off."""
    if not tool.wraps_output or tool.output_schema is None:
        return None
    schema = tool.output_schema
    bare = dict(schema["properties"]["result"])
    definitions = schema.get("$defs", {})
    if _admits_null(bare, definitions):
        return None
    return {**bare, "$defs": definitions} if definitions else bare


def _admits_null(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> bool:
    """Whether a schema may accept null; True where that is not plain to see."""
    if "$ref" in schema:
        return _admits_null(definitions.get(schema["$ref"].rpartition("/")[2], {}), definitions)
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            return any(_admits_null(choice, definitions) for choice in schema[keyword])
    kind = schema.get("type")
    return not isinstance(kind, str) or kind == "null"
