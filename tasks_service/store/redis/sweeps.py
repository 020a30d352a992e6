"""What sweeps look up and note: what is due, which messages seem lost, who waits for a slot."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import islice

from ...domain.indexes import Due
from ...domain.names import is_name, task_hash
from ...domain.task import ConcurrencyKey
from ..maintenance import MOST_GRANTED, DroppedMessages, SweepMark, SweepRecord
from . import codec
from .health import run_id
from .layout import Command, Layout, Shard, concurrency_key_name, parse_concurrency_key, score_of
from .programs import StorePrograms
from .servers import Servers
from .slots import Opening, forget, next_in_line
from .transaction import Program, Reply, Write, once, transact

logger = logging.getLogger(__name__)


MOST_REMOVALS = 200
"""How many times in a row entries that name no task are removed before one that does is looked for."""


class Sweeps(StorePrograms):
    """Builds the programs of sweeps, but for their events, which are transitions."""

    def due(self, index: Due, *, limit: int, skip: int = 0) -> Program[list[str]]:
        """See `MaintenanceStore.due`; what names no task is removed, many at a time.

        An entry is written with its record, and goes with it. What is left without one would otherwise stand
        before all that are due later, and be taken out one by one.
        """
        now_ms = yield from self.now_ms()
        reads: list[Command] = [
            ("ZRANGEBYSCORE", shard.index(index.value), "-inf", now_ms, "LIMIT", skip, limit)
            for shard in self.layout.shards
        ]
        for _ in range(MOST_REMOVALS):
            found = yield from once(reads, self.deadline)
            names = _members(reads, found)
            gone = yield from self._gone(names)
            if not gone:
                return names[:limit]
            logger.warning(
                "%d entries of the index %r named no task and were removed", len(gone), index.value
            )
            removals: list[Command] = [
                ("ZREM", shard.index(index.value), *sorted(gone)) for shard in self.layout.shards
            ]
            yield from once(removals, self.deadline)
        return []

    def _gone(self, names: Sequence[str]) -> Program[set[str]]:
        """Those of them that are no names of tasks, or of tasks that do not exist."""
        known = [name for name in names if is_name(name)]
        reads: list[Command] = [("EXISTS", self.layout.shard_of(name).task(name)) for name in known]
        there = (yield from once(reads, self.deadline)) if reads else []
        missing = {name for name, exists in zip(known, there, strict=True) if exists == 0}
        return missing | {name for name in names if not is_name(name)}

    def queues(self) -> Program[list[str]]:
        """See `MaintenanceStore.queues`."""
        reads: list[Command] = [("SMEMBERS", shard.index("queues")) for shard in self.layout.shards]
        found = yield from once(reads, self.deadline)
        names = set(_members(reads, found))
        if unnamed := {name for name in names if not _is_text(name)}:
            logger.warning("No queue has such a name: %a. Run tasks-service repair.", sorted(unnamed))
        return sorted(names - unnamed)

    def pending(self, queue: str, *, since_ms: int, until_ms: int, limit: int) -> Program[list[str]]:
        """See `MaintenanceStore.pending`."""
        reads: list[Command] = [
            ("ZRANGEBYSCORE", shard.pending(queue), since_ms, until_ms, "LIMIT", 0, limit)
            for shard in self.layout.shards
        ]
        found = yield from once(reads, self.deadline)
        return _members(reads, found)[:limit]

    def waiting_for_slots(self, *, limit: int) -> Program[list[str]]:
        """See `MaintenanceStore.waiting_for_slots`; empty concurrency keys are forgotten."""
        now_ms = yield from self.now_ms()
        openings = yield from self._openings()
        reads: list[list[Command]] = []
        for shard, opening in openings:
            slots = self.limits.concurrency_limit(opening.key.queue)
            most = limit if slots is None else min(slots + MOST_GRANTED, limit)
            reads.append(opening.reads(shard, now_ms, most))
        commands = [command for of_key in reads for command in of_key]
        replies = iter((yield from once(commands, self.deadline)) if commands else [])
        waiting: list[str] = []
        for (shard, opening), of_key in zip(openings, reads, strict=True):
            seen = list(islice(replies, len(of_key)))
            found = opening.free_slots(shard, self.limits, seen)
            if not found.waiting and not any(isinstance(reply, Exception) for reply in seen):
                yield from forget(shard, opening.key, self.deadline)
                continue
            line = yield from next_in_line(found, self.deadline)
            if line.free:
                names = line.waiting[: line.free + MOST_GRANTED]
                waiting += yield from self._existing(shard, line.key, names)
        return list(dict.fromkeys(waiting))[:limit]

    def _openings(self) -> Program[list[tuple[Shard, Opening]]]:
        """Where a task waits for a slot, or has waited, and whether owners take turns there."""
        keys = yield from self._concurrency_keys()
        reads: list[Command] = [("ZSCORE", shard.turns(key.queue), key.owner) for shard, key in keys]
        marks = (yield from once(reads, self.deadline)) if reads else []
        return [
            (shard, Opening(key, takes_turns=self._take_turns(key, mark)))
            for (shard, key), mark in zip(keys, marks, strict=True)
        ]

    def _take_turns(self, key: ConcurrencyKey, mark: Reply) -> bool:
        return self.limits.concurrency_limit(key.queue) is None and score_of(mark) is not None

    def _existing(self, shard: Shard, key: ConcurrencyKey, waiting: list[str]) -> Program[list[str]]:
        """Those of them that exist; the others are removed.

        Redis ends the records of a store that nobody sweeps. What is left of such tasks would wait before all
        others for ever.
        """
        found = yield from once([("EXISTS", shard.task(name)) for name in waiting], self.deadline)
        if gone := [name for name, there in zip(waiting, found, strict=True) if not there]:
            yield from once([("ZREM", shard.waiting(key), *gone)], self.deadline)
        return [name for name in waiting if name not in gone]

    def _concurrency_keys(self) -> Program[list[tuple[Shard, ConcurrencyKey]]]:
        """Where a task waits for a slot, or has waited."""
        reads: list[Command] = [("SMEMBERS", shard.index("concurrency_keys")) for shard in self.layout.shards]
        found = yield from once(reads, self.deadline)
        names = [
            (shard, name)
            for shard, reply in zip(self.layout.shards, found, strict=True)
            for name in sorted(_members(reads, [reply]))
        ]
        keys = [(shard, parse_concurrency_key(name)) for shard, name in names]
        return [
            pair for pair, (_, name) in zip(keys, names, strict=True) if concurrency_key_name(pair[1]) == name
        ]

    def overtaken_ms(self, queue: str) -> Program[int]:
        """See `MaintenanceStore.overtaken_ms`."""
        now_ms = yield from self.now_ms()
        keys = [shard.index("overtaken") for shard in self.layout.shards]
        scores = yield from once([("ZSCORE", key, queue) for key in keys], self.deadline)
        marks = [score_of(score) or 0 for score in scores]
        if ahead := [key for key, mark in zip(keys, marks, strict=True) if mark > now_ms]:
            yield from once([("ZREM", key, queue) for key in ahead], self.deadline)
        return max(mark for mark in (0, *marks) if mark <= now_ms)

    def mark_suspected(self, references: Sequence[str], *, not_before_ms: int) -> Program[list[int]]:
        """See `MaintenanceStore.mark_suspected`."""
        if not references:
            return []
        commands: list[Command] = []
        for name in map(task_hash, references):
            key = self.layout.shard_of(name).index("suspects")
            commands += [("ZADD", key, "NX", not_before_ms, name), ("ZSCORE", key, name)]
        replies = yield from once(commands, self.deadline)
        # Where it cannot be noted, nothing says that it may not be sent; the backoff of a task still does.
        return [score_of(score) or 0 for score in replies[1::2]]

    def try_lock(self, name: str, *, for_ms: int) -> Program[bool]:
        """See `MaintenanceStore.try_lock`."""
        key = self.layout.lock(name)
        # What stands there without an end is no lock of ours, and gets one: else nobody would sweep again.
        commands: list[Command] = [("SET", key, "1", "NX", "PX", for_ms), ("PEXPIRE", key, for_ms, "NX")]
        reply, _ = yield from once(commands, self.deadline)
        return reply is not None

    def mark_sweep(self, servers: Servers, *, lease_ms: int) -> Program[SweepMark]:
        """See `MaintenanceStore.mark_sweep`; fails while one of the servers is away."""
        met = []
        for node in (yield from servers.locate()):
            (info,) = yield from once([("INFO", "server")], self.deadline, node)
            met.append(run_id(info))
        now_ms, server = (yield from self.now_ms()), ",".join(sorted(met))
        (text,) = yield from once([("GET", self.layout.swept)], self.deadline)
        # One that cannot be read may hide an outage: then it is as if nobody had swept for long.
        before = codec.decode_sweep(text) or SweepRecord(0 if text else now_ms, server, now_ms)
        mark, after = before.mark(now_ms, server, lease_ms)
        yield from once([("SET", self.layout.swept, codec.encode_sweep(after))], self.deadline)
        return mark

    def has_due_suspects(self) -> Program[bool]:
        """See `MaintenanceStore.has_due_suspects`."""
        now_ms = yield from self.now_ms()
        keys = [shard.index("suspects") for shard in self.layout.shards]
        counts = yield from once([("ZCOUNT", key, "-inf", now_ms) for key in keys], self.deadline)
        return any(isinstance(number, int) and number for number in counts)

    def mark_beat(self, kind: str) -> Program[None]:
        """See `MaintenanceStore.mark_beat`."""
        now_ms = yield from self.now_ms()
        yield from once([("HSET", self.layout.home.index("beat"), kind, now_ms)], self.deadline)

    def beat_ages_ms(self) -> Program[dict[str, int]]:
        """See `MaintenanceStore.beat_ages_ms`."""
        reads: list[Command] = [("HGETALL", self.layout.home.index("beat"))]
        (flat,) = yield from once(reads, self.deadline)
        # Asked alone, as when it was marked: on a cluster the time is then that of the same server.
        now_ms = yield from self.now_ms()
        marks = [(kind, score_of(at_ms)) for kind, at_ms in _pairs(flat)]
        return {kind: max(now_ms - at_ms, 0) for kind, at_ms in marks if at_ms is not None}

    def last_sweep_ms(self) -> Program[int | None]:
        """See `MaintenanceStore.last_sweep_ms`."""
        (text,) = yield from once([("GET", self.layout.swept)], self.deadline)
        # Asked alone, as when the sweep was marked: on a cluster the time is then that of the same server.
        now_ms = yield from self.now_ms()
        last = codec.decode_sweep(text)
        return None if last is None else max(now_ms - last.at_ms, 0)

    def count_dropped(self, queue: str, number: int) -> Program[None]:
        """See `MaintenanceStore.count_dropped`."""
        yield from transact(_CountDropped(self.layout, self.time_of, queue, number), self.deadline)

    def dropped_messages(self) -> Program[dict[str, DroppedMessages]]:
        """See `MaintenanceStore.dropped_messages`."""
        (flat,) = yield from once([("HGETALL", self.layout.home.index("dropped"))], self.deadline)
        found = {queue: codec.decode_dropped(text) for queue, text in _pairs(flat)}
        return {queue: dropped for queue, dropped in found.items() if dropped is not None}


def _members(reads: Sequence[Command], replies: Sequence[Reply]) -> list[str]:
    """All that indexes hold; one whose key is of a wrong type holds nothing, and the log says so."""
    found: list[str] = []
    for (_, key, *_rest), reply in zip(reads, replies, strict=False):
        if isinstance(reply, Exception):
            logger.error("%s cannot be read: %s. Run tasks-service repair.", key, reply)
        else:
            found += reply
    return found


def _pairs(reply: Reply) -> list[tuple[str, str]]:
    """The fields of a hash; none if its key is of a wrong type."""
    return [] if isinstance(reply, Exception) else list(zip(reply[::2], reply[1::2], strict=True))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class _CountDropped:
    """A queue's count of dropped messages that grows."""

    name, token = "CountDropped", ""

    def __init__(self, layout: Layout, time_of: Callable[[Reply], int], queue: str, number: int) -> None:
        self.task_id = self._queue = queue
        self._key, self._time_of, self._number = layout.home.index("dropped"), time_of, number

    def watch(self) -> list[str]:
        return [self._key]

    def reads(self) -> list[Command]:
        return [("TIME",), ("HGET", self._key, self._queue)]

    def judge(self, replies: list[Reply]) -> Write[None]:
        time, text = replies
        before = codec.decode_dropped(text)
        number = self._number + (0 if before is None else before.number)
        dropped = DroppedMessages(number, self._time_of(time))
        return Write([("HSET", self._key, self._queue, codec.encode_dropped(dropped))], None)
