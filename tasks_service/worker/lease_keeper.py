"""The lease keeper: one thread per worker process that renews leases and stops attempts.

It renews each lease at a third of its length, watches for deadlines and the worker's shutdown, writes
progress, and interrupts unresponsive tools. A second thread subscribes to the store's changes once an attempt
has run for a moment, so that a cancellation arrives within milliseconds; if it misses one, the next renewal
finds it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from ..domain.errors import (
    AttemptLost,
    AttemptTimedOut,
    LeaseLost,
    StoreUnavailable,
    TaskNotFound,
    TasksServiceError,
    WorkerStopping,
)
from ..domain.events import Renew
from ..domain.names import task_hash
from ..durable.clock import SYSTEM_CLOCK, Clock
from ..failpoints import failpoint
from ..observability.context import of_task
from ..store.changes import Change
from ..store.workers import WorkerStore
from .attempt import RunningAttempt
from .interrupts import Interrupter
from .shutdown_deadline import ShutdownDeadline

logger = logging.getLogger(__name__)

TICK = 0.25
"""Seconds between two checks of deadlines and the worker's shutdown, while something runs."""

LONGEST_RENEWAL = 3.0
"""Most seconds between two renewals of a lease."""

RETRY = 0.5
"""Seconds until the next try if the store did not answer a renewal."""

LISTEN_AFTER = 0.2
"""Seconds that an attempt must run before changes are subscribed to; shorter ones need no cancelling."""

LINGER = 5.0
"""Seconds for which ticks and the subscription go on after the last attempt."""


class LeaseStore(WorkerStore, Protocol):
    """The operations that the keeper needs of a store."""

    def changes(self, *, poll: float = 1.0) -> Iterator[Change | None]:
        """Yield changes as they happen; None if there was none for `poll` seconds."""


class _Lease:
    """An attempt, and when its lease is due to be renewed."""

    def __init__(self, attempt: RunningAttempt) -> None:
        self.attempt = attempt
        self.interval = min(attempt.task.policy.lease_ms / 3000, LONGEST_RENEWAL)
        self.due = attempt.started + self.interval


