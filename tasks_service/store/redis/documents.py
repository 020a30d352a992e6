"""How an object is stored by name, and how what is stored changes from one release to the next.

A `Shape` maps the stored names of one kind of object to the names that it has in Python. The two are
independent of each other. A stored name that is missing has its default; one that nobody knows is kept with
its object and written back. A `Document` is such an object as a JSON text of its own. `Versions` says which
schema versions are read, and which one is written. docs/upgrading.md tells how to change any of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from operator import attrgetter
from types import UnionType
from typing import Any, Final, Generic, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from ...domain.errors import RecordTooNew
from ...domain.task import JsonText

T = TypeVar("T")
E = TypeVar("E", bound=Enum)

StoredFields = dict[str, Any]
"""An object by its stored names, as JSON has it."""

REQUIRED: Final = object()
"""The default of a field that an object cannot do without: none is invented for it."""

dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Field(NamedTuple):
    """A stored field.

    Attributes:
        stored: Its stored name; never given to anything else afterwards.
        name: Its name in Python.
        default: What it is, in Python, where it is not stored, and when it is not stored. For ever: records
            that lack it mean this value. `REQUIRED`: it must be stored.
        read: From its JSON value to its value in Python, if they differ.
        write: The way back.
    """

    stored: str
    name: str
    default: Any = REQUIRED
    read: Callable[[Any], Any] | None = None
    write: Callable[[Any], Any] | None = None


class Words(Generic[E]):
    """The stored names of an enum's members.

    Args:
        members: By their stored names; all of them.
    """

    def __init__(self, members: Mapping[str, E]) -> None:
        self._members = dict(members)
        self._words = {member: word for word, member in members.items()}
        if lacking := set(type(next(iter(members.values())))) - set(self._words):
            raise ValueError(f"no stored name for {lacking}")

    def read(self, word: str) -> E:
        """The member of a stored name.

        Raises:
            ValueError: There is none of that name; a newer release may have it.
        """
        try:
            return self._members[word]
        except (KeyError, TypeError):
            raise ValueError(f"{word!r:.80} is not one of {', '.join(self._members)}") from None

    def write(self, member: E) -> str:
        """The stored name of a member."""
        return self._words[member]

    def field(self, stored: str, name: str, default: Any = REQUIRED) -> Field:
        """A field that holds a member."""
        return Field(stored, name, default, self.read, self.write)

    def set_field(self, stored: str, name: str) -> Field:
        """A field that holds a set of members, as the text of a JSON list; not stored while it is empty.

        Words that only a newer release knows are passed over, and not written back.
        """
        # There are few different sets, and a poll reads one.
        return Field(stored, name, frozenset(), lru_cache(maxsize=256)(self._read_set), self._write_set)

    def _read_set(self, text: str) -> frozenset[E]:
        words = json.loads(text)
        return frozenset(self._members[word] for word in words if word in self._members)

    def _write_set(self, members: Iterable[E]) -> str:
        return dumps(sorted(map(self.write, members)))


class Shape(Generic[T]):
    """The stored names of one kind of object.

    Args:
        make: Makes the object from its names in Python.
        fields: What is stored of it.
        keeps: Whether the object is ever written back, so that it carries what is unknown (as `unknown`).
        signed: Stored names of whole numbers that may be negative; all others are counts or times.
    """

    def __init__(
        self,
        make: Callable[..., T],
        fields: Iterable[Field],
        *,
        keeps: bool = False,
        signed: Collection[str] = (),
    ) -> None:
        self._make, self._keeps = make, keeps
        self.fields = tuple(fields)
        kinds = _kinds_of(make)
        self._known = {
            field.stored: (
                field.name,
                field.read,
                None if field.read else kinds.get(field.name),
                _least(kinds.get(field.name), is_signed=field.stored in signed),
            )
            for field in self.fields
        }
        self._required = frozenset(field.stored for field in self.fields if field.default is REQUIRED)
        self._defaults = {field.name: field.default for field in self.fields if field.default is not REQUIRED}
        self._written = [(field.stored, field.default, field.write) for field in self.fields]
        # With one name more, since a getter of a single one returns no tuple.
        self._values = attrgetter(*(field.name for field in self.fields), "__class__")

    def read(self, stored: Mapping[str, Any], **beside: Any) -> T:
        """The object of what is stored.

        Args:
            stored: Its fields.
            beside: Values by their names in Python that are not stored.

        Raises:
            ValueError: It lacks a required field, or a value is none of those that there are.
        """
        if not isinstance(stored, dict):
            raise ValueError(f"expected an object, found {stored!r:.80}")  # noqa: TRY004 - see `Document`
        if not stored.keys() >= self._required:
            raise ValueError(f"it lacks {', '.join(sorted(self._required - stored.keys()))}")
        values = self._defaults | beside
        unknown: list[tuple[str, JsonText]] = []
        for name, value in stored.items():
            if (known := self._known.get(name)) is None:
                unknown.append((name, JsonText(dumps(value))))
                continue
            python, read, kinds, least = known
            if read is not None:
                values[python] = read(value)
                continue
            # Written out, since every poll comes by here with each field.
            if kinds is not None:
                if (kind := type(value)) not in kinds:
                    raise ValueError(f"its {name} is {value!r:.80}")
                if kind is str:
                    if not value.isascii():
                        value.encode()  # refuses what JSON can hold and UTF-8 cannot
                elif kind in _NUMBERS and not least <= value <= LARGEST:
                    raise ValueError(f"its {name} is out of range: {value!r:.80}")
            values[python] = value
        if unknown and self._keeps:
            values["unknown"] = tuple(unknown)
        return self._make(**values)

    def write(self, value: T) -> StoredFields:
        """What is to be stored of an object."""
        stored = {}
        for (name, default, write), part in zip(self._written, self._values(value), strict=False):
            if part != default:
                stored[name] = part if write is None else write(part)
        if self._keeps:
            for name, text in value.unknown:  # type: ignore[attr-defined]
                stored.setdefault(name, json.loads(text))
        return stored

    def field(self, stored: str, name: str, default: Any = REQUIRED) -> Field:
        """A field that holds such an object."""
        return Field(stored, name, default, self.read, self.write)

    def interned(self, stored: str, name: str) -> Field:
        """A required field that holds such an object, where few different ones are stored often."""

        @lru_cache(maxsize=256)
        def read_once(items: tuple[tuple[str, Any], ...]) -> T:
            return self.read(dict(items))

        def read(value: Mapping[str, Any]) -> T:
            try:
                return read_once(tuple(value.items()))
            except TypeError:  # what is unknown may be a list
                return self.read(value)

        return Field(stored, name, REQUIRED, read, self.write)

    def table(self, stored: str, name: str) -> Field:
        """A field that holds such objects under names of their own; it is not stored while it has none."""
        return Field(stored, name, {}, self._read_table, self._write_table)

    def _read_table(self, stored: Mapping[str, Any]) -> dict[str, T]:
        return {name: self.read(value) for name, value in stored.items()}

    def _write_table(self, values: Mapping[str, T]) -> StoredFields:
        return {name: self.write(value) for name, value in values.items()}


LARGEST = 2**53
"""The largest number that is stored: what every JSON reader keeps as it is."""

_KINDS = (bool, int, float, str, type(None))
_NUMBERS = (int, float)


def _kinds_of(make: Callable[..., Any]) -> dict[str, frozenset[type]]:
    """By a name in Python, the kinds of JSON value that its field may have, where it has none of its own."""
    if not isinstance(make, type):
        return {}
    found: dict[str, frozenset[type]] = {}
    for name, hint in get_type_hints(make).items():
        arms = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        kinds = {getattr(arm, "__supertype__", arm) for arm in arms}
        if kinds <= set(_KINDS):
            # JSON writes a whole number without a point.
            found[name] = frozenset(kinds | ({int} if float in kinds else set()))
    return found


def _least(kinds: frozenset[type] | None, *, is_signed: bool) -> int:
    """The least number that a field may hold."""
    return -LARGEST if is_signed or (kinds and float in kinds) else 0


def _check_text(text: str) -> None:
    """Refuse what JSON can hold and UTF-8 cannot: half of a pair of surrogates."""
    if not text.isascii():
        text.encode()


def read_texts(stored: Any) -> dict[str, str]:
    """Texts by name, read back.

    Raises:
        ValueError: Something else is stored.
    """
    if not isinstance(stored, dict) or any(type(text) is not str for text in stored.values()):
        raise ValueError(f"expected texts by name, found {stored!r:.80}")
    for name, text in stored.items():
        _check_text(name + text)
    return dict(stored)


def read_counts(stored: Any) -> dict[str, int]:
    """Counts or times by name, read back.

    Raises:
        ValueError: Something else is stored.
    """
    if not isinstance(stored, dict) or not all(
        type(number) is int and 0 <= number <= LARGEST for number in stored.values()
    ):
        raise ValueError(f"expected numbers by name, found {stored!r:.80}")
    for name in stored:
        _check_text(name)
    return dict(stored)


def read_json_object(stored: Any) -> dict[str, Any]:
    """A JSON object, read back as it is.

    Raises:
        ValueError: Something else is stored.
    """
    if not isinstance(stored, dict):
        raise ValueError(f"expected an object, found {stored!r:.80}")  # noqa: TRY004 - see `Document`
    return stored


def read_names(stored: Any) -> tuple[str, ...]:
    """A list of names, read back.

    Raises:
        ValueError: Something else is stored.
    """
    if not isinstance(stored, list) or any(type(name) is not str for name in stored):
        raise ValueError(f"expected a list of names, found {stored!r:.80}")
    _check_text("".join(stored))
    return tuple(stored)


class Step(NamedTuple):
    """The way from one schema version to the next, and back. Both may change what they are given.

    Attributes:
        lift: From the older version's fields to the newer one's.
        lower: The way back, for as long as the older version is written.
    """

    lift: Callable[[StoredFields], StoredFields]
    lower: Callable[[StoredFields], StoredFields]


class Versions:
    """The schema versions of something stored, from 1 on.

    Args:
        steps: From version 1 to 2, from 2 to 3, and so on; never shortened while such records may live.
        written: The version that is written: the newest one that the *previous* release reads. None: the
            newest.
    """

    def __init__(self, steps: Sequence[Step] = (), written: int | None = None) -> None:
        self._steps = tuple(steps)
        self.newest = 1 + len(self._steps)
        self.written = self.newest if written is None else written

    def lift(self, stored: StoredFields, version: int, what: str) -> StoredFields:
        """What an older release has stored, as this one would.

        Raises:
            RecordTooNew: A newer release has stored it.
            ValueError: There is no such version.
        """
        if version == self.newest:
            return stored
        if version > self.newest:
            raise RecordTooNew(what, version, self.newest)
        if version < 1:
            raise ValueError(f"there is no schema version {version}")
        for step in self._steps[version - 1 :]:
            stored = step.lift(stored)
        return stored

    def lower(self, stored: StoredFields) -> StoredFields:
        """What is to be stored, in the version that is written."""
        for step in reversed(self._steps[self.written - 1 :]):
            stored = step.lower(stored)
        return stored


class Document(Generic[T]):
    """An object that is stored as a JSON text of its own, with its version (`v`) if that is not 1.

    Args:
        shape: Its fields.
        versions: Its schema versions.
    """

    def __init__(self, shape: Shape[T], versions: Versions | None = None) -> None:
        self._shape, self._versions = shape, versions or Versions()

    def text(self, value: T) -> str:
        """An object as it is stored."""
        stored = self._versions.lower(self._shape.write(value))
        if self._versions.written > 1:
            stored["v"] = self._versions.written
        return dumps(stored)

    def value(self, text: str, what: str = "") -> T:
        """An object, read back.

        Args:
            text: What is stored.
            what: Whose it is, for errors.

        Raises:
            ValueError: It is damaged.
            RecordTooNew: A newer release has stored it.
        """
        return self._value(json.loads(text), what)

    def values(self, texts: Sequence[str], what: str = "") -> tuple[T, ...]:
        """Many objects, read back; raises as `value` does."""
        return tuple(self._value(stored, what) for stored in json.loads(f"[{','.join(texts)}]"))

    def _value(self, stored: Any, what: str) -> T:
        if not isinstance(stored, dict):
            raise ValueError(f"expected an object, found {stored!r}")  # noqa: TRY004 - what is stored is damaged
        return self._shape.read(self._versions.lift(stored, stored.pop("v", 1), what))
