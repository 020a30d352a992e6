"""Messages as nobody sends them: every field of a real one in turn replaced by every kind of JSON value."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    1.5,
    float("nan"),
    "",
    "x",
    "\ud800",
    "x" * 70_000,
    [],
    [[]],
    ["x", 1],
    {},
    {"x": {}},
    {"__type__": "uuid", "__value__": "no"},
    {"__type__": ["x"], "__value__": {}},
)
"""One of each kind that JSON has, and some that its readers stumble over."""

ADDED = ("compression", "eta", "expires", "timelimit", "group", "stamped_headers", "stamps", "shadow", "meth")
"""Headers that Celery reads and ours have not, or only as null."""

ABSENT = object()
"""Stands for a field that is not there."""


RAW = (b"", b"\xff\xfe", b"not JSON", b"null", b"5", b"[]", b"{}", b'{"body": "x"}', b"[" * 100_000)
"""What is no message at all."""

EVENT = {
    "hostname": "celery@elsewhere",
    "type": "worker-heartbeat",
    "timestamp": 1.0,
    "local_received": 1.0,
    "utcoffset": 0,
    "pid": 1,
    "clock": 1,
    "freq": 2.0,
    "active": 0,
    "processed": 0,
    "loadavg": [0, 0, 0],
    "sw_ident": "py-celery",
    "id": "election",
    "topic": "task",
    "cver": 1,
    "uuid": "x",
}
"""What a worker tells others of itself, with all that any event may say."""


def embedded(message: Any, body: Any) -> Any:
    """The message with other arguments."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    properties = {**message["properties"], "body_encoding": "base64"}
    return {**message, "body": base64.b64encode(text).decode(), "properties": properties}


def variants(real: Any) -> Iterator[Any]:
    """A message with each field of its envelope, headers and arguments damaged, in every way."""
    for path in paths(real):
        for value in (ABSENT, *VALUES):
            yield replaced(real, path, value)
    for name in ADDED:
        for value in VALUES:
            yield replaced(real, ("headers", name), value)
    body = json.loads(base64.b64decode(real["body"]))
    for path in ((), *paths(body)):
        for value in VALUES if path == () else (ABSENT, *VALUES):
            yield embedded(real, replaced(body, path, value))


def damaged_twice(real: Any, draw: Random) -> Any:
    """A message with two of its fields damaged, whichever."""
    return _damaged(_damaged(real, draw), draw)


def _damaged(message: Any, draw: Random) -> Any:
    body = _body_of(message) if draw.random() < 0.5 else None
    target = message if body is None else body
    changed = replaced(target, draw.choice([*paths(target), ()]), draw.choice(VALUES))
    return changed if body is None else embedded(message, changed)


def _body_of(message: Any) -> Any:
    try:
        assert isinstance(message["properties"], dict)
        return json.loads(base64.b64decode(message["body"]))
    except (AssertionError, LookupError, TypeError, ValueError):
        return None


def published(exchange: str, routing_key: str, real: Any) -> Iterator[bytes]:
    """What somebody may publish: an event or an order with each field damaged, or another envelope."""
    properties = {
        "body_encoding": "base64",
        "delivery_tag": "x",
        "delivery_info": {"exchange": exchange, "routing_key": routing_key},
    }
    envelope = {"content-type": "application/json", "content-encoding": "utf-8", "headers": {}}
    sound = embedded({**envelope, "properties": properties}, real)
    yield from (raw for raw in RAW if raw)
    for path in paths(sound):
        for value in VALUES:
            yield json.dumps(replaced(sound, path, value)).encode()
    for kind in ("application/x-python-serialize", "application/x-yaml", "text/plain", "x"):
        for body in (b"\x80\x04N.", b"- x", b"\xff"):
            yield json.dumps(embedded({**sound, "content-type": kind}, body)).encode()
    for body in (b"", b"not JSON", b"\xff", b"[" * 100_000):
        yield json.dumps(embedded(sound, body)).encode()
    for value in VALUES:
        yield json.dumps(embedded(sound, value)).encode()
    for path in paths(real):
        for value in (ABSENT, *VALUES):
            yield json.dumps(embedded(sound, replaced(real, path, value))).encode()


def paths(value: Any) -> Iterator[tuple[Any, ...]]:
    """The places in a value, the deepest last."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield (key,)
        yield from ((key, *path) for path in paths(child))


def replaced(message: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A JSON value with another one in a place; `ABSENT`: without that place."""
    if not path:
        return value
    changed = copy.deepcopy(message)
    *way, last = path
    place = changed
    for key in way:
        place = place[key]
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return changed
