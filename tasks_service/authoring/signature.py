"""The reading of an author's signature: its parameters, their hints and defaults, its context, its result.

Hints are resolved where the decorator runs: in the function's globals, what its closure holds, and the local
names of the functions around the decorator (a model that is local to an app factory).
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, ParamSpec, Union, get_args, get_origin, get_type_hints

from pydantic import AliasChoices, AliasPath
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from .refusals import Place, Refusal, underlying
from .typed_dicts import keys_of, readable

Kind = Literal["positional", "named", "rest", "extras"]
"""How a parameter is passed: by its position, by its name, as `*args`, as `**kwargs`."""

MISSING: Final = object()
"""No default."""

_CONTEXT_NAMES = frozenset({"ctx", "context", "task_context", "request_context"})

_KINDS: Mapping[Any, Kind] = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "named",
    inspect.Parameter.KEYWORD_ONLY: "named",
    inspect.Parameter.VAR_POSITIONAL: "rest",
    inspect.Parameter.VAR_KEYWORD: "extras",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter that an argument is for.

    Attributes:
        name: The function's name for it.
        argument: The clients' name for it, which an alias may have changed.
        kind: How it is passed.
        hint: Its resolved hint; `Any` if it has none.
        default: What it gets without an argument; `MISSING`: the argument is required, or it has
            `make_default`.
        make_default: Makes its default.
        leads: Whether a `*args` follows, so that it is passed by position once there are some.
    """

    name: str
    argument: str
    kind: Kind
    hint: Any
    default: Any = MISSING
    make_default: Callable[[], Any] | None = None
    leads: bool = False

    @property
    def is_required(self) -> bool:
        """Whether clients must send it."""
        return self.default is MISSING and self.make_default is None and self.kind in ("positional", "named")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature as it was read.

    Attributes:
        place: The function, for errors.
        parameters: What arguments are for, in the function's order.
        context: The parameter that receives the context.
        context_by_position: Whether it is positional-only.
        returns: The resolved return hint; `MISSING` if there is none.
        is_async: Whether the function is a coroutine function.
    """

    place: Place
    parameters: tuple[Parameter, ...]
    context: str | None
    order: tuple[str, ...]
    returns: Any
    is_async: bool
    context_kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class Contexts:
    """The contexts that a kind of function may take.

    Attributes:
        right: The class that it takes.
        wrong: Classes that others take, and why they are refused here.
        names_alone: Whether a parameter may look like a context, and be none.
    """

    right: type | None
    wrong: Mapping[type, Refusal] = field(default_factory=dict)
    names_alone: bool = False


def read_signature(
    place: Place, contexts: Contexts, namespace: Mapping[str, Any] | None = None, *, is_async: bool = False
) -> Signature:
    """Read the signature of an author's function.

    Args:
        place: The function.
        contexts: What is a context, and which it may take.
        namespace: Names around the decorator, for hints that are texts.
        is_async: Whether it is a coroutine function.

    Raises:
        ConfigurationError: It cannot work; the message names function, file, line, parameter, and what to
            write instead.
    """
    signature, hints = _resolved(place, namespace or {})
    context = _context(place, signature, hints, contexts)
    found = [
        parameter
        for raw in signature.parameters.values()
        if raw.name != context
        for parameter in _parameters(place, raw, hints[raw.name])
    ]
    _check_names(place, found)
    return Signature(
        place=place,
        parameters=tuple(found),
        context=context,
        context_kind=None if context is None else _KINDS[signature.parameters[context].kind],
        order=tuple(signature.parameters),
        returns=hints.get("return", MISSING),
        is_async=is_async,
    )


def is_coroutine_function(fn: Any) -> bool:
    """Whether calling it gives a coroutine, as far as it says so; callable objects and partials too."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(type(fn), "__call__", None))  # noqa: B004


def check_function(place: Place) -> None:
    """Refuse what is no function, or none that can be registered.

    Raises:
        ConfigurationError: It is none.
    """
    fn = place.fn
    if hasattr(fn, "apply_async"):
        raise place.refuse(Refusal.CELERY_TASK)
    if isinstance(fn, type):
        raise place.refuse(Refusal.CLASS)
    if not callable(fn):
        raise place.refuse(Refusal.NOT_CALLABLE)
    if inspect.isasyncgenfunction(fn) or inspect.isasyncgenfunction(underlying(fn)):
        raise place.refuse(Refusal.ASYNC_GENERATOR)


