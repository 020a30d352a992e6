"""Schemas of arguments that authors write by hand, in JSON Schema 2020-12.

They are listed word for word, and arguments are checked against them; the function gets the arguments
unconverted.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.protocols import Validator
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from ..domain.errors import ConfigurationError, InvalidArguments, LimitExceeded, NotJson
from ..domain.limits import MIB, to_json
from ..durable.json_schema import told, validator_of

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
"""The only dialect; a schema that names none is of this one (2026-07-28, basic, "JSON Schema usage")."""

_REFERENCES: Final = ("$ref", "$dynamicRef")


@dataclass(frozen=True, slots=True)
class ExplicitSchema:
    """A schema of arguments, and the function that takes them.

    Attributes:
        schema: The schema as the author wrote it.
        validator: The validator of arguments.
        takes: The names of the function's parameters; None if it takes any.
    """

    schema: Mapping[str, Any]
    validator: Validator
    takes: frozenset[str] | None

    def bind(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Validate arguments, and return those that the function takes.

        Args:
            name: The tool's name, for the error.
            arguments: The arguments as they came.

        Raises:
            InvalidArguments: They do not fit the schema.
        """
        check_by_schema(name, self.validator, arguments)
        return {key: value for key, value in arguments.items() if self.takes is None or key in self.takes}


def explicit_schema(
    what: str, schema: Mapping[str, Any], fn: Callable[..., Any], context_parameter: str | None
) -> ExplicitSchema:
    """Check a schema, and that the function can take every argument that fits it.

    Args:
        what: The tool, for errors.
        schema: The schema as the author wrote it.
        fn: The function.
        context_parameter: The name of its parameter that receives the context, if there is one.

    Raises:
        ConfigurationError: It is no JSON Schema 2020-12 of an object, or does not fit the function.
    """
    if not isinstance(schema, Mapping):
        raise ConfigurationError(f"{what}: input_schema: expected a mapping, not {type(schema).__name__}")
    kept = deepcopy(dict(schema))
    _check_dialect(what, kept)
    _check_references(what, kept)
    takes = _check_function(what, kept, fn, context_parameter)
    return ExplicitSchema(kept, validator_of(kept), takes)


def check_by_schema(name: str, validator: Validator, arguments: Mapping[str, Any]) -> None:
    """Check arguments against a JSON schema.

    Args:
        name: The tool's name, for the error.
        validator: The schema's.
        arguments: The arguments as they came.

    Raises:
        InvalidArguments: They do not fit; it names each field.
    """
    errors = sorted(validator.iter_errors(dict(arguments)), key=lambda error: error.json_path)
    if problems := tuple(problem for error in errors for problem in _problems(error)):
        raise InvalidArguments(name, problems)


def _problems(error: ValidationError) -> Iterator[tuple[str, str]]:
    """The path of each field that an error is about, and what is wrong with it."""
    path, keyword, given = [*map(str, error.absolute_path)], error.validator, error.validator_value
    instance: Any = error.instance
    if keyword == "required":
        missing = next(name for name in cast("list[str]", given) if error.message.startswith(repr(name)))
        yield ".".join([*path, missing]), "it is required"
    elif keyword == "additionalProperties" and given is False:
        schema = cast("Mapping[str, Any]", error.schema)
        patterns = schema.get("patternProperties", {})
        for name in instance:
            if name not in schema.get("properties", {}) and not any(re.search(p, name) for p in patterns):
                yield ".".join([*path, name]), "unknown argument"
    else:
        yield ".".join(path), told(error)


def _check_dialect(what: str, schema: dict[str, Any]) -> None:
    try:
        to_json("input_schema", schema, maximum=MIB)
        Draft202012Validator.check_schema(schema)
    except (NotJson, LimitExceeded) as error:
        raise ConfigurationError(f"{what}: {error}") from error
    except SchemaError as error:
        raise ConfigurationError(f"{what}: input_schema is no JSON schema: {error.message}") from error
    if str(schema.get("$schema", DIALECT)).rstrip("#") != DIALECT:
        raise ConfigurationError(f"{what}: input_schema: expected $schema to be {DIALECT}, or left out")
    if schema.get("type") != "object":
        raise ConfigurationError(f'{what}: input_schema: expected "type": "object", as for all arguments')


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


def _check_function(
    what: str, schema: Mapping[str, Any], fn: Callable[..., Any], context_parameter: str | None
) -> frozenset[str] | None:
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(fn).parameters.items()
        if name != context_parameter
    }
    kinds = {parameter.kind for parameter in parameters.values()}
    if kinds & {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL}:
        raise ConfigurationError(f"{what}: with input_schema, arguments are passed by name")
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    required = set(schema.get("required", ()))
    if missing := [
        name for name, found in named.items() if found.default is found.empty and name not in required
    ]:
        raise ConfigurationError(
            f"{what}: input_schema does not require {', '.join(missing)}, and the function has no default"
        )
    takes_all = inspect.Parameter.VAR_KEYWORD in kinds
    if not takes_all and (untaken := sorted(set(schema.get("properties", {})) - set(named))):
        raise ConfigurationError(
            f"{what}: the function has no parameter for {', '.join(untaken)} of input_schema"
        )
    return None if takes_all else frozenset(named)
