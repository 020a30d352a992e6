"""Every transition of the store: what it reads, lets `decide` judge, and writes, as a program of the loop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

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
    JournalEntry,
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
from .transaction import Program, Reply, Write, once, transact

logger = logging.getLogger(__name__)

QUOTA_HEADROOM = 256
"""Further below its quota than this, an owner's create does not WATCH the quota.

Creates in flight are bounded by the front ends' connections, and while those are fewer than this, a create
that saw more room than this cannot be one too many. Nearer to the limit the quota is watched, and exact;
further away, creates of one owner do not void each other.
"""

CALLING_DEADLINE = 0.25
"""Seconds that whoever has given a slot back spends on giving it to the next; a sweep does it otherwise."""


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


class _Written(NamedTuple):
    """What was decided and written, and how its slots stood then, where that was asked."""

    judged: _Judged
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
        guard: Refuses creates and answers when memory is short; None: nothing is refused.
    """

    outbox: Outbox
    reads: Reads
    guard: MemoryGuard | None = None

    def _stored(self, task_id: str, replies: list[Reply]) -> _Stored:
        time, values, lines, *rest = replies
        log = tuple(codec.decode_line(line) for line in lines)
        return _Stored(self.time_of(time), codec.decode(task_id, values), log, rest)

    # --- clients ---------------------------------------------------------------------------------------

    def create(self, event: Create) -> Program[Created]:
        """See `TaskStore.create`."""
        shard = self.layout.shard_of_owner(event.owner)
        live = shard.live(event.owner)
        keyed = [shard.idempotency(event.owner, event.idempotency)] if event.idempotency else []
        slots = SlotReads(shard, self.limits, ConcurrencyKey(event.owner, event.queue))
        watched = [shard.task(event.task_id), *keyed, *slots.watched()]
        reads = [
            *_state_reads(shard, event.task_id),
            ("SCARD", live),
            ("ZCARD", shard.index("expired")),
            *(("GET", key) for key in keyed),
            *slots.commands(),
        ]

        def judge(replies: list[Reply]) -> Write | None:
            now_ms, task, log, (owner_live, total, *rest) = self._stored(event.task_id, replies)
            found, held = rest[: len(keyed)], rest[len(keyed) :]
            if owner_live + QUOTA_HEADROOM >= self.limits.live_per_owner and live not in watched:
                watched.append(live)
                return None
            counts = StoreCounts(
                owner_live=owner_live,
                total=total,
                existing=codec.decode_remembered(found[0]) if found else None,
                slots_until_ms=slots.until_ms(held),
            )
            decision = decide(task, event, now_ms, log=log, limits=self.limits, counts=counts)
            if isinstance(decision, Refused):
                raise decision.error
            if isinstance(decision, Replayed) or decision.task is None:
                return Write((), decision)
            if self.guard is not None:
                self.guard.check_create(shard, size(event.arguments))
            sends = is_sent(decision, event, now_ms)
            commands = self.writes(shard, None, decision, now_ms, sends=sends)
            commands += [("PEXPIRE", key, OWNER_KEYS_MS) for key in (shard.owner(event.owner), live)]
            value = codec.encode_remembered(idempotency_record(decision.task, event.request_digest))
            commands += [("SET", key, value, "PX", decision.task.ttl_ms) for key in keyed]
            return Write(commands, decision)

        decision: Applied | Replayed = yield from transact(
            event.task_id,
            lambda: watched,
            reads,
            judge,
            event="Create",
            token=event.token,
            deadline=self.deadline,
        )
        if isinstance(decision, Applied) and decision.task is not None:
            if awaits_worker(decision.task):
                self.outbox.committed(decision.task)
            return Created(task=decision.task)
        task_id = decision.task_id if isinstance(decision, Replayed) else event.task_id
        view = yield from self.reads.get(event.owner, task_id, hidden=True)
        return Created(task=view.task, replayed=True)

    def apply(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Program[Task]:
        """See `TaskStore.apply`."""

        def owned(task: Task | None) -> Task | None:
            return task if task is not None and task.owner == owner and (task.visible or hidden) else None

        applied = yield from self._transition(task_id, event, owned)
        return _standing(applied)

    # --- workers ---------------------------------------------------------------------------------------

    def claim(self, task_id: str, event: Claim) -> Program[Claimed]:
        """See `TaskStore.claim`; arguments and journal come with the same read."""
        shard = self.layout.shard_of(task_id)
        key = shard.task(task_id)
        slots = SlotReads(shard, self.limits)
        whole: list[Command] = [("TIME",), ("HGETALL", key), ("LRANGE", shard.log(task_id), 0, -1)]
        reads = list(whole)
        record: dict[str, str] = {}
        journal: list[JournalEntry] = []

        def judge(replies: list[Reply]) -> Write | None:
            time, flat, lines, *held = replies
            record.clear()
            record.update(zip(flat[::2], flat[1::2], strict=True))
            state = [time, [record.get(name) for name in codec.STATE_FIELDS], lines]
            stored = self._stored(task_id, state)
            if slots.lacks(stored.task, event):
                reads[:] = [*whole, *slots.commands()]
                return None
            counts = StoreCounts(slots_until_ms=slots.until_ms(held))
            judged = self._judge(shard, task_id, stored, event, stored.task, counts)
            known = () if stored.task is None else codec.decode_journal(stored.task, record)
            journal[:] = [*known, *judged.applied.journal]
            judged.commands[:0] = _overtaking(shard, judged.applied.task, event)
            return self._write(judged)

        written: _Written = yield from transact(
            task_id,
            lambda: [key, *slots.watched()],
            reads,
            judge,
            event="Claim",
            token=event.token,
            deadline=self.deadline,
        )
        yield from self._give_turns(written.free_slots)
        task = _standing(written.judged.applied)
        if task.lease is None or task.lease.lease_id != event.lease_id:
            raise InvalidTransition(task_id, task.phase, "Claim", refusal_reason(task))
        return Claimed(task=task, arguments=JsonText(record.get("arguments", "")), journal=tuple(journal))

    def commit(self, task_id: str, event: WorkerEvent) -> Program[Task]:
        """See `TaskStore.commit`."""
        applied = yield from self._transition(task_id, event)
        return _standing(applied)

    # --- sweeps and operators ----------------------------------------------------------------------------

    def apply_sweep(self, task_id: str, event: SweepEvent) -> Program[Task | None]:
        """See `TaskStoreMaintenance.apply_sweep`."""
        try:
            applied = yield from self._transition(task_id, event)
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

    # --- what transitions share --------------------------------------------------------------------------

    def _transition(
        self,
        task_id: str,
        event: Event,
        seen: Callable[[Task | None], Task | None] = lambda task: task,
        concurrency_key: ConcurrencyKey | None = None,
        deadline: float | None = None,
    ) -> Program[Applied]:
        shard = self.layout.shard_of(task_id)
        key = shard.task(task_id)
        slots = SlotReads(shard, self.limits, concurrency_key)
        reads = [*_state_reads(shard, task_id), *slots.commands()]

        def judge(replies: list[Reply]) -> Write | None:
            stored = self._stored(task_id, replies)
            if slots.lacks(stored.task, event):
                reads[:] = [*_state_reads(shard, task_id), *slots.commands()]
                return None
            counts = StoreCounts(slots_until_ms=slots.until_ms(stored.rest))
            judged = self._judge(shard, task_id, stored, event, seen(stored.task), counts)
            if self.guard is not None and isinstance(event, AnswerInput) and judged.commands:
                self.guard.check_answer(shard)
            return self._write(judged)

        written: _Written = yield from transact(
            task_id,
            lambda: [key, *slots.watched()],
            reads,
            judge,
            event=type(event).__name__,
            token=event.token,
            deadline=self.deadline if deadline is None else deadline,
        )
        judged = written.judged
        if judged.sends and judged.applied.task is not None:
            self.outbox.committed(judged.applied.task)
        yield from self._give_turns(written.free_slots)
        return judged.applied

    def _write(self, judged: _Judged) -> Write:
        key = judged.opens
        if key is None:
            return Write(judged.commands, _Written(judged), non_transactional=judged.applied.task is None)

        def outcome_from(answers: list[Reply]) -> _Written:
            return _Written(judged, free_slots(self.limits, key, answers[-2:]))

        return Write(judged.commands, _Written(judged), outcome_from=outcome_from)

    def _give_turns(self, seen: FreeSlots | None) -> Program[None]:
        """Call those that wait longest, as many as there are slots free.

        Others do so at the same time, so one that is not to be had any more leaves its slot to the next.
        """
        if seen is None:
            return
        free = seen.free
        for task_id in seen.waiting:
            if not free:
                return
            try:
                yield from self._transition(
                    task_id, GrantSlot(), concurrency_key=seen.key, deadline=CALLING_DEADLINE
                )
                free -= 1
            except (ConcurrencyLimitReached, StoreUnavailable) as error:
                logger.debug("A slot is not granted, or left for the sweep to grant: %s", error)
                return
            except TasksServiceError as refusal:
                logger.debug("A task is passed over for a slot: %s", refusal)

    def _judge(
        self,
        shard: Shard,
        task_id: str,
        stored: _Stored,
        event: Event,
        seen: Task | None,
        counts: StoreCounts,
    ) -> _Judged:
        if seen is None:
            raise TaskNotFound(task_id)
        decision = decide(seen, event, stored.now_ms, log=stored.log, limits=self.limits, counts=counts)
        if isinstance(decision, Refused):
            raise TaskNotFound(task_id) if isinstance(decision.error, TaskNotFound) else decision.error
        if isinstance(decision, Replayed):
            return _Judged(Applied(task=decision.task), [], sends=False)
        after = decision.task
        sends = is_sent(decision, event, stored.now_ms)
        commands = self.writes(shard, seen, decision, stored.now_ms, sends=sends)
        if isinstance(event, Redispatch) and after is not None:
            not_before_ms = stored.now_ms + redispatch_backoff_ms(after.redispatches)
            commands.append(("ZADD", shard.index("suspects"), not_before_ms, task_id))
        if self.limits.concurrency_limit(seen.queue) is None or not frees_slot(seen, after):
            return _Judged(decision, commands, sends)
        commands += free_slot_reads(shard, seen.concurrency_key, stored.now_ms)
        return _Judged(decision, commands, sends, seen.concurrency_key)

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


def _overtaking(shard: Shard, task: Task | None, event: Claim) -> list[Command]:
    """A claim lets the sweep see which messages it has overtaken."""
    if task is None or not event.dispatched_ms:
        return []
    if task.phase is not Phase.RUNNING and task.slot is not Slot.WAITING:
        return []
    return [("ZADD", shard.index("overtaken"), "GT", event.dispatched_ms, task.queue)]


def _standing(applied: Applied) -> Task:
    """The task after an event that does not remove it."""
    if applied.task is None:
        raise AssertionError("only expiry removes a task")
    return applied.task
