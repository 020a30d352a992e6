"""Re-encryption: what is stored under an older key, or not encrypted, is written anew, one task at a time.

Safe while the service runs: each record is read after WATCH, and if its task changes before EXEC, nothing is
written and it is read again. A record loses nothing by it, and its task is not told: nothing that anybody
sees has changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol, TypeVar

from ...domain.errors import CorruptRecord
from ...domain.names import task_hash
from ...domain.task import Owner
from ..maintenance import Reencrypted
from . import codec
from .layout import Command
from .programs import StorePrograms
from .transaction import Program, Reply, Write, once, transact

BATCH = 20
"""Records that one round trip reads whole; each may be some megabytes."""

_PLAIN = "it is not encrypted; with TASKS_ENCRYPTION=accept it would be now"

T = TypeVar("T")


class Run(Protocol):
    """Drives a program to its end."""

    def __call__(self, program: Program[T]) -> T:
        """Return what the program returns."""


def walk(programs: StorePrograms, run: Run, names: Iterator[str], *, dry_run: bool) -> Iterator[Reencrypted]:
    """What has to be encrypted anew, and is, unless it is a dry run.

    Args:
        programs: Of the same store.
        run: Drives programs.
        names: Of the tasks to look at.
        dry_run: Only look.
    """
    while batch := list(islice(names, BATCH)):
        for found in run(_stale(programs, batch)):
            if dry_run or found.problem:
                yield found
                continue
            try:
                run(transact(_Reencryption(programs, found.task), programs.deadline))
            except CorruptRecord as error:
                yield Reencrypted(task=found.task, keys=found.keys, problem=error.reason)
            else:
                yield found


def _stale(programs: StorePrograms, names: Sequence[str]) -> Program[list[Reencrypted]]:
    reads: list[Command] = []
    for name in names:
        shard = programs.layout.shard_of(name)
        reads.append(("HGETALL", shard.task(name)))
    replies = yield from once(reads, programs.deadline)
    found = []
    for name, reply in zip(names, replies, strict=True):
        try:
            keys = codec.stale_keys(programs.envelope, _record(name, reply))
        except (CorruptRecord, *codec.DAMAGES) as error:
            reason = error.reason if isinstance(error, CorruptRecord) else type(error).__name__
            found.append(Reencrypted(task=task_hash(name), problem=reason))
            continue
        is_refused = programs.envelope.requires and "" in keys
        if keys:
            found.append(Reencrypted(task=task_hash(name), keys=keys, problem=_PLAIN if is_refused else ""))
    return found


def _record(name: str, reply: Reply) -> dict[str, str]:
    if isinstance(reply, Exception):
        raise CorruptRecord(name, str(reply))
    return dict(zip(reply[::2], reply[1::2], strict=True))


class _Reencryption:
    """A record, and the digest of its idempotency key, that are written under the first key."""

    name, token = "Reencrypt", ""

    def __init__(self, programs: StorePrograms, task: str) -> None:
        self._programs, self.task_id = programs, task
        self._shard = programs.layout.shard_of(task)
        self._keyed: list[str] = []

    def watch(self) -> list[str]:
        return [self._shard.task(self.task_id), *self._keyed]

    def reads(self) -> list[Command]:
        return [("HGETALL", self._shard.task(self.task_id)), *(("GET", key) for key in self._keyed)]

    def judge(self, replies: list[Reply]) -> Write[None] | None:
        reply, *values = replies
        record = _record(self.task_id, reply)
        if not record:
            return Write((), None)
        owner, idempotency = codec.owner_and_key(self.task_id, record)
        if idempotency and not self._keyed:
            self._keyed = [self._shard.idempotency(Owner(owner), idempotency)]
            return None
        seal = self._programs.envelope.of(owner, task_hash(self.task_id))
        changed = codec.reencrypted(self._programs.envelope, seal, record)
        commands: list[Command] = []
        if changed:
            pairs = (part for pair in changed.items() for part in pair)
            commands.append(("HSET", self._shard.task(self.task_id), *pairs))
        for key, value in zip(self._keyed, values, strict=True):
            remembered = codec.decode_remembered(value)
            if remembered is not None and task_hash(remembered.task_id) == task_hash(self.task_id):
                again = codec.seal_remembered(seal, codec.open_remembered(seal, remembered))
                commands.append(("SET", key, codec.encode_remembered(again), "KEEPTTL"))
        return Write(commands, None)
