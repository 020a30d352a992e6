"""What the programs of one store share: which keys there are, what is allowed, and the store's clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...crypto.envelope import Envelope
from ...domain.limits import Limits
from .layout import Layout
from .transaction import Program, Reply, milliseconds, once

Clock = Callable[[int], int]


@dataclass(frozen=True)
class StorePrograms:
    """Builds programs of one store.

    Attributes:
        layout: Which keys there are.
        limits: What is allowed.
        deadline: Seconds that an operation may try.
        clock: From the server's time to the time that decisions use, in ms; tests move it.
        envelope: Seals what is stored, and opens it.
    """

    layout: Layout
    limits: Limits
    deadline: float
    clock: Clock | None
    envelope: Envelope

    def time_of(self, reply: Reply) -> int:
        """The time that decisions use, from the answer of TIME."""
        now_ms = milliseconds(reply)
        return now_ms if self.clock is None else self.clock(now_ms)

    def now_ms(self) -> Program[int]:
        """See `MaintenanceStore.now_ms`."""
        (time,) = yield from once([("TIME",)], self.deadline)
        return self.time_of(time)
