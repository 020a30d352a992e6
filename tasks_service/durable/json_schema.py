"""The check of JSON values against JSON schemas, as pydantic reads them, at a cost that is bounded.

Whatever is accepted here is read with pydantic afterwards: formats are checked by what pydantic can read, and
patterns with its engine, which takes linear time. Authors write the schemas and clients the values, and a
check runs on the event loop of a front end. So no keyword may take longer than in proportion to both: no
pattern is tried again and again, equal items are found by their hashes, what a reference leads to is checked
once for each value, problems are found one by one and say no more of a value than its beginning, and the
steps of a check are counted.
"""

from __future__ import annotations

import json
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from fractions import Fraction
from functools import lru_cache, wraps
from itertools import islice
from typing import Annotated, Any, Final
from uuid import UUID

import jsonschema
from jsonschema.protocols import Validator
from pydantic import AnyUrl, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import SchemaError
from referencing import Registry

LONGEST_PROBLEM: Final = 300
"""Most characters of a message about a value, which may quote it."""

MOST_PROBLEMS: Final = 20
"""Problems of a value that are looked for."""

STEPS: Final = 10_000
"""Keywords of a schema that one check may try, however small the value; a step takes about a microsecond."""

STEPS_PER_VALUE: Final = 10
"""Keywords that it may try in addition for each member of an object and each item of an array."""

MOST_STEPS: Final = 40_000
"""Keywords that it may try, however large the value."""

FRAMES_LEFT: Final = 300
"""Calls that are left of Python's stack where a check follows no further reference."""

_STEPS_OF_PROBLEM: Final = 4
"""Steps for which a problem counts that is made and thrown away."""

TOO_COSTLY: Final = "to compare it with its schema takes too many steps; send fewer values, or nest them less"

_PER_STEP: Final = 32
"""Items of a list, or members of an object, that count as one step where little is done with each."""


def validator_of(schema: Mapping[str, Any]) -> Validator:
    """The validator of a JSON schema of 2020-12; references lead only to places within it."""
    text = json.dumps(schema)
    moves = '"$id"' in text or '"$dynamicRef"' in text
    kind = _MovingValidator if moves else _Validator
    made: Validator = kind(_undeclared(schema), registry=Registry(), format_checker=_checker)
    return made


def problems_of(validator: Validator, value: Any) -> list[jsonschema.ValidationError]:
    """The first `MOST_PROBLEMS` problems of a value; none if it fits.

    If the check has taken all its steps, the last says so (`TOO_COSTLY`).

    Args:
        validator: Of the schema; see `validator_of`. Where it has patterns that are not linear, the check may
            take for ever: a worker may begin it, a front end must not.
        value: JSON.
    """
    found: list[jsonschema.ValidationError] = []
    token = _RUN.set(_Run(min(STEPS + STEPS_PER_VALUE * _values_in(value), MOST_STEPS)))
    try:
        for problem in islice(validator.iter_errors(_shown(value)), MOST_PROBLEMS):
            found.append(problem)  # noqa: PERF402 - what was found before the last step counts
    except (_TooCostly, RecursionError):
        found.append(jsonschema.ValidationError(TOO_COSTLY))
    finally:
        _RUN.reset(token)
    return found


def told(problem: jsonschema.ValidationError) -> str:
    """What is wrong, in at most `LONGEST_PROBLEM` characters."""
    return _cut(problem.message)


def is_linear(pattern: str) -> bool:
    """Whether a regular expression can be tried in linear time: without look-around and back-references."""
    return _pattern(pattern) is not None


def matches(pattern: str, text: str) -> bool:
    """Whether a pattern is found in a text."""
    if (adapter := _pattern(pattern)) is not None:
        return _accepts(adapter, text)
    return re.search(pattern, text) is not None


# --- one check ------------------------------------------------------------------------------------------


class _TooCostly(Exception):
    """The check has taken all its steps."""


