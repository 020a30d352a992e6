"""Every operation of the store, written once, as programs of the transaction loop.

Each method returns a program; the blocking and the asyncio face only drive it. The pattern is always the
same: read the record and the clock, let `decide` judge, turn what it says into commands.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ...domain.decide import (
    Applied,
    IdempotencyRecord,
    Refused,
    Replayed,
    StoreCounts,
    decide,
    effective,
    redispatch_backoff_ms,
)
from ...domain.errors import (
    ConcurrencyLimitReached,
    CorruptRecord,
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
    Expire,
    GrantSlot,
    Redispatch,
    SweepEvent,
    WorkerEvent,
)
from ...domain.indexes import awaits_worker, frees_slot, is_sent, refusal_reason
from ...domain.limits import Limits, size
from ...domain.task import (
    ConcurrencyKey,
    JournalEntry,
    JsonText,
    LogEntry,
    Owner,
    Phase,
    Slot,
    Task,
    TaskRecord,
)
from ..changes import Change, Reported
from ..clients import Created, Page, TaskView
from ..maintenance import MOST_GRANTED, Counts, Due, SweepMark, SweepRecord
from ..outbox import Outbox
from ..workers import Claimed
from . import codec
from .health import run_id
from .layout import (
    OWNER_KEYS_MS,
    Command,
    Layout,
    Shard,
    concurrency_key_name,
    index_commands,
    lifetime_commands,
    parse_concurrency_key,
    problems,
    sorted_index_entries,
)
from .memory_guard import MemoryGuard
from .servers import Servers
from .slots import FreeSlots, SlotReads, free_slot_reads, free_slots
from .transaction import LostConnection, Program, Reply, RoundTrip, Write, milliseconds, once, transact

logger = logging.getLogger(__name__)

QUOTA_HEADROOM = 256
"""Further below its quota than this, an owner's create does not WATCH the quota.

