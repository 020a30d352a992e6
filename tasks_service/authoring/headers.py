"""Parameters of tools that clients repeat in a header, so that gateways can route without reading the body.

2026-07-28, transports, streamable HTTP, "custom headers from tool parameters". The official SDK has the rules
of what can be declared, and compares header and body.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mcp.shared.inbound import X_MCP_HEADER_KEY, find_invalid_x_mcp_header, x_mcp_header_map
from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from ..domain.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Header:
    """A marker: clients of 2026-07-28 repeat the argument in the header `Mcp-Param-<name>`.

    For text, whole numbers and booleans: `region: Annotated[str, Header("Region")]`. A call is refused if the
    header is missing or differs from the body. Never use it for secrets: headers are logged on their way.

    Attributes:
        name: The part after `Mcp-Param-`; unique within a tool, whatever the case.
    """

    name: str

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Add the header's name to the parameter's schema."""
        return {**handler(core_schema), X_MCP_HEADER_KEY: self.name}


def has_headers(what: str, schema: Mapping[str, Any]) -> bool:
    """Whether arguments of a schema are repeated in headers.

    Args:
        what: The tool, for the error.
        schema: The schema of its arguments.

    Raises:
        ConfigurationError: A declaration is invalid, for which clients would drop the whole tool.
    """
    problem = find_invalid_x_mcp_header(schema)
    if problem is not None:
        raise ConfigurationError(f"{what}: {problem}")
    return bool(x_mcp_header_map(schema))
