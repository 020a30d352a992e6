"""Every transition of the store: what it reads, lets `decide` judge, and writes, as a program of the loop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from ...domain.decide import (
    Applied,
    Refused,
    Replayed,
    StoreCounts,
    decide,
    idempotency_record,
    redispatch_backoff_ms,
)
from ...domain.errors import (
    ConcurrencyLimitReached,
    InvalidTransition,
    StoreUnavailable,
    TaskNotFound,
    TasksServiceError,
)
from ...domain.events import (
    AnswerInput,
    Claim,
    ClientEvent,
    Create,
    Event,
    GrantSlot,
    Redispatch,
    SweepEvent,
    WorkerEvent,
)
from ...domain.indexes import awaits_worker, frees_slot, is_sent, refusal_reason
from ...domain.limits import size
from ...domain.task import (
    ConcurrencyKey,
    JsonText,
    LogEntry,
    Owner,
    Phase,
    Slot,
    Task,
)
from ..clients import Created
from ..maintenance import Due
from ..outbox import Outbox
from ..workers import Claimed
from . import codec
from .layout import (
    BACKSTOP_MS,
    OWNER_KEYS_MS,
    Command,
    Shard,
    index_commands,
)
from .memory_guard import MemoryGuard
from .programs import StorePrograms
from .reads import Reads
from .slots import FreeSlots, SlotReads, free_slot_reads, free_slots
from .timings import Timings
from .transaction import Program, Reply, Write, once, transact

logger = logging.getLogger(__name__)

T = TypeVar("T")

QUOTA_HEADROOM = 256
"""Further below its quota than this, an owner's create does not WATCH the quota.

