"""Ids of tasks, for tests that look at a store across owners, where programs know only names."""

from __future__ import annotations

from tasks_service.store.maintenance import MaintenanceStore


def ids_of(store: MaintenanceStore) -> list[str]:
    """The ids of all tasks of a store."""
    return [store.inspect(name).task.task_id for name in store.task_names()]
