"""Repair: find what an audit finds, and fix it, one task at a time.

Safe while the service runs. An index entry only ever changes together with its task's record, so it is enough
to watch the record: record and index entries are read after WATCH, and if the task changes before EXEC,
nothing is written and they are read again. On a sound store nothing is written.

Two walks lead to every key. From each record: does it contradict itself, is it where it must be, does it
end? From each key that names a task: is there such a task, and does it belong here? The first cannot see
an entry whose record is gone, the second cannot see a record that is missing from an index.

What repair never does: guess at a record that it cannot read. One of another schema version may be newer
software's, and is only reported. A damaged one is reported, and moved aside only when asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from redis.exceptions import ResponseError

from ...crypto.envelope import Envelope, TaskSeal
from ...domain.decide import (
    Applied,
    IdempotencyRecord,
    Refused,
    Replayed,
    decide,
    effective,
    inconsistency,
)
from ...domain.errors import CorruptRecord, UnreadableHere
from ...domain.events import RepairRecord
from ...domain.limits import size
from ...domain.names import is_name, task_hash
from ...domain.task import DAY, SECOND, LogEntry, Phase, Slot, Task, new_token
from ...observability.transitions import log_transitions
from ..maintenance import Repair
from . import codec
from .layout import (
    BACKSTOP_MS,
    OWNER_KEYS_MS,
    Command,
    Shard,
    block_names,
    concurrency_key_name,
    last_ms,
    parse_concurrency_key,
    score_of,
    sorted_index_entries,
)
from .records import Records
from .transaction import Program, Reply, Write, once, transact

QUARANTINE_MS = 30 * DAY
"""How long a record that was moved aside is kept for people to look at."""

DRIFT_MS = SECOND
"""How far the end of a key may be from where it belongs. A cluster that moves a slot sends the rest of a
key's life, and the time that this takes is added."""

WALK = 500
"""Keys or members that one step of a walk asks for."""

_SORTED = ("expired", "overdue", "leases", "timers", "suspects")
"""The shard-wide indexes that name tasks; `overtaken`, `queues` and `concurrency_keys` name other things."""


_SORTED_LOOK, _SET_LOOK = ("ZCARD",), ("SCARD",)
_LOOKS: Mapping[str, tuple[str | int, ...]] = {
    **dict.fromkeys((*_SORTED, "owner", "pending", "slots", "waiting", "turns", "overtaken"), _SORTED_LOOK),
    **dict.fromkeys(("live", "blocks", "queues", "concurrency_keys"), _SET_LOOK),
    **dict.fromkeys(("beat", "dropped", "secrets"), ("HGET", "")),
    "l": ("LRANGE", 0, 0),
    "idem": ("GET",),
}
"""By the kind of a key: a command that only its type takes, without the key."""


@dataclass(frozen=True, slots=True)
class ShardKeys:
    """Keys of one shard, as one step of a walk finds them."""

    shard: Shard
    all: tuple[str, ...]
    records: tuple[str, ...]
    logs: tuple[str, ...]
    sets: tuple[str, ...]
    keys: tuple[str, ...]


