"""Messages that a worker has dropped because only other workers have their tool.

While a release is rolled out, some workers have a new tool and others have not. Celery lets any of them take
the message of a call, and one that lacks the tool drops it ("unregistered task"). So the worker that dropped
it sends another one, at once if it is the first of the task, later and later if it meets the same task again
and again. It sends none if no worker has the tool: then it says so in the task, and sweeps go on. A message
that is lost here as well, because the worker dies, is found by sweeps.

A thread of the worker's main process does it: Celery's event loop never waits for the store.
"""

from __future__ import annotations

import heapq
import logging
import random
import threading
import time
from collections import OrderedDict
from typing import Any, NamedTuple

from ..domain.errors import CorruptRecord, InvalidTransition, StoreUnavailable, TaskNotFound
from ..domain.events import ExplainWait, Redispatch
from ..domain.names import is_name
from ..domain.task import Wait
from ..observability.context import of_task
from ..store.maintenance import MaintenanceStore
from ..store.registry import RegistryView
from ..store.wait_reasons import WaitReasons

logger = logging.getLogger(__name__)

FIRST_SECONDS = 0.1
"""The longest delay of the first message that replaces one; each delay is drawn between 0 and the longest."""

GROWTH = 1.2
"""How much longer it may be each time that this worker drops a message of the same task."""

MOST_SECONDS = 20.0
"""The longest delay of all."""

REMEMBERED_TASKS = 10_000
"""Tasks whose dropped messages are counted, and messages that wait, at most; sweeps find what is too much."""

REGISTRY_SECONDS = 0.2
"""Seconds between two looks at the registry."""

CLOSE_SECONDS = 2.0
"""Seconds that a stopping worker waits at most until what it has dropped is sent again."""


class Misdirected(NamedTuple):
    """A message that was dropped.

    Attributes:
        task: The name of its task.
        tool: The tool, which this worker lacks, or has of another service.
        queue: Where it came from.
        dispatched_ms: When it was made.
        service: Whose tool it is, where that is known.
    """

    task: str
    tool: str
    queue: str
    dispatched_ms: int
    service: str = ""


def unregistered_message(message: Any, tool: str) -> Misdirected | None:
    """What a message was whose Celery task is not registered; None if it is none of ours.

    Args:
        message: kombu's.
        tool: The name of the Celery task.
    """
    try:
        _, reference, _ = message.payload
        task, dispatched_ms = reference["task"], reference["dispatched_ms"]
        queue = message.delivery_info["routing_key"]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    is_ours = isinstance(task, str) and is_name(task) and isinstance(dispatched_ms, int)
    return Misdirected(task, tool, str(queue), dispatched_ms) if is_ours else None


class UnregisteredMessages:
    """Sends messages again that this worker has dropped, in a thread.

    Args:
        store: Of the tasks; makes their messages.
    """

    def __init__(self, store: MaintenanceStore) -> None:
        self._store = store
        self._waiting: list[tuple[float, Misdirected]] = []
        self._counts: OrderedDict[str, int] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False
        self._views: dict[str, RegistryView] = {}
        self._known = WaitReasons(())
        self._read_at = -REGISTRY_SECONDS
        self._thread = threading.Thread(target=self._run, name="tasks-service-unregistered", daemon=True)
        self._thread.start()

    def put(self, dropped: Misdirected) -> None:
        """Send another message soon; returns at once."""
        with self._changed:
            if len(self._waiting) < REMEMBERED_TASKS:
                delay = random.uniform(0, self._longest_delay(dropped.task))  # noqa: S311 - not all at once
                heapq.heappush(self._waiting, (time.monotonic() + delay, dropped))
                self._changed.notify()

    def close(self) -> None:
        """Send at once all that wait, for at most `CLOSE_SECONDS`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(CLOSE_SECONDS)

    def _longest_delay(self, task: str) -> float:
        """How long the next message of a task may be delayed; counts it."""
        count = self._counts.pop(task, 0)
        self._counts[task] = count + 1
        if len(self._counts) > REMEMBERED_TASKS:
            self._counts.popitem(last=False)
        return min(FIRST_SECONDS * GROWTH ** min(count, 20), MOST_SECONDS)

    def _run(self) -> None:
        while (dropped := self._next()) is not None:
            with of_task(dropped.task):
                self._try_to_send(dropped)

    def _try_to_send(self, dropped: Misdirected) -> None:
        try:
            self._send_again(dropped)
        except (InvalidTransition, TaskNotFound, CorruptRecord) as refusal:
            logger.debug("Task %s needs no other message: %s", dropped.task, refusal)
        except StoreUnavailable as error:
            logger.warning("A message of task %s is left to the sweep: %s", dropped.task, error)
        except Exception:
            logger.exception("A message of task %s is left to the sweep", dropped.task)

    def _next(self) -> Misdirected | None:
        """The next message to send again, when its time has come; None at the end."""
        with self._changed:
            while True:
                now = time.monotonic()
                if self._waiting and (self._closed or self._waiting[0][0] <= now):
                    return heapq.heappop(self._waiting)[1]
                if self._closed:
                    return None
                self._changed.wait(self._waiting[0][0] - now if self._waiting else None)

    def _send_again(self, dropped: Misdirected) -> None:
        waits = self._reasons().of_named(dropped.service, dropped.tool, dropped.queue)
        whose = repr(dropped.tool)
        if dropped.service:
            whose += f" of the service {dropped.service!r}"
        if waits is Wait.QUEUED:
            self._store.apply_sweep(dropped.task, Redispatch(dropped_ms=dropped.dispatched_ms))
            logger.info("Task %s: this worker lacks the tool %s; sent again", dropped.task, whose)
        else:
            self._store.apply_sweep(dropped.task, ExplainWait(waits=waits))
            logger.warning("Task %s: no worker of its queue has the tool %s", dropped.task, whose)

    def _reasons(self) -> WaitReasons:
        if time.monotonic() >= self._read_at + REGISTRY_SECONDS:
            registry = self._store.registry
            self._views = {name: registry.read(name, self._views.get(name)) for name in registry.services()}
            self._read_at = time.monotonic()
            self._known = WaitReasons(self._views.values())
        return self._known
