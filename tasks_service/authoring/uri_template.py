"""Templates of URIs, as far as their declaration needs: which variables they have, and whether they can work.

Front ends match URIs with the SDK's templates (RFC 6570). A worker has no URIs to match, and no SDK, but
imports the module that declares them. So the rules are checked here, at registration, wherever that is; a
test compares them with what the SDK accepts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

LONGEST: Final = 8 * 1024
"""Most characters of a template."""

MOST_VARIABLES: Final = 256
"""Most variables of a template."""

_NAME: Final = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*")
_OPERATORS: Final = frozenset("+#./;?&")
_LEADING: Final = frozenset("#./;?&")
"""Operators that put a character of their own before the value."""

_UNBOUNDED: Final = frozenset("+#")
"""Operators whose values may contain slashes."""


class _Expression(NamedTuple):
    operator: str
    names: tuple[str, ...]
    follows: bool
    """Whether another expression ends where this one begins."""


def template_variables(template: str) -> tuple[str, ...]:
    """The names of a template's variables, in their order; none for the URI of a single resource.

    Raises:
        ValueError: It is no template, or one that URIs cannot be matched with.
    """
    if len(template) > LONGEST:
        raise ValueError(f"expected at most {LONGEST} characters")
    expressions = list(_expressions(template))
    names = tuple(name for expression in expressions for name in expression.names)
    if len(names) > MOST_VARIABLES:
        raise ValueError(f"expected at most {MOST_VARIABLES} variables")
    if twice := [name for index, name in enumerate(names) if name in names[:index]]:
        raise ValueError(f"the variable {twice[0]!r} occurs twice")
    if sum(expression.operator == "?" for expression in expressions) > 1:
        raise ValueError("it has more than one {?...}; write {?a,b}")
    if sum(len(expression.names) for expression in expressions if expression.operator in _UNBOUNDED) > 1:
        raise ValueError("it has more than one of {+var} and {#var}, and slashes could be in either")
    for expression in expressions:
        if expression.follows and expression.operator not in _LEADING:
            raise ValueError(f"nothing stands between {expression.names[0]!r} and the variable before it")
    return names


def _expressions(template: str) -> Iterator[_Expression]:
    end = -1
    while (start := template.find("{", end + 1)) != -1:
        follows = end != -1 and start == end + 1
        end = template.find("}", start)
        if end == -1:
            raise ValueError(f"the brace at position {start} is not closed")
        yield _expression(template[start + 1 : end], follows)


def _expression(body: str, follows: bool) -> _Expression:
    operator = body[:1] if body[:1] in _OPERATORS else ""
    names = tuple(body.removeprefix(operator).split(","))
    for name in names:
        if name.endswith("*"):
            raise ValueError(f"{name}: a variable has one value here, without *")
        if ":" in name:
            raise ValueError(f"{name}: the beginning of a value is no use here, write it without :")
        if not _NAME.fullmatch(name):
            raise ValueError(f"{{{body}}}: {name!r} is no name of a variable")
    return _Expression(operator, names, follows)
