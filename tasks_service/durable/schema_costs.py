"""What of a JSON schema makes a check long, whatever its values are: found when it is declared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from .json_schema import is_linear

_SCHEMA: Final = frozenset(
    {
        "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not", "propertyNames",
        "then", "unevaluatedItems", "unevaluatedProperties",
    }
)  # fmt: skip
_SCHEMAS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SCHEMAS_BY_NAME: Final = frozenset(
    {"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"}
)
"""The keywords under which there are schemas: one, a list of them, or some by name (2020-12)."""

_OBJECTS: Final = frozenset({"properties", "required", "additionalProperties", "patternProperties"})
_ARRAYS: Final = frozenset({"items", "prefixItems", "contains"})

Path = tuple[str, ...]


def schemas_in(schema: Any, path: Path = ()) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """A schema and all within it, each with its path; what references lead to is not followed."""
    if not isinstance(schema, Mapping):
        return
    yield path, schema
    for keyword, value in schema.items():
        if keyword in _SCHEMA:
            yield from schemas_in(value, (*path, keyword))
        elif keyword in _SCHEMAS and isinstance(value, Sequence):
            for index, each in enumerate(value):
                yield from schemas_in(each, (*path, keyword, str(index)))
        elif keyword in _SCHEMAS_BY_NAME and isinstance(value, Mapping):
            for name, each in value.items():
                yield from schemas_in(each, (*path, keyword, name))


class Pattern(NamedTuple):
    """A regular expression, and where it is."""

    path: str
    pattern: str


def unlinear_patterns(schema: Mapping[str, Any]) -> tuple[Pattern, ...]:
    """The regular expressions of a schema that cannot be tried in linear time."""
    found = []
    for path, each in schemas_in(schema):
        patterns = [*each.get("patternProperties", ())]
        if isinstance(each.get("pattern"), str):
            patterns.append(each["pattern"])
        found += [Pattern(".".join(path), pattern) for pattern in patterns if not is_linear(pattern)]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Alternatives:
    """How many arms of one union a value may have to be tried with that contain such values themselves.

    Attributes:
        objects: For each object.
        arrays: For each array.
        path: Where the union is that has the most.
    """

    objects: int = 1
    arrays: int = 1
    path: str = ""

    @property
    def multiply(self) -> bool:
        """Whether the tries multiply with each level of a value."""
        return self.objects > 1 or self.arrays > 1


def alternatives_of(schema: Mapping[str, Any]) -> Alternatives:
    """The largest union in a loop of references; one with a discriminator, which says which arm, is none."""
    most = Alternatives()
    reached = _Reached(schema)
    for path, each in schemas_in(schema):
        if "discriminator" in each:
            continue
        inside = path[1] if path[:1] == ("$defs",) else ""
        for keyword in ("anyOf", "oneOf"):
            looping = [arm for arm in each.get(keyword, ()) if inside in reached.of(arm)]
            objects = sum(_takes(schema, arm, "object", _OBJECTS) for arm in looping)
            arrays = sum(_takes(schema, arm, "array", _ARRAYS) for arm in looping)
            if objects > most.objects or arrays > most.arrays:
                where = ".".join((*path, keyword))
                most = Alternatives(max(objects, most.objects), max(arrays, most.arrays), where)
    return most


class _Reached:
    """Which definitions of a schema are reached from where; the schema itself is the one without a name."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._direct: dict[str, frozenset[str]] = {}

    def of(self, schema: Any) -> frozenset[str]:
        found: set[str] = set()
        waiting = [*_referred(schema)]
        while waiting:
            if (name := waiting.pop()) not in found:
                found.add(name)
                waiting += self._by(name)
        return frozenset(found)

    def _by(self, name: str) -> frozenset[str]:
        if name not in self._direct:
            self._direct[name] = frozenset(_referred(_definition(self._root, name)))
        return self._direct[name]


_DEFINITIONS: Final = "#/$defs/"


def _referred(schema: Any) -> Iterator[str]:
    for _, each in schemas_in(schema):
        reference = each.get("$ref")
        if isinstance(reference, str):
            yield reference.removeprefix(_DEFINITIONS) if reference.startswith(_DEFINITIONS) else ""


def _definition(root: Mapping[str, Any], name: str) -> Any:
    return root if name == "" else root.get("$defs", {}).get(name)


def _takes(root: Mapping[str, Any], arm: Any, kind: str, keywords: frozenset[str]) -> bool:
    """Whether a schema may fit a value of a kind, as far as its type says; references are followed once."""
    if isinstance(arm, Mapping) and isinstance(reference := arm.get("$ref"), str):
        arm = _definition(root, reference.removeprefix(_DEFINITIONS))
    if not isinstance(arm, Mapping):
        return True
    given = arm.get("type")
    if given is None:
        return bool(keywords & arm.keys()) or not (_OBJECTS | _ARRAYS) & arm.keys()
    return given == kind or (isinstance(given, list) and kind in given)
