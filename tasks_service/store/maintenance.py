"""What sweeps and operators need of a store, across owners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from ..domain.events import SweepEvent
from ..domain.task import Task, TaskRecord


class Due(StrEnum):
    """The indexes that a sweep works off."""

    EXPIRED = "expired"
    """Final, and past `expires_ms`."""
    OVERDUE = "overdue"
    """Past the deadline of their phase."""
    LEASES = "leases"
    """Past their lease."""
    TIMERS = "timers"
    """Come due after a sleep or a retry's delay; no message was ever made for them: `Redispatch` makes it."""


class SweepMark(NamedTuple):
    """What a sweep learns when it is marked.

    Attributes:
        may_reap: Whether leases that have run out tell of lost workers by now.
        alarm: Why they do not from now on; empty while nothing is new.
    """

    may_reap: bool
    alarm: str


class SweepRecord(NamedTuple):
    """What a store keeps of the last sweep.

    Attributes:
        at_ms: When it was marked.
        server: Which run of which server it met.
        reap_from_ms: From when on leases that have run out tell of lost workers.
    """

    at_ms: int
    server: str
    reap_from_ms: int

    def mark(self, now_ms: int, server: str, lease_ms: int) -> tuple[SweepMark, SweepRecord]:
        """The next sweep: what it learns, and what is kept of it; see `TaskStoreMaintenance.mark_sweep`."""
        ago_ms, alarm = now_ms - self.at_ms, ""
        if server != self.server:
            alarm = "Redis was restarted or has failed over"
        elif ago_ms > lease_ms - lease_ms // 3:
            alarm = f"nobody swept for {ago_ms / 1000:.0f} s"
        # A clock that was put back does not prolong the rest.
        reap_from_ms = now_ms + lease_ms if alarm else min(self.reap_from_ms, now_ms + lease_ms)
        return SweepMark(now_ms >= reap_from_ms, alarm), SweepRecord(now_ms, server, reap_from_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many tasks a store holds, by what is to be done about them.

    Attributes:
        total: All of them.
        pending: Neither ended, running nor parked.
        waiting: Those of the pending ones that wait for their turn.
        running: Leased.
        live: Not ended.
    """

    total: int
    pending: int
    waiting: int
    running: int
    live: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """Something wrong with what is stored, and whether it has been fixed.

    Attributes:
        task_id: Which task; empty for a key that no task can be held to account for.
        what: What was found.
        fixed: Whether it is well now; False in a dry run, and for what only a person can decide.
    """

    task_id: str
    what: str
    fixed: bool


class TaskStoreMaintenance(Protocol):
    """Tasks for sweeps and operators, across owners, blocking."""

    def now_ms(self) -> int:
        """The store's clock."""

    def due(self, index: Due, *, limit: int) -> list[str]:
        """Ids of the tasks that an index says are due by now, oldest first, over all shards."""

    def apply_sweep(self, task_id: str, event: SweepEvent) -> Task | None:
        """Write down what time has decided; None if the task is gone afterwards.

        Raises:
            TaskNotFound: It is gone already; any index entry that named it is removed.
            InvalidTransition: It is not so (any more).
        """

    def queues(self) -> list[str]:
        """The queues that pending tasks wait in."""

    def pending(self, queue: str, *, until_ms: int, limit: int) -> list[str]:
        """Ids of a queue's pending tasks whose last message was made by `until_ms`, oldest first."""

    def waiting_for_slots(self, *, limit: int) -> list[str]:
        """Ids of the tasks to be granted a slot: under each concurrency key, those that wait longest.

        A few more than there are slots, in case some cannot take one; a `GrantSlot` too many is refused.
        """

    def overtaken_ms(self, queue: str) -> int:
        """The newest `dispatched_ms` that a claim from this queue has carried; 0 before the first.

        A claim that has found no slot free counts: its message was taken all the same. One that lies ahead of
        the store's clock, which was put back by a failover, is forgotten: it would make every task that waits
        look overtaken.
        """

    def mark_suspected(self, task_ids: Sequence[str], *, not_before_ms: int) -> list[int]:
        """Remember that messages seem lost; answer, for each, when it may be sent again.

        The first call for a task sets `not_before_ms`; later ones answer what was set, until the task leaves
        pending. A `Redispatch` moves it on by the backoff.
        """

    def try_lock(self, name: str, *, for_ms: int) -> bool:
        """Take a short lock that ends by itself; False if another process holds it."""

    def mark_sweep(self, *, lease_ms: int) -> SweepMark:
        """Note that a sweep is under way, and which run of the server it meets.

        Nothing may be reaped for one lease after a server was met that is another than before, or after a
        gap so long that the lease of a living worker, renewed at a third of it, may have run out: workers
        get the time to renew.

        Args:
            lease_ms: How long a lease is.
        """

    def has_due_suspects(self) -> bool:
        """Whether the time has come to look again at a message that seems lost: see `mark_suspected`."""

    def mark_beat(self, kind: str) -> None:
        """Note that beat has just had this kind of work done."""

    def beat_ages_ms(self) -> dict[str, int]:
        """How many ms ago beat last had each kind of work done; a kind that it never had is missing."""

    def last_sweep_ms(self) -> int | None:
        """How many ms ago the last sweep began; None if none ever did."""

    def inspect(self, task_id: str) -> TaskRecord:
        """Everything stored of one task, as it is stored (not its effective state).

        Raises:
            TaskNotFound: There is no such record.
            CorruptRecord: There is one that cannot be read.
        """

    def task_ids(self) -> Iterator[str]:
        """Every stored task's id, in no order; may miss or repeat tasks that come or go meanwhile."""

    def index_problems(self, task_id: str) -> list[str]:
        """Where the indexes disagree with the record of a task; empty when all is well."""

    def repair(self, *, dry_run: bool = False, quarantine: bool = False) -> Iterator[Repair]:
        """Walk through everything that is stored, and fix what is wrong; each finding as it is met.

        Safe at any time, beside any traffic: each task is one atomic step, and a sound one is left alone.

        Args:
            dry_run: Only tell.
            quarantine: Move records aside that cannot be read at all.
        """

    def counts(self) -> Counts:
        """How many tasks there are."""


MOST_GRANTED = 8
"""Tasks that wait in a key, and are looked at when a slot is free; what they leave free is for the sweep."""
