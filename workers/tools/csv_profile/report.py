"""The models of the result of `profile_csv`, which are also its JSON schema for clients."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from .values import ColumnType


class Report(BaseModel):
    """The base of all parts of the result."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class TopValue(Report):
    """A frequent value."""

    value: str
    """The value; texts are cut after 100 characters, in wide tables earlier."""
    count: int
    """How often it occurs, at least."""


class Quantile(Report):
    """A point of the distribution."""

    fraction: float
    """This part of the values is at or below `value`; 0.5 is the median."""
    value: int | float | str
    """A value of the column."""


class ColumnProfile(Report):
    """One column."""

    name: str
    """From the header, else `column_1` and so on."""
    position: int
    """From 1."""
    type: ColumnType
    """The narrowest type that fits every value that is not null."""
    widened: str | None = None
    """If the column looked narrower at first: what it was, and the value that made a text column of it."""
    nulls: int
    """Empty cells, and cells such as NA, NaN, NULL, None."""
    distinct: int
    """Number of different values, nulls left out."""
    distinct_is_estimate: bool
    """Whether `distinct` is an estimate: so it is beyond some thousand different values."""
    distinct_error: float
    """Standard error of the estimate, relative to it; 0 if it is exact."""
    minimum: int | float | str | None = None
    """The smallest value; of texts the first by code points."""
    maximum: int | float | str | None = None
    """The largest value."""
    mean: float | None = None
    """Of numbers; null where it is beyond the range of floating point."""
    standard_deviation: float | None = None
    """Of numbers, for a sample."""
    quantiles: Annotated[list[Quantile], Field(default_factory=list)]
    """Of numbers, dates and times (those with a zone in UTC)."""
    quantile_rank_error: float = 0.0
    """The rank of a quantile is off by at most this part of all values; 0 if they are exact."""
    shortest: int | None = None
    """Characters of the shortest value."""
    longest: int | None = None
    """Characters of the longest value."""
    top_values: Annotated[list[TopValue], Field(default_factory=list)]
    """The most frequent values, most frequent first, of those that occur more than once."""
    top_values_error: int = 0
    """Counts of top values may be too low by at most this, and a value that occurs at most twice as often
    may be missing; 0 if they are exact."""


class CsvProfile(Report):
    """A table."""

    path: str
    """The file, relative to the tools' data directory."""
    size_bytes: int
    """Bytes that were read."""
    encoding: str
    """utf-8, or utf-8-sig with a byte order mark."""
    delimiter: str
    """What separates the fields."""
    has_header: bool
    """Whether the first row names the columns."""
    rows: int
    """Rows of data that were profiled."""
    malformed_rows: int
    """Rows that were left out, because they have another number of fields or broken quotes."""
    blank_lines: int
    """Empty lines; they are no rows."""
    problems: list[str]
    """The first malformed rows: where, and what is wrong."""
    columns_total: int
    """How many columns the table has."""
    columns: list[ColumnProfile]
    """The first columns, at most 256."""
