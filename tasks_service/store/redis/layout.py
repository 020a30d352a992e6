r"""Which keys there are, and which of them a task is in.

Everything of a shard carries its hash tag, so that one transaction touches one slot and the same code runs
on a single Redis, on Sentinel and on Cluster:

    ts:{00}:t:<task>            HASH  the record (see `codec`)
    ts:{00}:l:<task>            LIST  the transition log, a JSON object for each line, newest last, capped
    ts:{00}:owner:<owner>       ZSET  the owner's tasks, by creation
    ts:{00}:live:<owner>        SET   the owner's tasks that are not final: the quota
    ts:{00}:blocks:<owner>      SET   <task>:<n>, for each block beyond its first that is stored of a task
    ts:{00}:rate:...            STR   how often a caller has done something (see `rates`)
    ts:{00}:idem:<owner>:<hash> STR   what an idempotency key stands for, as JSON
    ts:{00}:expired             ZSET  final tasks, by the moment they go
    ts:{00}:overdue             ZSET  tasks that are not final, by the deadline of their phase
    ts:{00}:leases              ZSET  running tasks, by the end of their lease
    ts:{00}:timers              ZSET  pending tasks that come due later, by then
    ts:{00}:pending:<queue>     ZSET  pending tasks, by when their message was made: the outbox
    ts:{00}:slots:<key>         ZSET  tasks that count among what an owner may run from a queue, by deadline
    ts:{00}:waiting:<key>       ZSET  pending tasks that wait for a slot, by creation
    ts:{00}:turns:<queue>       ZSET  owners whose tasks wait for a turn, by when they last had one
    ts:{00}:concurrency_keys    SET   <owner>:<queue>, wherever a task waits for a slot or has waited
    ts:{00}:queues              SET   queues that a pending task was ever in
    ts:{00}:suspects            ZSET  pending tasks whose message seems lost, by when it may be sent again
    ts:{00}:overtaken           ZSET  queues, by the newest dispatch that was claimed from them
    ts:{00}:beat                HASH  kind of work, by when beat last had it done; in the first shard alone
    ts:{00}:dropped             HASH  queue, by what workers dropped of its messages; in the first shard alone
    ts:{00}:secrets             HASH  use, by the fingerprint of the front ends' secret for it; there as well
    ts:registry:{00}:services              ZSET  services whose workers or tools are known, by the last word
    ts:registry:{00}:alive:<service>       ZSET  its workers, by when they count as lost
    ts:registry:{00}:workers:<service>     HASH  worker, by what it announced of itself, as JSON
    ts:registry:{00}:sets:<service>        HASH  digest of a set of tools, by when it was announced, as JSON
    ts:registry:{00}:mark:<service>        STR   another one after each change
    ts:registry:{00}:tools:<service>:<set> STR   a set of tools, as JSON
    ts:lock:<name>              STR   short locks of sweeps
    ts:swept                    STR   the last sweep, as JSON
    ts:shards                   STR   how many shards the store was laid out with
    ts:changes                  pub/sub channel: "<task> <revision>" for each logged transition
    ts:reports:<task>           pub/sub channel: what a running tool says, as JSON (see `codec`)

`<task>` is a task's name, which `names.task_hash` makes of its id; the sets of tasks hold it too. So whoever
sees a name in a log finds the task, and nobody learns an id from a key. What is stored as JSON has its names
in `schema`.

Each task is in one of `expired` and `overdue`: together they are all that is stored.

The registry is in the slot of the first shard, under keys of its own, so that users of Redis can be allowed
to read it and not to write it. Its keys end by PEXPIRE: a backstop only, again.

Record and log end by PEXPIREAT, the owner's keys by PEXPIRE: a backstop only, for a store that nobody
sweeps. What has expired is decided by `expires_ms` against the store's clock. An idempotency key ends with
its task, to the millisecond.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...domain.decide import next_due_ms
from ...domain.indexes import awaits_first_message, awaits_worker, blocks_beyond_first, holds_slot
from ...domain.names import SHARD_DIGITS, shard_of_owner, task_hash
from ...domain.task import DAY, MINUTE, ConcurrencyKey, Owner, Phase, Slot, Task

BACKSTOP_MS = 10 * MINUTE
"""How long after the last moment of a task Redis itself removes a record that no sweep has removed."""

OWNER_KEYS_MS = 31 * DAY
"""Life of an owner's index after its last create: no task lives longer (the cap is 30 days)."""

