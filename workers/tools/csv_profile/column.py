"""The profile of one column of a table, built batch by batch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

from .report import ColumnProfile, Quantile, TopValue
from .sketches import DistinctCount, HeavyHitters, Moments, Quantiles
from .values import NULLS, WIDER, ColumnType, Key, narrowest_type, read_keys, show_key

FRACTIONS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""The reported quantiles."""

KEPT_CHARACTERS = 100
"""Characters kept of a text value; values that agree in them count as one among the top values."""


class Detail(NamedTuple):
    """The level of detail of a column's profile.

    Attributes:
        top_values: The number of most frequent values.
        characters: The most characters of a text, up to `KEPT_CHARACTERS`.
    """

    top_values: int
    characters: int


class Column:
    """A summary of a column; its size does not grow with the number of rows.

    Args:
        name: The column's name from the header.
        position: Its position, from 1.
        capacity: The number of values (or hashes, or counters) that each sketch keeps; up to it, it is exact.
    """

    def __init__(self, name: str, position: int, *, capacity: int) -> None:
        self._name, self._position = name, position
        self._kind = ColumnType.EMPTY
        self._widened: tuple[ColumnType, int, str] | None = None
        self._nulls = 0
        self._texts: _Range[str] = _Range()
        self._lengths: _Range[int] = _Range()
        self._keys: _Range[Key] = _Range()
        self._distinct = DistinctCount(capacity)
        self._frequent = HeavyHitters(capacity)
        self._quantiles = Quantiles(capacity)
        self._moments = Moments()

    def update(self, cells: Sequence[str], first_row: int) -> None:
        """Add the column's cells of a batch of rows.

        Args:
            cells: The cells as they are in the file; whitespace around them is ignored.
            first_row: The number of the first row, from 1, for messages.
        """
        values = list(map(str.strip, cells))
        counts = Counter(values)
        nulls = sum(counts.pop(null) for null in NULLS & counts.keys())
        self._nulls += nulls
        if counts:
            self._update_texts(counts)
            self._update_keys(values, counts, first_row)

    def _update_texts(self, counts: Counter[str]) -> None:
        self._distinct.update(counts)
        self._texts.update(counts)
        self._lengths.update(list(map(len, counts)))
        too_long = self._lengths.highest > KEPT_CHARACTERS
        self._frequent.update(_shortened(counts) if too_long else counts)

    def _update_keys(self, values: Sequence[str], counts: Counter[str], first_row: int) -> None:
        if self._kind is ColumnType.EMPTY:
            # A few values decide the first type; a value that does not fit is then reported.
            self._kind = narrowest_type(list(islice(counts, 100)))
        if self._kind is ColumnType.TEXT:
            return
        different = list(counts)
        keys = read_keys(self._kind, different)
        if keys is None:
            self._widen(values, different, first_row)
            keys = read_keys(self._kind, different) or []
        if keys:
            self._keys.update(keys)
            if len(keys) != counts.total():
                key_of = dict(zip(different, keys, strict=True))
                keys = [key_of[value] for value in values if value in key_of]
            self._quantiles.update(keys)
            self._moments.update(keys)

    def _widen(self, values: Sequence[str], different: Sequence[str], first_row: int) -> None:
        was = self._kind
        wider = WIDER.get(was, ColumnType.TEXT)
        self._kind = ColumnType.TEXT if read_keys(wider, different) is None else wider
        if self._kind is ColumnType.TEXT:
            culprit = next(value for value in different if read_keys(wider, [value]) is None)
            self._widened = was, first_row + values.index(culprit), _cut(culprit)

    def profile(self, detail: Detail) -> ColumnProfile:
        """Return the column's profile."""
        has_keys = self._kind not in (ColumnType.TEXT, ColumnType.BOOLEAN, ColumnType.EMPTY)
        is_number = self._kind in (ColumnType.INTEGER, ColumnType.NUMBER)
        # Counts within the error are unreliable: their order, and which values are listed, would be chance.
        certain = max(1, self._frequent.error)
        return ColumnProfile(
            name=_cut(self._name, detail.characters),
            position=self._position,
            type=self._kind,
            widened=self._described_widening(detail),
            nulls=self._nulls,
            distinct=self._distinct.count,
            distinct_is_estimate=self._distinct.is_estimate,
            distinct_error=round(self._distinct.relative_error, 4),
            minimum=self._extreme(has_keys, detail, highest=False),
            maximum=self._extreme(has_keys, detail, highest=True),
            mean=self._moments.mean if is_number else None,
            standard_deviation=self._moments.standard_deviation if is_number else None,
            quantiles=self._reported_quantiles() if has_keys else [],
            quantile_rank_error=_rounded_up(self._quantiles.rank_error) if has_keys else 0.0,
            shortest=self._lengths.lowest if self._lengths else None,
            longest=self._lengths.highest if self._lengths else None,
            top_values=[
                TopValue(value=_cut(value, detail.characters), count=count)
                for value, count in self._frequent.top(detail.top_values)
                if count > certain
            ],
            top_values_error=self._frequent.error,
        )

    def _described_widening(self, detail: Detail) -> str | None:
        if self._widened is None:
            return None
        was, row, culprit = self._widened
        return f"{was} until row {row}: {_cut(culprit, detail.characters)!r}"

    def _extreme(self, has_keys: bool, detail: Detail, *, highest: bool) -> int | float | str | None:
        if has_keys:
            return show_key(self._kind, self._keys.highest if highest else self._keys.lowest)
        if not self._texts:
            return None
        return _cut(self._texts.highest if highest else self._texts.lowest, detail.characters)

    def _reported_quantiles(self) -> list[Quantile]:
        found = self._quantiles.at(FRACTIONS)
        return [
            Quantile(fraction=fraction, value=show_key(self._kind, key))
            for fraction, key in zip(FRACTIONS, found, strict=True)
        ]


V = TypeVar("V", str, int, Key)


class _Range(Generic[V]):
    """The smallest and the largest of the added values; false while there are none."""

    lowest: V
    highest: V

    def __bool__(self) -> bool:
        return hasattr(self, "lowest")

    def update(self, values: Collection[V]) -> None:
        low, high = min(values), max(values)
        if self:
            low, high = min(self.lowest, low), max(self.highest, high)
        self.lowest, self.highest = low, high


def _shortened(counts: Counter[str]) -> Counter[str]:
    shortened: Counter[str] = Counter()
    for value, count in counts.items():
        shortened[_cut(value)] += count
    return shortened


def _cut(value: str, characters: int = KEPT_CHARACTERS) -> str:
    return value if len(value) <= characters else value[: characters - 1] + "…"


def _rounded_up(error: float) -> float:
    return math.ceil(error * 1e6) / 1e6
