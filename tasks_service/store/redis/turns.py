"""Turns in the Redis store: which seats a decision has to see, and what a write says about who is next.

Seats are watched by whoever takes one, or begins to wait because there is none: so never do more run than
may, and nobody waits beside an empty seat. What needs no seat, or has one, neither reads nor watches any.
Those who wait are not watched: whoever gives a seat back asks in the same EXEC who they are, and calls the
first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...domain.decide import needs_seat
from ...domain.events import Event
from ...domain.limits import Limits
from ...domain.task import Lane, Task
from ..maintenance import MOST_CALLED
from .layout import Command, Shard
from .transaction import Reply


class SeatReads:
    """What a transition reads and watches of the seats in its task's lane.

    Args:
        shard: The task's.
        limits: How many seats there are.
        lane: Where seats are needed, if that is known before the record has been read.
    """

    def __init__(self, shard: Shard, limits: Limits, lane: Lane | None = None) -> None:
        self._shard, self._limits = shard, limits
        self._lane = lane if lane is not None and limits.seats(lane.queue) is not None else None

    def lacks(self, task: Task | None, event: Event) -> bool:
        """Whether the decision has to see a seat that was not read; if so, it is read from now on."""
        if task is None or self._limits.seats(task.queue) is None:
            return False
        if task.lane == self._lane or not needs_seat(task, event):
            return False
        self._lane = task.lane
        return True

    def watched(self) -> list[str]:
        """The seats, where they are read."""
        return [] if self._lane is None else [self._shard.seats(self._lane)]

    def commands(self) -> list[Command]:
        """Read the seat that is the last to be given back of those that could be taken at once."""
        if self._lane is None or (seats := self._limits.seats(self._lane.queue)) is None:
            return []
        return [("ZREVRANGE", self._shard.seats(self._lane), seats - 1, seats - 1, "WITHSCORES")]

    def until_ms(self, replies: Sequence[Reply]) -> int:
        """What the answers to `commands` say: see `Census.seats_until_ms`."""
        return next((int(float(last[1])) for last in replies if last), 0)


class Vacancies(NamedTuple):
    """How many seats of a lane are free, and who waits for one, longest first."""

    lane: Lane
    free: int
    waiting: list[str]


def vacancy_reads(shard: Shard, lane: Lane, now_ms: int, most: int = MOST_CALLED) -> list[Command]:
    """What `vacancies` is made of; a seat whose holder is past its deadline is free."""
    return [
        ("ZCOUNT", shard.seats(lane), f"({now_ms}", "+inf"),
        ("ZRANGE", shard.turn(lane), 0, most - 1),
    ]


def vacancies(limits: Limits, lane: Lane, replies: Sequence[Reply]) -> Vacancies:
    """What the answers to `vacancy_reads` say."""
    taken, waiting = replies
    seats = limits.seats(lane.queue)
    return Vacancies(lane, len(waiting) if seats is None else max(seats - taken, 0), list(waiting))