Command = tuple[str | bytes | int | float, ...]


@dataclass(frozen=True, slots=True)
class Shard:
    """The keys of one shard. Tasks are named by a reference: their name or their id."""

    tag: str

    def task(self, reference: str) -> str:
        """The record."""
        return f"{self.tag}:t:{task_hash(reference)}"

    def log(self, reference: str) -> str:
        """The transition log."""
        return f"{self.tag}:l:{task_hash(reference)}"

    def owner(self, owner: Owner) -> str:
        """The owner's tasks."""
        return f"{self.tag}:owner:{owner}"

    def live(self, owner: Owner) -> str:
        """The owner's tasks that are not final."""
        return f"{self.tag}:live:{owner}"

    def blocks(self, owner: Owner) -> str:
        """The blocks that are stored of the owner's tasks, beyond the first of each."""
        return f"{self.tag}:blocks:{owner}"

    def idempotency(self, owner: Owner, key_hash: str) -> str:
        """What an idempotency key stands for."""
        return f"{self.tag}:idem:{owner}:{key_hash}"

    def index(self, name: str) -> str:
        """A shard-wide index: `expired`, `overdue`, `leases`, `timers`, `suspects` and the like."""
        return f"{self.tag}:{name}"

    def pending(self, queue: str) -> str:
        """The pending tasks of a queue."""
        return f"{self.tag}:pending:{queue}"

    def slots(self, key: ConcurrencyKey) -> str:
        """The tasks that have a slot of a concurrency key."""
        return f"{self.tag}:slots:{concurrency_key_name(key)}"

    def waiting(self, key: ConcurrencyKey) -> str:
        """The tasks that wait for a slot of a concurrency key."""
        return f"{self.tag}:waiting:{concurrency_key_name(key)}"

    def turns(self, queue: str) -> str:
        """The owners whose tasks wait for a turn in a queue."""
        return f"{self.tag}:turns:{queue}"


@dataclass(frozen=True, slots=True)
class RegistryKeys:
    """The keys of the registry of workers and tools (see `store.registry`)."""

    prefix: str

    @property
    def services(self) -> str:
        """The services that are known."""
        return f"{self.prefix}:services"

    def alive(self, service: str) -> str:
        """When each worker of a service counts as lost."""
        return f"{self.prefix}:alive:{service}"

    def workers(self, service: str) -> str:
        """What each worker of a service announced of itself."""
        return f"{self.prefix}:workers:{service}"

    def sets(self, service: str) -> str:
        """When each set of tools of a service was announced."""
        return f"{self.prefix}:sets:{service}"

    def mark(self, service: str) -> str:
        """What is another one after each change of a service."""
        return f"{self.prefix}:mark:{service}"

    def tools(self, service: str, digest: str) -> str:
        """A set of tools of a service."""
        return f"{self.prefix}:tools:{service}:{digest}"


