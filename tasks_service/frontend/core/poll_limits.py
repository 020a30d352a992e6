"""Polls of a task, limited in this process alone: who polls as often as they were told is never refused.

Each poll costs half of the interval that the client was told when it polled before, and time pays it back. So
whoever polls up to twice as often as they were told owes nothing, and whoever polls more often is refused
once they owe more than `CREDIT_MS` and `CREDIT_POLLS`, until they have paid.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from ...domain.rates import Counted, Rate, RateExceeded
from ...domain.task import SECOND, Owner

CREDIT_MS = 30 * SECOND
"""What a client may owe: some dozens of quick polls, with intervals of a second."""

CREDIT_POLLS = 10
"""Polls that it may owe beside that, however long its intervals are."""

MOST_TASKS = 10_000
"""Tasks whose polls are remembered; of more, those that were not polled for longest are forgotten."""


class _Polls(NamedTuple):
    """What is known of a task's polls.

    Attributes:
        paid_ms: When all of them will have been paid, by the clock.
        cost_ms: What the next costs.
    """

    paid_ms: float
    cost_ms: int


class PollLimits:
    """Refuses polls of tasks that come far more often than clients were told.

    Args:
        limits: Whether there are any: not where only the local user polls.
        clock: Monotonic, in seconds.
    """

    def __init__(self, *, limits: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._polls: OrderedDict[tuple[Owner, str], _Polls] = OrderedDict()

    def check(self, owner: Owner, task_id: str) -> None:
        """Refuse a poll that comes too early; nothing has been read for it.

        Raises:
            RateExceeded: Too many have come before it.
        """
        known = self._polls.get((owner, task_id))
        if known is None:
            return
        credit_ms = CREDIT_MS + CREDIT_POLLS * known.cost_ms
        early_ms = round(known.paid_ms + known.cost_ms - self._clock() * SECOND - credit_ms)
        if early_ms > 0:
            rate = Rate(credit_ms // max(known.cost_ms, 1), credit_ms)
            raise RateExceeded(Counted.POLLS, rate, actual=rate.number + 1, retry_after_ms=early_ms)

    def note(self, owner: Owner, task_id: str, interval_ms: int) -> None:
        """Take note of a poll that was answered, and of the interval that its client was told."""
        if not self._limits:
            return
        now_ms = self._clock() * SECOND
        known = self._polls.pop((owner, task_id), _Polls(now_ms, 0))
        paid_ms = max(known.paid_ms, now_ms) + known.cost_ms
        self._polls[owner, task_id] = _Polls(paid_ms, interval_ms // 2)
        if len(self._polls) > MOST_TASKS:
            self._polls.popitem(last=False)
