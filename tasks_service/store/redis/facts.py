"""Reading how much work a store holds; see `store.facts`.

The cost is a few commands for each shard, two for each queue, and one for each owner whose tasks wait for a
slot. Queues, services and such owners are looked at up to a number each, so that an answer never takes long.

No index has the parked tasks alone. They are those that are alive and in no other index.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from ...domain.indexes import Due
from ...domain.task import Phase
from ..facts import StoreFacts
from .layout import Command, Shard, parse_concurrency_key, score_of
from .reads import Reads
from .sweeps import Sweeps
from .transaction import Program, Reply, once

MOST_QUEUES: Final = 100
"""How many queues are told apart, in alphabetical order."""

MOST_SERVICES: Final = 20
"""How many services are told apart, those first of which was heard last."""

MOST_KEYS: Final = 1_000
"""How many concurrency keys are looked at, in each shard."""

OLDEST: Final = 5
"""Of how many tasks of a queue it is read for how long they have waited: those with the oldest messages.

A message that was sent again is newer than the task's wait, so the first one need not be the oldest task.
"""


def read_facts(reads: Reads, sweeps: Sweeps) -> Program[StoreFacts]:
    """Read them, in a few round trips.

    Raises:
        StoreUnavailable: No answer in time.
    """
    layout, deadline = reads.layout, reads.deadline
    queues = (yield from sweeps.queues())[:MOST_QUEUES]
    totals: Counter[str] = Counter()
    pending = dict.fromkeys(queues, 0)
    oldest: dict[str, list[str]] = {queue: [] for queue in queues}
    is_complete = True
    for shard in layout.shards:
        replies = yield from once(_counts(shard, queues), deadline)
        sizes, keys = replies[: len(_SIZES)], _texts(replies[len(_SIZES)])
        totals.update({name: _number(size) for name, size in zip(_SIZES, sizes, strict=True)})
        for queue, size, names in _by_queue(queues, replies[len(_SIZES) + 1 :]):
            pending[queue] += size
            oldest[queue] += names
        is_complete &= len(keys) <= MOST_KEYS
        totals["waiting"] += yield from _waiting(shard, keys[:MOST_KEYS], deadline)
    running, sleeping = totals[Due.LEASES], totals[Due.TIMERS]
    alive, waiting = totals[Due.OVERDUE], totals["waiting"]
    parked = max(alive - running - sleeping - waiting - sum(pending.values()), 0)
    return StoreFacts(
        running=running,
        sleeping=sleeping,
        parked=parked if is_complete else None,
        waiting=waiting if is_complete else None,
        ended=totals[Due.EXPIRED],
        pending=pending,
        oldest_ms=(yield from _oldest(reads, oldest)),
        workers=(yield from _workers(reads)),
        beat_ages_ms=(yield from sweeps.beat_ages_ms()),
    )


_SIZES: Final = (Due.LEASES, Due.TIMERS, Due.OVERDUE, Due.EXPIRED)


def _counts(shard: Shard, queues: Sequence[str]) -> list[Command]:
    commands: list[Command] = [("ZCARD", shard.index(index.value)) for index in _SIZES]
    commands.append(("SMEMBERS", shard.index("concurrency_keys")))
    for queue in queues:
        commands += [("ZCARD", shard.pending(queue)), ("ZRANGE", shard.pending(queue), 0, OLDEST - 1)]
    return commands


def _by_queue(queues: Sequence[str], replies: Sequence[Reply]) -> list[tuple[str, int, list[str]]]:
    pairs = zip(queues, replies[::2], replies[1::2], strict=True)
    return [(queue, _number(size), _texts(names)) for queue, size, names in pairs]


def _waiting(shard: Shard, keys: Sequence[str], deadline: float) -> Program[int]:
    if not keys:
        return 0
    reads: list[Command] = [("ZCARD", shard.waiting(parse_concurrency_key(key))) for key in keys]
    return sum(map(_number, (yield from once(reads, deadline))))


def _oldest(reads: Reads, names: dict[str, list[str]]) -> Program[dict[str, int]]:
    """For how long the task of each queue has waited that has waited longest; 0 where none waits."""
    now_ms = yield from reads.now_ms()
    tasks = yield from reads.tasks([name for some in names.values() for name in some])
    ages = dict.fromkeys(names, 0)
    for task in tasks:
        if task.phase is Phase.PENDING and task.queue in ages:
            ages[task.queue] = max(ages[task.queue], now_ms - max(task.due_ms, task.updated_ms))
    return ages


def _workers(reads: Reads) -> Program[dict[str, int]]:
    keys, deadline = reads.layout.registry, reads.deadline
    now_ms = yield from reads.now_ms()
    (replies,) = yield from once([("ZREVRANGE", keys.services, 0, MOST_SERVICES - 1)], deadline)
    services = _texts(replies)
    if not services:
        return {}
    alive: list[Command] = [("ZCOUNT", keys.alive(service), f"({now_ms}", "+inf") for service in services]
    found = yield from once(alive, deadline)
    return {service: _number(number) for service, number in zip(services, found, strict=True)}


def _number(reply: Reply) -> int:
    """A count; of a key that is damaged, none, which doctor and repair tell of."""
    return score_of(reply) or 0


def _texts(reply: Reply) -> list[str]:
    return sorted(reply) if isinstance(reply, list | set) else []
