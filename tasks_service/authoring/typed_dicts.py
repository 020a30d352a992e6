"""Typed dicts of the standard library as pydantic can read them.

Before Python 3.12 it reads only those of `typing_extensions`, whose qualifiers can be told apart.
"""

from __future__ import annotations

import functools
import operator
import sys
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typing_extensions

_NEEDED = sys.version_info < (3, 12)


def readable(hint: Any) -> Any:
    """A hint whose typed dicts pydantic can read, wherever they are in it."""
    return _readable(hint, {}) if _NEEDED else hint


def keys_of(kind: Any) -> tuple[Mapping[str, Any], frozenset[str]]:
    """The hints of a typed dict's keys, and which of them it must have.

    Raises:
        NameError, TypeError, AttributeError: It is none, or a hint cannot be resolved.
    """
    hints = get_type_hints(kind, include_extras=True)
    # With postponed annotations, Python counts keys that are marked NotRequired among the required ones.
    optional = {name for name, hint in hints.items() if _is(hint, "NotRequired")}
    marked = {name for name, hint in hints.items() if _is(hint, "Required")}
    bare = {name: _unqualified(hint) for name, hint in hints.items()}
    return bare, frozenset((set(kind.__required_keys__) - optional) | marked)


def _readable(hint: Any, made: dict[Any, Any]) -> Any:
    if isinstance(hint, type) and typing.is_typeddict(hint):
        return _rebuilt(hint, made)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return Annotated[(_readable(arguments[0], made), *hint.__metadata__)]
    if not arguments or origin in (typing.Literal, typing_extensions.Literal) or _is(hint, "Unpack"):
        return hint
    inner = [_readable(each, made) if not isinstance(each, list) else each for each in arguments]
    if all(new is old for new, old in zip(inner, arguments, strict=True)):
        return hint
    if origin in (Union, types.UnionType):
        return functools.reduce(operator.or_, inner)
    return hint if origin is None else origin[inner[0] if len(inner) == 1 else tuple(inner)]


def _rebuilt(kind: Any, made: dict[Any, Any]) -> Any:
    if kind in made or type(kind).__module__ == "typing_extensions":
        return made.get(kind, kind)
    made[kind] = kind  # one that contains itself stays as it is
    hints, required = keys_of(kind)
    read = {name: _readable(hint, made) for name, hint in hints.items()}
    fields = {
        name: hint if name in required else typing_extensions.NotRequired[hint] for name, hint in read.items()
    }
    rebuilt = typing_extensions.TypedDict(kind.__name__, fields)  # type: ignore[misc]
    rebuilt.__doc__, rebuilt.__module__ = kind.__doc__, kind.__module__
    if (config := getattr(kind, "__pydantic_config__", None)) is not None:
        rebuilt.__pydantic_config__ = config  # type: ignore[attr-defined]
    made[kind] = rebuilt
    return rebuilt


def _is(hint: Any, qualifier: str) -> bool:
    return getattr(get_origin(hint), "_name", None) == qualifier


def _unqualified(hint: Any) -> Any:
    while _is(hint, "Required") or _is(hint, "NotRequired") or _is(hint, "ReadOnly"):
        hint = get_args(hint)[0]
    return hint
