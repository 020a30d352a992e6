"""Counting what maintenance has done, for metrics."""

from __future__ import annotations

from ...metrics.children import flush
from ...metrics.series import MAINTENANCE_RUNS, MAINTENANCE_TASKS
from .schedule import AUDIT


def count_done(kind: str, done: int) -> None:
    """Count that a kind of maintenance was done.

    Args:
        kind: See `metrics.series.Maintenance`.
        done: How many tasks it has moved; an audit moves none.
    """
    MAINTENANCE_RUNS.add(kind)
    if kind != AUDIT:
        MAINTENANCE_TASKS.add(kind, number=done)
    flush()
