"""JSON schemas of what pydantic accepts and of what it writes, and the questions that are asked of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, JsonSchemaWarningKind

from ..domain.limits import DEFAULT_LIMITS

_DEFINITIONS: Final = "#/$defs/"

_DECIMAL: Final = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)$"
_INTEGER: Final = r"^-?[0-9]+$"

_EXACT: Final = frozenset(
    {
        "any", "none", "bool", "int", "float", "str", "list", "tuple", "dict", "nullable", "union",
        "tagged-union", "default", "model", "model-fields", "model-field", "typed-dict", "typed-dict-field",
        "dataclass", "dataclass-args", "dataclass-field", "definitions", "definition-ref", "literal", "enum",
        "function-after",
    }
)  # fmt: skip
"""The core schemas which accept in strict mode, of JSON, nothing that their JSON schema does not."""

_VALUES: Final = frozenset(
    {
        "cls", "config", "default", "default_factory", "expected", "function", "members", "metadata", "ref",
        "schema_ref", "serialization",
    }
)  # fmt: skip
"""The keys of core schemas under which there are no schemas that are validated with."""

_TEXT_KEYS: Final = frozenset(
    {
        "str", "any", "int", "float", "bool", "date", "datetime", "time", "timedelta", "uuid", "decimal",
        "url", "bytes", "complex",
    }
)  # fmt: skip


class ArgumentSchema(GenerateJsonSchema):
    """Describes what is accepted."""

    def set_schema(self, schema: Any) -> JsonSchemaValue:
        """Describe a set; what is sent twice is accepted, and is in it once."""
        return without(super().set_schema(schema), "uniqueItems")

    def frozenset_schema(self, schema: Any) -> JsonSchemaValue:
        """Describe a frozen set; see `set_schema`."""
        return without(super().frozenset_schema(schema), "uniqueItems")

    def decimal_schema(self, schema: Any) -> JsonSchemaValue:
        """Describe a decimal number: not every text is one."""
        described = super().decimal_schema(schema)
        for arm in described.get("anyOf", ()):
            if arm.get("type") == "string":
                arm.setdefault("pattern", _DECIMAL)
        return described

    def dict_schema(self, schema: Any) -> JsonSchemaValue:
        """Describe a mapping: not every text is a number, where keys are."""
        described = super().dict_schema(schema)
        if schema.get("keys_schema", {}).get("type") == "int":
            described.setdefault("propertyNames", {"pattern": _INTEGER})
        return described

    def tagged_union_schema(self, schema: Any) -> JsonSchemaValue:
        """Describe a union with a discriminator: it must be there, even where the model has a default."""
        described = super().tagged_union_schema(schema)
        if (tag := described.get("discriminator")) is not None:
            described["required"] = [tag["propertyName"]]
        return described

    def emit_warning(self, kind: JsonSchemaWarningKind, detail: str) -> None:
        """Say nothing of a default that is no JSON: it is left out of the schema of a model."""


class ResultSchema(GenerateJsonSchema):
    """Describes what is written."""

    def ser_schema(self, schema: Any) -> JsonSchemaValue | None:
        """Describe what a serializer writes: anything, where its own return hint does not say."""
        if schema["type"] in ("function-plain", "function-wrap") and schema.get("return_schema") is None:
            return {}
        return super().ser_schema(schema)

    def emit_warning(self, kind: JsonSchemaWarningKind, detail: str) -> None:
        """Say nothing of a default that is no JSON: it is left out of the schema of a model."""


def result_schema(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    """The JSON schema of what an adapter writes; its root is no reference."""
    schema = adapter.json_schema(mode="serialization", schema_generator=ResultSchema)
    reference = schema.get("$ref")
    if not isinstance(reference, str):
        return schema
    # Older revisions want an object at the root, where pydantic puts a model that contains itself.
    definition = schema["$defs"][reference.removeprefix(_DEFINITIONS)]
    return {**definition, **without(schema, "$ref")}


def takes_text(schema: Any, definitions: Mapping[str, Any], seen: Collection[str] = ()) -> bool:
    """Whether a JSON schema may accept a text."""
    if not isinstance(schema, Mapping):
        return bool(schema)
    if (reference := schema.get("$ref")) is not None:
        name = str(reference).removeprefix(_DEFINITIONS)
        return name not in seen and takes_text(definitions.get(name, {}), definitions, (*seen, name))
    if "const" in schema or "enum" in schema:
        return any(isinstance(value, str) for value in [*schema.get("enum", ()), schema.get("const")])
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            return any(takes_text(arm, definitions, seen) for arm in schema[keyword])
    if "allOf" in schema:
        return all(takes_text(arm, definitions, seen) for arm in schema["allOf"])
    kind = schema.get("type", "string")
    return kind == "string" or (isinstance(kind, list) and "string" in kind)


def without_texts(schema: Mapping[str, Any]) -> frozenset[str]:
    """The arguments of a schema that cannot be texts."""
    definitions = schema.get("$defs", {})
    properties: Mapping[str, Any] = schema.get("properties", {})
    return frozenset(name for name, each in properties.items() if not takes_text(each, definitions))


def read_texts(arguments: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The arguments, with those that cannot be texts, and were sent as texts of their JSON, read.

    Some hosts send objects and numbers as texts.

    Args:
        arguments: As they came.
        names: Those that cannot be texts; see `without_texts`.
    """
    return {
        name: _read(value) if isinstance(value, str) and name in names else value
        for name, value in arguments.items()
    }


