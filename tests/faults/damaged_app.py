"""The service whose store is damaged: an operator's commands name one with `--app`."""

from __future__ import annotations

from tasks_service import TaskService
from tasks_service.settings import Settings


def service_on(redis_url: str | None) -> TaskService:
    """The service, on a store."""
    made = TaskService("Damaged", settings=Settings(redis_url=redis_url))

    @made.tool(queue="gpu")
    def draw(scene: str) -> str:
        """Do nothing."""
        return scene

    return made


service = service_on(None)
"""Replaced by one that is connected."""
