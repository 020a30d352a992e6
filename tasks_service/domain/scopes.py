"""Scopes: what the holder of a token may do (RFC 6749, section 3.3).

The service has four of its own, one for each thing that a client can do; authors name more for their tools. A
broad scope implies the narrow ones: the broad one is what stands before a colon, so that `tasks` implies
`tasks:call`, and an author's `reports` implies `reports:write`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

SERVICE: Final = "tasks"
"""Everything that the service's own scopes allow."""

CALL: Final = "tasks:call"
"""To call tools."""

READ: Final = "tasks:read"
"""To read: tasks and their results, resources, prompts; and to listen to changes."""

CANCEL: Final = "tasks:cancel"
"""To cancel tasks."""

ANSWER: Final = "tasks:answer"
"""To answer what tools ask."""

SERVICE_SCOPES: Final = (CALL, READ, CANCEL, ANSWER)
"""What clients are told to ask for, unless the settings say otherwise."""

_SCOPE: Final = re.compile(r"[!#-\[\]-~]{1,128}")
"""A scope: visible characters but for quotation mark and backslash."""


def is_scope(text: object) -> bool:
    """Whether a value is a scope, of a sensible length."""
    return isinstance(text, str) and _SCOPE.fullmatch(text) is not None


def is_granted(scope: str, granted: Collection[str]) -> bool:
    """Whether one of the granted scopes is this one, or implies it."""
    return scope in granted or any(broad in granted for broad in broader(scope))


def broader(scope: str) -> Iterable[str]:
    """The scopes that imply one, the narrowest first: of `a:b:c`, `a:b` and `a`."""
    while (colon := scope.rfind(":")) > 0:
        scope = scope[:colon]
        yield scope
