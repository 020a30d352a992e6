"""JSON of others, read so that it cannot mean two things: no two members of one name, no NaN."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def read_object(text: bytes) -> dict[str, Any]:
    """The members of a JSON object.

    Raises:
        ValueError: It is none, or not strict JSON.
    """
    try:
        value = json.loads(text.decode(), object_pairs_hook=_members, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - what was read is wrong, not how this is used
    return value


def _members(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("two of its members have one name")
    return members


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