Creates in flight are bounded by the front ends' connections, and while those are fewer than this, a create
that saw more room than this cannot be one too many. Nearer to the limit the quota is watched, and exact;
further away, creates of one owner do not void each other.
"""


class _Stored(NamedTuple):
    """A record as a transition reads it."""

    now_ms: int
    task: Task | None
    log: tuple[LogEntry, ...]
    rest: list[Reply]


class _Judged(NamedTuple):
    """What `decide` said, as commands; `sends` if a message goes out with them.

    Where a slot may have become free, `opens` names its key, and the last of the commands ask who waits.
    """

    applied: Applied
    commands: list[Command]
    sends: bool
    opens: ConcurrencyKey | None = None


class _Written(NamedTuple, Generic[T]):
    """What was decided and written, and how its slots stood then, where that was asked."""

    outcome: T
    free_slots: FreeSlots | None = None


def _state_reads(shard: Shard, task_id: str) -> list[Command]:
    return [
        ("TIME",),
        ("HMGET", shard.task(task_id), *codec.STATE_FIELDS),
        ("LRANGE", shard.log(task_id), 0, -1),
    ]


@dataclass(frozen=True)
class Transitions(StorePrograms):
    """Builds the programs that write.

    Attributes:
        outbox: Makes the message that goes out in the same write as a task that becomes pending.
        reads: Of the same store.
        timings: How long to wait.
        guard: Refuses creates and answers when memory is short; None: nothing is refused.
    """

    outbox: Outbox
    reads: Reads
    timings: Timings
    guard: MemoryGuard | None = None

    # --- clients ---------------------------------------------------------------------------------------

    def create(self, event: Create) -> Program[Created]:
        """See `ClientStore.create`."""
        decision = yield from transact(_Creation(self, event), self.deadline)
        if isinstance(decision, Applied) and decision.task is not None:
            if awaits_worker(decision.task):
                self.outbox.committed(decision.task)
            return Created(task=decision.task)
        task_id = decision.task_id if isinstance(decision, Replayed) else event.task_id
        view = yield from self.reads.get(event.owner, task_id, hidden=True)
        return Created(task=view.task, replayed=True)

    def apply(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Program[Task]:
        """See `ClientStore.apply`."""

        def owned(task: Task | None) -> Task | None:
            return task if task is not None and task.owner == owner and (task.visible or hidden) else None

        applied = yield from self._run(_Event(self, task_id, event, owned))
        return _standing(applied)

    # --- workers ---------------------------------------------------------------------------------------

    def claim(self, task_id: str, event: Claim) -> Program[Claimed]:
        """See `WorkerStore.claim`; arguments and journal come with the same read."""
        claimed, free_slots = yield from transact(_Claim(self, task_id, event), self.deadline)
        yield from self._grant_slots(free_slots)
        task = claimed.task
        if task.lease is None or task.lease.lease_id != event.lease_id:
            raise InvalidTransition(task_id, task.phase, "Claim", refusal_reason(task))
        return claimed

    def commit(self, task_id: str, event: WorkerEvent) -> Program[Task]:
        """See `WorkerStore.commit`."""
        applied = yield from self._run(_Event(self, task_id, event))
        return _standing(applied)

    # --- sweeps ----------------------------------------------------------------------------------------

    def apply_sweep(self, task_id: str, event: SweepEvent) -> Program[Task | None]:
        """See `TaskStoreMaintenance.apply_sweep`."""
        try:
            applied = yield from self._run(_Event(self, task_id, event))
        except TaskNotFound:
            # It may be there and only have expired; then the indexes still have to lead the sweep to it.
            (exists,) = yield from once(
                [("EXISTS", self.layout.shard_of(task_id).task(task_id))], self.deadline
            )
            if not exists:
                yield from once(self._forget(task_id), self.deadline)
            raise
        return applied.task

    def _forget(self, task_id: str) -> list[Command]:
        shard = self.layout.shard_of(task_id)
        names = (*(index.value for index in Due), "suspects")
        return [("ZREM", shard.index(name), task_id) for name in names]

    # --- what they share -------------------------------------------------------------------------------

    def _run(self, transition: _Event, deadline: float | None = None) -> Program[Applied]:
        deadline = self.deadline if deadline is None else deadline
        judged, free_slots = yield from transact(transition, deadline)
        if judged.sends and judged.applied.task is not None:
            self.outbox.committed(judged.applied.task)
        yield from self._grant_slots(free_slots)
        return judged.applied

    def _grant_slots(self, seen: FreeSlots | None) -> Program[None]:
        """Grant the slots that are free to those that wait longest.

        Others do so at the same time, so a task that cannot take a slot any more leaves it to the next.
        """
        if seen is None:
            return
        free = seen.free
        for task_id in seen.waiting:
            if not free:
                return
            try:
                grant = _Event(self, task_id, GrantSlot(), concurrency_key=seen.key)
                yield from self._run(grant, self.timings.grant_slot)
                free -= 1
            except (ConcurrencyLimitReached, StoreUnavailable) as error:
                logger.debug("A slot is not granted, or left for the sweep to grant: %s", error)
                return
            except TasksServiceError as refusal:
                logger.debug("A task is passed over for a slot: %s", refusal)

    def stored(self, task_id: str, replies: list[Reply]) -> _Stored:
        """What the answers to `_state_reads` say; more answers than that are its `rest`."""
        time, values, lines, *rest = replies
        log = tuple(codec.decode_line(line) for line in lines)
        return _Stored(self.time_of(time), codec.decode(task_id, values), log, rest)

    def writes(
        self, shard: Shard, before: Task | None, applied: Applied, now_ms: int, *, sends: bool
    ) -> list[Command]:
        """Everything that an applied event writes, for one MULTI."""
        after = applied.task
        if after is None:
            return [] if before is None else self._removal(shard, before)
        if after == before and not applied.log:
            return []
        key, log = shard.task(after.task_id), shard.log(after.task_id)
        commands: list[Command] = list(_record_writes(key, before, applied, after))
        commands += index_commands(shard, before, after)
        if applied.log:
            commands.append(("RPUSH", log, *map(codec.encode_line, applied.log)))
            commands += [
                ("PUBLISH", self.layout.changes, f"{after.task_id} {line.revision}") for line in applied.log
            ]
        if after.revision >= self.limits.log_entries:
            commands.append(("LTRIM", log, -self.limits.log_entries, -1))
        if before is None or before.expires_ms != after.expires_ms:
            commands += [("PEXPIREAT", name, after.expires_ms + BACKSTOP_MS) for name in (key, log)]
        if sends:
            commands += [("LPUSH", push.key, push.payload) for push in self.outbox.pushes(after, now_ms)]
        return commands

    def _removal(self, shard: Shard, task: Task) -> list[Command]:
        """What removes a task, in an order that a sweep can take up again wherever it was broken off.

        A full Redis takes these commands one by one only. The index that leads a sweep to the task goes last,
        the record, which says where else the task is, just before it. What its idempotency key stands for is
        left alone: it may be another task by now, and whatever it is, ends by itself.
        """
        last: Command = ("ZREM", shard.index(Due.EXPIRED.value), task.task_id)
        commands = [command for command in index_commands(shard, task, None) if command != last]
        commands.append(("UNLINK", shard.task(task.task_id), shard.log(task.task_id)))
        return [*commands, last]


class _Creation:
    """A task that is recorded."""

    name = "Create"

    def __init__(self, store: Transitions, event: Create) -> None:
        self.task_id, self.token = event.task_id, event.token
        self._store, self._event = store, event
        self._shard = shard = store.layout.shard_of_owner(event.owner)
        self._live = shard.live(event.owner)
        self._keyed = [shard.idempotency(event.owner, event.idempotency)] if event.idempotency else []
        self._slots = SlotReads(shard, store.limits, ConcurrencyKey(event.owner, event.queue))
        self._watches_quota = False

    def watch(self) -> list[str]:
        quota = [self._live] if self._watches_quota else []
        return [self._shard.task(self.task_id), *self._keyed, *self._slots.watched(), *quota]

    def reads(self) -> list[Command]:
        return [
            *_state_reads(self._shard, self.task_id),
            ("SCARD", self._live),
            ("ZCARD", self._shard.index("expired")),
            *(("GET", key) for key in self._keyed),
            *self._slots.commands(),
        ]

    def judge(self, replies: list[Reply]) -> Write[Applied | Replayed] | None:
        stored = self._store.stored(self.task_id, replies)
        owner_live, total, *rest = stored.rest
        found, held = rest[: len(self._keyed)], rest[len(self._keyed) :]
        limits = self._store.limits
        if owner_live + QUOTA_HEADROOM >= limits.live_per_owner and not self._watches_quota:
            self._watches_quota = True
            return None
        counts = StoreCounts(
            owner_live=owner_live,
            total=total,
            existing=codec.decode_remembered(found[0]) if found else None,
            slots_until_ms=self._slots.until_ms(held),
        )
        decision = decide(
            stored.task, self._event, stored.now_ms, log=stored.log, limits=limits, counts=counts
        )
        if isinstance(decision, Refused):
            raise decision.error
        if isinstance(decision, Replayed) or decision.task is None:
            return Write((), decision)
        if self._store.guard is not None:
            self._store.guard.check_create(self._shard, size(self._event.arguments))
        return Write(self._writes(decision, decision.task, stored.now_ms), decision)

    def _writes(self, decision: Applied, task: Task, now_ms: int) -> list[Command]:
        sends = is_sent(decision, self._event, now_ms)
        commands = self._store.writes(self._shard, None, decision, now_ms, sends=sends)
        commands += [("PEXPIRE", key, OWNER_KEYS_MS) for key in (self._shard.owner(task.owner), self._live)]
        value = codec.encode_remembered(idempotency_record(task, self._event.request_digest))
        return [*commands, *(("SET", key, value, "PX", task.ttl_ms) for key in self._keyed)]


class _OfTask:
    """What happens to a task that there is."""

    def __init__(
        self, store: Transitions, task_id: str, event: Event, concurrency_key: ConcurrencyKey | None = None
    ) -> None:
        self.task_id, self.name, self.token = task_id, type(event).__name__, event.token
        self._store = store
        self._shard = store.layout.shard_of(task_id)
        self._slots = SlotReads(self._shard, store.limits, concurrency_key)

    def watch(self) -> list[str]:
        return [self._shard.task(self.task_id), *self._slots.watched()]

    def _judge(self, event: Event, stored: _Stored, seen: Task | None) -> _Judged:
        """What `decide` says, as commands; `seen` is the stored task, unless it must not be seen."""
        if seen is None:
            raise TaskNotFound(self.task_id)
        shard, limits, now_ms = self._shard, self._store.limits, stored.now_ms
        counts = StoreCounts(slots_until_ms=self._slots.until_ms(stored.rest))
        decision = decide(seen, event, now_ms, log=stored.log, limits=limits, counts=counts)
        if isinstance(decision, Refused):
            raise TaskNotFound(self.task_id) if isinstance(decision.error, TaskNotFound) else decision.error
        if isinstance(decision, Replayed):
            return _Judged(Applied(task=decision.task), [], sends=False)
        after = decision.task
        sends = is_sent(decision, event, now_ms)
        commands = self._store.writes(shard, seen, decision, now_ms, sends=sends)
        if isinstance(event, Redispatch) and after is not None:
            not_before_ms = now_ms + redispatch_backoff_ms(after.redispatches)
            commands.append(("ZADD", shard.index("suspects"), not_before_ms, self.task_id))
        if limits.concurrency_limit(seen.queue) is None or not frees_slot(seen, after):
            return _Judged(decision, commands, sends)
        commands += free_slot_reads(shard, seen.concurrency_key, now_ms)
        return _Judged(decision, commands, sends, seen.concurrency_key)

    def _write(self, judged: _Judged, outcome: T) -> Write[_Written[T]]:
        key = judged.opens
        if key is None:
            removes = judged.applied.task is None
            return Write(judged.commands, _Written(outcome), non_transactional=removes)

        def outcome_from(answers: list[Reply]) -> _Written[T]:
            return _Written(outcome, free_slots(self._store.limits, key, answers[-2:]))

        return Write(judged.commands, _Written(outcome), outcome_from=outcome_from)


class _Event(_OfTask):
    """Any event but a claim."""

    def __init__(
        self,
        store: Transitions,
        task_id: str,
        event: Event,
        seen: Callable[[Task | None], Task | None] = lambda task: task,
        concurrency_key: ConcurrencyKey | None = None,
    ) -> None:
        super().__init__(store, task_id, event, concurrency_key)
        self._event, self._seen = event, seen

    def reads(self) -> list[Command]:
        return [*_state_reads(self._shard, self.task_id), *self._slots.commands()]

    def judge(self, replies: list[Reply]) -> Write[_Written[_Judged]] | None:
        stored = self._store.stored(self.task_id, replies)
        if self._slots.lacks(stored.task, self._event):
            return None
        judged = self._judge(self._event, stored, self._seen(stored.task))
        if self._store.guard is not None and isinstance(self._event, AnswerInput) and judged.commands:
            self._store.guard.check_answer(self._shard)
        return self._write(judged, judged)


class _Claim(_OfTask):
    """A claim, which reads all of the record for the tool that is to run."""

    def __init__(self, store: Transitions, task_id: str, event: Claim) -> None:
        super().__init__(store, task_id, event)
        self._event = event

    def reads(self) -> list[Command]:
        shard, task_id = self._shard, self.task_id
        whole: list[Command] = [
            ("TIME",),
            ("HGETALL", shard.task(task_id)),
            ("LRANGE", shard.log(task_id), 0, -1),
        ]
        return whole + self._slots.commands()

    def judge(self, replies: list[Reply]) -> Write[_Written[Claimed]] | None:
        time, flat, lines, *held = replies
        record: dict[str, str] = dict(zip(flat[::2], flat[1::2], strict=True))
        state = [record.get(name) for name in codec.STATE_FIELDS]
        stored = self._store.stored(self.task_id, [time, state, lines, *held])
        if self._slots.lacks(stored.task, self._event):
            return None
        judged = self._judge(self._event, stored, stored.task)
        known = () if stored.task is None else codec.decode_journal(stored.task, record)
        task = _standing(judged.applied)
        claimed = Claimed(
            task=task,
            arguments=JsonText(record.get("arguments", "")),
            journal=(*known, *judged.applied.journal),
        )
        commands = [*_overtaking(self._shard, task, self._event), *judged.commands]
        return self._write(judged._replace(commands=commands), claimed)


def _record_writes(key: str, before: Task | None, applied: Applied, after: Task) -> list[Command]:
    old = codec.encode(before) if before is not None else {}
    new = codec.encode(after)
    changed = {name: text for name, text in new.items() if text and text != old.get(name)}
    if applied.arguments is not None:
        changed["arguments"] = applied.arguments
    if applied.result is not None:
        changed["result"] = applied.result
    start = after.journal_length - len(applied.journal)
    for number, entry in enumerate(applied.journal, start=start):
        changed[f"j:{number}"] = codec.encode_entry(entry)
    commands: list[Command] = []
    if changed:
        commands.append(("HSET", key, *(part for pair in changed.items() for part in pair)))
    if emptied := [name for name, text in new.items() if not text and old.get(name)]:
        commands.append(("HDEL", key, *emptied))
    return commands


def _overtaking(shard: Shard, task: Task, event: Claim) -> list[Command]:
    """A claim lets the sweep see which messages it has overtaken."""
    if not event.dispatched_ms:
        return []
    if task.phase is not Phase.RUNNING and task.slot is not Slot.WAITING:
        return []
    return [("ZADD", shard.index("overtaken"), "GT", event.dispatched_ms, task.queue)]


def _standing(applied: Applied) -> Task:
    """The task after an event that does not remove it."""
    if applied.task is None:
        raise AssertionError("only expiry removes a task")
    return applied.task
