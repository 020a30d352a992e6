"""What one message may hold: how many values, how deep, and how much text in each field.

All of a message is looked at once, before anybody validates a part of it. What is refused here costs no more
than that look: validators collect every problem of a message, so that what they are given must be bounded.
The names of the fields, and what each may hold, are the revisions' (see `core.field_limits`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import Enum, auto
from typing import Any, Final

from ...domain.errors import LimitExceeded
from ...domain.limits import KIB, Limits, size, truncate

MESSAGE_VALUES: Final = 1_000
"""Values of a message, but for the arguments of a call: members of objects and items of arrays.

The SDK's models are given all of them; a wrong one costs them some 20 µs.
"""

ENVELOPE_DEPTH: Final = 4
"""How deep in a message the values are whose own depth is limited."""

ANSWER_VALUES: Final = 500
"""Values of all answers of a message together: the SDK tries a dozen models for each block in one."""

ARGUMENT_MEMBERS: Final = 5_000
"""Members of one object in arguments; each that a tool does not take is a problem of its own."""

NAME_BYTES: Final = 256
"""Most of a path, or of the name of a member, that an error repeats."""

TEXT_BYTES: Final = 8 * KIB
"""Longest text of a field that no table names."""

NUMBER_BITS: Final = 256
"""Largest integer outside of arguments and answers; ids and tokens are repeated in what is sent."""

SHORT: Final = 64
"""A text of so many characters fits everywhere: each is at most four bytes, and no maximum is below 256."""

ITEMS: Final = "[]"
"""Stands in a table for the items of an array."""

ANY: Final = "*"
"""Stands in a table for every name that it does not have."""

_PARSED: Final = 5
"""How many times the values that are allowed are still parsed, so that an error can name the field."""

_LARGEST: Final = 1 << NUMBER_BITS


class Region(Enum):
    """Parts of a message with limits of their own."""

    ARGUMENTS = auto()
    """Of a call: `Limits.argument_values`, and texts as long as the arguments may be."""

    ANSWERS = auto()
    """To questions: `core.answers` says how large they may be together, and asks again."""


Fields = Mapping[str, Any]
"""What each field may hold, by name: a number of bytes, a `Region`, or the fields in it."""


def check_structure(body: bytes, limits: Limits) -> None:
    """Refuse a body with far too many values before it is parsed.

    Raises:
        LimitExceeded: Its values are several times what is allowed.
    """
    maximum = limits.argument_values + MESSAGE_VALUES
    if body.count(b",") + body.count(b"{") + body.count(b"[") <= _PARSED * maximum:
        return
    plain = _without_escapes(body)
    # Each text is a value, or the name of one.
    values = plain.count(b'"') // 4
    if values <= _PARSED * maximum:
        outside = _outside_texts(plain)
        values = outside.count(b",") + outside.count(b"{") + outside.count(b"[")
    if values > _PARSED * maximum:
        raise LimitExceeded("the message", maximum=maximum, actual=values, unit="values")


def has_hidden_members(body: bytes, members: int) -> bool:
    """Whether a body has more members than its decoded value: some of one name.

    Args:
        body: What was decoded.
        members: The members of all objects that came of it.
    """
    # Each member has a colon, and most texts have none.
    if body.count(b":") == members:
        return False
    return _outside_texts(_without_escapes(body)).count(b":") > members


def check_message(body: bytes, decoded: Any, limits: Limits, fields_of: Callable[[Any], Fields]) -> int:
    """Look at all of a message, or of a batch, which may hold no more than one.

    Args:
        body: The message.
        decoded: What it says.
        limits: How deep it may be, and how much arguments and answers may hold.
        fields_of: Says what the fields of a message may hold.

    Returns:
        The number of members of all objects in it.

    Raises:
        LimitExceeded: Something is over its limit; it names the field.
    """
    # A value takes two bytes at least.
    if len(body) <= 2 * ANSWER_VALUES and (members := _members_of_plain(decoded, limits)) is not None:
        return members
    look = _Look(limits)
    if type(decoded) is dict:
        look.at(decoded, fields_of(decoded), (), 0)
    elif type(decoded) is list:
        for index, message in enumerate(decoded):
            if type(message) is dict or type(message) is list:
                look.at(message, fields_of(message), (index, ()), 1)
    return look.members


def _members_of_plain(decoded: Any, limits: Limits) -> int | None:
    """The number of members of a small message; None if something in it could be over a limit.

    Most messages are such, and a poll costs little else.
    """
    members, containers = 0, [decoded] if type(decoded) is dict else []
    for container in containers:
        values: Iterable[Any] = container
        if type(container) is dict:
            members += len(container)
            values = container.values()
        for inner in values:
            kind = type(inner)
            if kind is str:
                if len(inner) > SHORT:
                    return None
            elif kind is dict or kind is list:
                containers.append(inner)
            elif kind is int and not -_LARGEST < inner < _LARGEST:
                return None
    return members if 0 < len(containers) <= limits.depth else None


class _Look:
    """One look at a message."""

    __slots__ = ("_answer_values", "_argument_values", "_depth", "_limits", "_values", "members")

    def __init__(self, limits: Limits) -> None:
        self._limits, self._depth = limits, limits.depth + ENVELOPE_DEPTH
        self.members = self._values = self._argument_values = self._answer_values = 0

    def at(self, value: Any, fields: Any, path: tuple[Any, ...], depth: int) -> None:
        """Look at an object or array, and all that is in it.

        Args:
            value: It.
            fields: What it may hold; None: nothing is known of it.
            path: Where it is, the last part first, each with the rest behind it.
            depth: How deep it is.
        """
        self._values += len(value)
        if self._values > MESSAGE_VALUES:
            raise _too_much(path, "values", MESSAGE_VALUES, self._values)
        if fields is Region.ANSWERS:
            self._answer_values += len(value)
            if self._answer_values > ANSWER_VALUES:
                raise _too_much(path, "values", ANSWER_VALUES, self._answer_values)
        if depth > self._depth:
            raise _too_much(path, "levels of nesting", self._depth, depth)
        if type(value) is dict:
            self.members += len(value)
            for name, inner in value.items():
                kind = type(inner)
                if kind is str:
                    if len(inner) > SHORT:
                        self._check_text(inner, _of(fields, name), (name, path))
                elif kind is dict or kind is list:
                    self._within(inner, _of(fields, name), (name, path), depth + 1)
                elif kind is int and not -_LARGEST < inner < _LARGEST:
                    self._check_number(inner, _of(fields, name), (name, path))
        else:
            known = _of(fields, ITEMS)
            for index, inner in enumerate(value):
                kind = type(inner)
                if kind is str:
                    if len(inner) > SHORT:
                        self._check_text(inner, known, (index, path))
                elif kind is dict or kind is list:
                    self._within(inner, known, (index, path), depth + 1)
                elif kind is int and not -_LARGEST < inner < _LARGEST:
                    self._check_number(inner, known, (index, path))

    def _within(self, value: Any, fields: Any, path: tuple[Any, ...], depth: int) -> None:
        if fields is Region.ARGUMENTS:
            self._look_at_arguments(value, path, depth)
        else:
            self.at(value, fields, path, depth)

    def _look_at_arguments(self, arguments: Any, path: tuple[Any, ...], depth: int) -> None:
        """Look at arguments level by level: there may be many, and only containers cost something."""
        maximum, level = self._limits.argument_values, [(path, arguments)]
        while level:
            if depth > self._depth:
                raise _too_much(level[0][0], "levels of nesting", self._depth, depth)
            below: list[tuple[tuple[Any, ...], Any]] = []
            for where, value in level:
                self._argument_values += len(value)
                if self._argument_values > maximum:
                    raise _too_much(where, "values", maximum, self._argument_values)
                if type(value) is dict:
                    if len(value) > ARGUMENT_MEMBERS:
                        raise _too_much(where, "members of an object", ARGUMENT_MEMBERS, len(value))
                    self.members += len(value)
                    for name, inner in value.items():
                        if type(inner) is dict or type(inner) is list:
                            below.append(((name, where), inner))
                else:
                    below += [
                        ((index, where), inner)
                        for index, inner in enumerate(value)
                        if type(inner) is dict or type(inner) is list
                    ]
            level, depth = below, depth + 1

    def _check_text(self, text: str, known: Any, path: tuple[Any, ...]) -> None:
        if known is Region.ANSWERS:
            return
        if known is Region.ARGUMENTS:
            maximum = self._limits.arguments_bytes
        else:
            maximum = known if type(known) is int else TEXT_BYTES
        if len(text) * 4 > maximum and size(text) > maximum:
            raise _too_much(path, "bytes", maximum, size(text))

    def _check_number(self, number: int, known: Any, path: tuple[Any, ...]) -> None:
        if not isinstance(known, Region):
            raise _too_much(path, "bits of a number", NUMBER_BITS, number.bit_length())


def _of(fields: Any, name: str) -> Any:
    """What is known of a field; of all that is in answers, that they are answers."""
    if type(fields) is dict:
        return fields.get(name, fields.get(ANY))
    return fields if fields is Region.ANSWERS else None


def _too_much(path: tuple[Any, ...], unit: str, maximum: int, actual: int) -> LimitExceeded:
    parts: list[str] = []
    while path:
        part, path = path
        parts.append(str(part))
    where = truncate(".".join(reversed(parts)), NAME_BYTES) or "the message"
    return LimitExceeded(where, maximum=maximum, actual=actual, unit=unit)


def _without_escapes(body: bytes) -> bytes:
    """The body without backslashes and quotation marks in texts, so that every mark begins or ends one."""
    return body.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in body else body


def _outside_texts(plain: bytes) -> bytes:
    return b"".join(plain.split(b'"')[::2])
