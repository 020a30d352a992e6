"""The arguments of a function: their JSON schema, and the values that the function gets for them.

An argument is accepted if its JSON schema accepts it and pydantic can read it. Pydantic's strict mode is
asked first: for most hints it accepts nothing more than the schema, so that JSON is rarely checked twice.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import (
    Mapping,
)
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from jsonschema.protocols import Validator
from pydantic import TypeAdapter, ValidationError
from pydantic_core import SchemaValidator

from ..domain.errors import InvalidArguments
from ..durable.json_schema import MOST_PROBLEMS, validator_of
from ..durable.schema_costs import Alternatives, alternatives_of
from .bounded_reading import (
    MOST_HASHED,
    MOST_TRIES,
    THOROUGH_BYTES,
    has_python_patterns,
    hashes_numbers,
    longest_in,
    stopping,
    tries_of,
)
from .hints import EXTRAS, NO_SCHEMA, adapter_for, adapter_of, hint_sent, schema_of
from .json_schemas import is_exact, read_texts, without, without_texts
from .refusals import Refusal
from .schemas import check_by_schema, first_unknown, path_text
from .signature import MISSING, Kind, Parameter, Signature

logger = logging.getLogger(__name__)

REQUIRED = "it is required"
"""What is wrong with an argument that is missing."""

_TOO_MANY_TRIES = (
    f"they are nested too deeply: more than {MOST_TRIES} objects and lists would have to be tried, in all "
    "arms of the unions that contain themselves"
)

_TOO_MANY_HASHED = (
    f"a list or an object has more than {MOST_HASHED} values, some of which become a set or keys"
)


@dataclass(frozen=True)
class Arguments:
    """What arguments a function takes.

    Attributes:
        signature: The signature.
        schema: JSON schema of the arguments, an object.
    """

    signature: Signature
    schema: Mapping[str, Any]
    _adapter: TypeAdapter[dict[str, Any]]
    _exact: bool

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of the arguments."""
        return frozenset(parameter.argument for parameter in self._named)

    def check_names(self, what: str, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments that the function does not take; each is named, with the nearest that it takes.

        Raises:
            InvalidArguments: There are some.
        """
        if self._extras is None and (unknown := sorted(set(arguments) - self.names)):
            raise InvalidArguments(what, first_unknown(unknown, self.names))

    def check(self, what: str, arguments: Mapping[str, Any]) -> None:
        """Check arguments where they arrive, unless a pattern could take for ever; see `Binder.check`."""
        if self.is_linear:
            self.bind(what, arguments)

    def bind(self, what: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Convert arguments to what the function's parameters get, by the parameters' names.

        Arguments that the function does not take are passed over: a task may have been recorded under an
        older signature.

        Args:
            what: The tool's name, for the error.
            arguments: As they came or were recorded: parsed JSON.

        Raises:
            InvalidArguments: They do not fit; it names each field.
        """
        known = arguments
        if self._extras is None and (unknown := sorted(set(arguments) - self.names)):
            logger.warning("%s no longer takes these recorded arguments: %s", what, ", ".join(unknown))
            known = {name: value for name, value in arguments.items() if name in self.names}
        self._check_present(what, known)
        values = self._read(what, read_texts(known, self._without_texts))
        return self._by_parameter(values)

    def bind_texts(self, what: str, texts: Mapping[str, str]) -> dict[str, Any]:
        """Convert texts to what the function's parameters get: arguments of prompts, variables of URIs.

        Raises:
            InvalidArguments: Some do not fit, or are unknown or missing; it names each.
        """
        self.check_names(what, texts)
        self._check_present(what, texts)
        try:
            values: dict[str, Any] = self._adapter.validator.validate_strings(cast("Any", texts))
        except ValidationError as error:
            raise InvalidArguments(what, _problems(error)) from None
        return self._by_parameter(values)

    def passed(self, bound: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """How a call passes values to parameters: those by position, and those by name.

        Args:
            bound: What `bind` returned; with the context, if there is one.
        """
        by_position: list[Any] = []
        by_name: dict[str, Any] = {}
        kinds = self._kinds
        rest = next((name for name, kind in kinds.items() if kind == "rest" and bound.get(name)), None)
        leading = () if rest is None else tuple(kinds)[: tuple(kinds).index(rest)]
        for name, kind in kinds.items():
            if name not in bound:
                continue
            if kind == "rest":
                by_position.extend(bound[name])
            elif kind == "extras":
                by_name.update(bound[name])
            elif kind == "positional" or name in leading:
                by_position.append(bound[name])
            else:
                by_name[name] = bound[name]
        return by_position, by_name

    def _check_present(self, what: str, arguments: Mapping[str, Any]) -> None:
        names = (each.argument for each in self._named if each.is_required)
        if missing := tuple((name, REQUIRED) for name in names if name not in arguments):
            raise InvalidArguments(what, missing)

    def _read(self, what: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Read JSON as pydantic does, and accept only what the JSON schema accepts, too."""
        if self.alternatives.multiply and tries_of(arguments, self.alternatives) > MOST_TRIES:
            raise InvalidArguments(what, (("", _TOO_MANY_TRIES),))
        if self._hashes_numbers and longest_in(arguments) > MOST_HASHED:
            raise InvalidArguments(what, (("", _TOO_MANY_HASHED),))
        text = json.dumps(self._sorted_out(arguments), ensure_ascii=False, allow_nan=False)
        validator = self._adapter.validator if len(text) <= THOROUGH_BYTES else self._stopping
        values: dict[str, Any]
        try:
            values, exact = validator.validate_json(text, strict=True), self._exact
        except ValidationError:
            # Numbers like 3.0 are whole to a JSON schema, and not to pydantic's strict mode.
            try:
                values, exact = validator.validate_json(text), False
            except ValidationError as error:
                raise InvalidArguments(what, _problems(error)) from None
        if not exact:
            check_by_schema(what, self._validator, arguments)
        return values

    def _sorted_out(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        if self._extras is None:
            return arguments
        named = {name: value for name, value in arguments.items() if name in self.names}
        extras = {name: value for name, value in arguments.items() if name not in self.names}
        return {**named, EXTRAS: extras}

    def _by_parameter(self, values: Mapping[str, Any]) -> dict[str, Any]:
        bound: dict[str, Any] = {}
        for parameter in self._named:
            value = values[parameter.argument] if parameter.argument in values else default_of(parameter)
            if value is not MISSING:
                bound[parameter.name] = value
        if self._extras is not None:
            bound[self._extras.name] = values.get(EXTRAS, {})
        return bound

    @cached_property
    def _kinds(self) -> Mapping[str, Kind]:
        """How each parameter is passed, in the function's order; those of an `Unpack` last."""
        kinds = {each.name: each.kind for each in self.signature.parameters}
        if self.signature.context is not None and self.signature.context_kind is not None:
            kinds[self.signature.context] = self.signature.context_kind
        order = [name for name in self.signature.order if name in kinds]
        return {name: kinds[name] for name in [*order, *(name for name in kinds if name not in order)]}

    @cached_property
    def _named(self) -> tuple[Parameter, ...]:
        return tuple(each for each in self.signature.parameters if each.kind != "extras")

    @cached_property
    def _extras(self) -> Parameter | None:
        return next((each for each in self.signature.parameters if each.kind == "extras"), None)

    @cached_property
    def _without_texts(self) -> frozenset[str]:
        return without_texts(self.schema)

    @cached_property
    def is_linear(self) -> bool:
        """Whether all patterns can be tried in linear time; if not, only workers check arguments."""
        return not has_python_patterns(self._adapter.core_schema)

    @cached_property
    def alternatives(self) -> Alternatives:
        """How many arms of a union in a loop may have to be tried."""
        return alternatives_of(self.schema)

    @cached_property
    def _hashes_numbers(self) -> bool:
        return hashes_numbers(self._adapter.core_schema)

    @cached_property
    def _stopping(self) -> SchemaValidator:
        return stopping(self._adapter)

    @cached_property
    def _validator(self) -> Validator:
        return validator_of(self.schema)


def build_arguments(signature: Signature) -> Arguments:
    """Make the schema and the reader of a signature's arguments, and check its defaults.

    Raises:
        ConfigurationError: A hint or a default cannot work; the message names place, parameter and a way out.
    """
    adapter = adapter_of(signature)
    schema = schema_of(signature, adapter)
    made = Arguments(signature, without(schema, "required"), adapter, is_exact(adapter.core_schema))
    shown = {
        each.argument: _shown_default(made, each)
        for each in signature.parameters
        if each.default is not MISSING
    }
    properties = {
        name: {**each, "default": shown[name]} if name in shown else each
        for name, each in schema["properties"].items()
    }
    return Arguments(signature, {**schema, "properties": properties}, adapter, made._exact)


def default_of(parameter: Parameter) -> Any:
    """What a parameter gets without an argument; `MISSING` if it is not passed at all.

    A default that can be changed is copied: what one task does to it is not seen by the next.
    """
    if parameter.kind == "rest":
        return ()
    if parameter.make_default is not None:
        return parameter.make_default()
    try:
        hash(parameter.default)
    except TypeError:
        return copy.deepcopy(parameter.default)
    return parameter.default


def _problems(error: ValidationError) -> tuple[tuple[str, str], ...]:
    problems = error.errors(include_url=False, include_context=False, include_input=False)[:MOST_PROBLEMS]
    return tuple((path_text(_path(each["loc"])), each["msg"]) for each in problems)


def _path(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return location[1:] if location[:1] == (EXTRAS,) else location


# --- defaults -----------------------------------------------------------------------------------------


def _shown_default(arguments: Arguments, parameter: Parameter) -> Any:
    """A default as JSON, as clients are told of it; it must be accepted like an argument."""
    place, default = arguments.signature.place, parameter.default
    try:
        shown = _as_json(parameter, default)
    except NO_SCHEMA as error:
        raise place.refuse(Refusal.STRANGE_DEFAULT, parameter.name, default=_brief(default)) from error
    try:
        arguments._read("the default", {parameter.argument: shown})
    except InvalidArguments as error:
        problem = error.problems[0][1]
        raise place.refuse(
            Refusal.UNFIT_DEFAULT, parameter.name, default=_brief(default), problem=problem
        ) from error
    return shown


def _as_json(parameter: Parameter, default: Any) -> Any:
    if default is None or type(default) in (bool, int, str):
        return default
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shown = adapter_for({"argument": hint_sent(parameter)}).dump_python(
            {"argument": default}, mode="json", by_alias=True, warnings=False
        )["argument"]
    json.dumps(shown, allow_nan=False)
    return shown


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
