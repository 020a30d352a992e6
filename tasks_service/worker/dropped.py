"""The count of what a worker has dropped from its queues because it could not be run."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable

from ..domain.errors import TasksServiceError
from ..store.redis import RedisTaskStore

logger = logging.getLogger(__name__)

WRITE_SECONDS = 1.0
"""Seconds between two writes of the count."""


class DropCounter:
    """Logs each dropped message, and has a thread write their number to the store (main process only).

    Args:
        store: Makes the store, in that thread.
    """

    def __init__(self, store: Callable[[], RedisTaskStore]) -> None:
        self._make_store = store
        self._changed = threading.Condition()
        self._waiting: Counter[str] = Counter()
        self._thread: threading.Thread | None = None

    def add(self, queue: str, problem: str) -> None:
        """Count something that was dropped; returns at once.

        Args:
            queue: Where it was; empty if that is unknown.
            problem: What was wrong with it.
        """
        logger.warning("Something in queue %r was dropped, since it is no message: %s", queue, problem)
        with self._changed:
            self._waiting[queue] += 1
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="tasks-service-dropped-messages", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        store = self._make_store()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                waiting, self._waiting = self._waiting, Counter()
            try:
                for queue, number in waiting.items():
                    store.count_dropped(queue, number)
            except TasksServiceError as error:
                logger.warning("%d dropped messages are not counted: %s", waiting.total(), error)
            threading.Event().wait(WRITE_SECONDS)
