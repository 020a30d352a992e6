"""The registry of workers and tools in Redis: what each operation reads and writes.

What a worker says again and again is two small packets: one asks for the time and whether all that it had
announced is still there, one moves its end on. Tools are written once for each set, and only where they are
missing. A worker counts for as long as `alive` says, by the store's clock; lifetimes of keys are a backstop.

Readers see no transaction: what is written comes in an order in which each part may be seen before the next,
with the mark last. Who reads asks for the mark first. So a reader that saw half of it has the old mark, and
reads again. The keys are in `layout`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ...domain.errors import TasksServiceError
from ...domain.task import DAY, new_token
from ..registry import (
    LIFETIME_MS,
    AnnouncedTools,
    RegistryView,
    Remembered,
    WorkerAnnouncement,
    forgettable,
    registry_name,
)
from . import schema
from .codec import DAMAGES
from .layout import Command
from .programs import StorePrograms
from .transaction import Program, Reply, Write, once, transact

logger = logging.getLogger(__name__)

T = TypeVar("T")

KEYS_MS = 31 * DAY
"""Life of a service's keys after the last word of a worker: no set of tools is remembered for longer."""

TOOLS_BACKSTOP_MS = DAY
"""How long a set of tools outlives the time for which it is remembered, if no sweep has removed it."""


