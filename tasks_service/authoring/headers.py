"""Parameters of tools that clients repeat in a header, so that gateways can route without reading the body.

2026-07-28, transports, streamable HTTP, "custom headers from tool parameters". Declarations are checked here,
at registration, which needs no SDK; front ends let the SDK compare header and body.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from ..domain.errors import ConfigurationError

KEYWORD: Final = "x-mcp-header"
"""The keyword that says so in a parameter's schema."""

_TYPES: Final = ("string", "integer", "boolean")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""What a part of a header's name may consist of (RFC 9110, 5.6.2)."""

_SCHEMA: Final = frozenset(
    {
        "items", "contains", "unevaluatedItems", "additionalProperties", "propertyNames", "not", "if", "then",
        "else", "unevaluatedProperties", "contentSchema",
    }
)  # fmt: skip
_SCHEMAS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED_SCHEMAS: Final = frozenset({"patternProperties", "dependentSchemas", "$defs", "definitions"})
"""The keywords of JSON Schema 2020-12 with schemas in them, by how they hold them, but for `properties`."""


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
        return {**handler(core_schema), KEYWORD: self.name}


def has_headers(what: str, schema: Mapping[str, Any]) -> bool:
    """Whether arguments of a schema are repeated in headers.

    Args:
        what: The tool, for the error.
        schema: The schema of its arguments.

    Raises:
        ConfigurationError: A declaration is invalid, for which clients would drop the whole tool.
    """
    used: dict[str, str] = {}
    for path, found in _schemas(schema):
        if KEYWORD not in found:
            continue
        where, name = ".".join(path), found[KEYWORD]
        if problem := _problem(path, name, found.get("type"), used):
            raise ConfigurationError(f"{what}: {where or 'its schema'}: {KEYWORD}: {problem}")
        used[name.lower()] = where
    return bool(used)


def _problem(path: tuple[str, ...], name: Any, kind: Any, used: Mapping[str, str]) -> str | None:
    if not path:
        return "only parameters and their properties can have one, not what is in lists or choices"
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        return f"expected letters, digits and -, not {reprlib.repr(name)}"
    if kind not in _TYPES:
        return f"it is for texts, whole numbers and booleans, not for {kind or 'several types'}"
    if name.lower() in used:
        return f"the header {name!r} is that of {used[name.lower()]} already"
    return None


def _schemas(root: Any) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """Each schema in a schema, with the names of the properties that lead to it; none if others do."""
    waiting: list[tuple[tuple[str, ...] | None, Any]] = [((), root)]
    while waiting:
        path, schema = waiting.pop()
        if not isinstance(schema, Mapping):
            continue
        yield path or (), schema
        for keyword, value in schema.items():
            if keyword == "properties" and isinstance(value, Mapping):
                waiting += [(None if path is None else (*path, name), found) for name, found in value.items()]
            elif keyword in _SCHEMA:
                waiting.append((None, value))
            elif keyword in _SCHEMAS and isinstance(value, list):
                waiting += [(None, found) for found in value]
            elif keyword in _NAMED_SCHEMAS and isinstance(value, Mapping):
                waiting += [(None, found) for found in value.values()]
