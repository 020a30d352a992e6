"""Reading JSON with pydantic where it may be wrong in many places, or in many ways.

Pydantic looks for every problem of a value, and tries every arm of a union, also within another arm. Neither
ends early by itself, and while it runs nothing else does in the process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic_core import SchemaValidator, core_schema

from ..durable.schema_costs import Alternatives

THOROUGH_BYTES: Final = 1024
"""The largest JSON text of which every problem is looked for; of a larger one, the first in each list."""

MOST_TRIES: Final = 2_048
"""Objects and lists that may have to be tried, in all arms of unions together."""

MOST_HASHED: Final = 1_500
"""Items of a list, or members of an object, where numbers become members of sets or keys.

Python's hashes of numbers can be foreseen: to find a place for one more takes as long as there are others of
the same hash.
"""

_FORESEEN_NEVER: Final = frozenset({"str", "bool", "none", "literal", "enum"})
"""What has few values, or hashes that cannot be foreseen."""

_STOPPING: Final = frozenset(
    kind
    for kind, described in {
        "list": core_schema.ListSchema,
        "tuple": core_schema.TupleSchema,
        "set": core_schema.SetSchema,
        "frozenset": core_schema.FrozenSetSchema,
        "dict": core_schema.DictSchema,
    }.items()
    if "fail_fast" in described.__annotations__
)
"""What can stop at its first problem: nothing, in the oldest releases of pydantic, which no front end has."""

_KEPT: Final = frozenset({"cls", "config", "default", "function", "metadata", "serialization", "expected"})
"""The keys of core schemas under which there are no schemas that are validated with."""


def stopping(adapter: TypeAdapter[Any]) -> SchemaValidator:
    """The validator of an adapter, which looks in each list and mapping for one problem only."""
    return SchemaValidator(_stopping(adapter.core_schema))


def _stopping(node: Any) -> Any:
    if isinstance(node, Mapping):
        made = {key: value if key in _KEPT else _stopping(value) for key, value in node.items()}
        return {**made, "fail_fast": True} if made.get("type") in _STOPPING else made
    if isinstance(node, list):
        return [_stopping(each) for each in node]
    if type(node) is tuple:
        return tuple(_stopping(each) for each in node)
    return node


def tries_of(value: Any, alternatives: Alternatives) -> int:
    """How many objects and lists may have to be tried; those beyond `MOST_TRIES` are not all counted."""
    tries, level = 0, [value] if isinstance(value, dict | list) else []
    weights = [1] * len(level)
    while level and tries <= MOST_TRIES:
        tries += sum(weights)
        below, below_weights = [], []
        for each, weight in zip(level, weights, strict=True):
            for inner in each.values() if isinstance(each, dict) else each:
                if isinstance(inner, dict | list):
                    below.append(inner)
                    arms = alternatives.objects if isinstance(inner, dict) else alternatives.arrays
                    below_weights.append(weight * arms)
        level, weights = below, below_weights
    return tries


def has_python_patterns(node: Any) -> bool:
    """Whether a core schema has regular expressions that Python's own engine tries, in whatever time."""
    if isinstance(node, Mapping):
        configs = (node, node["config"]) if isinstance(node.get("config"), Mapping) else (node,)
        engines = [each.get("regex_engine") for each in configs]
        if "python-re" in engines or isinstance(node.get("pattern"), re.Pattern):
            return True
        return any(has_python_patterns(value) for key, value in node.items() if key not in _KEPT)
    return isinstance(node, list | tuple) and any(map(has_python_patterns, node))


def hashes_numbers(node: Any) -> bool:
    """Whether values of a core schema become members of a set or keys whose hashes can be foreseen."""
    if isinstance(node, Mapping):
        kind = node.get("type")
        if kind in ("set", "frozenset") and _foreseen(node.get("items_schema")):
            return True
        if kind == "dict" and "keys_schema" in node and _foreseen(node["keys_schema"]):
            return True
        return any(hashes_numbers(value) for key, value in node.items() if key not in _KEPT)
    return isinstance(node, list | tuple) and any(map(hashes_numbers, node))


def _foreseen(schema: Any) -> bool:
    return not isinstance(schema, Mapping) or schema.get("type") not in _FORESEEN_NEVER


def longest_in(value: Any) -> int:
    """The length of the longest list or mapping in a value."""
    longest, containers = 0, [value]
    for container in containers:
        if isinstance(container, dict | list):
            longest = max(longest, len(container))
            inside = container.values() if isinstance(container, dict) else container
            containers += [inner for inner in inside if isinstance(inner, dict | list)]
    return longest
