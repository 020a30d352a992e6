"""The types of values, recognised by their form, for a whole column at a time.

A column's type fits *every* value that is not null. A column starts with the narrowest type that fits its
first values, and widens if a later value does not fit: integer to number, date to datetime, any type to text.

Every type but text and boolean has a *key*, a number that orders its values: the number itself, or seconds
since 1970 for dates and times, where a time without a zone counts as UTC.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

NULLS = frozenset({"", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "#N/A"})
"""The texts that count as null, as spreadsheets, databases, R and pandas write them."""

Key = int | float


class ColumnType(StrEnum):
    """The type of a column."""

    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    DATETIME = "datetime"
    TEXT = "text"
    EMPTY = "empty"


WIDER = {ColumnType.INTEGER: ColumnType.NUMBER, ColumnType.DATE: ColumnType.DATETIME}
"""The next wider type of a type; text for those that are not here."""

_BOOLEANS = frozenset({"true", "false", "yes", "no"})
_NOT_INTEGER = re.compile(r"[^0-9+\-\n]")
_NOT_NUMBER = re.compile(r"[^0-9+\-.eE\n]")
_CODE = re.compile(r"(?:^|\n)[+-]?0[0-9]")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DATETIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt ][0-9]{2}:[0-9]{2}[0-9:.,+\-Zz]*)?")
_EPOCH = date(1970, 1, 1).toordinal()
_DAY = 86_400
_START = datetime(1970, 1, 1, tzinfo=UTC)


def narrowest_type(values: Sequence[str]) -> ColumnType:
    """The narrowest type that fits all of the values.

    Args:
        values: At least one value, stripped, none of them null.
    """
    return next((kind for kind in _READERS if read_keys(kind, values) is not None), ColumnType.TEXT)


def read_keys(kind: ColumnType, values: Sequence[str]) -> list[Key] | None:
    """The keys of the values, empty for text and booleans; None if a value is not of that type."""
    if kind is ColumnType.TEXT:
        return []
    try:
        return _READERS[kind](values)
    except (ValueError, OverflowError):
        return None


def looks_typed(value: str) -> bool:
    """Whether a cell is a number, a date or a boolean, and so hardly the name of a column."""
    stripped = value.strip()
    return stripped not in NULLS and narrowest_type([stripped]) is not ColumnType.TEXT


def show_key(kind: ColumnType, key: Key) -> int | float | str:
    """Write a key as a value of the type."""
    match kind:
        case ColumnType.INTEGER:
            return int(key) if key == int(key) else key
        case ColumnType.DATE:
            return date.fromordinal(int(key // _DAY) + _EPOCH).isoformat()
        case ColumnType.DATETIME:
            return (_START + timedelta(seconds=key)).replace(tzinfo=None).isoformat()
        case _:
            return key


def _integers(values: Sequence[str]) -> list[Key] | None:
    text = "\n".join(values)
    # With a leading zero it is a postal code, a phone number or an account, not a quantity.
    if _NOT_INTEGER.search(text) or _CODE.search(text):
        return None
    numbers = list(map(int, values))
    float(max(numbers)), float(min(numbers))
    return list(numbers)


def _numbers(values: Sequence[str]) -> list[Key] | None:
    text = "\n".join(values)
    if _NOT_NUMBER.search(text) or _CODE.search(text):
        return None
    numbers = list(map(float, values))
    return list(numbers) if math.isfinite(max(numbers)) and math.isfinite(min(numbers)) else None


def _booleans(values: Sequence[str]) -> list[Key] | None:
    return [] if {value.casefold() for value in set(values)} <= _BOOLEANS else None


def _dates(values: Sequence[str]) -> list[Key] | None:
    if not all(map(_DATE.fullmatch, values)):
        return None
    return [(date.fromisoformat(value).toordinal() - _EPOCH) * _DAY for value in values]


def _datetimes(values: Sequence[str]) -> list[Key] | None:
    if not all(map(_DATETIME.fullmatch, values)):
        return None
    return [_timestamp(value) for value in values]


def _timestamp(value: str) -> float:
    moment = datetime.fromisoformat(value)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


_READERS: dict[ColumnType, Callable[[Sequence[str]], list[Key] | None]] = {
    ColumnType.INTEGER: _integers,
    ColumnType.NUMBER: _numbers,
    ColumnType.BOOLEAN: _booleans,
    ColumnType.DATE: _dates,
    ColumnType.DATETIME: _datetimes,
}