@dataclass(slots=True)
class _Run:
    """One check.

    Attributes:
        steps: How many it may still take.
        referred: What has become of a value at a reference, by the reference and the value.
        validators: The validators of parts of the schema; to make one takes longer than most keywords.
        targets: Those of what references lead to.
    """

    steps: int
    referred: dict[tuple[int, int], _Problem | None] = field(default_factory=dict)
    validators: dict[int, Any] = field(default_factory=dict)
    targets: dict[int, Any] = field(default_factory=dict)

    def take(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise _TooCostly


_RUN: ContextVar[_Run | None] = ContextVar("run", default=None)

Found = Iterable[jsonschema.ValidationError]
Keyword = Callable[[Any, Any, Any, Any], Found | None]
"""Finds the problems of a value, by the validator, the keyword's own value, the value, and the schema."""


@dataclass(frozen=True, slots=True)
class _Problem:
    """A problem that is found again."""

    message: str
    path: tuple[str | int, ...]
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, error: jsonschema.ValidationError) -> _Problem:
        facts = {
            name: getattr(error, name) for name in ("validator", "validator_value", "instance", "schema")
        }
        return cls(error.message, tuple(error.relative_path), facts)

    def again(self) -> jsonschema.ValidationError:
        return jsonschema.ValidationError(self.message, path=deque(self.path), **self.facts)


# --- what is said of values -----------------------------------------------------------------------------


class _Object(dict[str, Any]):
    def __repr__(self) -> str:
        return _brief(self)


class _Array(list[Any]):
    def __repr__(self) -> str:
        return _brief(self)


class _Text(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return _cut(repr(self[:LONGEST_PROBLEM]))


_CONTAINERS: Final = (dict, list)


def _values_in(value: Any) -> int:
    values, containers = 0, [value]
    for container in containers:
        if isinstance(container, _CONTAINERS):
            values += len(container)
            inside = container.values() if isinstance(container, dict) else container
            containers += [inner for inner in inside if isinstance(inner, _CONTAINERS)]
    return values


def _shown(value: Any) -> Any:
    """The value, which says no more than its beginning when it is quoted."""
    if isinstance(value, str):
        return _Text(value) if len(value) > LONGEST_PROBLEM else value
    if isinstance(value, dict):
        return _Object({name: _shown(inner) for name, inner in value.items()})
    if isinstance(value, list):
        return _Array([_shown(inner) for inner in value])
    return value


def _brief(value: Any) -> str:
    """The beginning of how Python writes a value, in time that does not depend on the value."""
    parts: list[str] = []
    _write(value, parts, LONGEST_PROBLEM)
    return _cut("".join(parts))


def _write(value: Any, parts: list[str], room: int) -> int:
    """Write a value to `parts` until there is no room; returns how much is left."""
    if isinstance(value, dict):
        pairs: Iterable[tuple[str, Any]] = (
            (f"{name[:LONGEST_PROBLEM]!r}: ", inner) for name, inner in value.items()
        )
        return _write_all("{", pairs, "}", parts, room)
    if isinstance(value, list):
        return _write_all("[", (("", inner) for inner in value), "]", parts, room)
    parts.append(repr(value))
    return room - len(parts[-1])


def _write_all(begin: str, pairs: Iterable[tuple[str, Any]], end: str, parts: list[str], room: int) -> int:
    between = begin
    for name, inner in pairs:
        parts.append(between + name)
        room = _write(inner, parts, room - len(parts[-1]))
        if room < 0:
            return room
        between = ", "
    parts.append(end if between == ", " else begin + end)
    return room - len(parts[-1])


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_PROBLEM else text[: LONGEST_PROBLEM - 1] + "…"


# --- formats --------------------------------------------------------------------------------------------

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
        _reader(name).validate_python(str(value))
    except ValidationError:
        return False
    return True


for _name in _SHAPES:
    _checker.checks(_name)(lambda value, name=_name: _reads(value, name))


# --- keywords -------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _pattern(pattern: str) -> TypeAdapter[str] | None:
    try:
        return TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)])
    except SchemaError:  # look-around, which only Python's own engine supports
        return None


def _accepts(adapter: TypeAdapter[str], value: str) -> bool:
    try:
        adapter.validate_python(str(value))
    except ValidationError:
        return False
    return True


