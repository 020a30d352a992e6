"""One thread per worker process that keeps its leases, and learns what its attempts must know.

It renews each lease at a third of its length, sees deadlines and the worker's stop, writes progress, and
interrupts what is unresponsive. A second thread listens to the store's changes while something has been
running for a moment, so that a cancellation arrives within milliseconds; were it to miss one, the next
renewal brings it.
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
from ..failpoints import failpoint
from ..store.changes import Change
from ..store.workers import WorkerStore
from .attempt import RunningAttempt
from .interrupts import Interrupter
from .shutdown import ShutdownDeadline

logger = logging.getLogger(__name__)

TICK = 0.25
"""Seconds between two looks at deadlines and the worker's stop, while something runs."""

LONGEST_RENEWAL = 3.0
"""Seconds between two renewals of a lease, at most."""

RETRY = 0.5
"""Seconds until the next try when the store did not answer a renewal."""

LISTEN_AFTER = 0.2
"""Seconds that something has to run before changes are listened to: what is shorter needs no cancelling."""

LINGER = 5.0
"""Seconds that ticking and listening go on after the last attempt."""


class LeaseStore(WorkerStore, Protocol):
    """What the keeper needs of a store."""

    def changes(self, *, poll: float = 1.0) -> Iterator[Change | None]:
        """Changes as they happen; None when there was none for `poll` seconds."""


class _Lease:
    """An attempt and when its lease is to be renewed."""

    def __init__(self, attempt: RunningAttempt) -> None:
        self.attempt = attempt
        self.interval = min(attempt.task.policy.lease_ms / 3000, LONGEST_RENEWAL)
        self.due = attempt.started + self.interval


class LeaseKeeper:
    """Keeps the leases of this process; started with its first attempt.

    Args:
        store: With a short deadline of its own, so that one dead connection does not cost all leases.
        stop: When the worker's tools must end.
        interrupter: For the unresponsive ones.
    """

    def __init__(self, store: LeaseStore, stop: ShutdownDeadline, interrupter: Interrupter) -> None:
        self._store, self._stop, self._interrupter = store, stop, interrupter
        self._leases: dict[str, _Lease] = {}
        self._by_task: dict[str, _Lease] = {}
        self._changed = threading.Condition()
        self._woken = self._asleep = False
        self._thread: threading.Thread | None = None
        self._listener: threading.Thread | None = None
        self._idle_since = float("-inf")

    def keep(self, attempt: RunningAttempt) -> None:
        """Keep an attempt's lease from now on."""
        with self._changed:
            lease = _Lease(attempt)
            self._leases[attempt.lease_id] = self._by_task[_name(attempt)] = lease
            if self._thread is None:
                self._thread = _start(self._run, "tasks-service-keeper")
            if self._asleep:
                self._changed.notify()

    def drop(self, attempt: RunningAttempt) -> None:
        """The attempt is over."""
        with self._changed:
            self._leases.pop(attempt.lease_id, None)
            self._by_task.pop(_name(attempt), None)
            self._idle_since = time.monotonic()

    def wake(self) -> None:
        """There is something to do before the next tick."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._woken:
                    # A busy process ticks; so a short task need not wake this thread.
                    self._asleep = self._idle_for(LINGER)
                    self._changed.wait(None if self._asleep else TICK)
                self._woken = self._asleep = False
                leases = list(self._leases.values())
            try:
                self._look_after(leases)
            except Exception:
                logger.exception("The keeper of leases met an error and goes on")
                time.sleep(TICK)

    def _look_after(self, leases: list[_Lease]) -> None:
        now, stopping = time.monotonic(), self._stop.reached
        reachable = True
        for lease in leases:
            attempt = lease.attempt
            if now >= attempt.deadline:
                attempt.request_stop(AttemptTimedOut)
            if stopping:
                attempt.request_stop(WorkerStopping)
            self._interrupter.interrupt(attempt)
            if reachable and now >= lease.due:
                reachable = self._renew(lease)
            if reachable and now >= attempt.progress_due:
                reachable = _flushed(attempt)
        if any(now - lease.attempt.started > LISTEN_AFTER for lease in leases):
            self._listen()

    def _renew(self, lease: _Lease) -> bool:
        attempt = lease.attempt
        try:
            self._store.commit(attempt.task.task_id, Renew(lease_id=attempt.lease_id))
        except LeaseLost as refusal:
            attempt.lost(refusal)
            lease.due = float("inf")
        except TaskNotFound:
            # A store that was restored to an earlier truth may never have heard of it.
            attempt.request_stop(AttemptLost)
            lease.due = float("inf")
        except StoreUnavailable as error:
            logger.warning("The lease of task %s could not be renewed: %s", _name(attempt), error)
            lease.due = time.monotonic() + RETRY
            return False
        else:
            lease.due = time.monotonic() + lease.interval
        return True

    def _listen(self) -> None:
        if self._listener is None or not self._listener.is_alive():
            self._listener = _start(self._hear, "tasks-service-listener")

    def _hear(self) -> None:
        subscribed = False
        try:
            for change in self._store.changes(poll=1.0):
                if self._idle_for(LINGER):
                    return
                if change is None:
                    if not subscribed:
                        self._renew_all_now()
                    subscribed = True
                    continue
                failpoint("Change", "before")
                lease = self._by_task.get(change.name)
                if lease is not None and change.revision > lease.attempt.task.revision:
                    self._renew_now(lease)
                failpoint("Change", "after")
        except TasksServiceError as error:
            logger.warning("Changes are not heard for now: %s", error)
            time.sleep(RETRY)

    def _renew_now(self, lease: _Lease) -> None:
        if lease.due != float("inf"):
            lease.due = 0.0
            self.wake()

    def _renew_all_now(self) -> None:
        """Whatever was published before the subscription stood is read this way."""
        with self._changed:
            leases = list(self._leases.values())
        for lease in leases:
            self._renew_now(lease)

    def _idle_for(self, seconds: float) -> bool:
        return not self._leases and time.monotonic() - self._idle_since > seconds


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
