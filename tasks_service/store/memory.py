"""Tasks in memory: for tests and for a single process, with the same limits and the same rules.

It does what a store promises in the plainest way, so the Redis store is tested against it. Nothing survives
the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from ..domain.decide import (
    MESSAGES_AHEAD,
    Applied,
    IdempotencyRecord,
    Refused,
    Replayed,
    StoreCounts,
    decide,
    effective,
    next_due_ms,
    redispatch_backoff_ms,
    slot_limit,
)
from ..domain.errors import InvalidTransition, TaskNotFound
from ..domain.events import (
    Claim,
    ClientEvent,
    Create,
    Event,
    GrantSlot,
    OperatorEvent,
    Redispatch,
    SweepEvent,
    WorkerEvent,
)
from ..domain.indexes import (
    Due,
    awaits_first_message,
    awaits_worker,
    blocks_beyond_first,
    has_message,
    holds_slot,
    is_sent,
    may_open_slot,
    refusal_reason,
)
from ..domain.limits import DEFAULT_LIMITS, Limits
from ..domain.names import is_name, task_hash
from ..domain.task import NO_TEXT, NOT_RECORDED, ConcurrencyKey, Owner, Phase, Slot, Task, TaskRecord
from .changes import Reported
from .clients import Created, Page, TaskView
from .maintenance import MOST_GRANTED, DroppedMessages, Repair, SweepMark, SweepRecord
from .memory_registry import MemoryRegistry, wall_clock_ms
from .outbox import NoOutbox, Outbox
from .workers import Claimed


class MemoryTaskStore:
    """`ClientStore`, `WorkerStore` and `MaintenanceStore` in memory, thread-safe.

    Args:
        limits: What is allowed.
        outbox: Told of every task that becomes pending; not asked for pushes, which would have nowhere to go.
        clock: Milliseconds since the epoch; tests inject their own.
    """

    def __init__(
        self,
        *,
        limits: Limits = DEFAULT_LIMITS,
        outbox: Outbox | None = None,
        clock: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._limits = limits
        self._outbox = outbox or NoOutbox()
        self._clock = clock
        self._registry = MemoryRegistry(clock=clock)
        self._lock = threading.RLock()
        self._records: dict[str, TaskRecord] = {}
        self._idempotency: dict[tuple[Owner, str], IdempotencyRecord] = {}
        self._overtaken: dict[str, int] = {}
        self._suspects: dict[str, int] = {}
        self._locks: dict[str, int] = {}
        self._queues: set[str] = set()
        self._turns: dict[ConcurrencyKey, int] = {}
        self._swept: SweepRecord | None = None
        self._beat: dict[str, int] = {}
        self._dropped: dict[str, DroppedMessages] = {}

    # --- ClientStore -------------------------------------------------------------------------------------

    def create(self, event: Create) -> Created:
        """See `ClientStore.create`."""
        with self._lock:
            now_ms, record = self._clock(), self._records.get(task_hash(event.task_id))
            key, slots = (event.owner, event.idempotency), ConcurrencyKey(event.owner, event.queue)
            existing = self._idempotency.get(key) if event.idempotency else None
            there = self._records.get(task_hash(existing.task_id)) if existing else None
            counts = StoreCounts(
                owner_live=sum(self._is_live(task) for task in self._tasks(event.owner)),
                owner_blocks=sum(1 + blocks_beyond_first(task) for task in self._tasks(event.owner)),
                stored=len(self._records),
                existing=existing,
                existing_task=there.task if there else None,
                slots_until_ms=self._slots_until_ms(slots, event.takes_turns),
                messages_ahead=self._messages_ahead(event.queue),
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
            task = self._standing(self._write(task_hash(event.task_id), None, decision, event))
            if event.idempotency:
                digest = event.request_digest
                self._idempotency[key] = IdempotencyRecord(task_id=task.task_id, request_digest=digest)
            return Created(task=task)

    def get(self, owner: Owner, task_id: str, *, hidden: bool = False) -> TaskView:
        """See `ClientStore.get`."""
        with self._lock:
            task = self._effective(task_id)
            if task.task_id != task_id or task.owner != owner or not (task.visible or hidden):
                raise TaskNotFound(task_id)
            return TaskView(task=task, result=self._records[task_hash(task_id)].result)

    def apply(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Task:
        """See `ClientStore.apply`."""
        with self._lock:
            self.get(owner, task_id, hidden=hidden)
            return self._standing(self._apply(task_id, event))

    def page(self, owner: Owner, *, after: str | None = None, limit: int = 50) -> Page:
        """See `ClientStore.page`."""
        with self._lock:
            found = [task for task in self._tasks(owner) if self._seen(task) is not None]
            found.sort(key=_by_creation, reverse=True)
            if after is not None:
                created_ms, _, name = after.partition(":")
                found = [task for task in found if _by_creation(task) < (int(created_ms), name)]
            tasks = tuple(task for task in map(self._seen, found[:limit]) if task is not None)
            more = len(found) > limit
            return Page(tasks=tasks, last="{}:{}".format(*_by_creation(tasks[-1])) if more else None)

    # --- WorkerStore -----------------------------------------------------------------------------------

    def claim(self, reference: str, event: Claim) -> Claimed:
        """See `WorkerStore.claim`."""
        with self._lock:
            task = self._standing(self._apply(reference, event))
            if task.lease is None or task.lease.lease_id != event.lease_id:
                raise InvalidTransition(reference, task.phase, "Claim", refusal_reason(task))
            record = self._records[task_hash(reference)]
            return Claimed(
                task=task, arguments=record.arguments, caller=record.caller, journal=record.journal
            )

    def commit(self, reference: str, event: WorkerEvent) -> Task:
        """See `WorkerStore.commit`."""
        with self._lock:
            return self._standing(self._apply(reference, event))

    def report(self, reported: Sequence[Reported]) -> list[int]:
        """See `WorkerStore.report`: nobody listens to a store in memory."""
        return [0] * len(reported)

    # --- MaintenanceStore ----------------------------------------------------------------------------

    @property
    def registry(self) -> MemoryRegistry:
        """See `MaintenanceStore.registry`."""
        return self._registry

    def now_ms(self) -> int:
        """See `MaintenanceStore.now_ms`."""
        return self._clock()

    def due(self, index: Due, *, limit: int, skip: int = 0) -> list[str]:
        """See `MaintenanceStore.due`."""
        with self._lock:
            now_ms = self._clock()
            moments = ((_moment(index, record.task), name) for name, record in self._records.items())
            return [name for at_ms, name in sorted(m for m in moments if 0 <= m[0] <= now_ms)][skip:][:limit]

    def apply_sweep(self, reference: str, event: SweepEvent) -> Task | None:
        """See `MaintenanceStore.apply_sweep`."""
        with self._lock:
            applied = self._apply(reference, event)
            if isinstance(event, Redispatch) and applied is not None:
                backoff_ms = redispatch_backoff_ms(applied.redispatches)
                self._suspects[task_hash(reference)] = self._clock() + backoff_ms
            return applied

    def apply_order(self, reference: str, event: OperatorEvent) -> Task:
        """See `MaintenanceStore.apply_order`."""
        with self._lock:
            return self._standing(self._apply(reference, event))

    def queues(self) -> list[str]:
        """See `MaintenanceStore.queues`."""
        with self._lock:
            return sorted(self._queues)

    def pending(self, queue: str, *, since_ms: int = 0, until_ms: int, limit: int) -> list[str]:
        """See `MaintenanceStore.pending`."""
        with self._lock:
            found = [(task.dispatched_ms, name) for name, task in self._with_message(queue)]
            return [name for at_ms, name in sorted(found) if since_ms <= at_ms <= until_ms][:limit]

    def tasks(self, names: Sequence[str]) -> list[Task]:
        """See `MaintenanceStore.tasks`."""
        with self._lock:
            return [self._records[name].task for name in map(task_hash, names) if name in self._records]

    def waiting_for_slots(self, *, limit: int) -> list[str]:
        """See `MaintenanceStore.waiting_for_slots`."""
        with self._lock:
            waiting = [r.task for r in self._records.values() if r.task.slot is Slot.WAITING]
            keys = sorted({task.concurrency_key for task in waiting})
            self._turns = {key: at_ms for key, at_ms in self._turns.items() if key in keys}
            names = [name for key in keys for name in self._next_in_line(key, self._take_turns(key), limit)]
            return list(dict.fromkeys(names))[:limit]

    def overtaken_ms(self, queue: str) -> int:
        """See `MaintenanceStore.overtaken_ms`."""
        with self._lock:
            if self._overtaken.get(queue, 0) > self._clock():
                del self._overtaken[queue]
            return self._overtaken.get(queue, 0)

    def mark_suspected(self, references: Sequence[str], *, not_before_ms: int) -> list[int]:
        """See `MaintenanceStore.mark_suspected`."""
        with self._lock:
            return [self._suspects.setdefault(name, not_before_ms) for name in map(task_hash, references)]

    def try_lock(self, name: str, *, for_ms: int) -> bool:
        """See `MaintenanceStore.try_lock`."""
        with self._lock:
            now_ms = self._clock()
            if self._locks.get(name, 0) > now_ms:
                return False
            self._locks[name] = now_ms + for_ms
            return True

    def mark_sweep(self, *, lease_ms: int) -> SweepMark:
        """See `MaintenanceStore.mark_sweep`."""
        with self._lock:
            now_ms = self._clock()
            before = self._swept or SweepRecord(now_ms, "", now_ms)
            mark, self._swept = before.mark(now_ms, "", lease_ms)
            return mark

    def has_due_suspects(self) -> bool:
        """See `MaintenanceStore.has_due_suspects`."""
        with self._lock:
            return any(at_ms <= self._clock() for at_ms in self._suspects.values())

    def mark_beat(self, kind: str) -> None:
        """See `MaintenanceStore.mark_beat`."""
        with self._lock:
            self._beat[kind] = self._clock()

    def beat_ages_ms(self) -> dict[str, int]:
        """See `MaintenanceStore.beat_ages_ms`."""
        with self._lock:
            return {kind: max(self._clock() - at_ms, 0) for kind, at_ms in self._beat.items()}

    def last_sweep_ms(self) -> int | None:
        """See `MaintenanceStore.last_sweep_ms`."""
        with self._lock:
            return None if self._swept is None else self._clock() - self._swept.at_ms

    def count_dropped(self, queue: str, number: int) -> None:
        """See `MaintenanceStore.count_dropped`."""
        with self._lock:
            before = self._dropped[queue].number if queue in self._dropped else 0
            self._dropped[queue] = DroppedMessages(before + number, self._clock())

    def dropped_messages(self) -> dict[str, DroppedMessages]:
        """See `MaintenanceStore.dropped_messages`."""
        with self._lock:
            return dict(self._dropped)

    def inspect(self, reference: str) -> TaskRecord:
        """See `MaintenanceStore.inspect`."""
        with self._lock:
            return self._found(reference)

    def task_names(self) -> Iterator[str]:
        """See `MaintenanceStore.task_names`."""
        with self._lock:
            return iter(list(self._records))

    def index_problems(self, reference: str) -> list[str]:
        """See `MaintenanceStore.index_problems`: there are no indexes here that could disagree."""
        self.inspect(reference)
        return []

    def repair(self, *, dry_run: bool = False, quarantine: bool = False) -> Iterator[Repair]:
        """See `MaintenanceStore.repair`: nothing here can disagree."""
        return iter(())

    # --- what they share ---------------------------------------------------------------------------------

    def _tasks(self, owner: Owner) -> list[Task]:
        return [record.task for record in self._records.values() if record.task.owner == owner]

    def _is_live(self, task: Task) -> bool:
        return not task.status.is_final

    def _seen(self, task: Task) -> Task | None:
        return effective(task, self._clock()) if task.visible else None

    def _found(self, reference: str) -> TaskRecord:
        record = self._records.get(task_hash(reference))
        if record is None or not (is_name(reference) or record.task.task_id == reference):
            raise TaskNotFound(reference)
        return record

    def _effective(self, task_id: str) -> Task:
        task = effective(self._found(task_id).task, self._clock())
        if task is None:
            raise TaskNotFound(task_id)
        return task

    def _apply(self, reference: str, event: Event) -> Task | None:
        record = self._found(reference)
        task = record.task
        decision = decide(
            task,
            event,
            self._clock(),
            log=record.log,
            limits=self._limits,
            counts=StoreCounts(
                slots_until_ms=self._slots_until_ms(task.concurrency_key, task.takes_turns),
                messages_ahead=self._messages_ahead(task.queue, task.task_id),
            ),
        )
        if isinstance(decision, Refused):
            raise TaskNotFound(reference) if isinstance(decision.error, TaskNotFound) else decision.error
        if isinstance(decision, Replayed):
            return decision.task
        return self._write(task_hash(reference), record, decision, event)

    def _write(self, name: str, record: TaskRecord | None, applied: Applied, event: Event) -> Task | None:
        if (task := applied.task) is None:
            self._remove(name)
            return None
        self._records[name] = after = _folded(record, applied, task, self._limits.log_entries)
        before = None if record is None else record.task
        if before is None or awaits_worker(before) is not awaits_worker(task):
            self._suspects.pop(name, None)
        if after.task.phase is Phase.PENDING:
            self._queues.add(task.queue)
        if is_sent(applied, event, self._clock()):
            self._outbox.committed(task)
        if isinstance(event, Claim) and (task.phase is Phase.RUNNING or task.slot is Slot.WAITING):
            self._overtaken[task.queue] = max(self._overtaken.get(task.queue, 0), event.dispatched_ms)
        if task.takes_turns and task.slot is Slot.WAITING:
            self._turns.setdefault(task.concurrency_key, task.dispatched_ms)
        if task.takes_turns and isinstance(event, GrantSlot):
            self._turns[task.concurrency_key] = task.dispatched_ms
        if may_open_slot(self._limits, before, task):
            self._grant_slots(task)
        return task

    def _slots_until_ms(self, key: ConcurrencyKey, takes_turns: bool) -> int:
        """See `StoreCounts.slots_until_ms`."""
        if (slots := slot_limit(self._limits, key.queue, takes_turns=takes_turns)) is None:
            return 0
        ends = sorted((next_due_ms(task) for task in self._slot_holders(key)), reverse=True)
        return ends[slots - 1] if len(ends) >= slots else 0

    def _slot_holders(self, key: ConcurrencyKey) -> list[Task]:
        return [task for task in self._tasks(key.owner) if task.concurrency_key == key and holds_slot(task)]

    def _messages_ahead(self, queue: str, task_id: str = "") -> int:
        """See `StoreCounts.messages_ahead`."""
        newest = sorted((task.dispatched_ms, name) for name, task in self._with_message(queue))
        passed_over, taken_ms = {task_hash(task_id), *self._suspects}, self._overtaken.get(queue, 0)
        newest = newest[-MESSAGES_AHEAD - 1 :]
        return sum(name not in passed_over and made_ms >= taken_ms for made_ms, name in newest)

    def _with_message(self, queue: str) -> list[tuple[str, Task]]:
        tasks = [(name, record.task) for name, record in self._records.items()]
        return [(name, task) for name, task in tasks if task.queue == queue and has_message(task)]

    def _take_turns(self, key: ConcurrencyKey) -> bool:
        return key in self._turns and self._limits.concurrency_limit(key.queue) is None

    def _waiting(self, key: ConcurrencyKey) -> list[str]:
        waiting = [t for t in self._tasks(key.owner) if t.concurrency_key == key and t.slot is Slot.WAITING]
        return [task_hash(task.task_id) for task in sorted(waiting, key=_by_creation)]

    def _next_in_line(self, key: ConcurrencyKey, takes_turns: bool, limit: int) -> list[str]:
        """The tasks whose turn it is under a concurrency key, or, where owners take turns, under any."""
        slots, now_ms = slot_limit(self._limits, key.queue, takes_turns=takes_turns), self._clock()
        held = sum(next_due_ms(task) > now_ms for task in self._slot_holders(key))
        free, waiting = limit if slots is None else slots - held, self._waiting(key)
        if takes_turns and not (free > 0 and waiting):
            free, waiting = self._next_turn(key.queue)
        return waiting[: min(free + MOST_GRANTED, limit) if free > 0 else 0]

    def _next_turn(self, queue: str) -> tuple[int, list[str]]:
        """How many slots are free where owners take turns, and who waits of the owner with the fewest."""
        if (free := MESSAGES_AHEAD - self._messages_ahead(queue)) <= 0:
            return 0, []
        self._turns = {k: ms for k, ms in self._turns.items() if k.queue != queue or self._waiting(k)}
        keys = [key for key in self._turns if key.queue == queue]
        keys.sort(key=lambda key: (len(self._slot_holders(key)), self._turns[key], key.owner))
        return free, self._waiting(keys[0]) if keys else []

    def _grant_slots(self, task: Task) -> None:
        takes_turns = self._limits.concurrency_limit(task.queue) is None
        for name in self._next_in_line(task.concurrency_key, takes_turns, MOST_GRANTED):
            with suppress(InvalidTransition, TaskNotFound):
                self._apply(name, GrantSlot())

    def _remove(self, name: str) -> None:
        task = self._records.pop(name).task
        key = (task.owner, task.idempotency)
        if key in self._idempotency and self._idempotency[key].task_id == task.task_id:
            del self._idempotency[key]
        self._suspects.pop(name, None)

    @staticmethod
    def _standing(task: Task | None) -> Task:
        if task is None:
            raise AssertionError("only expiry removes a task")
        return task


def _by_creation(task: Task) -> tuple[int, str]:
    """The order of a listing, and of those who wait for a slot."""
    return task.created_ms, task_hash(task.task_id)


def _folded(record: TaskRecord | None, applied: Applied, task: Task, log_entries: int) -> TaskRecord:
    """The record after an event: what `Applied` says, added to what was there."""
    before = record or TaskRecord(
        task=task, arguments=applied.arguments or NO_TEXT, caller=applied.caller or NOT_RECORDED
    )
    return replace(
        before,
        task=task,
        result=before.result if applied.result is None else applied.result,
        exception=before.exception if applied.exception is None else applied.exception,
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
