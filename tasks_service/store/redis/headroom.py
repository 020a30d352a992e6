"""Admission control: a Redis that fills up refuses new work first, so that what runs can end.

At its `maxmemory` Redis refuses every transaction. Tasks that were accepted need memory to go on: a claim, a
result, a question. So creates end below that, and answers a little later; only what a front end writes for
its clients is held back, never a worker.

How full the server is, is asked beside the first exchange of a write, at most once a second. No read asks,
and no request waits for a round trip more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from ...domain.errors import StoreFull
from ...domain.limits import KIB
from ..base import Memory
from .layout import Command
from .transaction import Exchange, LostConnection, Program

T = TypeVar("T")

CREATES_UNTIL = 80
"""Percent of `maxmemory` from which on no task is created."""

ANSWERS_UNTIL = 90
"""Percent of `maxmemory` from which on no answer is recorded."""

LOOK_SECONDS = 1.0
"""Shortest time between two looks of one process."""

TASK_BYTES = 3 * KIB
"""What a new task takes beside its arguments: record, log, places in indexes, message."""

MEMORY: Command = ("INFO", "memory")
"""The command whose reply `parse_memory` reads."""


class Headroom:
    """How much of the server's memory is left, as well as this process knows.

    Args:
        clock: Monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = clock()
        self._created = 0
        self.memory: Memory | None = None

    def beside(self, program: Program[T]) -> Program[T]:
        """A program whose first exchange asks for the memory as well, if it is time to."""
        if self._clock() < self._next:
            return program
        self._next = self._clock() + LOOK_SECONDS
        return self._looking(program)

    def check_create(self, arguments_bytes: int) -> None:
        """Refuse a new task, or count what it takes until the next look.

        Args:
            arguments_bytes: Size of its arguments.

        Raises:
            StoreFull: The memory is needed for the tasks that there are.
        """
        self._check(CREATES_UNTIL)
        self._created += TASK_BYTES + arguments_bytes * 5 // 4

    def check_answer(self) -> None:
        """Refuse an answer.

        Raises:
            StoreFull: The memory is needed for what runs.
        """
        self._check(ANSWERS_UNTIL)

    def _check(self, maximum: int) -> None:
        if self.memory is None:
            return
        now = replace(self.memory, used=self.memory.used + self._created)
        if now.percent >= maximum:
            raise StoreFull(maximum=maximum, actual=now.percent)

    def _looking(self, program: Program[T]) -> Program[T]:
        try:
            step = next(program)
            asks = isinstance(step, Exchange)
            if isinstance(step, Exchange):
                step = Exchange([MEMORY, *step.commands])
            while True:
                try:
                    replies = yield step
                except LostConnection as error:
                    step, asks = program.throw(error), False
                    continue
                if asks:
                    self.memory, asks = parse_memory(replies[0]), False
                    self._created, replies = 0, replies[1:]
                step = program.send(replies)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def parse_memory(reply: Any) -> Memory | None:
    """What INFO says of the memory; None if there is no limit, or it may not be asked."""
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
    """What front ends refuse at such a level, as a clause; None: nothing."""
    if memory is None or memory.percent < CREATES_UNTIL:
        return None
    refused = "new tasks" if memory.percent < ANSWERS_UNTIL else "new tasks and answers"
    return f"{memory.percent} percent of its memory is used, {refused} are refused"