class LeaseKeeper:
    """Renews the leases of this process; its thread starts with the first attempt.

    Args:
        store: A store with a short deadline, so that one dead connection does not cost all leases.
        stop: When the worker's tools must end.
        interrupter: Interrupts unresponsive tools.
        clock: The clock of the attempts.
        by_hand: Start no thread: whoever moves the clock calls `tick`, and `renew_all` after a change.
    """

    def __init__(
        self,
        store: LeaseStore,
        stop: ShutdownDeadline,
        interrupter: Interrupter,
        *,
        clock: Clock = SYSTEM_CLOCK,
        by_hand: bool = False,
    ) -> None:
        self._store, self._stop, self._interrupter, self._clock = store, stop, interrupter, clock
        self._by_hand = by_hand
        self._leases: dict[str, _Lease] = {}
        self._by_task: dict[str, _Lease] = {}
        self._changed = threading.Condition()
        self._woken = self._asleep = False
        self._thread: threading.Thread | None = None
        self._listener: threading.Thread | None = None
        self._idle_since = float("-inf")

    def keep(self, attempt: RunningAttempt) -> None:
        """Renew an attempt's lease from now on."""
        with self._changed:
            lease = _Lease(attempt)
            self._leases[attempt.lease_id] = self._by_task[_name(attempt)] = lease
            if self._thread is None and not self._by_hand:
                self._thread = _start(self._run, "tasks-service-keeper")
            if self._asleep:
                self._changed.notify()

    def drop(self, attempt: RunningAttempt) -> None:
        """Renew an attempt's lease no more."""
        with self._changed:
            self._leases.pop(attempt.lease_id, None)
            self._by_task.pop(_name(attempt), None)
            self._idle_since = self._clock.monotonic()

    @property
    def attempts(self) -> list[RunningAttempt]:
        """The attempts whose leases are renewed now."""
        with self._changed:
            return [lease.attempt for lease in self._leases.values()]

    def wake(self) -> None:
        """Make the next tick come at once."""
        if self._by_hand:
            self.tick()
            return
        with self._changed:
            self._woken = True
            self._changed.notify()

    def tick(self) -> None:
        """Do for each attempt what is due now: renew, write progress, stop it."""
        with self._changed:
            leases = list(self._leases.values())
        self._tick(leases)

    def renew_all(self) -> None:
        """Renew all leases now, to find what has changed in the store."""
        with self._changed:
            leases = list(self._leases.values())
        for lease in leases:
            self._renew_now(lease)

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._woken:
                    # In a busy process the thread ticks anyway, so a short task need not wake it.
                    self._asleep = self._idle_for(LINGER)
                    self._changed.wait(None if self._asleep else TICK)
                self._woken = self._asleep = False
                leases = list(self._leases.values())
            try:
                self._tick(leases)
            except Exception:
                logger.exception("The lease keeper met an error and goes on")
                time.sleep(TICK)

    def _tick(self, leases: list[_Lease]) -> None:
        now, stopping = self._clock.monotonic(), self._stop.reached
        reachable = True
        for lease in leases:
            attempt = lease.attempt
            if now >= attempt.deadline:
                attempt.request_stop(AttemptTimedOut)
            if stopping:
                attempt.request_stop(WorkerStopping)
            self._interrupter.interrupt(attempt)
            if reachable and now >= lease.due:
                with of_task(attempt.task.task_id, attempt.task.tool):
                    reachable = self._renew(lease)
            if reachable and now >= attempt.progress_due:
                with of_task(attempt.task.task_id, attempt.task.tool):
                    reachable = _flushed(attempt)
        if not self._by_hand and any(now - lease.attempt.started > LISTEN_AFTER for lease in leases):
            self._listen()

    def _renew(self, lease: _Lease) -> bool:
        attempt = lease.attempt
        try:
            self._store.commit(attempt.task.task_id, Renew(lease_id=attempt.lease_id))
        except LeaseLost as refusal:
            attempt.lease_lost(refusal)
            lease.due = float("inf")
        except TaskNotFound:
            # A store that has lost recent writes may not have the task.
            attempt.request_stop(AttemptLost)
            lease.due = float("inf")
        except StoreUnavailable as error:
            logger.warning("The lease of task %s could not be renewed: %s", _name(attempt), error)
            lease.due = self._clock.monotonic() + RETRY
            return False
        else:
            lease.due = self._clock.monotonic() + lease.interval
        return True

    def _listen(self) -> None:
        if self._listener is None or not self._listener.is_alive():
            self._listener = _start(self._follow_changes, "tasks-service-listener")

    def _follow_changes(self) -> None:
        subscribed = False
        try:
            for change in self._store.changes(poll=1.0):
                if self._idle_for(LINGER):
                    return
                if change is None:
                    if not subscribed:
                        self.renew_all()  # what was published before the subscription began is missed
                    subscribed = True
                    continue
                failpoint("Change", "before")
                lease = self._by_task.get(change.name)
                if lease is not None and change.revision > lease.attempt.task.revision:
                    self._renew_now(lease)
                failpoint("Change", "after")
        except TasksServiceError as error:
            logger.warning("Changes are not received for now: %s", error)
            time.sleep(RETRY)

    def _renew_now(self, lease: _Lease) -> None:
        if lease.due != float("inf"):
            lease.due = 0.0
            self.wake()

    def _idle_for(self, seconds: float) -> bool:
        return not self._leases and self._clock.monotonic() - self._idle_since > seconds


def _flushed(attempt: RunningAttempt) -> bool:
    try:
        attempt.flush_progress()
    except StoreUnavailable as error:
        logger.warning("Progress of task %s could not be written: %s", _name(attempt), error)
        return False
    return True


def _name(attempt: RunningAttempt) -> str:
    return task_hash(attempt.task.task_id)


def _start(target: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread
