"""Schemas of arguments that authors write by hand, in JSON Schema 2020-12.

They are listed word for word, and arguments are checked against them; the function gets the arguments
unconverted.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any, Final, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from ..domain.errors import ConfigurationError, InvalidArguments, LimitExceeded, NotJson
from ..domain.limits import MIB, to_json, truncate
from ..durable.json_schema import MOST_PROBLEMS, problems_of, told, unlisted, validator_of
from ..durable.schema_costs import unlinear_patterns
from .refusals import Refusal
from .signature import Signature

logger = logging.getLogger(__name__)

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
"""The only dialect; a schema that names none is of this one (2026-07-28, basic, "JSON Schema usage")."""

_REFERENCES: Final = ("$ref", "$dynamicRef")

MOST_SUGGESTIONS: Final = 5
"""Unknown arguments of a call for which the nearest known one is looked for."""

PATH_BYTES: Final = 256
"""Longest path to a field that an error repeats."""

LONGEST_MISSPELLED: Final = 64
"""Longest name for which it is."""


@dataclass(frozen=True, slots=True)
class ExplicitSchema:
    """A schema of arguments that an author wrote, and the function that takes them.

    Attributes:
        schema: The schema as the author wrote it.
        signature: The function's.
        validator: The validator of arguments.
        takes: The names of the function's parameters; None if it takes any.
        is_linear: Whether all patterns can be tried in linear time; if not, only workers check arguments.
    """

    schema: Mapping[str, Any]
    signature: Signature
    validator: Validator
    takes: frozenset[str] | None
    is_linear: bool = True

    def check_names(self, what: str, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments that the schema does not allow.

        Raises:
            InvalidArguments: There are some; each is named, with the nearest that is allowed.
        """
        if self.is_linear and (unknown := self._forbidden(arguments)):
            raise InvalidArguments(what, first_unknown(unknown, self.schema.get("properties", {})))

    def check(self, what: str, arguments: Mapping[str, Any]) -> None:
        """Check arguments where they arrive, if that takes no more than linear time; see `Binder.check`."""
        if self.is_linear:
            check_by_schema(what, self.validator, arguments)

    def bind(self, what: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Validate arguments, and return those that the function takes.

        Args:
            what: The tool's name, for the error.
            arguments: The arguments as they came or were recorded, perhaps under an older schema.

        Raises:
            InvalidArguments: They do not fit the schema.
        """
        forbidden = self._forbidden(arguments)
        if forbidden:
            logger.warning("%s no longer takes these recorded arguments: %s", what, ", ".join(forbidden))
        allowed = {name: value for name, value in arguments.items() if name not in forbidden}
        check_by_schema(what, self.validator, allowed)
        return {name: value for name, value in allowed.items() if self.takes is None or name in self.takes}

    def passed(self, bound: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """How a call passes what `bind` returned: all of it by name."""
        return [], dict(bound)

    def _forbidden(self, arguments: Mapping[str, Any]) -> list[str]:
        if self.schema.get("additionalProperties", True) is not False:
            return []
        return sorted(unlisted(self.schema, arguments))


def explicit_schema(schema: Mapping[str, Any], signature: Signature) -> ExplicitSchema:
    """Check a schema, and that the function can take every argument that fits it.

    Args:
        schema: The schema as the author wrote it.
        signature: The function's.

    Raises:
        ConfigurationError: It is no JSON Schema 2020-12 of an object, or does not fit the function.
    """
    what = str(signature.place)
    if not isinstance(schema, Mapping):
        raise ConfigurationError(f"{what}: input_schema: expected a mapping, not {type(schema).__name__}")
    kept = _checked(what, deepcopy(dict(schema)))
    _check_references(what, kept)
    takes = _check_function(what, kept, signature)
    return ExplicitSchema(kept, signature, validator_of(kept), takes, not unlinear_patterns(kept))


def check_by_schema(name: str, validator: Validator, arguments: Mapping[str, Any]) -> None:
    """Check arguments against a JSON schema.

    Args:
        name: The tool's name, for the error.
        validator: The schema's.
        arguments: The arguments as they came.

    Raises:
        InvalidArguments: They do not fit; it names the first fields that do not.
    """
    errors = problems_of(validator, dict(arguments))
    errors.sort(key=lambda error: error.json_path)
    problems = tuple(islice((problem for error in errors for problem in _problems(error)), MOST_PROBLEMS))
    if problems:
        raise InvalidArguments(name, problems)


def _problems(error: ValidationError) -> Iterator[tuple[str, str]]:
    """The path of each field that an error is about, and what is wrong with it."""
    path, keyword, given = [*map(str, error.absolute_path)], error.validator, error.validator_value
    if keyword == "required":
        missing = next(name for name in cast("list[str]", given) if error.message.startswith(repr(name)))
        yield path_text([*path, missing]), "it is required"
    elif keyword == "additionalProperties" and given is False:
        schema = cast("Mapping[str, Any]", error.schema)
        unknown = unlisted(schema, cast("Mapping[str, Any]", error.instance))
        for name, problem in unknown_arguments(unknown, schema.get("properties", {})):
            yield path_text([*path, name]), problem
    else:
        yield path_text(path), told(error)


def path_text(path: Iterable[str | int]) -> str:
    """A path as it is told; clients choose the names in it."""
    return truncate(".".join(map(str, path)), PATH_BYTES)


def unknown_arguments(names: Iterable[str], known: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with arguments that are not taken; with the nearest that is for the first of them.

    To look for the nearest takes long, so it is not done for each of thousands.
    """
    for index, name in enumerate(names):
        searches = index < MOST_SUGGESTIONS and len(name) <= LONGEST_MISSPELLED
        shown = truncate(name, PATH_BYTES)
        yield shown, unknown_argument(name, known) if searches else "there is no such argument"


def first_unknown(names: Iterable[str], known: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """See `unknown_arguments`; the first `MOST_PROBLEMS`."""
    return tuple(islice(unknown_arguments(names, known), MOST_PROBLEMS))


def unknown_argument(name: str, known: Iterable[str]) -> str:
    """What is wrong with an argument that is not taken, with the nearest one that is."""
    nearest = get_close_matches(name, list(known), n=1)
    if nearest:
        return f"there is no such argument; did you mean '{nearest[0]}'?"
    return f"there is no such argument; there are: {', '.join(sorted(known)) or 'none'}"


def _checked(what: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The schema as JSON has it, if it is one of the dialect."""
    try:
        text = to_json("input_schema", schema, maximum=MIB)
        Draft202012Validator.check_schema(schema)
    except (NotJson, LimitExceeded) as error:
        raise ConfigurationError(f"{what}: {error}") from error
    except SchemaError as error:
        raise ConfigurationError(f"{what}: input_schema is no JSON schema: {error.message}") from error
    if str(schema.get("$schema", DIALECT)).rstrip("#") != DIALECT:
        raise ConfigurationError(f"{what}: input_schema: expected $schema to be {DIALECT}, or left out")
    if schema.get("type") != "object":
        raise ConfigurationError(f'{what}: input_schema: expected "type": "object", as for all arguments')
    made: dict[str, Any] = json.loads(text)
    return made


def _check_references(what: str, schema: dict[str, Any]) -> None:
    root: Resource[Any] = DRAFT202012.create_resource(schema)
    uri = root.id() or ""
    waiting = [(root, Registry().with_resource(uri, root).crawl().resolver(uri))]
    while waiting:
        resource, resolver = waiting.pop()
        contents = resource.contents if isinstance(resource.contents, Mapping) else {}
        for reference in (contents[keyword] for keyword in _REFERENCES if keyword in contents):
            try:
                resolver.lookup(reference)
            except Unresolvable as error:
                raise ConfigurationError(
                    f"{what}: input_schema: {reference!r} leads nowhere; put what it means into $defs"
                ) from error
        waiting += [(found, resolver.in_subresource(found)) for found in resource.subresources()]


def _check_function(what: str, schema: Mapping[str, Any], signature: Signature) -> frozenset[str] | None:
    named = {each.name: each for each in signature.parameters if each.kind != "extras"}
    for parameter in named.values():
        if parameter.kind in ("positional", "rest"):
            raise signature.place.refuse(Refusal.POSITIONAL, parameter.name)
    required = set(schema.get("required", ()))
    if missing := [name for name, each in named.items() if each.is_required and name not in required]:
        raise ConfigurationError(
            f"{what}: input_schema does not require {', '.join(missing)}, and the function has no default"
        )
    takes_all = len(named) < len(signature.parameters)
    if not takes_all and (untaken := sorted(set(schema.get("properties", {})) - set(named))):
        raise ConfigurationError(
            f"{what}: the function has no parameter for {', '.join(untaken)} of input_schema"
        )
    return None if takes_all else frozenset(named)