def _read(text: str) -> Any:
    # Arguments were counted when they were text; what comes of one text must not be more than all of them.
    if text.count(",") + text.count("[") + text.count("{") > DEFAULT_LIMITS.argument_values:
        return text
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, str) else value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def is_exact(core_schema: Any) -> bool:
    """Whether pydantic, in strict mode, accepts no JSON that the JSON schema of the same hint refuses.

    Where it does (dates as texts of numbers, named tuples as objects, whatever a validator of the author's
    makes of a value), the JSON schema is asked too.
    """
    return all(_exact(each) for each in _schemas(core_schema))


def unreadable(core_schema: Any) -> str | None:
    """The type of the first part of a core schema for which no JSON is ever right; None if there is none."""
    for each in _schemas(core_schema):
        if each["type"] in ("is-subclass", "callable"):
            return str(each["type"])
        if each["type"] == "generator":
            return "generator"
        if each["type"] == "dict" and not _text_becomes(each.get("keys_schema"), core_schema):
            return "keys"
    return None


def _exact(schema: Mapping[str, Any]) -> bool:
    kind = schema["type"]
    if kind == "literal":
        return all(isinstance(value, str) for value in schema["expected"])
    if kind == "enum":
        return all(isinstance(member.value, str) for member in schema["members"])
    if kind == "dict":
        return schema.get("keys_schema", {}).get("type", "str") in ("str", "any")
    if kind == "str":
        return not any(schema.get(key) for key in ("strip_whitespace", "to_lower", "to_upper"))
    if kind in ("model-field", "dataclass-field", "typed-dict-field"):
        return schema.get("validation_alias") is None
    return kind in _EXACT


def _text_becomes(schema: Any, root: Any) -> bool:
    """Whether some text becomes a value of a schema, as keys must."""
    if not isinstance(schema, Mapping):
        return True
    kind = schema.get("type")
    if kind == "definition-ref":
        found = next((each for each in _schemas(root) if each.get("ref") == schema["schema_ref"]), None)
        return found is None or _text_becomes(found, root)
    if kind in ("literal", "enum"):
        values = schema["expected"] if kind == "literal" else [member.value for member in schema["members"]]
        return any(isinstance(value, str) for value in values)
    inner = [
        each
        for key in ("schema", "json_schema", "lax_schema", "choices", "steps")
        for each in _listed(schema.get(key))
    ]
    return any(_text_becomes(each, root) for each in inner) if inner else kind in _TEXT_KEYS


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [value]
    return [each[0] if isinstance(each, tuple) else each for each in value] if isinstance(value, list) else []


def _schemas(node: Any) -> Iterator[Mapping[str, Any]]:
    """All schemas that are parts of a core schema, itself included."""
    waiting, seen = [node], set()
    while waiting:
        found = waiting.pop()
        if isinstance(found, Mapping):
            if id(found) in seen:
                continue
            seen.add(id(found))
            is_schema = isinstance(found.get("type"), str)
            if is_schema:
                yield found
            waiting += [value for key, value in found.items() if not (is_schema and key in _VALUES)]
        elif isinstance(found, list | tuple):
            waiting += found


def without(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A schema without one of its keywords."""
    return {key: value for key, value in schema.items() if key != name}
