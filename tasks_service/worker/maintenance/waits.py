"""Saying in the status message of a pending task what it waits for.

Most tasks are claimed before anybody looks. Of the others, each is looked at once, and again when workers or
their tools have changed; only what is to say something else is written.
"""

from __future__ import annotations

import logging
import time

from ...broker.dispatcher import Dispatcher
from ...domain.events import ExplainWait
from ...domain.names import task_hash
from ...domain.task import SECOND, Phase, Slot, Task, Wait
from ...store.maintenance import MaintenanceStore
from ...store.registered_tools import RegisteredTool, registered_tools
from ...store.registry import RegistryView
from ...store.wait_reasons import WaitReasons
from .settling import BATCH, BUDGET, settle

logger = logging.getLogger(__name__)

PATIENCE_MS = 2 * SECOND
"""How long a message may be on its way before anybody looks for what its task waits for."""

FORGET_MS = 10 * SECOND
"""How often lost workers are removed from the registry."""


class WaitExplainer:
    """Explains to those who follow pending tasks what they wait for.

    Args:
        store: Whose tasks.
        dispatcher: Knows how long queues are.
    """

    def __init__(self, store: MaintenanceStore, dispatcher: Dispatcher) -> None:
        self._store, self._dispatcher = store, dispatcher
        self._views: dict[str, RegistryView] = {}
        self._reasons = WaitReasons(())
        self._since_ms: dict[str, int] = {}
        self._told: set[str] = set()

    def explain(self) -> int:
        """Look at the tasks that have waited for a while; how many have another status message now."""
        self._read_registry()
        until_ms = self._store.now_ms() - PATIENCE_MS
        return sum(self._explain(queue, until_ms) for queue in self._store.queues())

    def _read_registry(self) -> None:
        registry = self._store.registry
        if self._store.try_lock("registry", for_ms=FORGET_MS) and (lost := registry.forget_lost()):
            logger.info("Registry: %d workers or sets of tools are lost, or were forgotten", lost)
        before = {name: view.mark for name, view in self._views.items()}
        self._views = {name: registry.read(name, self._views.get(name)) for name in registry.services()}
        if {name: view.mark for name, view in self._views.items()} != before:
            self._reasons = WaitReasons(self._views.values())
            self._since_ms.clear()
            self._tell_of_conflicts()

    def _explain(self, queue: str, until_ms: int) -> int:
        """Look at the tasks of a queue that were not looked at yet, oldest message first."""
        explained, ends = 0, time.monotonic() + BUDGET
        while True:
            since_ms = self._since_ms.get(queue, 0)
            names = self._store.pending(queue, since_ms=since_ms, until_ms=until_ms, limit=BATCH)
            tasks = self._store.tasks(names)
            explained += sum(map(self._explain_task, tasks))
            if tasks:
                last_ms = max(task.dispatched_ms for task in tasks)
                # Of a full batch, others may have the time of the last one.
                is_cut = len(names) == BATCH and last_ms > since_ms
                self._since_ms[queue] = last_ms if is_cut else last_ms + 1
            if len(names) < BATCH or not tasks or time.monotonic() > ends:
                return explained

    def _explain_task(self, task: Task) -> bool:
        if task.phase is not Phase.PENDING or task.slot is Slot.WAITING:
            return False
        waits = self._reasons.of(task)
        if waits is task.waits or (waits is Wait.QUEUED and task.waits is None):
            return False
        sends = waits is Wait.QUEUED and self._was_dropped(task)
        return settle(self._store, task_hash(task.task_id), ExplainWait(waits=waits, sends=sends))

    def _was_dropped(self, task: Task) -> bool:
        """Whether the message of a task that a worker can run now is not in the queue any more."""
        return task.waits is not Wait.NO_WORKER or self._dispatcher.queue_length(task.queue) == 0

    def _tell_of_conflicts(self) -> None:
        """Log where workers have different definitions of a tool; once for each."""
        for service, view in self._views.items():
            for name, tool in registered_tools(view).items():
                if tool.others and (conflict := _conflict(service, name, tool)) not in self._told:
                    self._told.add(conflict)
                    logger.warning("%s", conflict)


def _conflict(service: str, name: str, tool: RegisteredTool) -> str:
    nodes = ", ".join(sorted(node for nodes in tool.others.values() for node in nodes))
    return (
        f"Service {service!r}: workers have different definitions of the tool {name!r}. That of the newest "
        f"release holds, which these have not: {nodes}."
    )
