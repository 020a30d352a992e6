"""The transition that records a task."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from redis.exceptions import ResponseError

from ...crypto.envelope import TaskSeal
from ...domain.decide import Applied, IdempotencyRecord, Refused, Replayed, decide
from ...domain.errors import CorruptRecord, StoreDamaged
from ...domain.events import Create
from ...domain.indexes import is_sent
from ...domain.limits import BLOCK_BYTES, size
from ...domain.names import task_hash
from ...domain.task import ConcurrencyKey, Task
from ...metrics.task_events import count_event, count_replayed
from . import codec
from .layout import OWNER_KEYS_MS, Command
from .records import Records, Stored, state_reads
from .slots import SlotReads, Written, opening, write
from .transaction import Program, Reply, Write, once

QUOTA_HEADROOM = 256
"""Further below its quota than this, an owner's create does not WATCH the quota.

Creates in flight are bounded by the front ends' connections, and while those are fewer than this, a create
that saw more room than this cannot be one too many. Nearer to the limit the quota is watched, and exact;
further away, creates of one owner do not void each other. Of bytes, this is in tasks of the largest size.
"""


class Creation:
    """The transition that records a task."""

    name = "Create"

    def __init__(self, store: Records, event: Create) -> None:
        self.task_id, self.token = event.task_id, event.token
        self._store, self._event = store, event
        self._shard = shard = store.layout.shard_of_owner(event.owner)
        self._live, self._blocks = shard.live(event.owner), shard.blocks(event.owner)
        self._all = shard.owner(event.owner)
        self._keyed = [shard.idempotency(event.owner, event.idempotency)] if event.idempotency else []
        key = ConcurrencyKey(event.owner, event.queue)
        self._slots = SlotReads(shard, store.limits).of(key, takes_turns=event.takes_turns)
        self._watches_quota = False
        self._named = ""

    def watch(self) -> list[str]:
        """See `Transition.watch`."""
        named = [self._shard.task(self._named)] if self._named else []
        quota = [self._live, self._all, self._blocks] if self._watches_quota else []
        return [self._shard.task(self.task_id), *self._keyed, *named, *self._slots.watched(), *quota]

    def reads(self) -> list[Command]:
        """See `Transition.reads`."""
        named = [("HMGET", self._shard.task(self._named), *codec.STATE_FIELDS)] if self._named else []
        return [
            *state_reads(self._shard, self.task_id),
            *self._counts(),
            *(("GET", key) for key in self._keyed),
            *named,
            *self._slots.commands(),
        ]

    def _counts(self) -> list[Command]:
        return [
            ("SCARD", self._live),
            ("ZCARD", self._all),
            ("SCARD", self._blocks),
            ("ZCARD", self._shard.index("expired")),
            ("ZCARD", self._shard.index("overdue")),
        ]

    def refuse_damaged_counts(self) -> Program[None]:
        """Find out whether it was a key by which tasks are counted that could not be read.

        Raises:
            StoreDamaged: It was.
            StoreUnavailable: No answer in time.
        """
        counts = self._counts()
        for command, reply in zip(counts, (yield from once(counts, self._store.deadline)), strict=True):
            if isinstance(reply, ResponseError):
                raise StoreDamaged(str(command[1]), str(reply))

    def judge(self, replies: list[Reply]) -> Write[Written[Applied | Replayed]] | None:
        """See `Transition.judge`."""
        stored = self._store.stored(self.task_id, replies)
        if stored.task is None and stored.fields.plain["v"]:
            raise CorruptRecord(self.task_id, "another task has its name")
        owner_live, first_blocks, more_blocks, final, not_final, *rest = stored.rest
        owner_blocks = first_blocks + more_blocks
        found, rest = rest[: len(self._keyed)], rest[len(self._keyed) :]
        existing = codec.decode_remembered(found[0]) if found else None
        if existing is not None:
            existing = codec.open_remembered(self._seal(existing.task_id), existing)
        if existing is not None and existing.task_id != self._named:
            # Whether the key still stands is for its task to say, in the same transaction.
            self._named = existing.task_id
            return None
        records, held = (rest[:1], rest[1:]) if self._named else ([], rest)
        limits = self._store.limits
        if self._is_near_quota(owner_live, owner_blocks) and not self._watches_quota:
            self._watches_quota = True
            return None
        counts = replace(
            self._slots.counts(held, self.task_id),
            owner_live=owner_live,
            owner_blocks=owner_blocks,
            stored=final + not_final,
            existing=existing,
            existing_task=codec.decode(self._store.envelope, existing.task_id, records[0])
            if existing
            else None,
        )
        decision = decide(
            stored.task, self._event, stored.now_ms, log=stored.log, limits=limits, counts=counts
        )
        if isinstance(decision, Refused):
            raise decision.error
        if isinstance(decision, Replayed):
            return Write(
                (), Written(decision), counted=partial(count_replayed, self._event, decision, stored.log)
            )
        if decision.task is None:
            return Write((), Written(decision))
        if self._store.guard is not None:
            self._store.guard.check_create(self._shard, size(self._event.arguments))
        commands = self._writes(decision, decision.task, stored)
        look = opening(limits, None, decision.task)
        sends = is_sent(decision, self._event, stored.now_ms)
        made: Write[Written[Applied | Replayed]] = write(
            self._shard, limits, look, commands, decision, stored.now_ms
        )
        return made._replace(counted=partial(count_event, self._event, None, decision, sends=sends))

    def _is_near_quota(self, owner_live: int, owner_blocks: int) -> bool:
        limits = self._store.limits
        headroom = QUOTA_HEADROOM * (BLOCK_BYTES + limits.arguments_bytes)
        return (
            owner_live + QUOTA_HEADROOM >= limits.live_per_owner
            or owner_blocks * BLOCK_BYTES + headroom >= limits.stored_per_owner
        )

    def _seal(self, task_id: str) -> TaskSeal:
        return self._store.envelope.of(self._event.owner, task_hash(task_id))

    def _writes(self, decision: Applied, task: Task, stored: Stored) -> list[Command]:
        now_ms = stored.now_ms
        sends = is_sent(decision, self._event, now_ms)
        record = IdempotencyRecord(task_id=task.task_id, request_digest=self._event.request_digest)
        # First, since what `writes` says of the key's end needs the key.
        sealed = codec.seal_remembered(self._seal(task.task_id), record)
        commands: list[Command] = [("SET", key, codec.encode_remembered(sealed)) for key in self._keyed]
        commands += self._store.writes(self._shard, None, stored.fields, decision, now_ms, sends=sends)
        commands += [("PEXPIRE", key, OWNER_KEYS_MS) for key in (self._all, self._live)]
        return commands
