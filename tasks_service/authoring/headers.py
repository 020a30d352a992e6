"""Parameters of tools that clients repeat in a header, so that gateways can route by them unread.

2026-07-28, transports, streamable HTTP, "custom headers from tool parameters". The rules of what can be
declared, and the comparison of header and body, are the official SDK's.
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
    """Has clients of 2026-07-28 repeat an argument in the header `Mcp-Param-<name>` of the request.

    For text, whole numbers and booleans: `region: Annotated[str, Header("Region")]`. A call whose header is
    missing, or says something else than its body, is refused. Never for secrets: headers are logged on their
    way.

    Attributes:
        name: What follows `Mcp-Param-`; those of two parameters differ in more than upper and lower case.
    """

    name: str

    def __get_pydantic_json_schema__(
        self, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Say so in the parameter's schema."""
        return {**handler(core_schema), X_MCP_HEADER_KEY: self.name}


def has_headers(what: str, schema: Mapping[str, Any]) -> bool:
    """Whether arguments of a schema are repeated in headers.

    Args:
        what: Names the tool in the error.
        schema: Of its arguments.

    Raises:
        ConfigurationError: A declaration cannot work; clients would leave out the whole tool.
    """
    problem = find_invalid_x_mcp_header(schema)
    if problem is not None:
        raise ConfigurationError(f"{what}: {problem}")
    return bool(x_mcp_header_map(schema))
