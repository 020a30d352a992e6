"""The transition that records a task."""

from __future__ import annotations

from ...domain.decide import Applied, Refused, Replayed, StoreCounts, decide, idempotency_record
from ...domain.errors import CorruptRecord
from ...domain.events import Create
from ...domain.indexes import is_sent
from ...domain.limits import size
from ...domain.task import ConcurrencyKey, Task
from . import codec
from .layout import OWNER_KEYS_MS, Command
from .records import Records, Stored, state_reads
from .slots import SlotReads
from .transaction import Reply, Write

QUOTA_HEADROOM = 256
"""Further below its quota than this, an owner's create does not WATCH the quota.

Creates in flight are bounded by the front ends' connections, and while those are fewer than this, a create
that saw more room than this cannot be one too many. Nearer to the limit the quota is watched, and exact;
further away, creates of one owner do not void each other.
"""


class Creation:
    """The transition that records a task."""

    name = "Create"

    def __init__(self, store: Records, event: Create) -> None:
        self.task_id, self.token = event.task_id, event.token
        self._store, self._event = store, event
        self._shard = shard = store.layout.shard_of_owner(event.owner)
        self._live = shard.live(event.owner)
        self._keyed = [shard.idempotency(event.owner, event.idempotency)] if event.idempotency else []
        self._slots = SlotReads(shard, store.limits, ConcurrencyKey(event.owner, event.queue))
        self._watches_quota = False

    def watch(self) -> list[str]:
        """See `Transition.watch`."""
        quota = [self._live] if self._watches_quota else []
        return [self._shard.task(self.task_id), *self._keyed, *self._slots.watched(), *quota]

    def reads(self) -> list[Command]:
        """See `Transition.reads`."""
        return [
            *state_reads(self._shard, self.task_id),
            ("SCARD", self._live),
            ("ZCARD", self._shard.index("expired")),
            *(("GET", key) for key in self._keyed),
            *self._slots.commands(),
        ]

    def judge(self, replies: list[Reply]) -> Write[Applied | Replayed] | None:
        """See `Transition.judge`."""
        stored = self._store.stored(self.task_id, replies)
        if stored.task is None and stored.fields["v"]:
            raise CorruptRecord(self.task_id, "another task has its name")
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
        return Write(self._writes(decision, decision.task, stored), decision)

    def _writes(self, decision: Applied, task: Task, stored: Stored) -> list[Command]:
        now_ms = stored.now_ms
        sends = is_sent(decision, self._event, now_ms)
        commands = self._store.writes(self._shard, None, stored.fields, decision, now_ms, sends=sends)
        commands += [("PEXPIRE", key, OWNER_KEYS_MS) for key in (self._shard.owner(task.owner), self._live)]
        value = codec.encode_remembered(idempotency_record(task, self._event.request_digest))
        return [*commands, *(("SET", key, value, "PX", task.ttl_ms) for key in self._keyed)]