class Layout:
    """Names every key of a store.

    Args:
        prefix: In front of every key.
        shards: How many slots tasks are spread over.

    Attributes:
        home: The shard whose server is asked where any would do, so that all see one clock.
        registry: The keys of the registry, in the slot of that shard.
    """

    def __init__(self, prefix: str, shards: int) -> None:
        self.prefix = prefix
        self.shards = [Shard(f"{prefix}:{{{number:0{SHARD_DIGITS}x}}}") for number in range(shards)]
        self.home = self.shards[0]
        self.registry = RegistryKeys(f"{prefix}:registry:{{{0:0{SHARD_DIGITS}x}}}")
        self.swept = f"{prefix}:swept"
        self.shard_count = f"{prefix}:shards"
        self.changes = f"{prefix}:changes"
        self._reports = f"{prefix}:reports:"

    def lock(self, name: str) -> str:
        """A short lock."""
        return f"{self.prefix}:lock:{name}"

    def reports(self, reference: str) -> str:
        """The channel of what a task's tool says while it runs."""
        return f"{self._reports}{task_hash(reference)}"

    def reported_by(self, channel: str) -> str | None:
        """The name of the task whose channel of reports that is; None for any other channel."""
        return channel.removeprefix(self._reports) if channel.startswith(self._reports) else None

    def shard_of(self, reference: str) -> Shard:
        """The shard that an id or a name names; a malformed one names one too, where it will not be found."""
        number = int(task_hash(reference)[:SHARD_DIGITS], 16)
        return self.shards[number] if number < len(self.shards) else self.home

    def shard_of_owner(self, owner: Owner) -> Shard:
        """The shard that holds everything of an owner."""
        return self.shards[shard_of_owner(owner, len(self.shards))]


def score_of(reply: Any) -> int | None:
    """The score in an answer; None if there is none, or none that we have given: those are whole numbers."""
    try:
        return None if reply is None else int(float(reply))
    except (TypeError, ValueError, OverflowError):
        return None


def concurrency_key_name(key: ConcurrencyKey) -> str:
    """A concurrency key as keys and their index name it."""
    return f"{key.owner}:{key.queue}"


def parse_concurrency_key(name: str) -> ConcurrencyKey:
    """A key, read back; owners have no colon."""
    owner, _, queue = name.partition(":")
    return ConcurrencyKey(Owner(owner), queue)


def sorted_index_entries(shard: Shard, task: Task) -> dict[str, int]:
    """The sorted sets that a task is in, with its score in each."""
    entries = {shard.owner(task.owner): task.created_ms}
    entries[shard.index("expired" if task.status.is_final else "overdue")] = next_due_ms(task)
    if task.lease is not None:
        entries[shard.index("leases")] = task.lease.until_ms
    if holds_slot(task):
        entries[shard.slots(task.concurrency_key)] = next_due_ms(task)
    if task.phase is Phase.PENDING:
        if task.slot is Slot.WAITING:
            entries[shard.waiting(task.concurrency_key)] = task.created_ms
        elif awaits_first_message(task):
            entries[shard.index("timers")] = task.due_ms
        else:
            entries[shard.pending(task.queue)] = task.dispatched_ms
    return entries


def index_commands(shard: Shard, before: Task | None, after: Task | None) -> Iterator[Command]:
    """The commands that bring the indexes from one state of a task to the next."""
    task = after or before
    if task is None:
        return
    name = task_hash(task.task_id)
    old = sorted_index_entries(shard, before) if before else {}
    new = sorted_index_entries(shard, after) if after else {}
    for key, score in new.items():
        if old.get(key) != score:
            yield ("ZADD", key, score, name)
    for key in old.keys() - new.keys():
        yield ("ZREM", key, name)
    yield from _live_commands(shard, before, after, task)
    yield from _block_commands(shard, before, after, task)
    if after is not None and after.slot is not None and (before is None or before.slot is not after.slot):
        yield from _enter_concurrency_key(shard, before, after)
    if after is not None and after.phase is Phase.PENDING and (before is None or before.queue != after.queue):
        yield ("SADD", shard.index("queues"), after.queue)
    if before is not None and (after is None or awaits_worker(before) != awaits_worker(after)):
        # On coming to pending as well: a sweep may have suspected it a moment after it had left.
        yield ("ZREM", shard.index("suspects"), name)


