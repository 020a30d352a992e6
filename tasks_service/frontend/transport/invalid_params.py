"""What is wrong with the parameters of a request, as a sentence: each field, and what was expected there.

The SDK checks the shape of requests by pydantic models, and answers "Invalid request parameters", whatever is
wrong. Pydantic knows more. What it says is about Python, so it is said anew, in the words of JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ...domain.limits import truncate

MOST_FIELDS: Final = 5
"""Fields that one sentence names."""

MOST_PROBLEMS: Final = 100
"""Problems that are looked through for them; a wrong block of content has a dozen."""

FIELD_BYTES: Final = 256
"""Longest path to a field that is repeated."""

_MISSING: Final = "missing"

_EXPECTED: Final = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "an object",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "int_type": "an integer",
    "list_type": "a list",
    "model_attributes_type": "an object",
    "model_type": "an object",
    "string_sub_type": "text",
    "string_type": "text",
}


def describe_problems(error: ValidationError, params: Mapping[str, Any] | None) -> str:
    """Name each field that does not fit, and what was expected there.

    Args:
        error: Of a model of a message, or of its parameters.
        params: The parameters.
    """
    problems: dict[str, list[str]] = {}
    for details in error.errors(include_url=False, include_input=False)[:MOST_PROBLEMS]:
        expected = problems.setdefault(_field(details, params or {}), [])
        if (name := _expectation(details)) not in expected:
            expected.append(name)
    named = [_sentence(field, expected) for field, expected in problems.items()]
    more = len(named) - MOST_FIELDS
    told = "; ".join(named[:MOST_FIELDS])
    if error.error_count() > MOST_PROBLEMS:
        return f"{told}; and more"
    return f"{told}; and {more} more" if more > 0 else told


def _sentence(field: str, expected: Sequence[str]) -> str:
    if expected == [_MISSING]:
        return f"{field}: missing"
    return f"{field}: expected {' or '.join(name for name in expected if name != _MISSING)}"


def _expectation(details: ErrorDetails) -> str:
    kind = details["type"]
    if kind == _MISSING:
        return _MISSING
    if kind == "literal_error":
        return str(details["ctx"]["expected"])
    return _EXPECTED.get(kind) or details["msg"].removeprefix("Input should be ")


def _field(details: ErrorDetails, params: Mapping[str, Any]) -> str:
    """The path to a field, without the names that pydantic adds to say which of several models it tried."""
    location = details["loc"][1:] if details["loc"][:1] == ("params",) else details["loc"]
    value: Any = params
    kept: list[str] = []
    for part in location:
        with suppress(LookupError, TypeError):
            value = value[part]
            kept.append(str(part))
    if details["type"] == _MISSING:
        kept.append(str(location[-1]) if location else "params")
    return truncate(".".join(kept), FIELD_BYTES) or "params"
