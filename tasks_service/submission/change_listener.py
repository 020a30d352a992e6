"""The change listener: wakes whoever waits in this process when a task changes, over one subscription.

The thread and its connection are there only while somebody waits, and for some seconds longer. A wake-up may
be lost on its way (pub/sub promises nothing), so whoever waits also reads every `HEAL` seconds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..domain.errors import TasksServiceError
from ..store.changes import Change

logger = logging.getLogger(__name__)

HEAL = 5.0
"""Seconds after which whoever waits reads again, woken or not."""

LINGER = 10.0
"""Seconds for which the subscription stays after the last wait."""

Wake = Callable[[], None]
"""Wakes one that waits; called in the listener's thread, must not wait itself."""


class ChangeListener:
    """All that wait for tasks in a process.

    Args:
        changes: Follows the changes of the store: see `RedisTaskStore.changes`.
    """

    def __init__(self, changes: Callable[[], Iterator[Change | None]]) -> None:
        self._changes = changes
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Wake]] = {}
        self._idle_since = time.monotonic()
        self._thread: threading.Thread | None = None

    @contextmanager
    def listening(self, name: str, wake: Wake) -> Iterator[None]:
        """Wake on changes of a task while the context is open; read the task only after it has opened.

        Args:
            name: The task's name.
            wake: Called whenever it may have changed.
        """
        with self._lock:
            self._waiting.setdefault(name, []).append(wake)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._listen, name="tasks-service-submitted", daemon=True
                )
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._waiting[name].remove(wake)
                if not self._waiting[name]:
                    del self._waiting[name]
                self._idle_since = time.monotonic()

    def _listen(self) -> None:
        try:
            for change in self._changes():
                if self._ends():
                    return
                for wake in self._woken_by(change):
                    wake()
        except TasksServiceError as error:
            logger.warning("Changes are not heard for now, and are read every %s s: %s", HEAL, error)
        finally:
            with self._lock:  # whoever waits next begins anew, whatever has ended this thread
                if self._thread is threading.current_thread():
                    self._thread = None

    def _ends(self) -> bool:
        with self._lock:
            if self._waiting or time.monotonic() - self._idle_since < LINGER:
                return False
            self._thread = None
            return True

    def _woken_by(self, change: Change | None) -> list[Wake]:
        """Those that a change wakes: all of them where one may have been missed."""
        with self._lock:
            if change is None:
                return [wake for waiting in self._waiting.values() for wake in waiting]
            return list(self._waiting.get(change.name, ()))