def lifetime_commands(shard: Shard, before: Task | None, after: Task) -> Iterator[Command]:
    """The commands that say until when Redis keeps what is stored of a task, where that has changed."""
    if before is not None and _ends(shard, before) == _ends(shard, after):
        return
    for key, end_ms in _ends(shard, after).items():
        yield ("PEXPIREAT", key, end_ms)


def _ends(shard: Shard, task: Task) -> dict[str, int]:
    """When Redis itself removes what is stored of a task: its idempotency key exactly when it goes."""
    backstop_ms = last_ms(task) + BACKSTOP_MS
    ends = {shard.task(task.task_id): backstop_ms, shard.log(task.task_id): backstop_ms}
    if task.idempotency:
        key = shard.idempotency(task.owner, task.idempotency)
        ends[key] = last_ms(task) if task.status.is_final else backstop_ms
    return ends


def last_ms(task: Task) -> int:
    """The moment past which a task is certainly no more: its expiry, or, while it lives, its longest life."""
    return task.expires_ms if task.status.is_final else task.created_ms + task.policy.max_lifetime_ms


def _enter_concurrency_key(shard: Shard, before: Task | None, task: Task) -> Iterator[Command]:
    if task.slot is Slot.HELD:
        yield ("PEXPIRE", shard.slots(task.concurrency_key), OWNER_KEYS_MS)
        if before is not None and before.slot is Slot.WAITING and task.takes_turns:
            yield ("ZADD", shard.turns(task.queue), "XX", task.dispatched_ms, task.owner)
    else:
        if task.takes_turns:
            yield ("ZADD", shard.turns(task.queue), "NX", task.dispatched_ms, task.owner)
        yield ("PEXPIRE", shard.waiting(task.concurrency_key), OWNER_KEYS_MS)
        yield ("SADD", shard.index("concurrency_keys"), concurrency_key_name(task.concurrency_key))


def _live_commands(shard: Shard, before: Task | None, after: Task | None, task: Task) -> Iterator[Command]:
    was_live = before is not None and not before.status.is_final
    is_live = after is not None and not after.status.is_final
    if is_live and not was_live:
        yield ("SADD", shard.live(task.owner), task_hash(task.task_id))
    if was_live and not is_live:
        yield ("SREM", shard.live(task.owner), task_hash(task.task_id))


def block_names(task: Task | None) -> list[str]:
    """What is in the owner's blocks for a task.

    A member for each, and no sum: what a full Redis lets be removed is removed one by one, and whoever dies
    on the way leaves what the next one finishes. A sum would be wrong from then on.
    """
    if task is None or not (blocks := blocks_beyond_first(task)):
        return []
    name = task_hash(task.task_id)
    return [f"{name}:{number}" for number in range(blocks)]


def _block_commands(shard: Shard, before: Task | None, after: Task | None, task: Task) -> Iterator[Command]:
    had, has, key = blocks_beyond_first(before), blocks_beyond_first(after), shard.blocks(task.owner)
    if has > had:
        yield ("SADD", key, *block_names(after)[had:])
        yield ("PEXPIRE", key, OWNER_KEYS_MS)
    elif had > has:
        yield ("SREM", key, *block_names(before)[has:])


def problems(shard: Shard, task: Task, found: Mapping[str, int | None], is_live: bool) -> list[str]:
    """Where the indexes disagree with the record.

    Args:
        shard: The task's shard.
        task: The record.
        found: For every sorted set that the task could be in, the score that is stored, or None.
        is_live: Whether the owner's quota counts it.
    """
    expected = sorted_index_entries(shard, task)
    wrong = [
        f"{key}: expected {expected.get(key)}, found {score}"
        for key, score in found.items()
        if score != expected.get(key)
    ]
    if is_live == task.status.is_final:
        wrong.append(f"{shard.live(task.owner)}: {'has' if is_live else 'lacks'} it")
    return wrong
