"""Schemas of forms: lowering them to what clients can render, and checking answers against them.

MCP clients render a flat object of strings, numbers, booleans and choices (2026-07-28 and 2025-11-25,
elicitation, "requested schema"). Richer schemas are lowered to that. A schema that cannot be lowered is
refused when the question is made, not when a person has answered it.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import jsonschema
from jsonschema.exceptions import SchemaError, best_match

from ..domain.errors import ConfigurationError
from .json_schema import TOO_COSTLY, problems_of, told, validator_of
from .schema_costs import unlinear_patterns

_ANNOTATIONS = frozenset({"title", "description", "default"})
_KEYWORDS: Mapping[str, frozenset[str]] = {
    "string": frozenset({"minLength", "maxLength", "format", "enum", "enumNames", "oneOf"}),
    "number": frozenset({"minimum", "maximum"}),
    "integer": frozenset({"minimum", "maximum"}),
    "boolean": frozenset(),
    "array": frozenset({"items", "minItems", "maxItems"}),
}
"""The keywords that clients understand, by the type of the property."""

_FORMATS = frozenset({"email", "uri", "date", "date-time"})
_CHOICES = {"string": ("enum", "oneOf"), "array": ("enum", "anyOf")}
"""The keywords that list choices: for one text, and for the items of a list of texts."""

_WORDING = frozenset({"title", "description", "examples", "default", "deprecated", "enumNames"})

_ASKABLE = (
    "clients can ask for text, numbers, yes or no, one of several texts (an enum or Literal of strings), and "
    "several of several texts"
)


def lower(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce a schema to what MCP clients can render.

    References are resolved, `X | None` becomes an optional `X`, and keywords that clients do not understand
    are left out.

    Raises:
        ConfigurationError: It is no JSON schema of an object, or a property cannot be asked: it is not a
            string, number, boolean or choice of texts, or it is a secret; the message names it.
    """
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        where = ".".join(map(str, error.absolute_path)) or "the schema"
        raise ConfigurationError(f"A question's schema is no JSON schema: {where}: {error.message}") from None
    for where, pattern in unlinear_patterns(schema):
        raise ConfigurationError(
            f"A question's schema: {where}: the pattern {pattern!r} has a look-around or a back-reference, "
            "which could take for ever. Write it without, or several of them under allOf"
        )
    definitions = schema.get("$defs", {})
    root = _resolved("the schema itself", schema, definitions)
    if root.get("type", "object") != "object":
        raise ConfigurationError("A question's schema must be an object with properties")
    properties = {
        name: _property(name, prop, definitions) for name, prop in root.get("properties", {}).items()
    }
    if missing := [name for name in root.get("required", ()) if name not in properties]:
        raise ConfigurationError(f"A question requires {missing[0]!r}, which is not among its properties")
    lowered: dict[str, Any] = {"type": "object", "properties": properties}
    for name in ("title", "description", "required"):
        if root.get(name):
            lowered[name] = root[name]
    return lowered


def without_wording(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without titles, descriptions and other texts that do not affect whether an answer fits."""
    return {
        key: {name: _unworded(prop) for name, prop in value.items()}
        if key in ("properties", "$defs")
        else _unworded(value)
        for key, value in schema.items()
        if key not in _WORDING
    }


def problem_of(schema: Mapping[str, Any], content: Mapping[str, Any]) -> tuple[str, str] | None:
    """The most relevant problem of a form's values.

    Returns:
        The path of the value and a sentence; None if the values fit the schema.
    """
    problems = problems_of(validator_of(schema), dict(content))
    if not problems:
        return None
    problem = problems[-1] if problems[-1].message == TOO_COSTLY else best_match(problems)
    return ".".join(map(str, problem.absolute_path)), told(problem)


def _property(name: str, prop: Any, definitions: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(prop, Mapping):
        raise _cannot_ask(name)
    resolved = _texts(_without_null(name, _resolved(name, prop, definitions), definitions))
    if resolved.get("format") == "password" or resolved.get("writeOnly"):
        raise ConfigurationError(
            f"A question cannot ask for {name!r}: a form may not ask for secrets, because they would pass "
            "through the client. Send the person to a page of yours with elicit_url"
        )
    kind = resolved.get("type")
    allowed = _KEYWORDS.get(kind) if isinstance(kind, str) else None
    if allowed is None or (kind in ("number", "integer") and "enum" in resolved):
        raise _cannot_ask(name)
    if kind == "array":
        resolved["items"] = _items(name, resolved.get("items"), definitions)
    elif kind == "string" and not _are_texts(resolved, kind):
        raise _cannot_ask(name)
    if resolved.get("format") not in _FORMATS:
        resolved.pop("format", None)
    if resolved.get("default") is None:
        resolved.pop("default", None)
    return {key: value for key, value in resolved.items() if key in allowed | _ANNOTATIONS | {"type"}}


def _resolved(name: str, prop: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    own = deepcopy(dict(prop))
    reference = own.pop("$ref", None)
    if reference is None:
        return own
    _, _, definition = reference.rpartition("#/$defs/")
    if reference != f"#/$defs/{definition}" or definition not in definitions:
        raise ConfigurationError(
            f"A question's schema: {name} refers to {reference!r}, which it does not have"
        )
    return {**deepcopy(definitions[definition]), **own}


def _without_null(name: str, prop: dict[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    arms = prop.get("anyOf")
    if arms is None:
        return prop
    real = [arm for arm in arms if arm.get("type") != "null"]
    rest = {key: value for key, value in prop.items() if key != "anyOf"}
    return {**_resolved(name, real[0], definitions), **rest} if len(real) == 1 else prop


def _texts(prop: dict[str, Any]) -> dict[str, Any]:
    """The property with its choices as clients know them: a constant becomes an enum, null is dropped."""
    if "const" in prop and isinstance(prop["const"], str):
        prop["enum"] = [prop.pop("const")]
    if "enum" in prop and "type" not in prop:
        prop["enum"] = [choice for choice in prop["enum"] if choice is not None]
        prop["type"] = "string"
    return prop


def _items(name: str, items: Any, definitions: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(items, Mapping):
        raise _cannot_ask(name)
    resolved = _texts(_resolved(name, items, definitions))
    spellings = [spelling for spelling in _CHOICES["array"] if spelling in resolved]
    if not spellings or not _are_texts(resolved, "array"):
        raise _cannot_ask(name)
    return {key: value for key, value in resolved.items() if key in {"type", *spellings}}


def _are_texts(prop: Mapping[str, Any], kind: str) -> bool:
    plain, titled = _CHOICES[kind]
    choices = [*prop.get(plain, ()), *(_const(arm) for arm in prop.get(titled, ()))]
    return all(isinstance(choice, str) for choice in choices)


def _const(arm: Any) -> Any:
    return arm.get("const") if isinstance(arm, Mapping) else None


def _cannot_ask(name: str) -> ConfigurationError:
    return ConfigurationError(f"A question cannot ask for {name!r}: {_ASKABLE}")


def _unworded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_wording(value)
    return [_unworded(item) for item in value] if isinstance(value, list) else value
