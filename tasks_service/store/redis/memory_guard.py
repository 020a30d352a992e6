"""Admission control: a Redis that fills up refuses new work first, so that what runs can end.

At its `maxmemory` Redis refuses every transaction. Tasks that were accepted need memory to go on: a claim, a
result, a question. So creates end below that, and answers a little later; only what a front end writes for
its clients is held back, never a worker. Everything that a front end writes passes here, and what its clients
can make it keep (tasks, answers, rows of sessions) is refused; what only lets go of something is not.

Memory use is asked for in the first round trip of a create, an answer or a row, at most once a second. No
read asks, and no request waits for another round trip, unless it would be refused. On a cluster each node
fills up by itself, so the node of each shard is asked; rows of sessions are anywhere, and of their nodes the
one that was asked last stands for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ...domain.errors import StoreFull
from ...domain.limits import KIB
from ..findings import Memory
from .layout import Command, Shard
from .servers import Servers
from .transaction import Program, Reply, ahead, once

T = TypeVar("T")

CREATES_UNTIL = 80
"""Percent of `maxmemory` at which creates are refused."""

ANSWERS_UNTIL = 90
"""Percent of `maxmemory` at which answers are refused."""

TASK_BYTES = 3 * KIB
"""What a new task takes beside its arguments: record, log, index entries, message."""

MEMORY: Command = ("INFO", "memory")
"""The command whose reply `parse_memory` reads."""


@dataclass(slots=True)
class _Look:
    """Memory use of one server when it was last asked, and what was created there since."""

    next: float
    created: int = 0
    memory: Memory | None = None


class MemoryGuard:
    """Refuses work when a server's memory is short, as far as this process knows.

    Args:
        interval: Shortest time between two questions to one server, in seconds.
        deadline: Seconds that a question of its own may take.
        each_shard: Whether shards may be on different servers.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self,
        interval: float,
        *,
        deadline: float,
        each_shard: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval = interval
        self._clock = clock
        self._begun = clock()
        self._each_shard = each_shard
        self._looks: dict[str, _Look] = {}
        self._deadline = deadline

    @property
    def memory(self) -> Memory | None:
        """Memory use of the fullest server seen so far; None if none has a limit."""
        return _fullest(look.memory for look in self._looks.values())

    def beside(self, program: Program[T], shard: Shard) -> Program[T]:
        """The same program, whose first round trip also asks for memory use, if it is time to.

        Args:
            program: Begins with a round trip to the shard.
            shard: Whose server is asked.
        """
        return self._beside(program, self._look(shard.tag))

    def row(self, program: Program[T], row_bytes: int, *, maximum: int) -> Program[T]:
        """Run a program that writes a row for a client, unless memory is short.

        Args:
            program: Its first round trip writes the row.
            row_bytes: How much memory that may take.
            maximum: The percentage of memory use from which on it is refused.

        Raises:
            StoreFull: It is refused, and nothing was written.
        """
        look = self._look(_ROWS)
        if self._clock() >= look.next and _percent(look) >= maximum:
            look.next = self._clock() + self._interval
            (reply,) = yield from once([MEMORY], self._deadline)
            look.memory, look.created = parse_memory(reply), 0
        self._check(look, maximum)
        look.created += row_bytes
        return (yield from self._beside(program, look))

    def check_create(self, shard: Shard, arguments_bytes: int) -> None:
        """Refuse a new task, or count what it takes until the next look.

        Args:
            shard: Where it would be.
            arguments_bytes: Size of its arguments.

        Raises:
            StoreFull: The memory is needed for the tasks that there are.
        """
        look = self._look(shard.tag)
        self._check(look, CREATES_UNTIL)
        look.created += TASK_BYTES + arguments_bytes * 5 // 4

    def check_answer(self, shard: Shard) -> None:
        """Refuse an answer.

        Args:
            shard: Where the task is that it is for.

        Raises:
            StoreFull: The memory is needed for what runs.
        """
        self._check(self._look(shard.tag), ANSWERS_UNTIL)

    def _look(self, where: str) -> _Look:
        return self._looks.setdefault(where if self._each_shard else "", _Look(self._begun))

    def _beside(self, program: Program[T], look: _Look) -> Program[T]:
        if self._clock() < look.next:
            return program
        look.next = self._clock() + self._interval

        def hear(replies: list[Reply]) -> None:
            look.memory, look.created = parse_memory(replies[0]), 0

        return ahead(program, [MEMORY], hear)

    def _check(self, look: _Look, maximum: int) -> None:
        if (percent := _percent(look)) >= maximum:
            raise StoreFull(maximum=maximum, actual=percent)


_ROWS = "rows"
"""What stands for the servers of the rows of sessions."""


def _percent(look: _Look) -> int:
    """Memory use at the last look, with what was created since; 0 of a server that has no limit."""
    if look.memory is None:
        return 0
    return replace(look.memory, used=look.memory.used + look.created).percent


def fullest(servers: Servers, deadline: float) -> Program[Memory | None]:
    """Memory use of the fullest server; None if none has a limit, or tells.

    Args:
        servers: Where they are.
        deadline: Seconds that each may take to answer.

    Raises:
        StoreUnavailable: No answer in time.
    """
    known = []
    for node in (yield from servers.locate()):
        (reply,) = yield from once([MEMORY], deadline, node)
        known.append(parse_memory(reply))
    return _fullest(known)


def _fullest(known: Iterable[Memory | None]) -> Memory | None:
    return max((memory for memory in known if memory), key=lambda memory: memory.percent, default=None)


def parse_memory(reply: Any) -> Memory | None:
    """Memory use from the reply of INFO; None if there is no limit, or the user may not ask."""
    if not isinstance(reply, str):
        return None
    told = dict(line.split(":", 1) for line in reply.splitlines() if ":" in line)
    maximum = int(told.get("maxmemory", 0))
    if not maximum:
        return None
    # Buffers for replicas and the append-only file do not count against the limit.
    used = int(told.get("used_memory", 0)) - int(told.get("mem_not_counted_for_evict", 0))
    return Memory(used=used, maximum=maximum)


def refused_work(memory: Memory | None) -> str | None:
    """What front ends refuse at this memory use, as a clause; None: nothing."""
    if memory is None or memory.percent < CREATES_UNTIL:
        return None
    refused = "new tasks" if memory.percent < ANSWERS_UNTIL else "new tasks and answers"
    return f"{memory.percent} percent of its memory is used, {refused} are refused"
