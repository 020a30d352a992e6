"""The timers of a worker's event loop: those that were cancelled are taken out, and their memory is freed.

Under prefork each time limit of a task is a timer of the main process. kombu leaves a cancelled one in its
heap until its time comes, which for a tool is a day: at 50 tasks a second that was 2 GB.
"""

from __future__ import annotations

import heapq
from typing import Any

from celery import Celery, bootsteps

SECONDS = 30.0
"""Seconds between two looks at the timers."""


def forget_cancelled_timers(app: Celery) -> None:
    """Have the workers of an app free what cancelled timers hold; nothing happens in other processes."""
    app.steps["worker"].add(_HubTimers)


def keep_flat(hub: Any, seconds: float = SECONDS) -> None:
    """Take cancelled timers out of a hub's heap, again and again while its loop runs.

    Args:
        hub: A `kombu.asynchronous.Hub`.
        seconds: Between two times.
    """
    hub.call_repeatedly(seconds, _forget_cancelled, hub.timer)


def _forget_cancelled(timer: Any) -> None:
    """Runs in the loop, which looks at the heap anew after each timer that it has called."""
    queue = timer._queue
    queue[:] = [scheduled for scheduled in queue if not scheduled.entry.canceled]
    heapq.heapify(queue)


class _HubTimers(bootsteps.StartStopStep):  # type: ignore[misc]
    requires = ("celery.worker.components:Hub",)
    name = "tasks-service-timers"

    def start(self, worker: Any) -> None:
        if getattr(worker, "hub", None) is not None:
            keep_flat(worker.hub)

    def stop(self, worker: Any) -> None:
        """Nothing: the timer ends with the loop."""

    terminate = stop
