"""Rates in Redis: what callers do is counted for all front ends, beside what they do.

    ts:{00}:rate:<counted>:<caller>   STR   how often, within a window that ends with the key

A create is counted in its own first round trip, before anything is written, so that no number of front ends
lets more through than may be. Everything else is counted with its write or after its read, and this process
refuses from then on what comes before the window ends; so nothing that is allowed waits for another round
trip. Counting is never a reason to fail: where Redis does not count, nobody is refused.

Whoever was refused in a window begins the next with a slice of one, which is as short as it is small. So
callers who go on and on have the same rate as others, but not all of a window at once, time and again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ...domain.rates import Counted, Rate, RateExceeded, Rates
from .layout import Command, Layout, Shard
from .transaction import LostConnection, Program, Reply, RoundTrip, ahead

logger = logging.getLogger(__name__)

T = TypeVar("T")

MOST_KNOWN = 10_000
"""Callers that this process knows to have to wait, and tasks that it knows to be there; of more, it forgets
those that matter least."""

SLICES = 10
"""Into how many slices a window is cut for those who were refused in the last one."""

LOG_SECONDS = 60.0
"""Shortest time between two lines of the log about refusals of one kind."""


@dataclass(slots=True)
class _Wait:
    """What is known of a caller who has used up a window.

    Attributes:
        until: When it ends, by the clock.
        was_refused: Whether they have come again before.
    """

    until: float
    was_refused: bool = False


class RateLimiter:
    """Counts what callers do, and refuses what is too often.

    Args:
        layout: Names the keys.
        rates: How often callers may do what; what is not named is neither counted nor refused.
        clock: Monotonic, in seconds.

    Attributes:
        refused: How often this process has refused what, since it began.
    """

    def __init__(self, layout: Layout, rates: Rates, clock: Callable[[], float] = time.monotonic) -> None:
        self._layout, self._rates, self._clock = layout, rates, clock
        self._waits: dict[tuple[Counted, str], _Wait] = {}
        self._found: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._told: dict[Counted, float] = {}
        self._untold: Counter[Counted] = Counter()
        self.refused: Counter[Counted] = Counter()

    def check(self, counted: Counted, caller: str) -> None:
        """Refuse what is known to be too often.

        Raises:
            RateExceeded: The caller has to wait.
        """
        if (wait := self._waits.get((counted, caller))) is None:
            return
        if left_ms := self._left_ms(counted, caller):
            raise self._refusal(counted, caller, left_ms)
        quiet_ms = (self._clock() - wait.until) * 1000
        if not wait.was_refused or quiet_ms >= self._rates[counted].window_ms:
            del self._waits[counted, caller]

    def beside(
        self, program: Program[T], counted: Counted, caller: str, shard: Shard, *, refuses: bool = False
    ) -> Program[T]:
        """The same program, whose first round trip also counts.

        Args:
            program: Begins with a round trip to the shard.
            counted: What it does.
            caller: Who does it.
            shard: Where it is counted.
            refuses: Whether its first round trip writes nothing, so that it ends there if this is too often.

        Raises:
            RateExceeded: It is, and nothing was written.
        """
        rate = self._rates.get(counted)
        if rate is None:
            return program

        def hear(replies: list[Reply]) -> None:
            actual = self._note(counted, caller, rate, replies)
            if refuses and actual > rate.number:
                raise self._refusal(counted, caller, max(self._left_ms(counted, caller), 1))

        return ahead(program, self._commands(counted, caller, rate, shard), hear)

    def count(self, counted: Counted, caller: str) -> Program[None]:
        """Count something that has been done, in a round trip of its own."""
        if (rate := self._rates.get(counted)) is None:
            return
        try:
            replies = yield RoundTrip(self._commands(counted, caller, rate, self._layout.home))
        except LostConnection as error:
            logger.debug("Something was not counted: %s", error)
            return
        self._note(counted, caller, rate, replies)

    def found(self, owner: str, task_id: str) -> None:
        """Remember that an owner has found a task."""
        if Counted.LOOKUPS not in self._rates:
            return
        self._found[owner, task_id] = None
        self._found.move_to_end((owner, task_id))
        if len(self._found) > MOST_KNOWN:
            self._found.popitem(last=False)

    def lost(self, owner: str, task_id: str) -> None:
        """Remember it no more: the task is gone."""
        self._found.pop((owner, task_id), None)

    def has_found(self, owner: str, task_id: str) -> bool:
        """Whether an owner has found a task here lately."""
        return (owner, task_id) in self._found

    def _commands(self, counted: Counted, caller: str, rate: Rate, shard: Shard) -> list[Command]:
        key, begun = f"{shard.tag}:rate:{counted}:{caller}", list[Command]()
        if (counted, caller) in self._waits:
            number = -(-rate.number // SLICES)
            life_ms = rate.window_ms * number // rate.number
            begun = [("SET", key, rate.number - number, "PX", life_ms, "NX")]
        return [*begun, ("INCRBY", key, 1), ("PEXPIRE", key, rate.window_ms, "NX"), ("PTTL", key)]

    def _left_ms(self, counted: Counted, caller: str) -> int:
        """For how long a caller who is known to has to wait still; 0 if no longer."""
        left = self._waits[counted, caller].until - self._clock()
        return max(round(left * 1000), 1) if left > 0 else 0

    def _note(self, counted: Counted, caller: str, rate: Rate, replies: list[Reply]) -> int:
        """Take note of a count; how many it is, 0 where nobody knows."""
        *_, actual, _, left_ms = replies
        if not isinstance(actual, int) or not isinstance(left_ms, int) or actual < rate.number:
            return 0
        if len(self._waits) >= MOST_KNOWN:
            self._forget()
        # From the last one that is allowed on, so that the next is refused without being counted.
        until = self._clock() + min(max(left_ms, 1), rate.window_ms) / 1000
        self._waits[counted, caller] = _Wait(until)
        return actual

    def _forget(self) -> None:
        for known in sorted(self._waits, key=lambda known: self._waits[known].until)[: MOST_KNOWN // 2]:
            del self._waits[known]

    def _refusal(self, counted: Counted, caller: str, retry_after_ms: int) -> RateExceeded:
        if (wait := self._waits.get((counted, caller))) is not None:
            wait.was_refused = True
        self.refused[counted] += 1
        self._untold[counted] += 1
        now = self._clock()
        if now - self._told.get(counted, -LOG_SECONDS) >= LOG_SECONDS:
            self._told[counted] = now
            number, self._untold[counted] = self._untold[counted], 0
            logger.warning(
                "Too many %s: refused %d times since this was last said; now %s", counted, number, caller
            )
        rate = self._rates[counted]
        return RateExceeded(counted, rate, actual=rate.number + 1, retry_after_ms=retry_after_ms)