class Repairs:
    """Builds the programs of a repair.

    Args:
        records: Of the same store.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._deadline = records.deadline

    # --- walking ---------------------------------------------------------------------------------------

    def keys(self, shard: Shard, cursor: str) -> Program[tuple[str, ShardKeys]]:
        """One step through the keys of a shard: the next cursor ("0" at the end), and what was met."""
        pattern = shard.tag.replace("[", "\\[").replace("?", "\\?").replace("*", "\\*") + ":*"
        # A cluster answers SCAN wherever it is asked; EXISTS leads it to the shard's node, and is refused
        # elsewhere.
        (following, keys), _ = yield from once(
            [("SCAN", cursor, "MATCH", pattern, "COUNT", WALK), ("EXISTS", shard.index("expired"))],
            self._deadline,
        )
        names: dict[str, list[str]] = {"t": [], "l": [], "sets": [], "idem": []}
        for key in keys:
            kind, rest = _kind(shard, key)
            if kind in ("t", "l"):
                names[kind].append(rest)
            elif kind == "idem":
                names[kind].append(key)
            elif kind in (*_SORTED, "owner", "live", "blocks", "pending", "slots", "waiting"):
                names["sets"].append(key)
        return following, ShardKeys(
            shard,
            tuple(keys),
            tuple(names["t"]),
            tuple(names["l"]),
            tuple(names["sets"]),
            tuple(names["idem"]),
        )

    def misshapen(self, shard: Shard, keys: Sequence[str], *, dry_run: bool) -> Program[list[Repair]]:
        """Move keys aside that are of a wrong type, but for records: those are moved by `task`, if asked for.

        Args:
            shard: Whose keys.
            keys: Those to look at.
            dry_run: Report only.
        """
        looks = [(key, _LOOKS[kind]) for key in keys if (kind := _kind(shard, key)[0]) in _LOOKS]
        reads: list[Command] = [(look[0], key, *look[1:]) for key, look in looks]
        replies = (yield from once(reads, self._deadline)) if reads else []
        pairs = zip(looks, replies, strict=True)
        wrong = [(key, reply) for (key, _), reply in pairs if isinstance(reply, ResponseError)]
        for key, _ in wrong:
            if not dry_run:
                aside = _aside_of(key)
                yield from once([("RENAME", key, aside), ("PEXPIRE", aside, QUARANTINE_MS)], self._deadline)
        what = "is of a wrong type, and its place is empty now" if not dry_run else "is of a wrong type"
        return [
            Repair(task="", what=f"{key!a}: it {what}: {reply}", fixed=not dry_run) for key, reply in wrong
        ]

    def words(self, shard: Shard, *, dry_run: bool) -> Program[list[Repair]]:
        """Take out of the indexes that name no tasks what cannot be what they name."""
        words: Mapping[str, tuple[Command, str]] = {
            "queues": (("SMEMBERS",), "SREM"),
            "concurrency_keys": (("SMEMBERS",), "SREM"),
            "overtaken": (("ZRANGE", 0, -1, "WITHSCORES"), "ZREM"),
            "beat": (("HGETALL",), "HDEL"),
            "dropped": (("HGETALL",), "HDEL"),
        }
        reads: list[Command] = [(read[0], shard.index(kind), *read[1:]) for kind, (read, _) in words.items()]
        replies = yield from once(reads, self._deadline)
        done: list[Repair] = []
        for (kind, (_, remove)), reply in zip(words.items(), replies, strict=True):
            key, wrong = shard.index(kind), [] if isinstance(reply, ResponseError) else _odd(kind, reply)
            if wrong and not dry_run:
                yield from once([(remove, key, *wrong)], self._deadline)
            done += (Repair(task="", what=f"{key}: holds {word!a:.80}", fixed=not dry_run) for word in wrong)
        return done

    def members(self, shard: Shard, key: str, cursor: str) -> Program[tuple[str, list[str]]]:
        """One step through an index: the next cursor, and the names in it that have no business there."""
        is_set = _kind(shard, key)[0] in ("live", "blocks")
        command: Command = ("SSCAN" if is_set else "ZSCAN", key, cursor, "COUNT", WALK)
        (reply,) = yield from once([command], self._deadline)
        if isinstance(reply, ResponseError):
            raise CorruptRecord(key, str(reply))
        following, flat = reply
        entries = flat if is_set else flat[::2]
        names = [_task_of(shard, key, entry) for entry in entries]
        reads: list[Command] = [("HMGET", shard.task(name), *codec.STATE_FIELDS) for name in names]
        records = (yield from once(reads, self._deadline)) if names else []
        met = zip(entries, names, records, strict=True)
        envelope = self._records.envelope
        return following, [
            entry for entry, name, values in met if _is_stray(envelope, shard, key, entry, name, values)
        ]

    def stray_block(self, shard: Shard, key: str, entry: str, *, dry_run: bool) -> Program[list[Repair]]:
        """Take a block out of an owner's that is stored of none of the owner's tasks."""
        return (
            yield from transact(
                _StrayBlock(self._records.envelope, shard, key, entry, dry_run=dry_run), self._deadline
            )
        )

    def without_record(self, shard: Shard, names: Sequence[str]) -> Program[list[str]]:
        """Which of these tasks have no record."""
        if not names:
            return []
        replies = yield from once([("EXISTS", shard.task(name)) for name in names], self._deadline)
        return [name for name, exists in zip(names, replies, strict=True) if not exists]

    def led_to(self, key: str) -> Program[str]:
        """The name of the task that an idempotency key leads to; empty if it leads nowhere."""
        (value,) = yield from once([("GET", key)], self._deadline)
        return _led_to(value) if isinstance(value, str) else ""

    # --- one task --------------------------------------------------------------------------------------

    def task(
        self, name: str, found_in: str | None, *, dry_run: bool, quarantine: bool
    ) -> Program[list[Repair]]:
        """Fix one task.

        Args:
            name: Which one; there may be no record of it.
            found_in: A key that names it, beyond those that its record says.
            dry_run: Report only.
            quarantine: Move it aside if it cannot be read.
        """
        try:
            return (yield from self._repair(name, found_in, dry_run=dry_run))
        except CorruptRecord as error:
            is_sound = isinstance(error, UnreadableHere)
            if is_sound or not quarantine or dry_run or not (yield from self._is_beyond_repair(name)):
                return [Repair(task=name, what=f"it cannot be read: {error.reason}", fixed=False)]
            shard = self._records.layout.shard_of(name)
            yield from self._quarantine(shard, name)
            what = f"it could not be read, and was moved to {_aside(shard, name)}: {error.reason}"
            return [Repair(task=name, what=what, fixed=True)]

    def _is_beyond_repair(self, name: str) -> Program[bool]:
        """Whether the record itself is damaged, and not an index beside it."""
        shard = self._records.layout.shard_of(name)
        (values,) = yield from once([("HMGET", shard.task(name), *codec.STATE_FIELDS)], self._deadline)
        if isinstance(values, ResponseError):
            return True
        try:
            return codec.decode(self._records.envelope, name, values) is None
        except CorruptRecord:
            return True

    def _repair(self, name: str, found_in: str | None, *, dry_run: bool) -> Program[list[Repair]]:
        fix = _Fix(self._records, name, found_in, dry_run=dry_run)
        done = yield from transact(fix, self._deadline)
        if fix.repaired is not None and not dry_run:
            event, before, applied = fix.repaired
            log_transitions(event, before, applied.task, applied.log)
        return done

    def _quarantine(self, shard: Shard, name: str) -> Program[None]:
        yield from transact(_Quarantine(shard, name), self._deadline)


class _Fix:
    """A task that is made sound."""

    name, token = "RepairRecord", ""

    def __init__(self, records: Records, name: str, found_in: str | None, *, dry_run: bool) -> None:
        self._records, self.task_id, self._dry_run = records, name, dry_run
        # What is no task's name tells no shard; it is taken out of where it was found.
        shards = [] if found_in is None or is_name(name) else records.layout.shards
        found = (shard for shard in shards if str(found_in).startswith(f"{shard.tag}:"))
        self._shard = next(found, records.layout.shard_of(name))
        self._look = _Look(self._shard, name, found_in)
        self._done: list[Repair] = []
        self.repaired: tuple[RepairRecord, Task, Applied] | None = None

    def watch(self) -> list[str]:
        return [self._shard.task(self.task_id), *self._look.watched]

    def reads(self) -> list[Command]:
        return self._look.reads()

    def judge(self, replies: list[Reply]) -> Write[list[Repair]] | None:
        shard, name = self._shard, self.task_id
        key, log = shard.task(name), shard.log(name)
        time, *rest = replies
        now_ms = self._records.time_of(time)
        flat, last, record_ends, log_ends, *found = rest
        if isinstance(flat, ResponseError):
            raise CorruptRecord(name, str(flat))
        record: dict[str, str] = dict(zip(flat[::2], flat[1::2], strict=True))
        task, fields = codec.decode_state(
            self._records.envelope, name, [record.get(field) for field in codec.STATE_FIELDS]
        )
        if self._look.extend(task):
            return None
        if task is None and record:
            raise CorruptRecord(name, "it has neither state nor status")
        commands: list[Command] = []
        problems: list[str] = []
        beyond: list[str] = []
        if task is not None:
            log_commands = list(_log(shard, task, last, now_ms, problems))
            beyond += () if log_commands else _misfit(task, last)
            seal = self._records.envelope.of(task.owner, task_hash(name))
            task = self._sound(shard, task, record, fields, now_ms, commands, problems)
            commands = [*log_commands, *commands]
            commands += _lifetime(task, {key: record_ends, log: log_ends}, problems)
            commands += _leftovers(key, task, seal, record, problems)
        elif last:
            problems.append(f"{log}: the log of no task")
            commands.append(("DEL", log))
        commands += self._look.moves(task, now_ms, found, problems)
        if problems or beyond:
            # An outcome that nobody told us is found fixed by the next look; it was still our finding.
            fixed = not self._dry_run
            self._done = [Repair(task=name, what=what, fixed=fixed) for what in problems]
            self._done += (Repair(task=name, what=what, fixed=False) for what in beyond)
        return Write(() if self._dry_run else commands, self._done)

    def _sound(
        self,
        shard: Shard,
        task: Task,
        record: Mapping[str, str],
        fields: codec.RecordFields,
        now_ms: int,
        commands: list[Command],
        problems: list[str],
    ) -> Task:
        """The task after its contradictions have been fixed, as `decide` says."""
        seal = self._records.envelope.of(task.owner, task_hash(task.task_id))
        kept, kept_bytes = _journal(task, seal, record)
        has_result = _is_json(seal, record.get("result"))
        self.repaired = None
        event = RepairRecord(result_present=has_result, journal_kept=kept, journal_bytes_kept=kept_bytes)
        if (what := inconsistency(task, event)) is not None:
            decision = decide(task, event, now_ms, limits=self._records.limits)
            # Refused: time has ended it meanwhile, and a sweep writes that down.
            if not isinstance(decision, Refused | Replayed) and decision.task is not None:
                problems.append(what)
                self.repaired = (event, task, decision)
                commands += self._records.writes(shard, task, fields, decision, now_ms, sends=False)
                task = decision.task
        if "result" in record and task.phase is not Phase.COMPLETED:
            problems.append(f"it is {task.phase}, and has a result that nobody is shown")
            commands.append(("HDEL", shard.task(task.task_id), "result"))
        return task


class _StrayBlock:
    """A block that leaves its owner's, if it is still stored of no task."""

    name, token = "RepairRecord", ""

    def __init__(self, envelope: Envelope, shard: Shard, key: str, entry: str, *, dry_run: bool) -> None:
        self._envelope = envelope
        self._shard, self._key, self._entry, self._dry_run = shard, key, entry, dry_run
        self.task_id = _task_of(shard, key, entry)

    def watch(self) -> list[str]:
        return [self._shard.task(self.task_id)]

    def reads(self) -> list[Command]:
        return [("HMGET", self._shard.task(self.task_id), *codec.STATE_FIELDS)]

    def judge(self, replies: list[Reply]) -> Write[list[Repair]]:
        if not _is_stray(self._envelope, self._shard, self._key, self._entry, self.task_id, replies[0]):
            return Write((), [])
        what = f"{self._key}: counts the block {self._entry!a:.80}, which is stored of no task"
        done = [Repair(task=self.task_id, what=what, fixed=not self._dry_run)]
        return Write(() if self._dry_run else [("SREM", self._key, self._entry)], done)