def _matches(_: Any, pattern: str, value: Any, __: Any) -> Found:
    if isinstance(value, str) and not matches(pattern, value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _by_pattern(validator: Any, patterns: Mapping[str, Any], value: Any, _: Any) -> Found:
    if isinstance(value, dict):
        for pattern, schema in patterns.items():
            for name, inner in value.items():
                if matches(pattern, name):
                    yield from validator.descend(inner, schema, path=name, schema_path=pattern)


def unlisted(schema: Mapping[str, Any], value: Mapping[str, Any]) -> Iterator[str]:
    """The names in an object that a schema does not list, neither by name nor by pattern."""
    patterns, properties = schema.get("patternProperties", {}), schema.get("properties", {})
    for name in value:
        if name not in properties and not any(matches(pattern, name) for pattern in patterns):
            yield name


def _additional(validator: Any, additional: Any, value: Any, schema: Any) -> Found:
    if isinstance(value, dict):
        if additional is False:
            if (name := next(unlisted(schema, value), None)) is not None:
                said = f"Additional properties are not allowed ({name[:LONGEST_PROBLEM]!r} was unexpected)"
                yield jsonschema.ValidationError(said)
        elif isinstance(additional, dict):
            for name in unlisted(schema, value):
                yield from validator.descend(value[name], additional, path=name)


def _items(validator: Any, items: Any, value: Any, schema: Any) -> Found:
    if isinstance(value, list):
        first = len(schema.get("prefixItems", ()))
        if items is False:
            if len(value) > first:
                said = f"Expected at most {first} item{'s' * (first != 1)} but found {len(value)}"
                yield jsonschema.ValidationError(said)
            return
        of_item = _part(validator, items)
        for index in range(first, len(value)):
            for problem in of_item.iter_errors(value[index]):
                problem.path.appendleft(index)
                yield problem


def _type(_: Any, types: Any, value: Any, __: Any) -> Found | None:
    for name in (types,) if isinstance(types, str) else types:
        if _TYPES[name](value):
            return None
    named = repr(types) if isinstance(types, str) else ", ".join(map(repr, types))
    return [jsonschema.ValidationError(f"{value!r} is not of type {named}")]


_TYPES: Final[Mapping[str, Callable[[Any], bool]]] = {
    "array": lambda value: isinstance(value, list),
    "boolean": lambda value: value is True or value is False,
    "integer": lambda value: _is_number(value, int) or (isinstance(value, float) and value.is_integer()),
    "null": lambda value: value is None,
    "number": lambda value: _is_number(value, (int, float)),
    "object": lambda value: isinstance(value, dict),
    "string": lambda value: isinstance(value, str),
}


def _is_number(value: Any, kinds: type | tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and value is not True and value is not False


def _any_of(validator: Any, arms: list[Any], value: Any, _: Any) -> Found:
    if not any(_fits(validator, value, arm) for arm in arms):
        yield _fits_no_arm(validator, arms, value)


def _one_of(validator: Any, arms: list[Any], value: Any, _: Any) -> Found:
    fitting = len(list(islice((arm for arm in arms if _fits(validator, value, arm)), 2)))
    if fitting > 1:
        yield jsonschema.ValidationError(f"{value!r} is valid under more than one of the given schemas")
    elif not fitting:
        yield _fits_no_arm(validator, arms, value)


def _fits(validator: Any, value: Any, arm: Any) -> bool:
    """Whether a value fits an arm of a union. Most do not for a reason that is seen at once."""
    reached = arm
    if isinstance(arm, dict) and "$ref" in arm and not isinstance(validator, _MovingValidator):
        reached = _part_at(validator, arm, arm["$ref"]).schema
    if isinstance(reached, dict):
        types = reached.get("type")
        if isinstance(types, str) and not _TYPES[types](value):
            return False
        if isinstance(value, dict) and any(name not in value for name in reached.get("required", ())):
            return False
    if not _fails(validator, value, arm):
        return True
    if (run := _RUN.get()) is not None:
        run.take(_STEPS_OF_PROBLEM)
    return False


def _fits_no_arm(validator: Any, arms: list[Any], value: Any) -> jsonschema.ValidationError:
    problems = (
        next(validator.descend(value, arm, schema_path=index), None) for index, arm in enumerate(arms)
    )
    return jsonschema.ValidationError(
        f"{value!r} is not valid under any of the given schemas",
        context=[problem for problem in problems if problem is not None],
    )


def _multiple(validator: Any, divisor: Any, value: Any, schema: Any) -> Found:
    try:
        yield from _UPSTREAM["multipleOf"](validator, divisor, value, schema) or ()
    except OverflowError:  # an integer that is no float
        if Fraction(value) % Fraction(divisor):
            yield jsonschema.ValidationError(f"{value!r} is not a multiple of {divisor}")


def _unique(_: Any, wanted: Any, value: Any, __: Any) -> Found:
    if wanted and isinstance(value, list) and len({_same(each) for each in value}) < len(value):
        yield jsonschema.ValidationError(f"{value!r} has non-unique elements")


def _enum(_: Any, allowed: Any, value: Any, __: Any) -> Found:
    if _same(value) not in _all_of(id(allowed), allowed):
        yield jsonschema.ValidationError(f"{value!r} is not one of {_brief(allowed)}")


_known_enums: dict[int, tuple[Any, frozenset[Any]]] = {}

_MOST_ENUMS: Final = 4_096


def _all_of(key: int, allowed: list[Any]) -> frozenset[Any]:
    """The values of an enum by what makes them the same; kept for as long as it is known."""
    known = _known_enums.get(key)
    if known is None or known[0] is not allowed:
        if len(_known_enums) >= _MOST_ENUMS:
            _known_enums.clear()
        known = _known_enums[key] = (allowed, frozenset(map(_same, allowed)))
    return known[1]


def _same(value: Any) -> Any:
    """Something that is equal, and has the same hash, exactly for JSON values that are the same.

    Numbers as text, since Python's hashes of texts alone cannot be foreseen by who sends many numbers.
    """
    # One kind after the other, since a union of them is made anew for each of ten thousand values.
    if isinstance(value, str):
        return str(value)
    if type(value) is int:
        return ("n", hex(value))
    if isinstance(value, dict):
        return ("o", frozenset([(name, _same(inner)) for name, inner in value.items()]))
    if isinstance(value, (list, tuple)):
        return ("l", *map(_same, value))
    if value is True or value is False or value is None:
        return (value,)
    return ("n", hex(int(value)) if value == value // 1 else repr(value))


def _reference(validator: Any, reference: str, value: Any, schema: Any) -> Found:
    """Check what a reference leads to once for each value, or a union in a loop doubles with each level."""
    _check_stack()
    problems = _part_at(validator, schema, reference).iter_errors(value)
    run = _RUN.get()
    if run is None or not isinstance(value, dict | list):
        yield from problems
        return
    key = (id(schema), id(value))
    if key in run.referred:
        if (known := run.referred[key]) is not None:
            yield known.again()
        return
    for problem in problems:
        run.referred.setdefault(key, _Problem.of(problem))
        yield problem
    run.referred.setdefault(key, None)


def _check_stack() -> None:
    """End a check that is about to reach the end of Python's stack.

    Only references lead so deep. The libraries below are partly in Rust, where a `RecursionError` becomes a
    panic, which no `except Exception` catches.

    Raises:
        _TooCostly: It is nearly reached.
    """
    try:
        sys._getframe(sys.getrecursionlimit() - FRAMES_LEFT)
    except ValueError:
        return
    raise _TooCostly


def _unevaluated(validator: Any, unevaluated: Any, value: Any, schema: Any) -> Found:
    if isinstance(value, dict):
        looked_at = _looked_at(validator, value, schema)
        for name in value:
            if name not in looked_at and _fails(validator, value[name], unevaluated):
                said = f"Unevaluated properties are not allowed ({name[:LONGEST_PROBLEM]!r} was unexpected)"
                yield jsonschema.ValidationError(said)


def _looked_at(validator: Any, value: Mapping[str, Any], schema: Any) -> set[str]:
    """The members of an object that a schema says something about, where it fits (2020-12, 11.3)."""
    if not isinstance(schema, Mapping):
        return set()
    if (run := _RUN.get()) is not None:
        run.take(1 + len(value) // _PER_STEP)
    names: set[str] = value.keys() & schema.get("properties", {}).keys()
    for pattern in schema.get("patternProperties", ()):
        names |= {name for name in value if matches(pattern, name)}
    for keyword in ("additionalProperties", "unevaluatedProperties"):
        if keyword in schema:
            names |= {name for name in value if not _fails(validator, value[name], schema[keyword])}
    for applied in _applied(schema, value):
        if not _fails(validator, value, applied):
            names |= _looked_at(validator, value, applied)
    if "if" in schema:
        fits = not _fails(validator, value, schema["if"])
        chosen = schema.get("then" if fits else "else")
        names |= _looked_at(validator, value, schema["if"]) if fits else set()
        names |= _looked_at(validator, value, chosen)
    for keyword in ("$ref", "$dynamicRef"):
        if keyword in schema:
            _check_stack()
            found = validator._resolver.lookup(schema[keyword])
            inside = validator.evolve(schema=found.contents, _resolver=found.resolver)
            names |= _looked_at(inside, value, found.contents)
    return names


def _applied(schema: Mapping[str, Any], value: Mapping[str, Any]) -> Iterator[Any]:
    for keyword in ("allOf", "anyOf", "oneOf"):
        yield from schema.get(keyword, ())
    for name, dependent in schema.get("dependentSchemas", {}).items():
        if name in value:
            yield dependent


def _fails(validator: Any, value: Any, schema: Any) -> bool:
    return next(validator.descend(value, schema), None) is not None


_UPSTREAM: Final[Mapping[str, Keyword]] = jsonschema.Draft202012Validator.VALIDATORS

_OURS: Final[Mapping[str, Keyword]] = {
    "pattern": _matches,
    "patternProperties": _by_pattern,
    "additionalProperties": _additional,
    "items": _items,
    "multipleOf": _multiple,
    "type": _type,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "uniqueItems": _unique,
    "enum": _enum,
    "$ref": _reference,
    "unevaluatedProperties": _unevaluated,
}

_OF_ALL: Final = frozenset(
    {
        "properties", "patternProperties", "additionalProperties", "propertyNames", "required", "contains",
        "dependentRequired", "dependentSchemas", "uniqueItems", "unevaluatedItems", "unevaluatedProperties",
    }
)  # fmt: skip
"""The keywords that look at all of a value, or of their own."""


def _part(validator: Any, schema: Any) -> Any:
    """The validator of a part of the schema."""
    run = _RUN.get()
    if run is None:
        return validator.evolve(schema=schema)
    part = run.validators.get(id(schema))
    if part is None:
        part = run.validators[id(schema)] = validator.evolve(schema=schema)
    return part


def _part_at(validator: Any, schema: Any, reference: str) -> Any:
    """The validator of what the reference of a schema leads to."""
    run = _RUN.get()
    part = None if run is None else run.targets.get(id(schema))
    if part is None:
        found = validator._resolver.lookup(reference)
        part = validator.evolve(schema=found.contents, _resolver=found.resolver)
        if run is not None:
            run.targets[id(schema)] = part
    return part


def _descend(
    validator: Any,
    instance: Any,
    schema: Any,
    path: Any = None,
    schema_path: Any = None,
    resolver: Any = None,
) -> Found:
    """As the library does, but with one validator for each part of the schema."""
    part = (
        _part(validator, schema) if resolver is None else validator.evolve(schema=schema, _resolver=resolver)
    )
    for problem in part.iter_errors(instance):
        if path is not None:
            problem.path.appendleft(path)
        if schema_path is not None:
            problem.schema_path.appendleft(schema_path)
        yield problem


def _counted(name: str, keyword: Keyword) -> Keyword:
    @wraps(keyword)
    def counted(validator: Any, own: Any, value: Any, schema: Any) -> Found | None:
        if (run := _RUN.get()) is not None:
            steps = 1
            if name in _OF_ALL:
                steps += (_length(own) + _length(value)) // _PER_STEP
            run.take(steps)
        return keyword(validator, own, value, schema)

    return counted


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | dict) else 0


def _counting(*keywords: Mapping[str, Keyword]) -> Any:
    counted = {name: _counted(name, each) for known in keywords for name, each in known.items()}
    return jsonschema.validators.extend(  # type: ignore[no-untyped-call]
        jsonschema.Draft202012Validator, counted
    )


_Validator = _counting(_UPSTREAM, _OURS)
_Validator.descend = _descend

_MovingValidator = _counting(_UPSTREAM, _OURS, {"$ref": _UPSTREAM["$ref"], "items": _UPSTREAM["items"]})
"""For schemas in which a reference may mean this or that, depending on where it is and how it is reached."""


def _undeclared(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema without its dialect, for whose sake the library would check with keywords of its own."""
    return {name: value for name, value in schema.items() if name != "$schema"}
