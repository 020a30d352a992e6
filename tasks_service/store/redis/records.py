"""Records as transitions use them: what they read of one, and what an event that was applied writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ...crypto.envelope import TaskSeal
from ...domain.decide import Applied
from ...domain.indexes import Due
from ...domain.names import task_hash
from ...domain.task import LogEntry, Task
from ..outbox import Outbox
from . import codec
from .layout import Command, Shard, index_commands, lifetime_commands
from .memory_guard import MemoryGuard
from .programs import StorePrograms
from .transaction import Reply


class Stored(NamedTuple):
    """A record as a transition reads it."""

    now_ms: int
    task: Task | None
    fields: codec.RecordFields
    log: tuple[LogEntry, ...]
    rest: list[Reply]


def state_reads(shard: Shard, reference: str) -> list[Command]:
    """The reads whose answers `Records.stored` takes."""
    return [
        ("TIME",),
        ("HMGET", shard.task(reference), *codec.STATE_FIELDS),
        ("LRANGE", shard.log(reference), 0, -1),
    ]


@dataclass(frozen=True)
class Records(StorePrograms):
    """Reads and writes the records of one store, for its transitions.

    Attributes:
        outbox: Makes the message that goes out in the same write as a task that becomes pending.
        guard: Refuses creates and answers when memory is short; None: nothing is refused.
    """

    outbox: Outbox
    guard: MemoryGuard | None

    def stored(self, reference: str, replies: list[Reply], *, without_keys: bool = False) -> Stored:
        """What the answers to `state_reads` say; more answers than that are its `rest`.

        Args:
            reference: The task's id or name.
            replies: The answers.
            without_keys: See `codec.decode_state`.
        """
        time, values, lines, *rest = replies
        now_ms = self.time_of(time)
        task, fields = codec.decode_state(self.envelope, reference, values, now_ms, without_keys=without_keys)
        log = codec.decode_log(reference, lines)
        return Stored(now_ms, task, fields, log, rest)

    def writes(
        self,
        shard: Shard,
        before: Task | None,
        fields: codec.RecordFields,
        applied: Applied,
        now_ms: int,
        *,
        sends: bool,
    ) -> list[Command]:
        """The commands that write an applied event, for one MULTI.

        Args:
            shard: The task's.
            before: The task as it was.
            fields: The record as it was stored.
            applied: The event.
            now_ms: The store's clock.
            sends: Whether the task's message goes out with them.
        """
        channel, log_entries = self.layout.changes, self.limits.log_entries
        name = "" if applied.task is None else task_hash(applied.task.task_id)
        seal = self.envelope.of("" if applied.task is None else applied.task.owner, name)
        commands = _event_writes(
            shard, before, fields, applied, seal, channel=channel, log_entries=log_entries
        )
        if sends and applied.task is not None:
            pushes = self.outbox.pushes(applied.task, now_ms)
            commands += [("LPUSH", push.key, push.payload) for push in pushes]
        return commands


def _event_writes(
    shard: Shard,
    before: Task | None,
    fields: codec.RecordFields,
    applied: Applied,
    seal: TaskSeal,
    *,
    channel: str,
    log_entries: int,
) -> list[Command]:
    """The commands that write an applied event, for one MULTI.

    Args:
        shard: The task's.
        before: The task before the event; None: there was none.
        fields: See `Records.writes`.
        applied: The event.
        seal: Of the task.
        channel: Where changes are published.
        log_entries: How many lines of the transition log are kept.
    """
    after = applied.task
    if after is None:
        return [] if before is None else _removal(shard, before)
    if after == before and not applied.log:
        return []
    name = seal.task
    key, log = shard.task(name), shard.log(name)
    commands: list[Command] = list(_record_writes(key, fields, applied, after, seal))
    commands += index_commands(shard, before, after)
    if applied.log:
        commands.append(("RPUSH", log, *map(codec.encode_line, applied.log)))
        commands += [("PUBLISH", channel, f"{name} {line.revision}") for line in applied.log]
    if after.revision >= log_entries:
        commands.append(("LTRIM", log, -log_entries, -1))
    commands += lifetime_commands(shard, before, after)
    return commands


def _removal(shard: Shard, task: Task) -> list[Command]:
    """The commands that remove a task, in an order in which a sweep can resume wherever it broke off.

    A full Redis takes these commands only one by one. The index that leads a sweep to the task goes last,
    the record, which says where else the task is, just before it. Its idempotency key has ended with it,
    or stands for another task by now.
    """
    leading = Due.EXPIRED if task.status.is_final else Due.OVERDUE
    last: Command = ("ZREM", shard.index(leading.value), task_hash(task.task_id))
    commands = [command for command in index_commands(shard, task, None) if command != last]
    commands.append(("UNLINK", shard.task(task.task_id), shard.log(task.task_id)))
    return [*commands, last]


def _record_writes(
    key: str, fields: codec.RecordFields, applied: Applied, after: Task, seal: TaskSeal
) -> list[Command]:
    # Compared with what is stored, not with what was read from it: a record of another schema version is
    # written as a whole, or not at all.
    old, new = fields.plain, codec.encode(after, seal)
    changed = {
        name: text for name, text in new.items() if text and (text != old.get(name) or name in fields.stale)
    }
    if applied.arguments is not None:
        changed["arguments"] = applied.arguments
    if applied.caller is not None:
        changed["caller"] = codec.encode_caller(applied.caller)
    if applied.result is not None:
        changed["result"] = applied.result
    if applied.exception is not None:
        changed["exception"] = codec.encode_exception(applied.exception)
    start = after.journal_length - len(applied.journal)
    for number, entry in enumerate(applied.journal, start=start):
        changed[f"j:{number}"] = codec.encode_entry(entry)
    commands: list[Command] = []
    if changed:
        stored = {
            name: seal.seal(name, text) if codec.is_sealed_field(name) else text
            for name, text in changed.items()
        }
        commands.append(("HSET", key, *(part for pair in stored.items() for part in pair)))
    if emptied := [name for name, text in new.items() if not text and old.get(name)]:
        commands.append(("HDEL", key, *emptied))
    return commands