def name_of(fn: Any) -> str | None:
    """A function's own name; None if it has none that clients could use."""
    name = getattr(fn, "__name__", None)
    return name if isinstance(name, str) and name.isidentifier() else None


def names_around(depth: int) -> dict[str, Any]:
    """The local names of the functions in which a decorator runs, the innermost first.

    Args:
        depth: How many frames above the caller the decorator is written.
    """
    frame: types.FrameType | None = sys._getframe(depth + 1)
    names: dict[str, Any] = {}
    if frame is None:
        return names
    module = frame.f_globals
    while frame is not None and frame.f_globals is module and frame.f_locals is not module:
        names = {**frame.f_locals, **names}
        frame = frame.f_back
    return names


def _resolved(place: Place, namespace: Mapping[str, Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    try:
        signature = inspect.signature(place.fn)
    except (TypeError, ValueError):
        raise place.refuse(Refusal.NO_SIGNATURE) from None
    inner = underlying(place.fn)
    variables = {each.__name__: each for each in getattr(inner, "__type_params__", ())}
    scope = {**namespace, **_closure(inner), **variables}
    names = getattr(inner, "__globals__", {})
    hints = {
        name: Any if raw.annotation is raw.empty else _hint(place, name, raw.annotation, names, scope)
        for name, raw in signature.parameters.items()
    }
    if signature.return_annotation is not signature.empty:
        hints["return"] = _hint(place, None, signature.return_annotation, names, scope)
    return signature, hints


def _hint(
    place: Place, name: str | None, annotation: Any, names: dict[str, Any], scope: dict[str, Any]
) -> Any:
    holder = types.SimpleNamespace(__annotations__={"hint": annotation})
    try:
        return readable(get_type_hints(holder, globalns=names, localns=scope, include_extras=True)["hint"])
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        raise place.refuse(Refusal.UNDEFINED_NAME, name or "return", problem=str(error)) from error


def _closure(fn: Any) -> dict[str, Any]:
    """What a function's closure holds by now."""
    found = {}
    names = getattr(getattr(fn, "__code__", None), "co_freevars", ())
    for name, cell in zip(names, getattr(fn, "__closure__", None) or (), strict=False):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


# --- contexts -----------------------------------------------------------------------------------------


def _context(
    place: Place, signature: inspect.Signature, hints: Mapping[str, Any], contexts: Contexts
) -> str | None:
    wanted = "RequestContext" if contexts.right is None else contexts.right.__name__
    found = []
    for position, (name, raw) in enumerate(signature.parameters.items()):
        choices = arms(hints[name])
        if wrong := [contexts.wrong[arm] for arm in choices if _is_key(arm, contexts.wrong)]:
            raise place.refuse(wrong[0], name)
        if any(map(_is_foreign_context, choices)):
            raise place.refuse(Refusal.FOREIGN_CONTEXT, name, context=wanted)
        if contexts.right is not None and contexts.right in choices:
            found.append(name)
        elif raw.annotation is raw.empty and raw.kind not in (raw.VAR_POSITIONAL, raw.VAR_KEYWORD):
            if position == 0 and name in ("self", "cls"):
                raise place.refuse(Refusal.METHOD, name)
            if name in _CONTEXT_NAMES and not contexts.names_alone:
                raise place.refuse(Refusal.CONTEXT_WITHOUT_HINT, name, context=wanted)
    if len(found) > 1:
        raise place.refuse(Refusal.TWO_CONTEXTS, ", ".join(found))
    return found[0] if found else None


def _is_key(value: Any, mapping: Mapping[type, Any]) -> bool:
    return isinstance(value, type) and value in mapping


def arms(hint: Any) -> list[Any]:
    """The alternatives of a hint: those of a union, or itself; without `Annotated`."""
    origin = get_origin(hint)
    if origin is Annotated:
        return arms(get_args(hint)[0])
    if origin is Union or origin is types.UnionType:
        return [arm for each in get_args(hint) for arm in arms(each)]
    return [hint]


def _is_foreign_context(hint: Any) -> bool:
    kind = get_origin(hint) or hint
    return isinstance(kind, type) and any(
        base.__name__ == "Context" and base.__module__.partition(".")[0] in ("mcp", "fastmcp")
        for base in kind.__mro__
    )


# --- parameters ---------------------------------------------------------------------------------------


def _parameters(place: Place, raw: inspect.Parameter, hint: Any) -> list[Parameter]:
    """The parameters that one of the signature is: several, if it is `**kwargs: Unpack[...]`."""
    if getattr(get_origin(hint), "_name", None) == "Unpack":
        return _unpacked(place, raw, get_args(hint)[0])
    if isinstance(hint, ParamSpec) or isinstance(getattr(hint, "__origin__", None), ParamSpec):
        raise place.refuse(Refusal.PARAM_SPEC, raw.name)
    hint, information = _with_field(raw, hint)
    default, make_default = _default(raw, information)
    if default is None and not _takes_none(hint):
        hint = hint | None if isinstance(hint, type) else Union[hint, None]  # noqa: UP007
    return [
        Parameter(
            name=raw.name,
            argument=_argument(place, raw.name, information),
            kind=_KINDS[raw.kind],
            hint=hint,
            default=default,
            make_default=make_default,
        )
    ]


def _unpacked(place: Place, raw: inspect.Parameter, kind: Any) -> list[Parameter]:
    """The parameters of `**kwargs: Unpack[SomeTypedDict]`."""
    try:
        hints, required = keys_of(kind)
    except (NameError, TypeError, AttributeError) as error:
        raise place.refuse(Refusal.UNDEFINED_NAME, raw.name, problem=str(error)) from error
    return [
        Parameter(
            name=name,
            argument=name,
            kind="named",
            hint=readable(hint),
            make_default=None if name in required else _absent,
        )
        for name, hint in hints.items()
    ]


def _absent() -> Any:
    """The default of what is simply not passed."""
    return MISSING


def _with_field(raw: inspect.Parameter, hint: Any) -> tuple[Any, list[FieldInfo]]:
    """The hint with what `Field(...)` as a default says, and everything that a `Field` says of it."""
    if isinstance(raw.default, FieldInfo):
        hint = Annotated[hint, raw.default]
    found = getattr(hint, "__metadata__", ())
    return hint, [each for each in found if isinstance(each, FieldInfo)]


def _default(raw: inspect.Parameter, information: list[FieldInfo]) -> tuple[Any, Callable[[], Any] | None]:
    if raw.default is not raw.empty and not isinstance(raw.default, FieldInfo):
        return raw.default, None
    for field_information in reversed(information):
        if field_information.default_factory is not None:
            return MISSING, typing.cast("Callable[[], Any]", field_information.default_factory)
        if field_information.default not in (PydanticUndefined, ...):
            return field_information.default, None
    return MISSING, None


def _argument(place: Place, name: str, information: list[FieldInfo]) -> str:
    for field_information in reversed(information):
        alias = field_information.validation_alias or field_information.alias
        if isinstance(alias, AliasChoices | AliasPath):
            raise place.refuse(Refusal.ALIAS_CHOICES, name)
        if alias:
            return alias
    return name


def _takes_none(hint: Any) -> bool:
    return any(arm in (None, types.NoneType, Any, object) or _may_be_anything(arm) for arm in arms(hint))


def _may_be_anything(hint: Any) -> bool:
    """Whether only pydantic knows if a hint takes None: a type variable, an alias, a literal."""
    if get_origin(hint) is Literal:
        return None in get_args(hint)
    return isinstance(hint, typing.TypeVar) or type(hint).__name__ == "TypeAliasType"


def _check_names(place: Place, parameters: list[Parameter]) -> None:
    taken: set[str] = set()
    for parameter in parameters:
        if parameter.kind == "extras":
            continue
        if parameter.argument in taken:
            raise place.refuse(Refusal.SAME_NAME, parameter.name)
        taken.add(parameter.argument)