class _Quarantine:
    """A record that is moved aside."""

    name, token = "RepairRecord", ""

    def __init__(self, shard: Shard, name: str) -> None:
        self._shard, self.task_id = shard, name

    def watch(self) -> list[str]:
        return [self._shard.task(self.task_id)]

    def reads(self) -> list[Command]:
        return [("EXISTS", self._shard.task(self.task_id))]

    def judge(self, replies: list[Reply]) -> Write[None]:
        (exists,) = replies
        if not exists:
            return Write((), None)
        shard, name, aside = self._shard, self.task_id, _aside(self._shard, self.task_id)
        commands: list[Command] = [
            ("RENAME", shard.task(name), aside),
            ("PEXPIRE", aside, QUARANTINE_MS),
            ("DEL", shard.log(name)),
        ]
        commands += [("ZREM", shard.index(index), name) for index in _SORTED]
        return Write(commands, None)


class _Look:
    """The index entries of a task that a try reads, and what to do about those that are wrong."""

    def __init__(self, shard: Shard, name: str, found_in: str | None) -> None:
        self._shard, self._name = shard, name
        self._sorted = [shard.index(name) for name in _SORTED]
        self._sets: list[str] = []
        self._idempotency: list[str] = []
        self._blocks: list[tuple[str, str]] = []
        self._queue = self._key = self._owner = ""
        self.watched: list[str] = []
        if found_in is None:
            return
        kind = found_in.removeprefix(f"{shard.tag}:").partition(":")[0]
        if kind == "live":
            self._sets.append(found_in)
        elif kind == "idem":
            self._idempotency.append(found_in)
            self.watched.append(found_in)
        elif found_in not in self._sorted:
            self._sorted.append(found_in)

    def extend(self, task: Task | None) -> bool:
        """Make `reads` complete for a task; whether anything was missing."""
        before = self._read()
        if task is not None and task.idempotency:
            key = self._shard.idempotency(task.owner, task.idempotency)
            if key not in self._idempotency:
                self._idempotency.append(key)
                self.watched.append(key)
        if task is not None:
            self._sorted += [
                key for key in sorted_index_entries(self._shard, task) if key not in self._sorted
            ]
            for key in self._of_queue_and_key(task):
                if key not in self._sorted:
                    self._sorted.append(key)
            if (live := self._shard.live(task.owner)) not in self._sets:
                self._sets.append(live)
            self._blocks = [(self._shard.blocks(task.owner), block) for block in block_names(task)]
            self._queue, self._key = task.queue, concurrency_key_name(task.concurrency_key)
            self._owner = task.owner
        return before != self._read()

    def _read(self) -> tuple[int, int, int, str]:
        return len(self._sorted), len(self._sets), len(self._blocks), self._queue

    def reads(self) -> list[Command]:
        """What to read: the record, and all index entries that the task could have."""
        shard, name = self._shard, self._name
        return [
            ("TIME",),
            ("HGETALL", shard.task(name)),
            ("LRANGE", shard.log(name), 0, -1),
            ("PEXPIRETIME", shard.task(name)),
            ("PEXPIRETIME", shard.log(name)),
            *(("ZSCORE", key, name) for key in self._sorted),
            *(("SISMEMBER", key, name) for key in self._sets),
            *(("SISMEMBER", key, block) for key, block in self._blocks),
            ("SISMEMBER", shard.index("queues"), self._queue),
            ("SISMEMBER", shard.index("concurrency_keys"), self._key),
            ("ZSCORE", shard.turns(self._queue), self._owner),
            *(("GET", key) for key in self._idempotency),
        ]

    def _of_queue_and_key(self, task: Task) -> tuple[str, ...]:
        shard = self._shard
        return (
            shard.pending(task.queue),
            shard.slots(task.concurrency_key),
            shard.waiting(task.concurrency_key),
        )

    def moves(
        self, task: Task | None, now_ms: int, found: Sequence[Reply], problems: list[str]
    ) -> Iterator[Command]:
        """The commands that make the index entries agree with the record; notes what was wrong."""
        shard, name = self._shard, self._name
        scores, rest = found[: len(self._sorted)], found[len(self._sorted) :]
        members, rest = rest[: len(self._sets)], rest[len(self._sets) :]
        counted, rest = rest[: len(self._blocks)], rest[len(self._blocks) :]
        knows_queue, knows_key, turn, *leads_to = rest
        expected = {} if task is None else sorted_index_entries(shard, task)
        for key, score in zip(self._sorted, scores, strict=True):
            has, wants = score_of(score), expected.get(key)
            if score is not None and has is None:
                has = -1  # a score that no rule of ours has given
            if key == shard.index("suspects"):
                wants = has if task is not None else None
            if has != wants:
                problems.append(f"{key}: expected {wants}, found {has}")
                yield ("ZREM", key, name) if wants is None else ("ZADD", key, wants, name)
                if task is not None and wants is not None and key in _owned(shard, task):
                    yield ("PEXPIRE", key, OWNER_KEYS_MS)
        lives_in = shard.live(task.owner) if task is not None and not task.status.is_final else None
        for key, is_member in zip(self._sets, members, strict=True):
            if bool(is_member) != (key == lives_in):
                problems.append(f"{key}: {'counts' if is_member else 'does not count'} it")
                yield ("SREM" if is_member else "SADD", key, name)
                if not is_member:
                    yield ("PEXPIRE", key, OWNER_KEYS_MS)
        # What is beyond those that the record says is met in the walk through the owner's blocks.
        if task is not None and (lost := _uncounted(self._blocks, counted)):
            key = shard.blocks(task.owner)
            problems.append(f"{key}: lacks {len(lost)} blocks of it")
            yield ("SADD", key, *lost)
            yield ("PEXPIRE", key, OWNER_KEYS_MS)
        if task is not None and task.phase is Phase.PENDING and not knows_queue:
            problems.append(f"{shard.index('queues')}: lacks its queue {task.queue!r}")
            yield ("SADD", shard.index("queues"), task.queue)
        if task is not None and task.slot is Slot.WAITING and not knows_key:
            problems.append(f"{shard.index('concurrency_keys')}: lacks its concurrency key {self._key!r}")
            yield ("SADD", shard.index("concurrency_keys"), self._key)
        if task is not None and task.slot is Slot.WAITING and task.takes_turns and score_of(turn) is None:
            problems.append(f"{shard.turns(task.queue)}: lacks its owner {task.owner!r}")
            yield ("ZADD", shard.turns(task.queue), task.dispatched_ms, task.owner)
        for key, value in zip(self._idempotency, leads_to, strict=True):
            owned = task is not None and shard.idempotency(task.owner, task.idempotency) == key
            if owned and task is not None and not _leads(value) and effective(task, now_ms) is not None:
                problems.append(f"{key}: does not lead to it")
                # What was asked is not known any more: whoever asks again is refused, and nothing runs twice.
                again = IdempotencyRecord(task_id=task.task_id, request_digest="")
                yield ("SET", key, codec.encode_remembered(again))
                yield ("PEXPIREAT", key, last_ms(task) + (0 if task.status.is_final else BACKSTOP_MS))
            if not owned and value is not None and _led_to(value) == name:
                problems.append(f"{key}: leads to no task of that key")
                yield ("DEL", key)


def _uncounted(blocks: Sequence[tuple[str, str]], found: Sequence[Reply]) -> list[str]:
    return [block for (_, block), is_member in zip(blocks, found, strict=True) if not is_member]


def _led_to(value: str) -> str:
    """The name of the task in the value of an idempotency key; empty if it is damaged."""
    try:
        remembered = codec.decode_remembered(value)
    except UnreadableHere:
        raise
    except CorruptRecord:
        return ""
    return "" if remembered is None else task_hash(remembered.task_id)


def _leads(value: str | None) -> bool:
    """Whether the value of an idempotency key leads to any task."""
    return value is not None and _led_to(value) != ""


def _owned(shard: Shard, task: Task) -> tuple[str, ...]:
    """The sorted sets that are the owner's, and have a lifetime."""
    return shard.owner(task.owner), shard.slots(task.concurrency_key), shard.waiting(task.concurrency_key)


def _kind(shard: Shard, key: str) -> tuple[str, str]:
    """The kind of a shard's key, and what it is about."""
    kind, _, rest = key.removeprefix(f"{shard.tag}:").partition(":")
    return kind, rest


def _odd(kind: str, flat: Sequence[str]) -> list[str]:
    """What an index that names no tasks holds and cannot mean."""
    if kind == "queues":
        return [queue for queue in flat if not _is_text(queue)]
    if kind == "concurrency_keys":
        return [
            name
            for name in flat
            if concurrency_key_name(parse_concurrency_key(name)) != name or not _is_text(name)
        ]
    pairs = zip(flat[::2], flat[1::2], strict=True)
    if kind == "dropped":
        return [queue for queue, text in pairs if codec.decode_dropped(text) is None]
    return [word for word, moment in pairs if score_of(moment) is None or not _is_text(word)]


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _aside_of(key: str) -> str:
    """Where a key is moved to that is not what its name says."""
    return f"{key.partition('}:')[0]}}}:quarantine:{key.partition('}:')[2]}"


def _aside(shard: Shard, name: str) -> str:
    return f"{shard.tag}:quarantine:{name}"


def _task_of(shard: Shard, key: str, entry: str) -> str:
    """The name of the task that an entry of an index is about."""
    return entry.partition(":")[0] if _kind(shard, key)[0] == "blocks" else entry


def _is_stray(envelope: Envelope, shard: Shard, key: str, entry: str, name: str, values: Reply) -> bool:
    """Whether an index names a task that is not there, or that belongs elsewhere."""
    if isinstance(values, ResponseError):
        return False
    try:
        task = codec.decode(envelope, name, values, without_keys=True)
    except CorruptRecord:
        return False
    if task is None:
        return True
    if key == shard.index("suspects"):
        return False
    if key.startswith(f"{shard.tag}:live:"):
        return task.status.is_final or key != shard.live(task.owner)
    if key.startswith(f"{shard.tag}:blocks:"):
        return key != shard.blocks(task.owner) or entry not in block_names(task)
    return key not in sorted_index_entries(shard, task)


def _misfit(task: Task, last: Sequence[str]) -> Iterator[str]:
    """Where the log and the record tell different stories; which of them is right, nobody can know."""
    line = codec.decode_log(task.task_id, last[-1:])[0]
    if (line.revision, line.target) != (task.revision, task.phase):
        told = f"{line.target} at revision {line.revision}"
        yield f"it is {task.phase} at revision {task.revision}, and its log ends in {told}"


def _log(
    shard: Shard, task: Task, lines: Sequence[str], now_ms: int, problems: list[str]
) -> Iterator[Command]:
    """Begin a log anew that is gone or cannot be read, so that no event could move the task."""
    key = shard.log(task.task_id)
    try:
        problem = "" if codec.decode_log(task.task_id, lines) else "the task has no transition log"
    except UnreadableHere:
        raise
    except CorruptRecord as error:
        problem = error.reason
    if problem:
        problems.append(f"{key}: {problem}")
        source = None if task.revision == 0 else task.phase
        line = LogEntry(
            revision=task.revision,
            source=source,
            target=task.phase,
            token=new_token(),
            actor=RepairRecord.actor,
            at_ms=now_ms,
        )
        if lines:
            yield ("RENAME", key, _aside_of(key))
            yield ("PEXPIRE", _aside_of(key), QUARANTINE_MS)
        yield ("RPUSH", key, codec.encode_line(line))
        yield ("PEXPIREAT", key, last_ms(task) + BACKSTOP_MS)


def _is_json(seal: TaskSeal, text: str | None) -> bool:
    """Whether the result of a task can be read."""
    try:
        text = seal.open("result", text) if text else ""
        return text != "" and (text.isascii() or bool(text.encode())) and json.loads(text) is not None
    except (ValueError, RecursionError):
        return False


def _journal(task: Task, seal: TaskSeal, record: Mapping[str, str]) -> tuple[int, int]:
    """How many entries can be read from the first on, and the size of their values."""
    total = 0
    for number in range(task.journal_length):
        try:
            total += size(codec.decode_entry(seal, number, record).value)
        except UnreadableHere:
            raise
        except (CorruptRecord, *codec.DAMAGES):
            return number, total
    return task.journal_length, total


def _lifetime(task: Task, ends: Mapping[str, Reply], problems: list[str]) -> Iterator[Command]:
    wanted = last_ms(task) + BACKSTOP_MS
    for key, ends_ms in ends.items():
        if ends_ms != -2 and abs(ends_ms - wanted) > DRIFT_MS:
            problems.append(f"{key}: ends at {ends_ms}, expected {wanted}")
            yield ("PEXPIREAT", key, wanted)


def _leftovers(
    key: str, task: Task, seal: TaskSeal, record: Mapping[str, str], problems: list[str]
) -> Iterator[Command]:
    kept = {f"j:{number}" for number in range(task.journal_length)}
    if extra := sorted(name for name in record if name.startswith("j:") and name not in kept):
        problems.append(f"{key}: journal entries beyond its end")
        yield ("HDEL", key, *extra)
    for name, decode in (("exception", codec.decode_exception), ("caller", codec.decode_caller)):
        try:
            decode(seal, record.get(name))
        except UnreadableHere:
            continue
        except CorruptRecord as error:
            problems.append(f"{key}: {error.reason}")
            yield ("HDEL", key, name)
