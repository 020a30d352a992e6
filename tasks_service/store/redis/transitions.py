"""The events of tasks: what each reads, how `decide` judges it, and what it writes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

from ...crypto.owners import key_name
from ...domain.decide import Applied, Refused, Replayed, decide, redispatch_backoff_ms
from ...domain.errors import (
    ConcurrencyLimitReached,
    CorruptRecord,
    InvalidTransition,
    LeaseLost,
    StoreUnavailable,
    TaskNotFound,
    TasksServiceError,
)
from ...domain.events import (
    AnswerInput,
    CallerLeft,
    CallerReturned,
    Cancel,
    CancelByOperator,
    Claim,
    ClientEvent,
    Create,
    Event,
    Expire,
    GrantSlot,
    OperatorEvent,
    Redispatch,
    SweepEvent,
    WorkerEvent,
)
from ...domain.indexes import Due, awaits_worker, is_sent, refusal_reason
from ...domain.names import is_name, task_hash
from ...domain.task import NO_TEXT, JsonText, Owner, Phase, Slot, Task
from ...metrics import series
from ...metrics.task_events import count_event, count_replayed
from ...observability.transitions import log_transitions
from ..clients import Created
from ..workers import Claimed
from . import codec
from .creation import Creation
from .layout import Command, Shard
from .reads import Reads
from .records import Records, Stored, state_reads
from .slots import FreeSlots, Opening, SlotReads, Written, next_in_line, opening, write
from .timings import Timings
from .transaction import Program, Reply, Write, once, transact

logger = logging.getLogger(__name__)

T = TypeVar("T")


_NEEDS_NO_KEY = (Cancel, CallerLeft, CallerReturned, CancelByOperator, SweepEvent)
"""The events of which a task whose record does not open is still capable: they use none of what is sealed."""


class _Judged(NamedTuple):
    """What `decide` said, as commands; `sends` if a message goes out with them.

    `counted` counts it. Where a task that waits may have a slot now, `opens` says where. `before` is the task
    as it was.
    """

    applied: Applied
    commands: list[Command]
    sends: bool
    now_ms: int
    counted: Callable[[], None]
    opens: Opening | None = None
    before: Task | None = None


@dataclass(frozen=True)
class Transitions(Records):
    """Builds the programs of all events.

    Attributes:
        reads: Of the same store.
        timings: How long to wait.
    """

    reads: Reads
    timings: Timings

    # --- clients ---------------------------------------------------------------------------------------

    def create(self, event: Create) -> Program[Created]:
        """See `ClientStore.create`."""
        creation = Creation(self, event)
        try:
            decision, free_slots = yield from transact(creation, self.deadline)
        except CorruptRecord:
            yield from creation.refuse_damaged_counts()
            raise
        if isinstance(decision, Applied) and decision.task is not None:
            log_transitions(event, None, decision.task, decision.log, key_name(event.caller))
            if awaits_worker(decision.task):
                self.outbox.committed(decision.task)
            yield from self._grant_slots(free_slots)
            return Created(task=decision.task)
        task_id = decision.task_id if isinstance(decision, Replayed) else event.task_id
        view = yield from self.reads.get(event.owner, task_id, hidden=True)
        if isinstance(decision, Replayed) and decision.entry is not None:  # the reply to its EXEC was lost
            log_transitions(event, None, view.task, (decision.entry,), key_name(event.caller))
        return Created(task=view.task, replayed=True)

    def apply(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Program[Task]:
        """See `ClientStore.apply`."""

        def owned(task: Task | None) -> Task | None:
            is_asked = task is not None and task.task_id == task_id and task.owner == owner
            return task if task is not None and is_asked and (task.visible or hidden) else None

        yield from self.reads.refuse_foreign(owner, task_id)
        applied = yield from self._run(_Event(self, task_id, event, owned))
        return _standing(applied)

    # --- workers ---------------------------------------------------------------------------------------

    def claim(self, reference: str, event: Claim) -> Program[Claimed]:
        """See `WorkerStore.claim`; arguments and journal come with the same read."""
        (claimed, judged), free_slots = yield from transact(_Claim(self, reference, event), self.deadline)
        log_transitions(event, judged.before, claimed.task, judged.applied.log, key_name(claimed.caller))
        yield from self._grant_slots(free_slots)
        task = claimed.task
        if task.lease is None or task.lease.lease_id != event.lease_id:
            raise InvalidTransition(reference, task.phase, "Claim", refusal_reason(task))
        return claimed

    def commit(self, reference: str, event: WorkerEvent) -> Program[Task]:
        """See `WorkerStore.commit`."""
        applied = yield from self._run(_Event(self, reference, event))
        return _standing(applied)

    # --- sweeps and operators --------------------------------------------------------------------------

    def apply_sweep(self, reference: str, event: SweepEvent) -> Program[Task | None]:
        """See `MaintenanceStore.apply_sweep`."""
        try:
            kind = _Expiry if isinstance(event, Expire) else _Event
            applied = yield from self._run(kind(self, reference, event))
        except TaskNotFound:
            # It may be there and only have expired; then the indexes still have to lead the sweep to it.
            (exists,) = yield from once(
                [("EXISTS", self.layout.shard_of(reference).task(reference))], self.deadline
            )
            if not exists:
                yield from once(self._forget(reference), self.deadline)
            raise
        return applied.task

    def apply_order(self, reference: str, event: OperatorEvent) -> Program[Task]:
        """See `MaintenanceStore.apply_order`."""
        applied = yield from self._run(_Event(self, reference, event))
        return _standing(applied)

    def _forget(self, reference: str) -> list[Command]:
        # An entry that is no task's name tells no shard, and is removed as it stands.
        shards = [self.layout.shard_of(reference)] if is_name(reference) else self.layout.shards
        names = (*(index.value for index in Due), "suspects")
        members = {task_hash(reference), reference}
        return [("ZREM", shard.index(name), *members) for shard in shards for name in names]

    # --- what they share -------------------------------------------------------------------------------

    def _run(self, transition: _Event, deadline: float | None = None) -> Program[Applied]:
        deadline = self.deadline if deadline is None else deadline
        judged, free_slots = yield from transact(transition, deadline)
        log_transitions(transition.event, judged.before, judged.applied.task, judged.applied.log)
        if judged.sends and judged.applied.task is not None:
            self.outbox.committed(judged.applied.task)
        yield from self._grant_slots(free_slots)
        return judged.applied

    def _grant_slots(self, seen: FreeSlots | None) -> Program[None]:
        """Grant the slots that are free to those whose turn it is.

        Others do so at the same time, so a task that cannot take a slot any more leaves it to the next.
        """
        if seen is None:
            return
        try:
            line = yield from next_in_line(seen, self.timings.grant_slot)
        except StoreUnavailable as error:
            logger.debug("Who has the next slot is left for the sweep to find: %s", error)
            return
        free = line.free
        for name in line.waiting:
            if not free:
                return
            try:
                grant = _Event(self, name, GrantSlot(), slots=line)
                yield from self._run(grant, self.timings.grant_slot)
                free -= 1
            except (ConcurrencyLimitReached, StoreUnavailable) as error:
                logger.debug("A slot is not granted, or left for the sweep to grant: %s", error)
                return
            except TasksServiceError as refusal:
                logger.debug("A task is passed over for a slot: %s", refusal)


class _OfTask:
    """A transition of a task that exists."""

    def __init__(self, store: Records, task_id: str, event: Event, slots: FreeSlots | None = None) -> None:
        self.task_id, self.name, self.token = task_id, type(event).__name__, event.token
        self._store = store
        self._shard = store.layout.shard_of(task_id)
        self._slots = SlotReads(self._shard, store.limits)
        if slots is not None:
            self._slots.of(slots.key, takes_turns=slots.turns is not None)

    def watch(self) -> list[str]:
        return [self._shard.task(self.task_id), *self._slots.watched()]

    def _judge(self, event: Event, stored: Stored, seen: Task | None) -> _Judged:
        """What `decide` says, as commands; `seen` is the stored task, unless it must not be seen."""
        if seen is None:
            raise TaskNotFound(self.task_id)
        shard, limits, now_ms = self._shard, self._store.limits, stored.now_ms
        counts = self._slots.counts(stored.rest, self.task_id)
        decision = decide(seen, event, now_ms, log=stored.log, limits=limits, counts=counts)
        if isinstance(decision, Refused):
            if isinstance(decision.error, LeaseLost):
                series.STALE_WRITES.add(seen.service, seen.tool)
            raise TaskNotFound(self.task_id) if isinstance(decision.error, TaskNotFound) else decision.error
        if isinstance(decision, Replayed):
            count = partial(count_replayed, event, decision, stored.log)
            # It was written, and the reply was lost: then the log of this process has no line of it yet.
            entries = () if decision.entry is None else (decision.entry,)
            applied = Applied(task=decision.task, log=entries)
            return _Judged(applied, [], sends=False, now_ms=now_ms, counted=count)
        after = decision.task
        sends = is_sent(decision, event, now_ms)
        commands = self._store.writes(shard, seen, stored.fields, decision, now_ms, sends=sends)
        if isinstance(event, Redispatch) and after is not None:
            not_before_ms = now_ms + redispatch_backoff_ms(after.redispatches)
            commands.append(("ZADD", shard.index("suspects"), not_before_ms, task_hash(self.task_id)))
        count = partial(count_event, event, seen, decision, sends=sends)
        return _Judged(decision, commands, sends, now_ms, count, opening(limits, seen, after), seen)

    def _write(self, judged: _Judged, outcome: T) -> Write[Written[T]]:
        if judged.applied.task is None:
            # Such commands may run one by one, and who waits is left for a sweep to find.
            return Write(judged.commands, Written(outcome), non_transactional=True)
        limits, commands = self._store.limits, judged.commands
        made = write(self._shard, limits, judged.opens, commands, outcome, judged.now_ms)
        return made._replace(counted=judged.counted)


class _Event(_OfTask):
    """Any event but a claim."""

    def __init__(
        self,
        store: Records,
        task_id: str,
        event: Event,
        seen: Callable[[Task | None], Task | None] = lambda task: task,
        slots: FreeSlots | None = None,
    ) -> None:
        super().__init__(store, task_id, event, slots)
        self.event, self._seen = event, seen

    def reads(self) -> list[Command]:
        return [*state_reads(self._shard, self.task_id), *self._slots.commands()]

    def judge(self, replies: list[Reply]) -> Write[Written[_Judged]] | None:
        stored = self._store.stored(self.task_id, replies, without_keys=isinstance(self.event, _NEEDS_NO_KEY))
        if self._slots.lacks(stored.task, self.event):
            return None
        judged = self._judge(self.event, stored, self._seen(stored.task))
        if self._store.guard is not None and isinstance(self.event, AnswerInput) and judged.commands:
            self._store.guard.check_answer(self._shard)
        return self._write(judged, judged)


class _Expiry(_Event):
    """The removal of a task.

    Its idempotency key ends by itself when a final task does. Where a task is removed before its end was
    written, the key would outlive it: it is removed with its task, unless it stands for another by now.
    """

    _outliving = ""

    def watch(self) -> list[str]:
        return [*super().watch(), *([self._outliving] if self._outliving else [])]

    def reads(self) -> list[Command]:
        outliving: list[Command] = [("GET", self._outliving)] if self._outliving else []
        return [*super().reads(), *outliving]

    def judge(self, replies: list[Reply]) -> Write[Written[_Judged]] | None:
        replies, values = (replies[:-1], replies[-1:]) if self._outliving else (replies, [])
        task = self._store.stored(self.task_id, replies, without_keys=True).task
        if not self._outliving and (key := _outliving_key(self._shard, task)):
            self._outliving = key
            return None
        write = super().judge(replies)
        if write is None or task is None or not any(_stands_for(task, value) for value in values):
            return write
        # First: removals may run one by one, and break off anywhere.
        return write._replace(commands=[("UNLINK", self._outliving), *write.commands])


def _outliving_key(shard: Shard, task: Task | None) -> str:
    """The idempotency key that would outlive a task if that was removed as it is stored; or nothing."""
    if task is None or task.status.is_final or not task.idempotency:
        return ""
    return shard.idempotency(task.owner, task.idempotency)


def _stands_for(task: Task, value: str | None) -> bool:
    """Whether the value of an idempotency key names a task; one that cannot be read is left to repair."""
    try:
        remembered = codec.decode_remembered(value)
    except CorruptRecord:
        return False
    return remembered is not None and remembered.task_id == task.task_id


class _Claim(_OfTask):
    """A claim, which reads all of the record for the tool that is to run."""

    def __init__(self, store: Records, task_id: str, event: Claim) -> None:
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

    def judge(self, replies: list[Reply]) -> Write[Written[tuple[Claimed, _Judged]]] | None:
        time, flat, lines, *held = replies
        record: dict[str, str] = dict(zip(flat[::2], flat[1::2], strict=True))
        state = [record.get(name) for name in codec.STATE_FIELDS]
        stored = self._store.stored(self.task_id, [time, state, lines, *held])
        if self._slots.lacks(stored.task, self._event):
            return None
        judged = self._judge(self._event, stored, stored.task)
        task = _standing(judged.applied)
        seal = self._store.envelope.of(task.owner, task_hash(self.task_id))
        length = 0 if stored.task is None else stored.task.journal_length
        known = codec.decode_journal(seal, length, record)
        arguments = record.get("arguments")
        claimed = Claimed(
            task=task,
            arguments=NO_TEXT
            if arguments is None
            else JsonText(codec.open_field(seal, "arguments", arguments)),
            caller=codec.decode_caller(seal, record.get("caller")),
            journal=(*known, *judged.applied.journal),
        )
        commands = [*_overtaking(self._shard, task, self._event), *judged.commands]
        return self._write(judged._replace(commands=commands), (claimed, judged))


def _overtaking(shard: Shard, task: Task, event: Claim) -> list[Command]:
    """The command by which a claim tells the sweep which messages it has overtaken."""
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
