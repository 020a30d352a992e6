"""How much work a store holds, for metrics: read from its indexes, at a cost that has a bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFacts:
    """What was found.

    Attributes:
        running: Tasks that workers run.
        sleeping: Tasks that come due later.
        parked: Tasks that wait for answers; None if too many owners wait for slots to tell them apart.
        waiting: Tasks that wait for a slot; None likewise.
        ended: Tasks that have ended and are still kept.
        pending: By queue: tasks that wait for a worker.
        oldest_ms: By queue: for how long the task has waited that has waited longest.
        workers: By service: workers that have announced themselves.
        beat_ages_ms: By the kind of maintenance: how long ago beat last had it done.
    """

    running: int
    sleeping: int
    parked: int | None
    waiting: int | None
    ended: int
    pending: Mapping[str, int] = field(default_factory=dict)
    oldest_ms: Mapping[str, int] = field(default_factory=dict)
    workers: Mapping[str, int] = field(default_factory=dict)
    beat_ages_ms: Mapping[str, int] = field(default_factory=dict)
