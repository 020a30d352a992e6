"""Tables on stdout: as wide as a terminal is, and as wide as their contents where there is none."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


def print_table(table: Table) -> None:
    """Print a table; to a file or a pipe no cell is cut off, so that programs find all of it."""
    console = Console()
    if not console.is_terminal:
        table.expand = False
        unlimited = console.options.update(max_width=1_000_000)
        console.width = max(Measurement.get(console, unlimited, table).maximum, 1)
    console.print(table)


def age(age_ms: int) -> str:
    """How long ago something was, in its largest unit."""
    seconds = max(age_ms, 0) // 1000
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
