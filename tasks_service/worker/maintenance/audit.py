"""Comparing records with their indexes: finds what no rule of ours can have left behind. Repairs nothing."""

from __future__ import annotations

import logging
import time

from ...domain.errors import CorruptRecord, TaskNotFound
from ...domain.task import SECOND
from ...metrics.series import AUDIT_PROBLEMS, AUDITED
from ...observability.context import of_task
from ...store.maintenance import MaintenanceStore

logger = logging.getLogger(__name__)

BUDGET = 10.0
"""Seconds that an audit may take."""

ZOMBIE_MS = 60 * SECOND
"""How long after its lease or its deadline a task that no sweep has moved is reported."""


def audit_records(store: MaintenanceStore) -> int:
    """Compare every record with its indexes, and log what is wrong; how many problems that was."""
    problems, until = 0, time.monotonic() + BUDGET
    for name in store.task_names():
        found = _problems(store, name) and _problems(store, name)  # twice: tasks move meanwhile
        with of_task(name):
            for problem in found:
                logger.warning("Audit: task %s: %s", name, problem)
        AUDITED.add()
        AUDIT_PROBLEMS.add(number=len(found))
        problems += len(found)
        if time.monotonic() > until:
            break
    return problems


def _problems(store: MaintenanceStore, name: str) -> list[str]:
    try:
        problems = store.index_problems(name)
        task, now_ms = store.inspect(name).task, store.now_ms()
    except TaskNotFound:
        return []
    except CorruptRecord as error:
        return [str(error)]
    if task.lease is not None and now_ms > task.lease.until_ms + ZOMBIE_MS:
        problems.append("it is running, and its lease ran out long ago")
    if not task.status.is_final and now_ms > task.deadline_ms + ZOMBIE_MS:
        problems.append("the deadline of its phase passed long ago")
    return problems
