"""What a store promises.

`TaskStore` is what callers need: clients of a front end (every such method takes the `Owner`, so that
forgetting whose task it is cannot be written) and workers (every such event carries the lease id).
`AsyncTaskStore` is the same with `await`. `TaskStoreMaintenance` is what sweeps and operators need; no
owner's request ever reaches it.

Every method is one atomic step: it reads the record and the store's clock, asks `decide`, and writes all
that `decide` says or nothing. A refusal is raised as the error that `decide` named and is never retried; an
outage is `StoreUnavailable`, after the store's deadline.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from secrets import token_urlsafe
from typing import NamedTuple, Protocol

from ..domain.decide import Applied
from ..domain.events import Call, Claim, ClientEvent, Create, Event, Redispatch, SweepEvent, WorkerEvent
from ..domain.reports import Report
from ..domain.task import JournalEntry, JsonText, Owner, Phase, Task, TaskRecord, Turn

logger = logging.getLogger(__name__)

SHARD_DIGITS = 2
"""A task id begins with the number of its shard, in this many hex digits."""


TASK_ID_BYTES = 18
"""Random bytes in a task id: 144 bits."""


def shard_of_owner(owner: Owner, shards: int) -> int:
    """The shard that all tasks of an owner are kept in, so that one write can touch them together."""
    return int.from_bytes(blake2b(owner.encode(), digest_size=4).digest()) % shards


def new_task_id(owner: Owner, shards: int = 1) -> str:
    """Draw a task id: the owner's shard in hex, then 144 random bits.

    Args:
        owner: Whose task it will be.
        shards: How many shards the store has.
    """
    return f"{shard_of_owner(owner, shards):0{SHARD_DIGITS}x}{token_urlsafe(TASK_ID_BYTES)}"


class Change(NamedTuple):
    """A transition that was logged, as it is published to whoever waits."""

    task_id: str
    revision: int


class Reported(NamedTuple):
    """What a running tool has said, as it is published to whoever waits; oldest first."""

    task_id: str
    reports: tuple[Report, ...]


class Push(NamedTuple):
    """A broker message for the same write as the record: LPUSH `payload` to `key`."""

    key: str
    payload: bytes


class Outbox(Protocol):
    """Turns a pending task into a broker message; `dispatch` implements it."""

    @property
    def messages(self) -> str | None:
        """What is in front of the keys that `pushes` names; None if the broker is elsewhere."""

    def pushes(self, task: Task, now_ms: int) -> Sequence[Push]:
        """Messages to be written in the same transaction as the task; empty if the broker is elsewhere."""

    def committed(self, task: Task) -> None:
        """The task is stored and pending, due now: publish, if `pushes` did not. Returns at once."""


class NoOutbox:
    """An outbox that sends nothing: the task waits for a sweep, or for a test."""

    messages = None

    def pushes(self, task: Task, now_ms: int) -> Sequence[Push]:
        """Nothing."""
        return ()

    def committed(self, task: Task) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A task was recorded, or found under its idempotency key (`replayed`)."""

    task: Task
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task as its owner may see it: in its effective state, with its result once it has one."""

    task: Task
    result: JsonText | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A task that is now the claimer's, with what the tool needs to run."""

    task: Task
    arguments: JsonText
    journal: tuple[JournalEntry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of an owner's tasks, newest first; `last` continues the listing, None at its end."""

    tasks: tuple[Task, ...]
    last: str | None = None


class TaskStore(Protocol):
    """Tasks for those who own them and those who run them, blocking."""

    def create(self, event: Create) -> Created:
        """Record a task.

        Raises:
            LimitExceeded: Arguments too large.
            QuotaExceeded: The owner or the store has too many tasks.
            IdempotencyConflict: The key was used with another request.
            StoreUnavailable: No answer in time; the task may exist, and the same event settles it.
        """

    def get(self, owner: Owner, task_id: str, *, hidden: bool = False) -> TaskView:
        """Read a task in its effective state; writes nothing.

        Args:
            owner: Whose task it must be.
            task_id: Any text; a malformed id is an unknown one.
            hidden: Also find a task whose handle was never given out.

        Raises:
            TaskNotFound: Unknown, foreign, hidden or expired.
            StoreUnavailable: No answer in time.
        """

    def act(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Task:
        """Apply an owner's event.

        Raises:
            TaskNotFound: Unknown, foreign, hidden or expired.
            InvalidTransition: Refused; `current` says what was met.
            StoreUnavailable: No answer in time.
        """

    def page(self, owner: Owner, *, after: str | None = None, limit: int = 50) -> Page:
        """List an owner's visible tasks, newest first, after the position that an earlier page ended with."""

    def claim(self, task_id: str, event: Claim) -> Claimed:
        """Take a pending task.

        Raises:
            TaskNotFound: It is gone.
            InvalidTransition: It is not to be had: running, final or not due; or its attempts are used up,
                in which case it is now failed and `current` says so; or its owner has no seat free, in which
                case it now waits for its turn.
            StoreUnavailable: No answer in time; the message may be dropped, pending remains.
        """

    def commit(self, task_id: str, event: WorkerEvent) -> Task:
        """Apply an event of the lease's holder.

        Raises:
            LeaseLost: The task is another's, or over; `current` says which.
            LimitExceeded: What is to be written is too large; nothing was written, the lease stands.
            InvalidTransition: Refused for another reason.
            StoreUnavailable: No answer in time; the same event may be committed again.
        """


class AsyncTaskStore(Protocol):
    """`TaskStore` for an event loop; the same promises, method for method."""

    async def create(self, event: Create) -> Created:
        """See `TaskStore.create`."""

    async def get(self, owner: Owner, task_id: str, *, hidden: bool = False) -> TaskView:
        """See `TaskStore.get`."""

    async def act(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Task:
        """See `TaskStore.act`."""

    async def page(self, owner: Owner, *, after: str | None = None, limit: int = 50) -> Page:
        """See `TaskStore.page`."""

    async def claim(self, task_id: str, event: Claim) -> Claimed:
        """See `TaskStore.claim`."""

    async def commit(self, task_id: str, event: WorkerEvent) -> Task:
        """See `TaskStore.commit`."""


class Due(StrEnum):
    """The indexes that a sweep works off."""

    EXPIRED = "expired"
    """Past `expires_ms`."""
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
    """Something wrong with what is stored, and whether it has been mended.

    Attributes:
        task_id: Which task; empty for a key that no task can be held to account for.
        what: What was found.
        mended: Whether it is well now; False in a dry run, and for what only a person can decide.
    """

    task_id: str
    what: str
    mended: bool


class TaskStoreMaintenance(Protocol):
    """Tasks for sweeps and operators, across owners, blocking."""

    def now_ms(self) -> int:
        """The store's clock."""

    def due(self, index: Due, *, limit: int) -> list[str]:
        """Ids of the tasks that an index says are due by now, oldest first, over all shards."""

    def settle(self, task_id: str, event: SweepEvent) -> Task | None:
        """Write down what time has decided; None if the task is gone afterwards.

        Raises:
            TaskNotFound: It is gone already; any index entry that named it is removed.
            InvalidTransition: It is not so (any more).
        """

    def queues(self) -> list[str]:
        """The queues that pending tasks wait in."""

    def pending(self, queue: str, *, until_ms: int, limit: int) -> list[str]:
        """Ids of a queue's pending tasks whose last message was made by `until_ms`, oldest first."""

    def turns(self, *, limit: int) -> list[str]:
        """Ids of the tasks to be called now: of each lane that has a seat free, those that wait longest.

        A few more than there are seats, in case some are not to be had; a `Call` too many is refused.
        """

    def overtaken_ms(self, queue: str) -> int:
        """The newest `dispatched_ms` that a claim from this queue has carried; 0 before the first.

        A claim that has found no seat free counts: its message was taken all the same. One that lies ahead of
        the store's clock, which was put back by a failover, is forgotten: it would make every task that waits
        look overtaken.
        """

    def suspect(self, task_ids: Sequence[str], *, not_before_ms: int) -> list[int]:
        """Remember that messages seem lost; answer, for each, when it may be sent again.

        The first call for a task sets `not_before_ms`; later ones answer what was set, until the task leaves
        pending. A `Redispatch` moves it on by the backoff.
        """

    def hold(self, name: str, *, for_ms: int) -> bool:
        """Take a short lock that ends by itself; False if another process holds it."""

    def mark_sweep(self, *, lease_ms: int) -> SweepMark:
        """Note that a sweep is under way, and which run of the server it meets.

        Nothing may be reaped for one lease after a server was met that is another than before, or after a
        gap so long that the lease of a living worker, renewed at a third of it, may have run out: workers
        get the time to renew.

        Args:
            lease_ms: How long a lease is.
        """

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
        """Walk through everything that is stored, and mend what is wrong; each finding as it is met.

        Safe at any time, beside any traffic: each task is one atomic step, and a sound one is left alone.

        Args:
            dry_run: Only tell.
            quarantine: Move records aside that cannot be read at all.
        """

    def counts(self) -> Counts:
        """How many tasks there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """How much of a store's memory is used, where it has a limit.

    Attributes:
        used: Bytes that count against the limit.
        maximum: The limit, in bytes.
    """

    used: int
    maximum: int

    @property
    def percent(self) -> int:
        """How much of it is used."""
        return self.used * 100 // self.maximum


class Severity(StrEnum):
    """What a finding means for the service."""

    ERROR = "error"
    """It will lose or refuse work: start-up refuses."""
    WARNING = "warning"
    """It works, with a risk that the operator should know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about the store's set-up that an operator should know.

    Attributes:
        severity: Whether the service can start.
        what: What was found.
        mend: What to do about it.
    """

    severity: Severity
    what: str
    mend: str


def errors_among(found: Iterable[Finding]) -> list[str]:
    """What keeps a process from its work, in sentences for whoever started it; warnings are logged."""
    errors = []
    for finding in found:
        if finding.severity is Severity.ERROR:
            errors.append(f"{finding.what} {finding.mend}")
        else:
            logger.warning("%s %s", finding.what, finding.mend)
    return errors


def awaits_first_message(task: Task) -> bool:
    """Whether a pending task comes due, or came due, without a message ever having been made for it."""
    return task.due_ms > task.updated_ms and task.redispatches == 0 and task.turn is None


def awaits_worker(task: Task) -> bool:
    """Whether a pending task has a message out, or will have one when it is due: no turn stands before it."""
    return task.phase is Phase.PENDING and task.turn is not Turn.AWAITED


def is_sent(applied: Applied, event: Event, now_ms: int) -> bool:
    """Whether a message goes out with what an event did."""
    task = applied.task
    moved = bool(applied.log) or isinstance(event, Redispatch | Call)
    return moved and task is not None and awaits_worker(task) and task.due_ms <= now_ms


def why_not(task: Task) -> str:
    """Why a task that a worker came for is not to be had, in a few words."""
    if task.turn is Turn.AWAITED:
        return "it waits for its turn"
    return task.status_message or "not to be had"


MOST_CALLED = 8
"""Tasks that wait in a lane, and are looked at when a seat is free; what they leave free is for the sweep."""


def has_seat(task: Task) -> bool:
    """Whether it counts among what its owner may run."""
    return task.turn is Turn.TAKEN and not task.status.is_final


def frees_seat(before: Task | None, after: Task | None) -> bool:
    """Whether a seat was given back, so that whoever did it must look who is next in the lane."""
    return before is not None and has_seat(before) and not (after is not None and has_seat(after))


def full_jitter(attempt: int, *, first: float = 0.001, most: float = 0.05) -> float:
    """Seconds to wait before the next try: uniform up to an exponential bound (notes: p99 221 to 83 ms)."""
    return random.uniform(0.0, min(most, first * 2 ** min(attempt, 16)))  # noqa: S311 - not a secret
