"""The check of JSON values against JSON schemas, as pydantic reads the same values.

Whatever is accepted here is read with pydantic afterwards: formats are checked by what pydantic can read, and
patterns with its engine, which takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Annotated, Any
from uuid import UUID

import jsonschema
from jsonschema.protocols import Validator
from pydantic import AnyUrl, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import SchemaError
from referencing import Registry

LONGEST_PROBLEM = 300
"""Most characters of a message about a value, which may quote it."""


def validator_of(schema: Mapping[str, Any]) -> Validator:
    """The validator of a JSON schema of 2020-12; references lead only to places within it."""
    made: Validator = _Validator(schema, registry=Registry(), format_checker=_checker)
    return made


def told(problem: jsonschema.ValidationError) -> str:
    """What is wrong, in at most `LONGEST_PROBLEM` characters."""
    message = problem.message
    return message if len(message) <= LONGEST_PROBLEM else message[: LONGEST_PROBLEM - 1] + "…"


_checker = jsonschema.FormatChecker(formats=("email", "ipv4", "ipv6"))

_SHAPES: Mapping[str, tuple[Any, re.Pattern[str]]] = {
    "date": (date, re.compile(r"\d{4}-\d\d-\d\d")),
    "date-time": (datetime, re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d.*")),
    "time": (time, re.compile(r"\d\d:\d\d.*")),
    "duration": (timedelta, re.compile(r"-?P.+")),
    "uri": (AnyUrl, re.compile(r".+")),
    "uuid": (UUID, re.compile(r".+")),
}


@lru_cache(maxsize=len(_SHAPES))
def _reader(name: str) -> TypeAdapter[Any]:
    """What reads a format; made when a value is first checked, for the sake of a process's start."""
    return TypeAdapter(_SHAPES[name][0])


def _reads(value: object, name: str) -> bool:
    if not isinstance(value, str):
        return True
    if not _SHAPES[name][1].fullmatch(value):
        return False
    try:
        _reader(name).validate_python(value)
    except ValidationError:
        return False
    return True


for _name in _SHAPES:
    _checker.checks(_name)(lambda value, name=_name: _reads(value, name))


@lru_cache(maxsize=256)
def _pattern(pattern: str) -> TypeAdapter[str] | None:
    try:
        return TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)])
    except SchemaError:  # look-around, which only Python's own engine supports
        return None


def _matches(_: Any, pattern: str, value: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    if not isinstance(value, str):
        return
    if (adapter := _pattern(pattern)) is None:
        fits = re.search(pattern, value) is not None
    else:
        fits = _accepts(adapter, value)
    if not fits:
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _accepts(adapter: TypeAdapter[str], value: str) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True


_Validator = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator, {"pattern": _matches}
)
