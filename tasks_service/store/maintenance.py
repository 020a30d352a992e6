"""What sweeps and operators need of a store, across owners."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..domain.events import OperatorEvent, SweepEvent
from ..domain.indexes import Due
from ..domain.task import Task, TaskRecord
from .registry import Registry


class SweepMark(NamedTuple):
    """What a sweep learns when it is marked.

    Attributes:
        may_reap: Whether a lease that has run out now means that its worker is lost.
        alarm: Why it does not, from now on; empty if nothing new was met.
    """

    may_reap: bool
    alarm: str


class SweepRecord(NamedTuple):
    """What a store keeps of the last sweep.

    Attributes:
        at_ms: When it was marked.
        server: Which run of which server it met.
        reap_from_ms: From when on a lease that has run out means that its worker is lost.
    """

    at_ms: int
    server: str
    reap_from_ms: int

    def mark(self, now_ms: int, server: str, lease_ms: int) -> tuple[SweepMark, SweepRecord]:
        """The next sweep: what it learns, and what is kept of it; see `MaintenanceStore.mark_sweep`."""
        ago_ms, alarm = now_ms - self.at_ms, ""
        if server != self.server:
            alarm = "Redis was restarted or has failed over"
        elif ago_ms > lease_ms - lease_ms // 3:
            alarm = f"nobody swept for {ago_ms / 1000:.0f} s"
        # A clock that was put back does not prolong the rest.
        reap_from_ms = now_ms + lease_ms if alarm else min(self.reap_from_ms, now_ms + lease_ms)
        return SweepMark(now_ms >= reap_from_ms, alarm), SweepRecord(now_ms, server, reap_from_ms)


class DroppedMessages(NamedTuple):
    """What workers have dropped from a queue because it was no message that they could run.

    Attributes:
        number: How many, ever.
        at_ms: When the newest was dropped.
    """

    number: int
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """Something wrong with what is stored, and whether it has been fixed.

    Attributes:
        task: The name of the task; empty for a key that belongs to no task.
        what: What was found.
        fixed: Whether it is fixed; False in a dry run, and for what only a person can decide.
    """

    task: str
    what: str
    fixed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reencrypted:
    """A record that has to be encrypted anew, or was.

    Attributes:
        task: The name of the task.
        keys: The names of the keys that it is under, beside the first one; empty for what is not encrypted.
        problem: Why it cannot be; empty if it can.
    """

    task: str
    keys: frozenset[str] = frozenset()
    problem: str = ""


class MaintenanceStore(Protocol):
    """Tasks for sweeps and operators, across owners, blocking.

    They find tasks by their names, which tell nobody an id. A reference is a name, with or without the
    `.<claim>` behind it that Celery shows, or an id.
    """

    @property
    def registry(self) -> Registry:
        """The workers that run, and the tools that they have."""

    def now_ms(self) -> int:
        """The store's clock."""

    def due(self, index: Due, *, limit: int, skip: int = 0) -> list[str]:
        """Names of the tasks that are due by now according to an index, oldest first, over all shards.

        Args:
            index: The index.
            limit: The most names.
            skip: How many to pass over in each shard: those that were found before, and are still due.
        """

    def apply_sweep(self, reference: str, event: SweepEvent) -> Task | None:
        """Write what has become of a task with time; None if the task is gone afterwards.

        Raises:
            TaskNotFound: It is gone already; any index entry that named it is removed.
            InvalidTransition: It is not due, or not any more.
        """

    def apply_order(self, reference: str, event: OperatorEvent) -> Task:
        """Write what an operator has ordered for a task, whoever owns it.

        Raises:
            TaskNotFound: There is no such task.
            InvalidTransition: Not possible in the phase that the task is in.
            CorruptRecord: Its record cannot be read.
        """

    def queues(self) -> list[str]:
        """The queues that a pending task was ever in."""

    def pending(self, queue: str, *, since_ms: int = 0, until_ms: int, limit: int) -> list[str]:
        """Names of a queue's pending tasks by when their last message was made, oldest first.

        Args:
            queue: The queue.
            since_ms: Messages that were made from then on.
            until_ms: And up to then.
            limit: How many names at most.
        """

    def tasks(self, names: Sequence[str]) -> list[Task]:
        """Tasks by their names, as they are stored; without those that are gone, or cannot be read."""

    def waiting_for_slots(self, *, limit: int) -> list[str]:
        """Names of the tasks to be granted a slot: under each concurrency key, those that wait longest.

        A few more than there are slots, in case some cannot take one; a `GrantSlot` too many is refused.
        """

    def overtaken_ms(self, queue: str) -> int:
        """The newest `dispatched_ms` of all claims from this queue; 0 before the first.

        A claim that has found no slot free counts: its message was taken all the same. One that lies ahead of
        the store's clock, which was put back by a failover, is forgotten: it would make every task that waits
        look overtaken.
        """

    def mark_suspected(self, references: Sequence[str], *, not_before_ms: int) -> list[int]:
        """Note that messages seem lost; for each, the time from which it may be sent again.

        The first call for a task sets this time to `not_before_ms`. Later calls return what was set, until
        the task leaves pending. A `Redispatch` moves the time on by the backoff.
        """

    def try_lock(self, name: str, *, for_ms: int) -> bool:
        """Take a lock that ends by itself after `for_ms`; False if another process holds it."""

    def mark_sweep(self, *, lease_ms: int) -> SweepMark:
        """Note that a sweep has begun, and which run of which server it has met.

        Nothing may be reaped for the length of one lease in two cases: the server is another than before, or
        there was no sweep for so long that a living worker may have missed renewing its lease, which it does
        at a third of it. Workers get the time to renew.

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

    def count_dropped(self, queue: str, number: int) -> None:
        """Note that so many messages of a queue have just been dropped; see `DroppedMessages`."""

    def dropped_messages(self) -> dict[str, DroppedMessages]:
        """What was dropped, by queue; a queue from which nothing was is missing."""

    def inspect(self, reference: str) -> TaskRecord:
        """Everything stored of one task, as it is stored (not its effective state).

        Raises:
            TaskNotFound: There is no such record.
            CorruptRecord: There is one that cannot be read; `RecordTooNew` if a newer release has written it.
        """

    def task_names(self) -> Iterator[str]:
        """Every stored task's name, in no order; may miss or repeat tasks that come or go meanwhile."""

    def index_problems(self, reference: str) -> list[str]:
        """Where the indexes disagree with the record of a task; empty when all is well."""

    def repair(self, *, dry_run: bool = False, quarantine: bool = False) -> Iterator[Repair]:
        """Check everything that is stored, and fix what is wrong; yields each finding as it is met.

        Safe at any time, under any traffic: each task is one atomic step, and a sound task is not written.

        Args:
            dry_run: Report only.
            quarantine: Move records aside that cannot be read at all.
        """


MOST_GRANTED = 8
"""How many tasks that wait under a concurrency key are tried at once when a slot is free. The sweep fills the
slots that these tasks leave free."""
