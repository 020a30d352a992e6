"""Turns in the Redis store: which seats a decision has to see, and what a write says about who is next.

A lane's seats and its queue of waiting tasks are not watched: each claim would void every other claim of the
owner. So a claim may be decided by seats that have just changed. Too many may run for a moment, by as many as
there are claims in flight; and a task may begin to wait although the last seat has just been given back. Of
the latter somebody always learns, because both writes ask in their own EXEC how things stand now: whichever
comes second sees the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...domain.decide import Census
from ...domain.events import Call, Claim, Event
from ...domain.limits import Limits
from ...domain.task import Lane, Task
from ..base import MOST_CALLED
from .layout import Command, Shard
from .transaction import Reply


class SeatReads:
    """What a transition reads of the seats in its task's lane; nothing, for events that need no seat.

    Args:
        shard: The task's.
        limits: How many seats there are.
        event: What happens. The lane that it names is read with the record, in one packet; if the record
            names another, that one is read in a second.
    """

    def __init__(self, shard: Shard, limits: Limits, event: Event) -> None:
        self._shard, self._limits = shard, limits
        self._needed = isinstance(event, Claim | Call)
        self._lane = event.lane if isinstance(event, Claim | Call) else None

    def commands(self) -> list[Command]:
        """Read the seat that is the last to be given back of those that could be taken at once."""
        if self._lane is None or (seats := self._limits.seats(self._lane.queue)) is None:
            return []
        return [("ZREVRANGE", self._shard.seats(self._lane), seats - 1, seats - 1, "WITHSCORES")]

    def census(self, task: Task | None, replies: Sequence[Reply]) -> Census | None:
        """What was seen; None if it was the wrong lane, and `commands` now reads the right one."""
        if task is None or not self._needed or self._limits.seats(task.queue) is None:
            return Census()
        if task.lane != self._lane:
            self._lane = task.lane
            return None
        (last,) = replies
        return Census(seats_until_ms=int(float(last[1])) if last else 0)


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
