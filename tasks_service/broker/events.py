"""Whether what was published as an event is one: Celery's receivers, and so Flower, believe whatever it says.

A field of another type stays in their picture of a worker or a task, and fails whoever reads that later: one
event with a `freq` that is a text, and Flower shows no worker any more until it is restarted.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

EXCHANGE = "celeryev"
"""The exchange on which workers tell of themselves and of their tasks."""


def problem_of_event(message: Mapping[str, Any]) -> str:
    """Why a message is no event; empty if it is one.

    Args:
        message: As kombu's Redis transport has read it.
    """
    try:
        body = message["body"]
        if message["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(body)
        told = json.loads(body)
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        return f"it is no event: {type(error).__name__}"
    for event in told if isinstance(told, list) else [told]:  # workers send those of tasks some at a time
        if wrong := _wrong_field(event):
            return f"it is no event: {wrong}"
    return ""


def _wrong_field(event: Any) -> str:
    if not isinstance(event, dict):
        return "no object"
    is_of_task = str(event.get("type")).startswith("task-")
    for name in ("type", "hostname", "uuid") if is_of_task else ("type", "hostname"):
        if not _is_text(event.get(name)):
            return f"its {name} is no text"
    for name, value in event.items():
        if name in _OF_RECEIVERS or name.startswith("_"):
            return f"a field is called {name[:50]!r}"
        if not _CHECKS.get(name, _is_anything)(value):
            return f"its {name} has another type"
    return ""


def _is_anything(_: Any) -> bool:
    return True


def _is_text_or_null(value: Any) -> bool:
    return value is None or _is_text(value)


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -_LARGEST <= value <= _LARGEST and not math.isnan(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value)


def _is_list_of_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


_LARGEST = 2**53
"""Larger numbers are no time, no count and no clock."""

_TEXTS = (
    *("uuid", "name", "args", "kwargs", "result", "exception", "traceback", "eta", "expires", "state"),
    *("root_id", "parent_id", "exchange", "routing_key", "queue", "sw_ident", "sw_ver", "sw_sys"),
)
_INTEGERS = ("pid", "clock", "active", "processed", "retries")
_NUMBERS = ("utcoffset", "timestamp", "local_received", "freq", "runtime")

_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(_TEXTS, _is_text_or_null),
    **dict.fromkeys(_INTEGERS, _is_integer),
    **dict.fromkeys(_NUMBERS, _is_number),
    "loadavg": _is_list_of_numbers,
}

_OF_RECEIVERS = frozenset(
    {
        *("heartbeats", "event", "update", "alive", "status_string", "heartbeat_expires", "heartbeat_max"),
        *("expire_window", "cluster_state", "children", "worker", "client", "parent", "root", "ready"),
        *("origin", "info", "as_dict", "merge_rules"),
    }
)
"""What a receiver calls its own facts and methods: a field of that name would take their place."""
