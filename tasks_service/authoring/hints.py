"""The hints of parameters, as pydantic reads and describes them."""

from __future__ import annotations

import types
import warnings
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from typing import Annotated, Any, Final, Union, cast, get_args, get_origin

import pydantic_core
from pydantic import GetCoreSchemaHandler, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic_core import CoreSchema, core_schema

from .json_schemas import ArgumentSchema, unreadable
from .refusals import Refusal
from .signature import Parameter, Signature, arms

EXTRAS: Final = "**"
"""Where the hint of `**kwargs` is kept among the others; no parameter can have this name."""

NO_SCHEMA: Final = (PydanticUserError, pydantic_core.SchemaError, TypeError, ValueError, NameError, KeyError)
"""What pydantic raises, in its several releases, of a hint that it cannot use."""

_READ_ONCE: Final = (Iterator, Generator, AsyncIterator, AsyncGenerator, AsyncIterable)


def adapter_of(signature: Signature) -> TypeAdapter[dict[str, Any]]:
    """The reader and writer of a signature's arguments, by their names; extras are under `EXTRAS`.

    Raises:
        ConfigurationError: A hint cannot work; the message names the parameter.
    """
    hints = {_key(each): hint_sent(each) for each in signature.parameters}
    try:
        adapter = adapter_for(hints)
        problem = unreadable(adapter.core_schema)
    except NO_SCHEMA as error:
        problem = first_line(error)
    if problem is None:
        return adapter
    for each in signature.parameters:
        _check_hint(signature, each)
    raise signature.place.refuse(Refusal.NO_SCHEMA, problem=problem)


def _check_hint(signature: Signature, parameter: Parameter) -> None:
    """Refuse the hint of one parameter, if it is this one that cannot work."""
    place, name = signature.place, parameter.name
    if any((get_origin(each) or each) in _READ_ONCE for each in arms(parameter.hint)):
        raise place.refuse(Refusal.ITERATOR, name)
    try:
        problem = unreadable(adapter_for({"argument": hint_sent(parameter)}).core_schema)
    except NO_SCHEMA as error:
        raise place.refuse(Refusal.NO_SCHEMA, name, problem=first_line(error)) from error
    if problem == "generator":
        raise place.refuse(Refusal.ITERATOR, name)
    if problem == "keys":
        raise place.refuse(Refusal.KEYS, name)
    if problem is not None:
        raise place.refuse(Refusal.NO_SCHEMA, name, problem="no JSON becomes one")


def _key(parameter: Parameter) -> str:
    return EXTRAS if parameter.kind == "extras" else parameter.argument


def hint_sent(parameter: Parameter) -> Any:
    """The hint of what clients send for a parameter."""
    if parameter.kind == "extras":
        return dict[str, parameter.hint]  # type: ignore[name-defined]
    hint = as_list(parameter.hint)
    return list[hint] if parameter.kind == "rest" else hint  # type: ignore[valid-type]


def as_list(hint: Any) -> Any:
    """A hint of an `Iterable` as one of a list, which is what arrives; others as they are."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return Annotated[(as_list(arguments[0]), *hint.__metadata__)]
    if origin is Union or origin is types.UnionType:
        return Union[tuple(as_list(each) for each in arguments)]  # noqa: UP007
    return list[arguments or Any] if (origin or hint) is Iterable else hint  # type: ignore[misc]


def adapter_for(hints: Mapping[str, Any]) -> TypeAdapter[dict[str, Any]]:
    """The reader and writer of a mapping of values of these hints, none of which must be there."""

    class Arguments:
        """Read as a mapping of values by the arguments' names, which need not be Python's."""

        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
            fields = {
                name: core_schema.typed_dict_field(handler.generate_schema(hint), required=False)
                for name, hint in hints.items()
            }
            return core_schema.typed_dict_schema(fields, extra_behavior="ignore")

    with warnings.catch_warnings():
        # Aliases and defaults of a `Field` are read by `signature`; pydantic warns that it does not.
        warnings.filterwarnings("ignore", message=".*has no effect.*")
        return cast("TypeAdapter[dict[str, Any]]", TypeAdapter(Arguments))


def schema_of(signature: Signature, adapter: TypeAdapter[Any]) -> dict[str, Any]:
    """The JSON schema of a signature's arguments, an object; without defaults.

    Raises:
        ConfigurationError: A hint has no JSON schema; the message names the parameter.
    """
    try:
        schema = adapter.json_schema(schema_generator=ArgumentSchema)
    except NO_SCHEMA as error:
        for each in signature.parameters:
            _check_described(signature, each)
        raise signature.place.refuse(Refusal.NO_SCHEMA, problem=first_line(error)) from error
    properties: dict[str, Any] = dict(schema.get("properties", {}))
    extras = properties.pop(EXTRAS, {"additionalProperties": False})
    required = [each.argument for each in signature.parameters if each.is_required]
    return {
        **({"$defs": schema["$defs"]} if "$defs" in schema else {}),
        "type": "object",
        "properties": properties,
        **({"required": required} if required else {}),
        "additionalProperties": extras.get("additionalProperties", True),
    }


def _check_described(signature: Signature, parameter: Parameter) -> None:
    try:
        adapter_for({"argument": hint_sent(parameter)}).json_schema(schema_generator=ArgumentSchema)
    except NO_SCHEMA as error:
        raise signature.place.refuse(Refusal.NO_SCHEMA, parameter.name, problem=first_line(error)) from error


def first_line(error: BaseException) -> str:
    """What an error says, without pydantic's link and its advice for other uses."""
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(".") if lines else type(error).__name__
