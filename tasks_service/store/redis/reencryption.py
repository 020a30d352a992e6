"""Re-encryption: what is stored under an older key, or not encrypted, is written anew, some tasks at a time.

Safe while the service runs: records are read after WATCH, and if one of their tasks changes before EXEC,
nothing is written and they are read again. A record loses nothing by it, and its task is not told: nothing
that anybody sees has changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Protocol, TypeVar

from ...domain.errors import CorruptRecord
from ...domain.names import task_hash
from ...domain.task import Owner
from ..maintenance import Reencrypted
from . import codec
from .layout import Command, Shard
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
        found = run(_stale(programs, batch))
        yield from (each for each in found if dry_run or each.problem)
        stale = [] if dry_run else [each for each in found if not each.problem]
        for shard in programs.layout.shards:
            tasks = [each for each in stale if programs.layout.shard_of(each.task) == shard]
            if tasks:
                yield from run(transact(_Reencryption(programs, shard, tasks), programs.deadline))


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
    """Records of one shard, and digests of their idempotency keys, that are written under the first key."""

    name, token = "Reencrypt", ""

    def __init__(self, programs: StorePrograms, shard: Shard, tasks: Sequence[Reencrypted]) -> None:
        self._envelope, self._shard, self._tasks = programs.envelope, shard, tasks
        self.task_id = tasks[0].task
        self._keyed: dict[str, str] = {}

    def watch(self) -> list[str]:
        return [*(self._shard.task(each.task) for each in self._tasks), *self._keyed.values()]

    def reads(self) -> list[Command]:
        records: list[Command] = [("HGETALL", self._shard.task(each.task)) for each in self._tasks]
        return [*records, *(("GET", key) for key in self._keyed.values())]

    def judge(self, replies: list[Reply]) -> Write[list[Reencrypted]] | None:
        records = replies[: len(self._tasks)]
        if not self._keyed and (keyed := dict(self._keys(records))):
            self._keyed = keyed
            return None
        values = dict(zip(self._keyed, replies[len(self._tasks) :], strict=True))
        commands: list[Command] = []
        done = []
        for each, reply in zip(self._tasks, records, strict=True):
            try:
                commands += self._commands(each.task, _record(each.task, reply), values.get(each.task))
                done.append(each)
            except CorruptRecord as error:
                done.append(replace(each, problem=error.reason))
        return Write(commands, done)

    def _keys(self, records: Sequence[Reply]) -> Iterator[tuple[str, str]]:
        """The idempotency keys of the tasks that have one."""
        for each, reply in zip(self._tasks, records, strict=True):
            with suppress(CorruptRecord):
                owner, key_hash = codec.owner_and_key(each.task, _record(each.task, reply))
                if key_hash:
                    yield each.task, self._shard.idempotency(Owner(owner), key_hash)

    def _commands(self, task: str, record: dict[str, str], value: str | None) -> Iterator[Command]:
        if not record:  # it has gone meanwhile
            return
        seal = self._envelope.of(codec.owner_and_key(task, record)[0], task)
        if changed := codec.reencrypted(self._envelope, seal, record):
            yield ("HSET", self._shard.task(task), *(part for pair in changed.items() for part in pair))
        remembered = codec.decode_remembered(value)
        if remembered is not None and task_hash(remembered.task_id) == task:
            again = codec.seal_remembered(seal, codec.open_remembered(seal, remembered))
            yield ("SET", self._keyed[task], codec.encode_remembered(again), "KEEPTTL")
