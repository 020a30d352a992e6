"""An attempt that no worker makes: it records what a tool reports, and ends when a test says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tasks_service import TaskCancelled
from tasks_service.domain.task import Identity, Owner, Policy, Progress, Task, TaskStatus
from tasks_service.durable.journal import Journal


class Report(NamedTuple):
    """One progress report."""

    current: float
    total: float | None
    message: str | None


class RecordingAttempt:
    """An `Attempt` for the tools that ship: no store, no lease, and a client that may cancel.

    Args:
        cancel_when: Asked at every checkpoint; from the first True on, the attempt is cancelled.

    Attributes:
        checkpoints: The seconds of work that this process had done by each of them, whoever else was busy.
        cancelled_at: Monotonic time; None while it is not cancelled.
    """

    def __init__(self, cancel_when: Callable[[RecordingAttempt], bool] = lambda _: False) -> None:
        self.reports: list[Report] = []
        self.checkpoints: list[float] = []
        self.cancelled_at: float | None = None
        self._cancel_when = cancel_when

    @property
    def task(self) -> Task:
        return Task(
            task_id="a-task",
            owner=Owner("someone"),
            tool="a-tool",
            queue="tasks",
            policy=Policy(),
            status=TaskStatus.WORKING,
            revision=1,
            created_ms=0,
            updated_ms=0,
            due_ms=0,
            deadline_ms=0,
            expires_ms=0,
        )

    @property
    def caller(self) -> Identity:
        return Identity(issuer="local", subject="user")

    @property
    def cancelled(self) -> bool:
        return self.cancelled_at is not None

    @property
    def variables(self) -> Mapping[str, Any]:
        return {}

    def check(self) -> None:
        now = time.monotonic()
        self.checkpoints.append(time.process_time())
        if self.cancelled_at is None and self._cancel_when(self):
            self.cancelled_at = now
        if self.cancelled_at is not None:
            raise TaskCancelled

    def progress(self, progress: Progress) -> None:
        self.reports.append(Report(progress.current, progress.total, progress.message))

    def write_variables(self, changes: Mapping[str, Any]) -> None:
        raise NotImplementedError("none of the tools that ship has variables")

    @property
    def journal(self) -> Journal:
        return Journal((), ordered=True)
