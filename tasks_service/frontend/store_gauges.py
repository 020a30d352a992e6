"""The gauges that a front end reads of its store, as of some seconds ago.

All front ends read the same of the store, so a query takes the maximum of what they say, never the sum.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Final

from ..domain.errors import TasksServiceError
from ..metrics.series import (
    LIVE_WORKERS,
    MAINTENANCE_AGE,
    MEMORY_LIMIT,
    MEMORY_USED,
    OLDEST,
    PENDING,
    STORE_UP,
    TASKS,
    Sample,
    StoredPhase,
)
from ..store.facts import StoreFacts
from ..store.front_ends import FrontEndStore

logger = logging.getLogger(__name__)

FRESH_SECONDS: Final = 5.0
"""How long facts are good for, however often they are asked for."""

ANSWER_SECONDS: Final = 4.0
"""How long a scrape waits for the store."""


class StoreGauges:
    """Reads the gauges, from the thread of a scrape.

    Args:
        store: Says how much work there is; asked on its own event loop, the running one.
        clock: In seconds.
    """

    def __init__(self, store: FrontEndStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._loop = asyncio.get_running_loop()
        self._reading = threading.Lock()
        self._read_at = float("-inf")
        self._samples: list[Sample] = []

    def read(self) -> list[Sample]:
        """Their values."""
        with self._reading:
            if self._clock() - self._read_at >= FRESH_SECONDS:
                self._samples = list(self._read_store())
                self._read_at = self._clock()
            return self._samples

    def _read_store(self) -> Iterator[Sample]:
        asked = asyncio.run_coroutine_threadsafe(self._store.facts(), self._loop)
        try:
            facts = asked.result(ANSWER_SECONDS)
        except (TasksServiceError, FutureTimeoutError) as error:
            asked.cancel()
            logger.debug("The store's facts cannot be read: %s", error)
            yield Sample(STORE_UP, 0)
            return
        yield Sample(STORE_UP, 1)
        yield from _of_store(facts)
        if (memory := self._store.memory) is not None:
            yield Sample(MEMORY_USED, memory.used)
            yield Sample(MEMORY_LIMIT, memory.maximum)


def _of_store(facts: StoreFacts) -> Iterator[Sample]:
    phases = {
        StoredPhase.PENDING: sum(facts.pending.values()),
        StoredPhase.WAITING: facts.waiting,
        StoredPhase.SLEEPING: facts.sleeping,
        StoredPhase.RUNNING: facts.running,
        StoredPhase.PARKED: facts.parked,
        StoredPhase.ENDED: facts.ended,
    }
    yield from (Sample(TASKS, number, (phase,)) for phase, number in phases.items() if number is not None)
    for queue, number in facts.pending.items():
        yield Sample(PENDING, number, (queue,))
        yield Sample(OLDEST, facts.oldest_ms.get(queue, 0) / 1000, (queue,))
    yield from (Sample(LIVE_WORKERS, number, (service,)) for service, number in facts.workers.items())
    yield from (Sample(MAINTENANCE_AGE, age / 1000, (kind,)) for kind, age in facts.beat_ages_ms.items())