class RegistryPrograms(StorePrograms):
    """Builds the programs of the registry."""

    # --- workers ---------------------------------------------------------------------------------------

    def announce(self, worker: WorkerAnnouncement, tools: AnnouncedTools) -> Program[WorkerAnnouncement]:
        """See `WorkerRegistry.announce`."""
        keys, service = self.layout.registry, worker.service
        time, *rows = yield from once([("TIME",), *self._rows_of(worker)], self.deadline)
        now_ms = self.time_of(time)
        worker = replace(worker, since_ms=worker.since_ms or now_ms)
        used = (keys.workers(service), keys.alive(service), keys.sets(service), keys.services)
        writes: list[Command] = [
            # Whatever stands in the way is no registry: a key of another type is made anew, and the tools are
            # written also where some text has their name. Other workers notice, and say again what they said.
            *(("UNLINK", key) for key, row in zip(used, rows, strict=True) if isinstance(row, Exception)),
            (
                *("SET", keys.tools(service, worker.tools), schema.ANNOUNCED_TOOLS.text(tools)),
                *("PX", _life_ms(tools)),
            ),
            *self._remember(worker, tools, rows[2], now_ms),
            ("ZADD", keys.alive(service), now_ms + LIFETIME_MS, worker.node),
            ("HSET", keys.workers(service), worker.node, schema.WORKER.text(worker)),
            ("ZADD", keys.services, now_ms, service),
            *self._lifetimes(service),
            *self.wake(service),
        ]
        yield from once(writes, self.deadline)
        return worker

    def refresh(self, worker: WorkerAnnouncement, tools: AnnouncedTools) -> Program[bool]:
        """See `WorkerRegistry.refresh`."""
        keys, service = self.layout.registry, worker.service
        reads = [("TIME",), ("EXISTS", keys.tools(service, worker.tools)), *self._rows_of(worker)]
        time, exists, row, until_ms, remembered, listed = yield from once(reads, self.deadline)
        now_ms = self.time_of(time)
        if any(isinstance(reply, Exception) for reply in (row, until_ms, remembered, listed)):
            return False  # a key is of another type: none of this says that the worker runs
        if not exists or not _is_of(row, worker):
            return False
        if until_ms is None or float(until_ms) <= now_ms:
            return False  # it counted as lost: readers must be told that it is back
        writes = [
            *self._remember(worker, tools, remembered, now_ms),
            # A sweep may just have removed it; then the next refresh finds nothing, and announces it.
            ("ZADD", keys.alive(service), "XX", now_ms + LIFETIME_MS, worker.node),
            ("ZADD", keys.services, now_ms, service),
            *self._lifetimes(service),
        ]
        yield from once(writes, self.deadline)
        return True

    def withdraw(self, worker: WorkerAnnouncement) -> Program[None]:
        """See `WorkerRegistry.withdraw`."""
        yield from transact(_Withdrawal(self, worker), self.deadline)

    def forget_lost(self) -> Program[int]:
        """See `WorkerRegistry.forget_lost`."""
        forgotten = 0
        for service in (yield from self.services()):
            rows = yield from once(self.row_reads(service), self.deadline)
            if any(isinstance(row, Exception) for row in rows):
                continue  # a key is of another type, until a worker of that service announces itself again
            yield from self._forget_unreadable_tools(service, [digest for digest, _ in _pairs(rows[3])])
            if self.lost(service, rows) != ([], []):
                forgotten += yield from transact(_Forgetting(self, service), self.deadline)
        return forgotten

    # --- readers ---------------------------------------------------------------------------------------

    def services(self) -> Program[list[str]]:
        """See `RegistryReader.services`."""
        (names,) = yield from once([("ZRANGE", self.layout.registry.services, 0, -1)], self.deadline)
        return sorted(_listed(names))

    def read(self, service: str, known: RegistryView | None = None) -> Program[RegistryView]:
        """See `RegistryReader.read`."""
        if known is not None and (now_ms := (yield from self._still_holds(known))) is not None:
            return replace(known, now_ms=now_ms)
        mark, *rows = yield from once(
            [("GET", self.layout.registry.mark(service)), *self.row_reads(service)], self.deadline
        )
        now_ms, ends, workers, remembered = self.rows(rows)
        living = tuple(worker for node, worker in sorted(workers.items()) if ends.get(node, 0) > now_ms)
        wanted = {*(worker.tools for worker in living), *remembered}
        sets = {} if known is None else {digest: known.sets[digest] for digest in wanted & known.sets.keys()}
        sets |= yield from self._fetched(service, sorted(wanted - sets.keys()))
        return RegistryView(
            service=service,
            now_ms=now_ms,
            mark=f"{mark or ''}:{len(living)}",
            workers=living,
            sets=sets,
            remembered=remembered,
        )

    def _still_holds(self, known: RegistryView) -> Program[int | None]:
        """The time, if nothing has changed since a view was read: nothing was said, and nobody is lost."""
        keys = self.layout.registry
        reads: list[Command] = [
            ("TIME",),
            ("GET", keys.mark(known.service)),
            ("ZRANGE", keys.alive(known.service), 0, 0, "WITHSCORES"),
        ]
        time, mark, first = yield from once(reads, self.deadline)
        now_ms = self.time_of(time)
        nobody_lost = all(float(until_ms) > now_ms for _, until_ms in _pairs(first))
        return now_ms if nobody_lost and (mark or "") == known.mark.rpartition(":")[0] else None

    def _fetched(self, service: str, digests: Sequence[str]) -> Program[dict[str, AnnouncedTools]]:
        if not digests:
            return {}
        reads: list[Command] = [("GET", self.layout.registry.tools(service, digest)) for digest in digests]
        texts = yield from once(reads, self.deadline)
        found = {}
        for digest, text in zip(digests, texts, strict=True):
            if (tools := _read(schema.ANNOUNCED_TOOLS.value, text, f"tools {digest}")) is not None:
                found[digest] = tools
        return found

    def _forget_unreadable_tools(self, service: str, digests: Sequence[str]) -> Program[None]:
        """Remove what stands where tools should be and is no object: their workers announce them again.

        An object that cannot be read is left alone: a newer release may have written it.
        """
        keys = [self.layout.registry.tools(service, digest) for digest in digests]
        if not keys:
            return
        texts = yield from once([("GET", key) for key in keys], self.deadline)
        if wrong := [key for key, text in zip(keys, texts, strict=True) if not _may_be_tools(text)]:
            logger.warning("Registry: of %r, what workers have announced cannot be read: %s", service, wrong)
            yield from once([("UNLINK", key) for key in wrong], self.deadline)

    # --- what they write -------------------------------------------------------------------------------

    def _rows_of(self, worker: WorkerAnnouncement) -> list[Command]:
        """What is read of a worker, from each key that it shares with others."""
        keys, service = self.layout.registry, worker.service
        return [
            ("HGET", keys.workers(service), worker.node),
            ("ZSCORE", keys.alive(service), worker.node),
            ("HGET", keys.sets(service), worker.tools),
            ("ZSCORE", keys.services, service),
        ]

    def _remember(
        self, worker: WorkerAnnouncement, tools: AnnouncedTools, before: str | None, now_ms: int
    ) -> Iterator[Command]:
        """The commands that note when a set of tools was announced; `before` is what was noted so far."""
        keys, service = self.layout.registry, worker.service
        known = _read(schema.REMEMBERED.value, before, "set of tools")
        again = Remembered.again(known, worker, tools, now_ms)
        yield ("HSET", keys.sets(service), worker.tools, schema.REMEMBERED.text(again))
        yield ("PEXPIRE", keys.tools(service, worker.tools), _life_ms(tools))

    def _lifetimes(self, service: str) -> Iterator[Command]:
        keys = self.layout.registry
        for key in (keys.alive(service), keys.workers(service), keys.sets(service), keys.services):
            yield ("PEXPIRE", key, KEYS_MS)

    def wake(self, service: str) -> Iterator[Command]:
        """The commands that tell the readers of a service that something has changed."""
        yield ("SET", self.layout.registry.mark(service), new_token(), "PX", KEYS_MS)
        yield ("PUBLISH", self.layout.changes, f"{registry_name(service)} 0")

    # --- what they share -------------------------------------------------------------------------------

    def row_reads(self, service: str) -> list[Command]:
        """What is read of a service, but for its tools."""
        keys = self.layout.registry
        return [
            ("TIME",),
            ("ZRANGE", keys.alive(service), 0, -1, "WITHSCORES"),
            ("HGETALL", keys.workers(service)),
            ("HGETALL", keys.sets(service)),
        ]

    def rows(
        self, replies: Sequence[Reply]
    ) -> tuple[int, dict[str, float], dict[str, WorkerAnnouncement], dict[str, Remembered]]:
        """What `row_reads` was answered: the time, when workers are lost, workers, and sets of tools.

        What cannot be read is passed over: a newer release may have written it, or a hand.
        """
        time, alive, workers, sets = replies
        return (
            self.time_of(time),
            {node: float(until_ms) for node, until_ms in _pairs(alive)},
            dict(_readable(schema.WORKER.value, workers, "worker")),
            dict(_readable(schema.REMEMBERED.value, sets, "set of tools")),
        )

    def lost(self, service: str, replies: Sequence[Reply]) -> tuple[list[str], list[str]]:
        """The workers that are lost, and the digests of the sets of tools that need not be remembered."""
        now_ms, ends, workers, remembered = self.rows(replies)
        known = {node for node, _ in _pairs(replies[2])} | ends.keys()
        lost = sorted(node for node in known if ends.get(node, 0) <= now_ms)
        living = [worker for node, worker in workers.items() if node not in lost]
        return lost, forgettable(remembered, living, now_ms)


