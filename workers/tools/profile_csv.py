"""The tool `profile_csv`: a profile of a CSV file of any size, in one pass and bounded memory."""

from __future__ import annotations

from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Annotated

import pydantic_core
from pydantic import Field

from tasks_service import TaskContext, TaskService, ToolAnnotations

from ..settings import ToolSettings
from .confine import confine, open_file, relative_name
from .csv_profile.column import Column, Detail
from .csv_profile.report import ColumnProfile, CsvProfile
from .csv_profile.source import Batch, CsvSource

MAX_COLUMNS = 256
"""Most columns that are profiled; with more, the result would be too large."""

MAX_ANSWER = 900_000
"""Most bytes of the result; one of 1 MiB is refused."""

DETAILS = (Detail(10, 100), Detail(5, 50), Detail(3, 25), Detail(0, 15))
"""The levels of detail; the first is taken with which the result is small enough."""

MAX_CAPACITY = 4096
"""The largest capacity of a column's sketches; up to so many different values, everything is exact."""

TOTAL_CAPACITY = 64 * MAX_CAPACITY
"""The capacity of all columns together, 120 MB at most; wide tables get coarser sketches."""


def register(service: TaskService, settings: ToolSettings) -> None:
    """Add the tool to a service."""

    @service.tool(
        title="Profile a CSV file",
        annotations=ToolAnnotations(
            read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
        ),
        poll_interval=timedelta(seconds=0.5),
        timeout=timedelta(hours=6),
    )
    def profile_csv(
        path: Annotated[str, Field(description="The file, relative to the tools' data directory.")],
        ctx: TaskContext,
        header: Annotated[
            bool | None,
            Field(description="Whether the first row names the columns; leave it out to find out."),
        ] = None,
    ) -> CsvProfile:
        """Describe every column of a CSV file: type, nulls, distinct values, extremes, quantiles, top values.

        Use it to get to know a table before querying it, or to find dirt in it. The file is read once, from
        beginning to end, whatever its size; it must be UTF-8 text separated by commas, semicolons, tabs or
        bars. Rows that do not fit are counted, not fatal. Where a number is an estimate, the answer says so
        and how far it may be off.
        """
        return profile(settings.tools_root, path, ctx, header=header)


def profile(root: Path, path: str, ctx: TaskContext, *, header: bool | None = None) -> CsvProfile:
    """Profile a CSV file beneath the root.

    Args:
        root: The directory that `path` may not leave.
        path: The path from the client.
        ctx: The context; progress is counted in bytes of the file.
        header: Whether the first row names the columns; None: find out.

    Raises:
        ToolError: There is no such file beneath the root, or it is no CSV in UTF-8.
        AttemptEnded: The attempt must stop; noticed within a block of `BLOCK` bytes.
    """
    real = confine(root, path)
    name = relative_name(root, real)
    with open_file(root, real) as file:
        size = real.stat().st_size
        source = CsvSource(file, name, header=header)
        columns = _columns(source.columns[:MAX_COLUMNS])
        for batch in source.batches():
            _take(columns, batch, ctx)
            tally = source.tally
            ctx.progress(min(tally.bytes_read, size), size, f"{tally.rows:,} rows profiled")
    for detail in DETAILS:
        answer = _answer(name, source, [column.profile(detail) for column in columns])
        if _size(answer) <= MAX_ANSWER:
            break
    return answer


def _answer(name: str, source: CsvSource, columns: list[ColumnProfile]) -> CsvProfile:
    return CsvProfile(
        path=name,
        size_bytes=source.tally.bytes_read,
        encoding=source.encoding,
        delimiter=source.delimiter,
        has_header=source.has_header,
        rows=source.tally.rows,
        malformed_rows=source.tally.malformed,
        blank_lines=source.tally.blank,
        problems=source.tally.problems,
        columns_total=len(source.columns),
        columns=columns,
    )


def _size(answer: CsvProfile) -> int:
    # A result has it twice: as structured content, and as text for clients without structured content.
    structured = answer.model_dump_json(indent=2)
    return len(structured.encode()) + len(pydantic_core.to_json(structured))


def _columns(names: list[str]) -> list[Column]:
    capacity = min(MAX_CAPACITY, TOTAL_CAPACITY // len(names) // 2 * 2)
    return [Column(name, n, capacity=capacity) for n, name in enumerate(names, start=1)]


def _take(columns: list[Column], batch: Batch, ctx: TaskContext) -> None:
    # Columns beyond the last profiled one are not read.
    for column, cells in zip(columns, islice(zip(*batch.rows, strict=True), len(columns)), strict=False):
        ctx.check()
        column.update(cells, batch.first_row)
