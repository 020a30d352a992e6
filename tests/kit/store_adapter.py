"""What tests need of a store beyond what the service needs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from tasks_service.domain.errors import TaskNotFound
from tasks_service.domain.events import Claim, WorkerEvent
from tasks_service.domain.task import Phase, Slot, Task
from tasks_service.store.maintenance import MaintenanceStore
from tasks_service.store.redis import AsyncRedisTaskStore
from tasks_service.store.workers import Claimed


class AsyncWorkerStore(AsyncRedisTaskStore):
    """The asyncio store with a worker's events, to see that both drivers do the same with each program."""

    async def claim(self, task_id: str, event: Claim) -> Claimed:
        return await self.run(self._transitions.claim(task_id, event))

    async def commit(self, task_id: str, event: WorkerEvent) -> Task:
        return await self.run(self._transitions.commit(task_id, event))


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many tasks a store holds.

    Attributes:
        total: All that it names.
        pending: Neither final, running nor parked.
        waiting: The pending ones that wait for a slot.
        running: Leased.
        live: Not final.
    """

    total: int
    pending: int
    waiting: int
    running: int
    live: int


def counts(store: MaintenanceStore) -> Counts:
    """Count the tasks one by one; exact while nobody else writes."""
    ids, tasks = set(store.task_names()), []
    for task_id in ids:
        with suppress(TaskNotFound):
            tasks.append(store.inspect(task_id).task)
    phases = [task.phase for task in tasks]
    return Counts(
        total=len(ids),
        pending=phases.count(Phase.PENDING),
        waiting=sum(task.slot is Slot.WAITING for task in tasks),
        running=phases.count(Phase.RUNNING),
        live=sum(not task.status.is_final for task in tasks),
    )
