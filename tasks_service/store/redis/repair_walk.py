"""The walk of a repair through everything that is stored; `repair` says what is done with each task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

from ...domain.errors import CorruptRecord, RecordTooNew
from ..maintenance import Repair
from .layout import Shard
from .repair import Repairs, ShardKeys
from .transaction import Program

T = TypeVar("T")


class Run(Protocol):
    """Drives a program to its end."""

    def __call__(self, program: Program[T]) -> T:
        """Return what the program returns."""


class RepairWalk:
    """Walks through shards, and repairs what it meets.

    Args:
        repairs: Builds the programs.
        run: Drives them.
        dry_run: Only tell.
        quarantine: Move records aside that cannot be read at all.
    """

    def __init__(self, repairs: Repairs, run: Run, *, dry_run: bool, quarantine: bool) -> None:
        self._repairs, self._run = repairs, run
        self._options: dict[str, Any] = {"dry_run": dry_run, "quarantine": quarantine}

    def through(self, shards: Sequence[Shard]) -> Iterator[Repair]:
        """Each finding once, as it is met."""
        told: set[Repair] = set()
        for shard in shards:
            for repair in self._shard(shard):
                if repair not in told:  # what is not fixed in the first walk is met again in the second
                    told.add(repair)
                    yield repair

    def _shard(self, shard: Shard) -> Iterator[Repair]:
        # Keys of a wrong type before all: what they keep out finds its place in the walks that follow.
        for keys in self._keys(shard):
            yield from self._run(
                self._repairs.misshapen(shard, keys.all, dry_run=bool(self._options["dry_run"]))
            )
        yield from self._run(self._repairs.words(shard, dry_run=bool(self._options["dry_run"])))
        # Records first: what is moved aside then is missing from the indexes that the second walk meets.
        for keys in self._keys(shard):
            orphans = self._run(self._repairs.without_record(shard, keys.logs))
            for name in (*keys.records, *orphans):
                yield from self._task(name)
        for keys in self._keys(shard):
            for index in keys.sets:
                yield from self._strays(shard, index)
            for key in keys.keys:
                yield from self._led_to(key)

    def _task(self, name: str, found_in: str | None = None) -> list[Repair]:
        return self._run(self._repairs.task(name, found_in, **self._options))

    def _led_to(self, key: str) -> list[Repair]:
        try:
            name = self._run(self._repairs.led_to(key))
        except RecordTooNew as error:
            return [Repair(task="", what=f"{key}: {error.reason}", fixed=False)]
        return self._task(name, key)

    def _strays(self, shard: Shard, index: str) -> Iterator[Repair]:
        cursor = "0"
        while True:
            try:
                cursor, names = self._run(self._repairs.members(shard, index, cursor))
            except CorruptRecord as error:
                yield Repair(task="", what=f"{index}: {error.reason}", fixed=False)
                return
            for name in names:
                yield from self._stray(shard, name, index)
            if cursor == "0":
                return

    def _stray(self, shard: Shard, name: str, index: str) -> list[Repair]:
        if index.startswith(f"{shard.tag}:blocks:"):
            dry_run = bool(self._options["dry_run"])
            return self._run(self._repairs.stray_block(shard, index, name, dry_run=dry_run))
        return self._task(name, index)

    def _keys(self, shard: Shard) -> Iterator[ShardKeys]:
        cursor, keys = self._run(self._repairs.keys(shard, "0"))
        yield keys
        while cursor != "0":
            cursor, keys = self._run(self._repairs.keys(shard, cursor))
            yield keys
