"""Tasks in memory: for unit tests and for one process; bounded, with the same limits and the same rules.

It is the plainest possible reading of what a store promises, and so also the model that the Redis store is
compared with. Nothing survives the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from ..domain.decide import (
    Applied,
    IdempotencyRecord,
    Refused,
    Replayed,
    StoreCounts,
    decide,
    effective,
    next_due_ms,
    redispatch_backoff_ms,
)
from ..domain.errors import InvalidTransition, TaskNotFound
from ..domain.events import Claim, ClientEvent, Create, Event, GrantSlot, Redispatch, SweepEvent, WorkerEvent
from ..domain.indexes import (
    awaits_first_message,
    awaits_worker,
    frees_slot,
    holds_slot,
    is_sent,
    refusal_reason,
)
from ..domain.limits import DEFAULT_LIMITS, Limits
from ..domain.task import NO_TEXT, ConcurrencyKey, Owner, Phase, Slot, Task, TaskRecord
from .clients import Created, Page, TaskView
from .maintenance import MOST_GRANTED, Counts, Due, Repair, SweepMark, SweepRecord
from .outbox import NoOutbox, Outbox
from .workers import Claimed


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class MemoryTaskStore:
    """`TaskStore` and `TaskStoreMaintenance` in memory, thread-safe.

    Args:
        limits: What is allowed.
        outbox: Told of every task that becomes pending; its pushes have nowhere to go and are not asked for.
        clock: Milliseconds since the epoch; tests inject their own.
    """

    def __init__(
        self,
        *,
        limits: Limits = DEFAULT_LIMITS,
        outbox: Outbox | None = None,
        clock: Callable[[], int] = _wall_clock_ms,
    ) -> None:
        self._limits = limits
        self._outbox = outbox or NoOutbox()
        self._clock = clock
        self._lock = threading.RLock()
        self._records: dict[str, TaskRecord] = {}
        self._idempotency: dict[tuple[Owner, str], IdempotencyRecord] = {}
        self._overtaken: dict[str, int] = {}
        self._suspects: dict[str, int] = {}
        self._locks: dict[str, int] = {}
        self._queues: set[str] = set()
        self._swept: SweepRecord | None = None
        self._beat: dict[str, int] = {}

    # --- TaskStore -------------------------------------------------------------------------------------

    def create(self, event: Create) -> Created:
        """See `TaskStore.create`."""
        with self._lock:
            now_ms, record = self._clock(), self._records.get(event.task_id)
            key = (event.owner, event.idempotency)
            existing = self._idempotency.get(key) if event.idempotency else None
            there = self._records.get(existing.task_id) if existing else None
            counts = StoreCounts(
                owner_live=sum(self._is_live(task) for task in self._tasks(event.owner)),
                stored=len(self._records),
                existing=existing,
                existing_task=there.task if there else None,
                slots_until_ms=self._slots_until_ms(ConcurrencyKey(event.owner, event.queue)),
            )
            decision = decide(
                record.task if record else None,
                event,
                now_ms,
                log=record.log if record else (),
                limits=self._limits,
                counts=counts,
            )
            if isinstance(decision, Refused):
                raise decision.error
            if isinstance(decision, Replayed):
                found = self._effective(decision.task_id)
                return Created(task=found, replayed=True)
            task = self._standing(self._write(event.task_id, None, decision, event))
            if event.idempotency:
                digest = event.request_digest
                self._idempotency[key] = IdempotencyRecord(task_id=task.task_id, request_digest=digest)
            return Created(task=task)

    def get(self, owner: Owner, task_id: str, *, hidden: bool = False) -> TaskView:
        """See `TaskStore.get`."""
        with self._lock:
            task = self._effective(task_id)
            if task.owner != owner or not (task.visible or hidden):
                raise TaskNotFound(task_id)
            return TaskView(task=task, result=self._records[task_id].result)

    def apply(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Task:
        """See `TaskStore.apply`."""
        with self._lock:
            self.get(owner, task_id, hidden=hidden)
            return self._standing(self._apply(task_id, event))

    def page(self, owner: Owner, *, after: str | None = None, limit: int = 50) -> Page:
        """See `TaskStore.page`."""
        with self._lock:
            found = [task for task in self._tasks(owner) if self._seen(task) is not None]
            found.sort(key=lambda task: (task.created_ms, task.task_id), reverse=True)
            if after is not None:
                created_ms, _, task_id = after.partition(":")
                found = [t for t in found if (t.created_ms, t.task_id) < (int(created_ms), task_id)]
            tasks = tuple(task for task in map(self._seen, found[:limit]) if task is not None)
            more = len(found) > limit
            return Page(tasks=tasks, last=f"{tasks[-1].created_ms}:{tasks[-1].task_id}" if more else None)

    def claim(self, task_id: str, event: Claim) -> Claimed:
        """See `TaskStore.claim`."""
        with self._lock:
            task = self._standing(self._apply(task_id, event))
            if task.phase is Phase.RUNNING or task.slot is Slot.WAITING:
                self._overtaken[task.queue] = max(self._overtaken.get(task.queue, 0), event.dispatched_ms)
            if task.lease is None or task.lease.lease_id != event.lease_id:
                raise InvalidTransition(task_id, task.phase, "Claim", refusal_reason(task))
            record = self._records[task_id]
            return Claimed(task=task, arguments=record.arguments, journal=record.journal)

    def commit(self, task_id: str, event: WorkerEvent) -> Task:
        """See `TaskStore.commit`."""
        with self._lock:
            return self._standing(self._apply(task_id, event))

    # --- TaskStoreMaintenance ----------------------------------------------------------------------------

    def now_ms(self) -> int:
        """See `TaskStoreMaintenance.now_ms`."""
        return self._clock()

    def due(self, index: Due, *, limit: int) -> list[str]:
        """See `TaskStoreMaintenance.due`."""
        with self._lock:
            now_ms = self._clock()
            moments = ((_moment(index, r.task), r.task.task_id) for r in self._records.values())
            return [task_id for at_ms, task_id in sorted(m for m in moments if 0 <= m[0] <= now_ms)][:limit]

    def apply_sweep(self, task_id: str, event: SweepEvent) -> Task | None:
        """See `TaskStoreMaintenance.apply_sweep`."""
        with self._lock:
            applied = self._apply(task_id, event)
            if isinstance(event, Redispatch) and applied is not None:
                backoff_ms = redispatch_backoff_ms(applied.redispatches)
                self._suspects[task_id] = self._clock() + backoff_ms
            return applied

    def queues(self) -> list[str]:
        """See `TaskStoreMaintenance.queues`."""
        with self._lock:
            return sorted(self._queues)

    def pending(self, queue: str, *, until_ms: int, limit: int) -> list[str]:
        """See `TaskStoreMaintenance.pending`."""
        with self._lock:
            tasks = [record.task for record in self._records.values()]
            found = [
                (task.dispatched_ms, task.task_id)
                for task in tasks
                if task.queue == queue and awaits_worker(task) and not awaits_first_message(task)
            ]
            return [task_id for at_ms, task_id in sorted(found) if at_ms <= until_ms][:limit]

    def waiting_for_slots(self, *, limit: int) -> list[str]:
        """See `TaskStoreMaintenance.waiting_for_slots`."""
        with self._lock:
            waiting = [r.task for r in self._records.values() if r.task.slot is Slot.WAITING]
            keys = sorted({task.concurrency_key for task in waiting})
            return [task_id for key in keys for task_id in self._turns(key, limit)][:limit]

    def overtaken_ms(self, queue: str) -> int:
        """See `TaskStoreMaintenance.overtaken_ms`."""
        with self._lock:
            if self._overtaken.get(queue, 0) > self._clock():
                del self._overtaken[queue]
            return self._overtaken.get(queue, 0)

    def mark_suspected(self, task_ids: Sequence[str], *, not_before_ms: int) -> list[int]:
        """See `TaskStoreMaintenance.mark_suspected`."""
        with self._lock:
            return [self._suspects.setdefault(task_id, not_before_ms) for task_id in task_ids]

    def try_lock(self, name: str, *, for_ms: int) -> bool:
        """See `TaskStoreMaintenance.try_lock`."""
        with self._lock:
            now_ms = self._clock()
            if self._locks.get(name, 0) > now_ms:
                return False
            self._locks[name] = now_ms + for_ms
            return True

    def mark_sweep(self, *, lease_ms: int) -> SweepMark:
        """See `TaskStoreMaintenance.mark_sweep`."""
        with self._lock:
            now_ms = self._clock()
            before = self._swept or SweepRecord(now_ms, "", now_ms)
            mark, self._swept = before.mark(now_ms, "", lease_ms)
            return mark

    def has_due_suspects(self) -> bool:
        """See `TaskStoreMaintenance.has_due_suspects`."""
        with self._lock:
            return any(at_ms <= self._clock() for at_ms in self._suspects.values())

    def mark_beat(self, kind: str) -> None:
        """See `TaskStoreMaintenance.mark_beat`."""
        with self._lock:
            self._beat[kind] = self._clock()

    def beat_ages_ms(self) -> dict[str, int]:
        """See `TaskStoreMaintenance.beat_ages_ms`."""
        with self._lock:
            return {kind: max(self._clock() - at_ms, 0) for kind, at_ms in self._beat.items()}

    def last_sweep_ms(self) -> int | None:
        """See `TaskStoreMaintenance.last_sweep_ms`."""
        with self._lock:
            return None if self._swept is None else self._clock() - self._swept.at_ms

    def inspect(self, task_id: str) -> TaskRecord:
        """See `TaskStoreMaintenance.inspect`."""
        with self._lock:
            if (record := self._records.get(task_id)) is None:
                raise TaskNotFound(task_id)
            return record

    def task_ids(self) -> Iterator[str]:
        """See `TaskStoreMaintenance.task_ids`."""
        with self._lock:
            return iter(list(self._records))

    def index_problems(self, task_id: str) -> list[str]:
        """See `TaskStoreMaintenance.index_problems`: there are no indexes here that could disagree."""
        self.inspect(task_id)
        return []

    def repair(self, *, dry_run: bool = False, quarantine: bool = False) -> Iterator[Repair]:
        """See `TaskStoreMaintenance.repair`: no index could disagree here, and no hand reaches a record."""
        return iter(())

    def counts(self) -> Counts:
        """See `TaskStoreMaintenance.counts`."""
        with self._lock:
            phases = [record.task.phase for record in self._records.values()]
            return Counts(
                total=len(phases),
                pending=phases.count(Phase.PENDING),
                waiting=sum(record.task.slot is Slot.WAITING for record in self._records.values()),
                running=phases.count(Phase.RUNNING),
                live=sum(phase in (Phase.PENDING, Phase.RUNNING, Phase.PARKED) for phase in phases),
            )

    # --- what they share ---------------------------------------------------------------------------------

    def _tasks(self, owner: Owner) -> list[Task]:
        return [record.task for record in self._records.values() if record.task.owner == owner]

    def _is_live(self, task: Task) -> bool:
        return not task.status.is_final

    def _seen(self, task: Task) -> Task | None:
        return effective(task, self._clock()) if task.visible else None

    def _effective(self, task_id: str) -> Task:
        record = self._records.get(task_id)
        task = None if record is None else effective(record.task, self._clock())
        if task is None:
            raise TaskNotFound(task_id)
        return task

    def _apply(self, task_id: str, event: Event) -> Task | None:
        if (record := self._records.get(task_id)) is None:
            raise TaskNotFound(task_id)
        decision = decide(
            record.task,
            event,
            self._clock(),
            log=record.log,
            limits=self._limits,
            counts=StoreCounts(slots_until_ms=self._slots_until_ms(record.task.concurrency_key)),
        )
        if isinstance(decision, Refused):
            raise TaskNotFound(task_id) if isinstance(decision.error, TaskNotFound) else decision.error
        if isinstance(decision, Replayed):
            return decision.task
        return self._write(task_id, record, decision, event)

    def _write(self, task_id: str, record: TaskRecord | None, applied: Applied, event: Event) -> Task | None:
        if (task := applied.task) is None:
            self._remove(task_id)
            return None
        self._records[task_id] = after = _folded(record, applied, task, self._limits.log_entries)
        before = None if record is None else record.task
        if before is None or awaits_worker(before) is not awaits_worker(task):
            self._suspects.pop(task_id, None)
        if after.task.phase is Phase.PENDING:
            self._queues.add(task.queue)
        if is_sent(applied, event, self._clock()):
            self._outbox.committed(task)
        if frees_slot(before, task) and self._limits.concurrency_limit(task.queue) is not None:
            self._give_turns(task.concurrency_key)
        return task

    def _slots_until_ms(self, key: ConcurrencyKey) -> int:
        """See `StoreCounts.slots_until_ms`."""
        if (slots := self._limits.concurrency_limit(key.queue)) is None:
            return 0
        ends = sorted((next_due_ms(task) for task in self._slot_holders(key)), reverse=True)
        return ends[slots - 1] if len(ends) >= slots else 0

    def _slot_holders(self, key: ConcurrencyKey) -> list[Task]:
        return [task for task in self._tasks(key.owner) if task.concurrency_key == key and holds_slot(task)]

    def _turns(self, key: ConcurrencyKey, limit: int) -> list[str]:
        """Who waits longest in a key, if it has a slot free."""
        slots, now_ms = self._limits.concurrency_limit(key.queue), self._clock()
        free = (
            limit if slots is None else slots - sum(next_due_ms(t) > now_ms for t in self._slot_holders(key))
        )
        waiting = [t for t in self._tasks(key.owner) if t.concurrency_key == key and t.slot is Slot.WAITING]
        waiting.sort(key=lambda task: (task.created_ms, task.task_id))
        return [task.task_id for task in waiting][: min(free + MOST_GRANTED, limit)] if free > 0 else []

    def _give_turns(self, key: ConcurrencyKey) -> None:
        for task_id in self._turns(key, MOST_GRANTED):
            with suppress(InvalidTransition, TaskNotFound):
                self._apply(task_id, GrantSlot())

    def _remove(self, task_id: str) -> None:
        task = self._records.pop(task_id).task
        key = (task.owner, task.idempotency)
        if key in self._idempotency and self._idempotency[key].task_id == task_id:
            del self._idempotency[key]
        self._suspects.pop(task_id, None)

    @staticmethod
    def _standing(task: Task | None) -> Task:
        if task is None:
            raise AssertionError("only expiry removes a task")
        return task


def _folded(record: TaskRecord | None, applied: Applied, task: Task, log_entries: int) -> TaskRecord:
    """The record after an event: what `Applied` says, added to what was there."""
    before = record or TaskRecord(task=task, arguments=applied.arguments or NO_TEXT)
    return replace(
        before,
        task=task,
        result=before.result if applied.result is None else applied.result,
        journal=before.journal + applied.journal,
        log=(before.log + applied.log)[-log_entries:],
    )


def _moment(index: Due, task: Task) -> int:
    """When an index says that a task is due; negative if it is not in the index."""
    if index is Due.EXPIRED:
        return task.expires_ms if task.status.is_final else -1
    if index is Due.OVERDUE:
        return -1 if task.status.is_final else next_due_ms(task)
    if index is Due.LEASES:
        return -1 if task.lease is None else task.lease.until_ms
    return task.due_ms if task.phase is Phase.PENDING and awaits_first_message(task) else -1
