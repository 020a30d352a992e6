"""A worker process without Celery: the engine's own executor, on threads of the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tasks_service.authoring.tool import ToolRegistry
from tasks_service.domain.indexes import Due
from tasks_service.domain.limits import DEFAULT_LIMITS
from tasks_service.domain.task import new_token
from tasks_service.store.changes import Change
from tasks_service.store.redis import RedisTaskStore
from tasks_service.worker.execution import Executor
from tasks_service.worker.interrupts import Interrupter
from tasks_service.worker.lease_keeper import LeaseKeeper
from tasks_service.worker.loop import AsyncLoop
from tasks_service.worker.report_publisher import ReportPublisher
from tasks_service.worker.shutdown_deadline import ShutdownDeadline


class DeafStore(RedisTaskStore):
    """Hears no changes, so that no thread of the keeper outlives a test."""

    def changes(self, *, poll: float = 1.0) -> Iterator[Change | None]:
        return iter(())


class ToolRunner:
    """Runs every task that becomes pending, with a real context, until it is closed.

    Args:
        redis_url: Where tasks are.
        tools: What it can run.
        reports_url: Where reports are published, if elsewhere: through a proxy that fails.
    """

    def __init__(self, redis_url: str, tools: ToolRegistry, *, reports_url: str | None = None) -> None:
        self._tools = tools
        self._store = RedisTaskStore(redis_url, pool=8)
        self._kept = DeafStore(redis_url, pool=2, deadline=2.0)
        self._reports = RedisTaskStore(reports_url or redis_url, pool=1, deadline=2.0)
        interrupter = Interrupter()
        self._executor = Executor(
            self._store,
            LeaseKeeper(self._kept, ShutdownDeadline(), interrupter),
            interrupter,
            AsyncLoop(),
            ReportPublisher(self._reports),
            DEFAULT_LIMITS,
        )
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(4)
        self._looking = threading.Thread(target=self._look, daemon=True)
        self._looking.start()

    def close(self) -> None:
        self._stop.set()
        self._looking.join(10)
        self._threads.shutdown()
        for store in (self._store, self._kept, self._reports):
            store.close()

    def _look(self) -> None:
        taken: set[tuple[str, int]] = set()
        while not self._stop.wait(0.002):
            pending = self._store.pending("tasks", until_ms=self._store.now_ms() + 1_000, limit=100)
            for task_id in (*pending, *self._store.due(Due.TIMERS, limit=100)):
                run = self._store.inspect(task_id).task.claims
                if (task_id, run) not in taken:
                    taken.add((task_id, run))
                    self._threads.submit(self._run, task_id)

    def _run(self, task_id: str) -> None:
        tool = self._tools.find(self._store.inspect(task_id).task.tool)
        self._executor.run(tool, task_id, lease_id=new_token(), worker="test", dispatched_ms=0)