Creates in flight are bounded by the front ends' connections, and while those are fewer than this, a create
that saw more room than this cannot be one too many. Nearer to the limit the quota is watched, and exact;
further away, creates of one owner do not void each other.
"""

CALLING_DEADLINE = 0.25
"""Seconds that whoever has given a slot back spends on giving it to the next; a sweep does it otherwise."""
_SAME_MOMENT = 64
"""How many tasks of one owner and one millisecond a page reads over before it asks for more."""

_STATE = len(codec.STATE_FIELDS)


Clock = Callable[[int], int]


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


class Operations:
    """Builds the programs of one store.

    Args:
        layout: Which keys there are.
        limits: What is allowed.
        outbox: Makes the message that goes out in the same write as a task that becomes pending.
        deadline: Seconds that an operation may try.
        clock: From the server's time to the time that decisions use, in ms; tests move it.
        headroom: Refuses creates and answers when memory is short; None: nothing is refused.
    """

    def __init__(
        self,
        layout: Layout,
        limits: Limits,
        outbox: Outbox,
        deadline: float,
        clock: Clock | None,
        headroom: MemoryGuard | None = None,
    ) -> None:
        self.layout = layout
        self.limits = limits
        self.outbox = outbox
        self.deadline = deadline
        self._clock = clock
        self._headroom = headroom

    def time_of(self, reply: Reply) -> int:
        """The time that decisions use, from the answer of TIME."""
        now_ms = milliseconds(reply)
        return now_ms if self._clock is None else self._clock(now_ms)

    def _stored(self, task_id: str, replies: list[Reply]) -> _Stored:
        time, values, lines, *rest = replies
        log = tuple(codec.decode_line(line) for line in lines)
        return _Stored(self.time_of(time), codec.decode(task_id, values), log, rest)

    def announce(self, name: str) -> Program[list[Reply]]:
        """Wake whoever watches a name, in every front end."""
        return once([("PUBLISH", self.layout.changes, f"{name} 0")], self.deadline)

    # --- reports ---------------------------------------------------------------------------------------

    def report(self, reported: Sequence[Reported]) -> Program[list[int]]:
        """See `RedisTaskStore.report`. Tried once: a report that is late is worth less than the next one."""
        commands = [
            ("PUBLISH", self.layout.reports(task_id), codec.encode_reports(reports))
            for task_id, reports in reported
        ]
        try:
            replies = yield RoundTrip(commands)
        except LostConnection as error:
            raise StoreUnavailable(str(error)) from None
        for reply in replies:
            if isinstance(reply, Exception):
                raise StoreUnavailable(str(reply))
        return replies

    # --- clients ---------------------------------------------------------------------------------------

    def create(self, event: Create) -> Program[Created]:
        """See `TaskStore.create`."""
        shard = self.layout.shard_of_owner(event.owner)
        live = shard.live(event.owner)
        keyed = [shard.idempotency(event.owner, event.idempotency)] if event.idempotency else []
        slots = SlotReads(shard, self.limits, ConcurrencyKey(event.owner, event.queue))
        watched = [shard.task(event.task_id), *keyed, *slots.watched()]
        counted: list[Command] = [
            *_state_reads(shard, event.task_id),
            ("SCARD", live),
            ("ZCARD", shard.index("expired")),
            ("ZCARD", shard.index("overdue")),
            *(("GET", key) for key in keyed),
            *slots.commands(),
        ]
        reads = list(counted)
        named = ""

        def judge(replies: list[Reply]) -> Write | None:
            nonlocal named
            now_ms, task, log, rest = self._stored(event.task_id, replies[: len(counted)])
            owner_live, final, not_final, *rest = rest
            found, held = rest[: len(keyed)], rest[len(keyed) :]
            existing = codec.decode_remembered(found[0]) if found else None
            if existing is not None and existing.task_id != named:
                # Whether the key still holds is for its task to say, in the same transaction.
                named = existing.task_id
                watched.append(shard.task(named))
                reads[:] = [*counted, ("HMGET", shard.task(named), *codec.STATE_FIELDS)]
                return None
            if owner_live + QUOTA_HEADROOM >= self.limits.live_per_owner and live not in watched:
                watched.append(live)
                return None
            counts = StoreCounts(
                owner_live=owner_live,
                stored=final + not_final,
                existing=existing,
                existing_task=codec.decode(named, replies[-1]) if existing else None,
                slots_until_ms=slots.until_ms(held),
            )
            decision = decide(task, event, now_ms, log=log, limits=self.limits, counts=counts)
            if isinstance(decision, Refused):
                raise decision.error
            if isinstance(decision, Replayed) or decision.task is None:
                return Write((), decision)
            if self._headroom is not None:
                self._headroom.check_create(shard, size(event.arguments))
            sends = is_sent(decision, event, now_ms)
            record = IdempotencyRecord(task_id=event.task_id, request_digest=event.request_digest)
            commands: list[Command] = [("SET", key, codec.encode_remembered(record)) for key in keyed]
            commands += self.writes(shard, None, decision, now_ms, sends=sends)
            commands += [("PEXPIRE", key, OWNER_KEYS_MS) for key in (shard.owner(event.owner), live)]
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
        view = yield from self.get(event.owner, task_id, hidden=True)
        return Created(task=view.task, replayed=True)

    def get(self, owner: Owner, task_id: str, *, hidden: bool = False) -> Program[TaskView]:
        """See `TaskStore.get`: one exchange of two commands."""
        shard = self.layout.shard_of(task_id)
        reads: list[Command] = [("TIME",), ("HMGET", shard.task(task_id), *codec.VIEW_FIELDS)]
        time, values = yield from once(reads, self.deadline)
        _no_error(task_id, values)
        task = codec.decode(task_id, values[:_STATE])
        now = None if task is None else effective(task, self.time_of(time))
        if now is None or now.owner != owner or not (now.visible or hidden):
            raise TaskNotFound(task_id)
        return TaskView(task=now, result=values[_STATE] or None)

    def apply(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Program[Task]:
        """See `TaskStore.apply`."""

        def owned(task: Task | None) -> Task | None:
            return task if task is not None and task.owner == owner and (task.visible or hidden) else None

        applied = yield from self._transition(task_id, event, owned)
        return _standing(applied)

    def page(self, owner: Owner, *, after: str | None = None, limit: int = 50) -> Program[Page]:
        """See `TaskStore.page`: the owner's index from a position on, then the records in one exchange."""
        shard = self.layout.shard_of_owner(owner)
        key = shard.owner(owner)
        tasks: list[Task] = []
        position = after
        while True:
            ids, position = yield from self._members(key, position, limit)
            if ids:
                tasks += yield from self._visible(shard, owner, ids)
            if position is None or len(tasks) >= limit:
                break
        if len(tasks) > limit:
            tasks = tasks[:limit]
            position = _position(tasks[-1])
        return Page(tasks=tuple(tasks), last=position)

    def _members(self, key: str, after: str | None, limit: int) -> Program[tuple[list[str], str | None]]:
        if after is None:
            reads: list[Command] = [("ZREVRANGE", key, 0, limit, "WITHSCORES")]
            (flat,) = yield from once(reads, self.deadline)
            pairs = list(zip(flat[::2], map(int, flat[1::2]), strict=True))
        else:
            pairs = yield from self._members_after(key, after, limit)
        ids = [member for member, _ in pairs[:limit]]
        more = len(pairs) > limit
        return ids, f"{pairs[limit - 1][1]}:{pairs[limit - 1][0]}" if more else None

    def _members_after(self, key: str, after: str, limit: int) -> Program[list[tuple[str, int]]]:
        """The members after a position, one more than `limit` if there are so many.

        Those of the position's own millisecond come first, whether before or after it; so when they fill what
        was read, more is read.
        """
        score, _, member = after.partition(":")
        count = limit + _SAME_MOMENT
        while True:
            reads: list[Command] = [("ZREVRANGEBYSCORE", key, score, "-inf", "WITHSCORES", "LIMIT", 0, count)]
            (flat,) = yield from once(reads, self.deadline)
            found = list(zip(flat[::2], map(int, flat[1::2]), strict=True))
            pairs = [(m, s) for m, s in found if s < int(score) or m < member][: limit + 1]
            if len(pairs) > limit or len(found) < count:
                return pairs
            count *= 2

    def _visible(self, shard: Shard, owner: Owner, ids: Sequence[str]) -> Program[list[Task]]:
        reads: list[Command] = [("TIME",)]
        reads += [("HMGET", shard.task(task_id), *codec.STATE_FIELDS) for task_id in ids]
        time, *records = yield from once(reads, self.deadline)
        now_ms = self.time_of(time)
        found = (codec.decode(task_id, values) for task_id, values in zip(ids, records, strict=True))
        current = (effective(task, now_ms) for task in found if task is not None)
        return [task for task in current if task is not None and task.owner == owner and task.visible]

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

    def now_ms(self) -> Program[int]:
        """See `TaskStoreMaintenance.now_ms`."""
        (time,) = yield from once([("TIME",)], self.deadline)
        return self.time_of(time)

    def due(self, index: Due, *, limit: int) -> Program[list[str]]:
        """See `TaskStoreMaintenance.due`."""
        now_ms = yield from self.now_ms()
        reads: list[Command] = [
            ("ZRANGEBYSCORE", shard.index(index.value), "-inf", now_ms, "LIMIT", 0, limit)
            for shard in self.layout.shards
        ]
        found = yield from once(reads, self.deadline)
        return [task_id for ids in found for task_id in ids][:limit]

    def queues(self) -> Program[list[str]]:
        """See `TaskStoreMaintenance.queues`."""
        reads: list[Command] = [("SMEMBERS", shard.index("queues")) for shard in self.layout.shards]
        found = yield from once(reads, self.deadline)
        return sorted({queue for queues in found for queue in queues})

    def pending(self, queue: str, *, until_ms: int, limit: int) -> Program[list[str]]:
        """See `TaskStoreMaintenance.pending`."""
        reads: list[Command] = [
            ("ZRANGEBYSCORE", shard.pending(queue), "-inf", until_ms, "LIMIT", 0, limit)
            for shard in self.layout.shards
        ]
        found = yield from once(reads, self.deadline)
        return [task_id for ids in found for task_id in ids][:limit]

    def waiting_for_slots(self, *, limit: int) -> Program[list[str]]:
        """See `TaskStoreMaintenance.waiting_for_slots`; empty concurrency keys are forgotten."""
        now_ms = yield from self.now_ms()
        keys = yield from self._concurrency_keys()
        reads: list[Command] = []
        for shard, key in keys:
            slots = self.limits.concurrency_limit(key.queue)
            most = limit if slots is None else min(slots + MOST_GRANTED, limit)
            reads += free_slot_reads(shard, key, now_ms, most)
        replies = (yield from once(reads, self.deadline)) if reads else []
        called: list[str] = []
        for (shard, key), seen in zip(keys, zip(replies[::2], replies[1::2], strict=True), strict=True):
            found = free_slots(self.limits, key, seen)
            if not found.waiting:
                yield from self._forget_concurrency_key(shard, key)
            elif found.free:
                called += yield from self._there(shard, key, found.waiting[: found.free + MOST_GRANTED])
        return called[:limit]

    def _there(self, shard: Shard, key: ConcurrencyKey, waiting: list[str]) -> Program[list[str]]:
        """Those of them that exist; the others, whose records ended while nobody swept, wait no more.

        They would stand before all that come later, and no call would ever take them away.
        """
        found = yield from once([("EXISTS", shard.task(task_id)) for task_id in waiting], self.deadline)
        if gone := [task_id for task_id, there in zip(waiting, found, strict=True) if not there]:
            yield from once([("ZREM", shard.waiting(key), *gone)], self.deadline)
        return [task_id for task_id in waiting if task_id not in gone]

    def _concurrency_keys(self) -> Program[list[tuple[Shard, ConcurrencyKey]]]:
        """Where a task waits for a slot, or has waited."""
        reads: list[Command] = [("SMEMBERS", shard.index("concurrency_keys")) for shard in self.layout.shards]
        found = yield from once(reads, self.deadline)
        pairs = zip(self.layout.shards, found, strict=True)
        return [(shard, parse_concurrency_key(name)) for shard, names in pairs for name in sorted(names)]

    def _forget_concurrency_key(self, shard: Shard, key: ConcurrencyKey) -> Program[None]:
        """Take a concurrency key out of the index, unless a task has just begun to wait under it."""
        waiting, name = shard.waiting(key), concurrency_key_name(key)
        forget = Write([("SREM", shard.index("concurrency_keys"), name)], None)
        yield from transact(
            name,
            lambda: [waiting],
            [("EXISTS", waiting)],
            lambda replies: Write((), None) if replies[0] else forget,
            event="GrantSlot",
            token="",
            deadline=self.deadline,
        )

    def overtaken_ms(self, queue: str) -> Program[int]:
        """See `TaskStoreMaintenance.overtaken_ms`."""
        now_ms = yield from self.now_ms()
        keys = [shard.index("overtaken") for shard in self.layout.shards]
        scores = yield from once([("ZSCORE", key, queue) for key in keys], self.deadline)
        marks = [0 if score is None else int(float(score)) for score in scores]
        if ahead := [key for key, mark in zip(keys, marks, strict=True) if mark > now_ms]:
            yield from once([("ZREM", key, queue) for key in ahead], self.deadline)
        return max(mark for mark in (0, *marks) if mark <= now_ms)

    def mark_suspected(self, task_ids: Sequence[str], *, not_before_ms: int) -> Program[list[int]]:
        """See `TaskStoreMaintenance.mark_suspected`."""
        if not task_ids:
            return []
        commands: list[Command] = []
        for task_id in task_ids:
            key = self.layout.shard_of(task_id).index("suspects")
            commands += [("ZADD", key, "NX", not_before_ms, task_id), ("ZSCORE", key, task_id)]
        replies = yield from once(commands, self.deadline)
        return [int(float(score)) for score in replies[1::2]]

    def try_lock(self, name: str, *, for_ms: int) -> Program[bool]:
        """See `TaskStoreMaintenance.try_lock`."""
        (reply,) = yield from once([("SET", self.layout.lock(name), "1", "NX", "PX", for_ms)], self.deadline)
        return reply is not None

    def mark_sweep(self, servers: Servers, *, lease_ms: int) -> Program[SweepMark]:
        """See `TaskStoreMaintenance.mark_sweep`; fails while one of the servers is away."""
        met = []
        for node in (yield from servers.locate()):
            (info,) = yield from once([("INFO", "server")], self.deadline, node)
            met.append(run_id(info))
        now_ms, server = (yield from self.now_ms()), ",".join(sorted(met))
        (text,) = yield from once([("GET", self.layout.swept)], self.deadline)
        before = codec.decode_sweep(text) if text else SweepRecord(now_ms, server, now_ms)
        mark, after = before.mark(now_ms, server, lease_ms)
        yield from once([("SET", self.layout.swept, codec.encode_sweep(after))], self.deadline)
        return mark

    def has_due_suspects(self) -> Program[bool]:
        """See `TaskStoreMaintenance.has_due_suspects`."""
        now_ms = yield from self.now_ms()
        keys = [shard.index("suspects") for shard in self.layout.shards]
        return any((yield from once([("ZCOUNT", key, "-inf", now_ms) for key in keys], self.deadline)))

    def mark_beat(self, kind: str) -> Program[None]:
        """See `TaskStoreMaintenance.mark_beat`."""
        now_ms = yield from self.now_ms()
        yield from once([("HSET", self.layout.home.index("beat"), kind, now_ms)], self.deadline)

    def beat_ages_ms(self) -> Program[dict[str, int]]:
        """See `TaskStoreMaintenance.beat_ages_ms`."""
        reads: list[Command] = [("HGETALL", self.layout.home.index("beat"))]
        (flat,) = yield from once(reads, self.deadline)
        # Asked alone, as when it was marked: on a cluster the time is then that of the same server.
        now_ms = yield from self.now_ms()
        marks = zip(flat[::2], flat[1::2], strict=True)
        return {kind: max(now_ms - int(at_ms), 0) for kind, at_ms in marks}

    def last_sweep_ms(self) -> Program[int | None]:
        """See `TaskStoreMaintenance.last_sweep_ms`."""
        (text,) = yield from once([("GET", self.layout.swept)], self.deadline)
        # Asked alone, as when the sweep was marked: on a cluster the time is then that of the same server.
        now_ms = yield from self.now_ms()
        return max(now_ms - codec.decode_sweep(text).at_ms, 0) if text else None

    def inspect(self, task_id: str) -> Program[TaskRecord]:
        """See `TaskStoreMaintenance.inspect`."""
        shard = self.layout.shard_of(task_id)
        reads: list[Command] = [("HGETALL", shard.task(task_id)), ("LRANGE", shard.log(task_id), 0, -1)]
        flat, lines = yield from once(reads, self.deadline)
        _no_error(task_id, flat)
        record: dict[str, str] = dict(zip(flat[::2], flat[1::2], strict=True))
        task = codec.decode(task_id, [record.get(name) for name in codec.STATE_FIELDS])
        if task is None:
            raise TaskNotFound(task_id)
        result = record.get("result")
        return TaskRecord(
            task=task,
            arguments=JsonText(record.get("arguments", "")),
            result=None if result is None else JsonText(result),
            journal=codec.decode_journal(task, record),
            log=tuple(codec.decode_line(line) for line in lines),
        )

    def scan(self, key: str, cursor: str) -> Program[tuple[str, list[str]]]:
        """One step of walking through an index: the next cursor ("0" at the end) and some ids."""
        reads: list[Command] = [("ZSCAN", key, cursor, "COUNT", 500)]
        ((following, flat),) = yield from once(reads, self.deadline)
        return following, flat[::2]

    def index_problems(self, task_id: str) -> Program[list[str]]:
        """See `TaskStoreMaintenance.index_problems`."""
        record = yield from self.inspect(task_id)
        task, shard = record.task, self.layout.shard_of(task_id)
        indexes = [shard.index(name.value) for name in Due]
        indexes += [
            shard.pending(task.queue),
            shard.slots(task.concurrency_key),
            shard.waiting(task.concurrency_key),
        ]
        keys = sorted({*sorted_index_entries(shard, task), *indexes})
        reads: list[Command] = [("ZSCORE", key, task_id) for key in keys]
        reads.append(("SISMEMBER", shard.live(task.owner), task_id))
        *scores, is_live = yield from once(reads, self.deadline)
        found = {
            key: None if score is None else int(float(score)) for key, score in zip(keys, scores, strict=True)
        }
        return problems(shard, task, found, bool(is_live))

    def counts(self) -> Program[Counts]:
        """See `TaskStoreMaintenance.counts`."""
        queues = yield from self.queues()
        final = running = live = pending = waiting = 0
        keys = yield from self._concurrency_keys()
        for shard in self.layout.shards:
            turns = [shard.waiting(key) for where, key in keys if where is shard]
            names = [shard.index(name) for name in ("expired", "leases", "overdue", "timers")]
            reads: list[Command] = [("ZCARD", key) for key in (*turns, *names, *map(shard.pending, queues))]
            counted = yield from once(reads, self.deadline)
            waiting, counted = waiting + sum(counted[: len(turns)]), counted[len(turns) :]
            final, running, live = final + counted[0], running + counted[1], live + counted[2]
            pending += sum(counted[3:])
        pending += waiting
        return Counts(total=final + live, pending=pending, waiting=waiting, running=running, live=live)

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
        outliving: list[str] = []

        def judge(replies: list[Reply]) -> Write | None:
            stored = self._stored(task_id, replies)
            if not outliving and isinstance(event, Expire):
                outliving.extend(_outliving_key(shard, stored.task))
                if outliving:
                    reads.append(("GET", outliving[0]))
                    return None
            if slots.lacks(stored.task, event):
                reads[:] = [*_state_reads(shard, task_id), *slots.commands()]
                return None
            held = stored.rest[: len(slots.commands())]
            counts = StoreCounts(slots_until_ms=slots.until_ms(held))
            judged = self._judge(shard, task_id, stored, event, seen(stored.task), counts)
            if outliving and str(stored.rest[-1]).startswith(f"{task_id}|"):
                judged.commands.insert(0, ("UNLINK", outliving[0]))
            if self._headroom is not None and isinstance(event, AnswerInput) and judged.commands:
                self._headroom.check_answer(shard)
            return self._write(judged)

        written: _Written = yield from transact(
            task_id,
            lambda: [key, *slots.watched(), *outliving],
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
        commands += lifetime_commands(shard, before, after)
        if sends:
            commands += [("LPUSH", push.key, push.payload) for push in self.outbox.pushes(after, now_ms)]
        return commands

    def _removal(self, shard: Shard, task: Task) -> list[Command]:
        """What removes a task, in an order that a sweep can take up again wherever it was broken off.

        A full Redis takes these commands one by one only. The index that leads a sweep to the task goes last,
        the record, which says where else the task is, just before it. Its idempotency key has ended with it,
        or stands for another task by now.
        """
        leading = Due.EXPIRED if task.status.is_final else Due.OVERDUE
        last: Command = ("ZREM", shard.index(leading.value), task.task_id)
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


def _outliving_key(shard: Shard, task: Task | None) -> list[str]:
    """The idempotency key that would outlive a task which is removed before its end was written down.

    Any other ends by itself with its task.
    """
    if task is None or task.status.is_final or not task.idempotency:
        return []
    return [shard.idempotency(task.owner, task.idempotency)]


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


def _position(task: Task) -> str:
    return f"{task.created_ms}:{task.task_id}"


def _no_error(task_id: str, reply: Reply) -> None:
    if isinstance(reply, Exception):
        raise CorruptRecord(task_id, str(reply))


def parse_reported(task_id: str, text: str) -> Reported | None:
    """What was published of a task, read back; None if it cannot be."""
    try:
        return Reported(task_id, codec.decode_reports(text))
    except ValueError as error:
        logger.warning("A report was dropped: %s", error)
        return None


def parse_change(text: str) -> Change:
    """What was published, read back."""
    task_id, _, revision = text.partition(" ")
    return Change(task_id, int(revision))