class _Change:
    """A change of what the registry has of a service, which must not undo what another process says."""

    name, token = "Registry", ""

    def __init__(self, programs: RegistryPrograms, service: str) -> None:
        self.task_id, self._programs, self._service = f"registry of {service}", programs, service
        self._keys = programs.layout.registry

    def watch(self) -> list[str]:
        keys, service = self._keys, self._service
        return [keys.alive(service), keys.workers(service), keys.sets(service)]

    def _removal(self, nodes: Sequence[str]) -> Iterator[Command]:
        if nodes:
            yield ("HDEL", self._keys.workers(self._service), *nodes)
            yield ("ZREM", self._keys.alive(self._service), *nodes)


class _Withdrawal(_Change):
    """A worker that leaves, unless another process has announced itself under its name."""

    def __init__(self, programs: RegistryPrograms, worker: WorkerAnnouncement) -> None:
        super().__init__(programs, worker.service)
        self._worker = worker

    def watch(self) -> list[str]:
        return [self._keys.workers(self._service)]

    def reads(self) -> list[Command]:
        return [("HGET", self._keys.workers(self._service), self._worker.node)]

    def judge(self, replies: list[Reply]) -> Write[None]:
        if not _is_of(replies[0], self._worker):
            return Write((), None)
        return Write([*self._removal([self._worker.node]), *self._programs.wake(self._service)], None)


class _Forgetting(_Change):
    """The removal of what is lost, or need not be remembered."""

    def reads(self) -> list[Command]:
        return self._programs.row_reads(self._service)

    def judge(self, replies: list[Reply]) -> Write[int]:
        nodes, digests = self._programs.lost(self._service, replies)
        if not nodes and not digests:
            return Write((), 0)
        commands = [*self._removal(nodes), *self._programs.wake(self._service)]
        if digests:
            commands.append(("HDEL", self._keys.sets(self._service), *digests))
            commands += [("UNLINK", self._keys.tools(self._service, digest)) for digest in digests]
        if len(nodes) == len(_pairs(replies[2])) and len(digests) == len(_pairs(replies[3])):
            commands.append(("ZREM", self._keys.services, self._service))
        return Write(commands, len(nodes) + len(digests))


def _life_ms(tools: AnnouncedTools) -> int:
    return LIFETIME_MS + tools.remembered_ms + TOOLS_BACKSTOP_MS


def _is_of(row: str | None, worker: WorkerAnnouncement) -> bool:
    """Whether that is what this very process has announced."""
    announced = _read(schema.WORKER.value, row, f"worker {worker.node}")
    return announced is not None and announced.instance == worker.instance


def _read(decode: Callable[[str], T], text: Any, what: str) -> T | None:
    """What is stored, read back; None if there is nothing, or nothing that can be read."""
    if text is None:
        return None
    try:
        return decode(text)
    except (TasksServiceError, *DAMAGES) as error:
        logger.warning("Registry: the %s is passed over: %s", what, error)
        return None


def _readable(decode: Callable[[str], T], reply: Reply, kind: str) -> Iterator[tuple[str, T]]:
    for name, text in _pairs(reply):
        if (value := _read(decode, text, f"{kind} {name}")) is not None:
            yield name, value


def _may_be_tools(text: Reply) -> bool:
    """Whether what was read is missing, or the JSON of an object, as each release writes it."""
    if text is None:
        return True
    try:
        return isinstance(json.loads(text), dict)
    except DAMAGES:
        return False


def _pairs(reply: Reply) -> list[tuple[str, str]]:
    listed = _listed(reply)
    return list(zip(listed[::2], listed[1::2], strict=True))


def _listed(reply: Reply) -> list[str]:
    """What a key holds; nothing, if it is of another type."""
    if isinstance(reply, Exception):
        logger.warning("Registry: a key is passed over: %s", reply)
        return []
    return list(reply)
