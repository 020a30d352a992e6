"""Concurrency slots in Redis: what a transition reads of them, and who gets the next one.

Where `Limits.concurrency_limit` says how many slots there are, a transition that takes one, or begins to wait
because there is none, watches them. So never more tasks run than may, and no task waits beside a free slot.
A task that needs no slot, or has one, neither reads nor watches any. The tasks that wait are not watched: the
transition that frees a slot asks in the same EXEC who they are, and the slot is granted to the first.

Where owners take turns, nothing is watched: nobody is promised an exact number, and creates of one owner do
not void each other. Whoever begins to wait asks in the same EXEC whether that is still right, and whoever
takes a message from its queue, or frees a slot, asks who waits. One of two such EXECs is the later one, and
sees what the other has written; so nobody waits unseen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

from ...domain.decide import MESSAGES_AHEAD, StoreCounts, needs_slot, slot_limit
from ...domain.events import Event
from ...domain.indexes import may_open_slot
from ...domain.limits import Limits
from ...domain.names import task_hash
from ...domain.task import ConcurrencyKey, Owner, Task
from ..maintenance import MOST_GRANTED
from .layout import Command, Shard, concurrency_key_name, score_of
from .transaction import Program, Reply, Write, once, transact

T = TypeVar("T")

MOST_OWNERS = 16
"""How many of the owners that wait for a turn are compared: those that have had none for the longest time."""

MOST_SUSPECTS = 64
"""Among how many of the messages that seem lost the newest of a queue are looked for."""


class SlotReads:
    """What a transition reads and watches of the slots of its task's concurrency key.

    Args:
        shard: The task's.
        limits: How many slots there are.
    """

    def __init__(self, shard: Shard, limits: Limits) -> None:
        self._shard, self._limits = shard, limits
        self._key: ConcurrencyKey | None = None
        self._slots, self._takes_turns = 0, False

    def of(self, key: ConcurrencyKey, *, takes_turns: bool) -> SlotReads:
        """Itself; from now on it reads the slots of this key, if their number is limited."""
        if (slots := slot_limit(self._limits, key.queue, takes_turns=takes_turns)) is not None:
            self._key, self._slots, self._takes_turns = key, slots, takes_turns
        return self

    def lacks(self, task: Task | None, event: Event) -> bool:
        """Whether the decision needs slots that were not read; if so, they are read from now on."""
        if task is None or task.concurrency_key == self._key or not needs_slot(task, event):
            return False
        self.of(task.concurrency_key, takes_turns=task.takes_turns)
        return task.concurrency_key == self._key

    def watched(self) -> list[str]:
        """The keys of the slots that are read, where their number must be exact."""
        if self._key is None or self._limits.concurrency_limit(self._key.queue) is None:
            return []
        return [self._shard.slots(self._key)]

    def commands(self) -> list[Command]:
        """Read the Nth-latest slot deadline, where N is the number of slots, and which messages are ahead."""
        if self._key is None:
            return []
        last = self._slots - 1
        latest: Command = ("ZREVRANGE", self._shard.slots(self._key), last, last, "WITHSCORES")
        return [latest, *_ahead_reads(self._shard, self._key.queue)] if self._takes_turns else [latest]

    def counts(self, replies: Sequence[Reply], task_id: str) -> StoreCounts:
        """What the answers to `commands` say to a transition of this task."""
        if self._key is None or not replies:
            return StoreCounts()
        latest, *ahead = replies
        until_ms = (score_of(latest[1]) or 0) if latest and not isinstance(latest, Exception) else 0
        return StoreCounts(slots_until_ms=until_ms, messages_ahead=_ahead(ahead, task_id) if ahead else 0)


def _ahead_reads(shard: Shard, queue: str) -> list[Command]:
    """What `_ahead` is made of: the newest messages of a queue, and what says that they are before nobody."""
    return [
        ("ZREVRANGE", shard.pending(queue), 0, MESSAGES_AHEAD, "WITHSCORES"),
        ("ZSCORE", shard.index("overtaken"), queue),
        ("ZREVRANGE", shard.index("suspects"), 0, MOST_SUSPECTS - 1),
    ]


def _ahead(replies: Sequence[Reply], task_id: str = "") -> int:
    """See `StoreCounts.messages_ahead`; where an index is damaged, none are known.

    A message that is older than one that was taken, or is suspected to be lost, stands before nobody: it is
    lost, or no worker has its tool.
    """
    newest, overtaken, suspects = replies
    if isinstance(newest, Exception) or isinstance(suspects, Exception):
        return 0
    taken_ms, passed_over = score_of(overtaken) or 0, {task_hash(task_id), *suspects}
    pairs = zip(newest[::2], newest[1::2], strict=True)
    return sum(name not in passed_over and (score_of(made_ms) or 0) >= taken_ms for name, made_ms in pairs)


class FreeSlots(NamedTuple):
    """How many slots of a concurrency key are free, and who waits for one, longest first.

    Attributes:
        turns: Where owners take turns: who of them waits in the queue, the one first that has had no turn for
            the longest time; else None.
        ahead: How many messages of the queue no worker has taken yet; counted as `StoreCounts` says.
    """

    shard: Shard
    key: ConcurrencyKey
    free: int
    waiting: list[str]
    turns: list[Owner] | None = None
    ahead: int = 0


class Opening(NamedTuple):
    """Where somebody may have a slot now."""

    key: ConcurrencyKey
    takes_turns: bool

    def reads(self, shard: Shard, now_ms: int, most: int = MOST_GRANTED) -> list[Command]:
        """What `free_slots` is made of; a slot whose holder is past its deadline is free."""
        owners = [("ZRANGE", shard.turns(self.key.queue), 0, MOST_OWNERS - 1)] if self.takes_turns else []
        return [
            ("ZCOUNT", shard.slots(self.key), f"({now_ms}", "+inf"),
            ("ZRANGE", shard.waiting(self.key), 0, most - 1),
            *owners,
            *(_ahead_reads(shard, self.key.queue) if self.takes_turns else []),
        ]

    def free_slots(self, shard: Shard, limits: Limits, replies: Sequence[Reply]) -> FreeSlots:
        """What the answers to `reads` say."""
        taken, waiting, *turns = replies
        if any(isinstance(reply, Exception) for reply in replies):
            return FreeSlots(shard, self.key, 0, [])  # a key is of a wrong type: nobody knows
        slots = slot_limit(limits, self.key.queue, takes_turns=self.takes_turns)
        free = len(waiting) if slots is None else max(slots - taken, 0)
        if not self.takes_turns:
            return FreeSlots(shard, self.key, free, list(waiting))
        owners, *ahead = turns
        return FreeSlots(shard, self.key, free, list(waiting), list(owners), _ahead(ahead))


def opening(limits: Limits, before: Task | None, after: Task | None) -> Opening | None:
    """Where a task that waits may have a slot after a write, so that the writer must look."""
    task = before or after
    if task is None or not may_open_slot(limits, before, after):
        return None
    return Opening(task.concurrency_key, takes_turns=limits.concurrency_limit(task.queue) is None)


class Written(NamedTuple, Generic[T]):
    """What was decided and written, and how slots stood then, where that was asked."""

    outcome: T
    free_slots: FreeSlots | None = None


def write(
    shard: Shard,
    limits: Limits,
    look: Opening | None,
    commands: Sequence[Command],
    outcome: T,
    now_ms: int,
) -> Write[Written[T]]:
    """These commands, and with them the look at who may have a slot now."""
    if look is None:
        return Write(commands, Written(outcome))
    reads = look.reads(shard, now_ms)

    def outcome_from(answers: list[Reply]) -> Written[T]:
        return Written(outcome, look.free_slots(shard, limits, answers[-len(reads) :]))

    return Write([*commands, *reads], Written(outcome), outcome_from=outcome_from)


def next_in_line(seen: FreeSlots, deadline: float) -> Program[FreeSlots]:
    """Where slots are free now, how many, and who waits for them.

    Where owners take turns: the owner's own first task, if it has none that runs or is about to. Otherwise,
    if workers may soon be idle, the first task of the owner who has the fewest.
    """
    if seen.turns is None or (seen.free and seen.waiting):
        return seen
    if seen.ahead >= MESSAGES_AHEAD or not seen.turns:
        return seen._replace(free=0)
    shard, keys = seen.shard, [ConcurrencyKey(owner, seen.key.queue) for owner in seen.turns]
    reads: list[Command] = []
    for key in keys:
        reads += [("ZCARD", shard.slots(key)), ("ZRANGE", shard.waiting(key), 0, MOST_GRANTED - 1)]
    replies = yield from once(reads, deadline)
    lines: list[tuple[int, FreeSlots]] = []
    for key, held, waiting in zip(keys, replies[::2], replies[1::2], strict=True):
        if isinstance(held, Exception) or isinstance(waiting, Exception):
            continue  # a key is of a wrong type: repair moves it aside
        if waiting:
            free = MESSAGES_AHEAD - seen.ahead
            lines.append((held, seen._replace(key=key, free=free, waiting=list(waiting))))
        else:
            yield from forget(shard, key, deadline)
    return min(lines, key=lambda line: line[0])[1] if lines else seen._replace(free=0)


def forget(shard: Shard, key: ConcurrencyKey, deadline: float) -> Program[None]:
    """Take a concurrency key out of the indexes, unless a task has just begun to wait under it."""
    yield from transact(_Forget(shard, key), deadline)


class _Forget:
    """A concurrency key that leaves the indexes, if no task waits under it."""

    name, token = "GrantSlot", ""

    def __init__(self, shard: Shard, key: ConcurrencyKey) -> None:
        self.task_id = concurrency_key_name(key)
        self._waiting = shard.waiting(key)
        self._removals: list[Command] = [
            ("SREM", shard.index("concurrency_keys"), self.task_id),
            ("ZREM", shard.turns(key.queue), key.owner),
        ]

    def watch(self) -> list[str]:
        return [self._waiting]

    def reads(self) -> list[Command]:
        return [("EXISTS", self._waiting)]

    def judge(self, replies: list[Reply]) -> Write[None]:
        (exists,) = replies
        return Write(() if exists else self._removals, None)
