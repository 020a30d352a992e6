"""Workers that only announce themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tasks_service.authoring.tool import Tool, build_tool
from tasks_service.domain.tools import ToolDefinition
from tasks_service.store.redis import RedisTaskStore
from tasks_service.store.registry import AnnouncedTools, WorkerAnnouncement

Announced = ToolDefinition | Tool | Callable[..., Any]
"""A tool, by its definition, ready made, or by its function."""


class Announcer:
    """Says in the registry what workers would, when a test wants it."""

    def __init__(self, store: RedisTaskStore) -> None:
        self._store = store

    def start(
        self, service: str, *tools: Announced, node: str = "celery@a", **options: Any
    ) -> WorkerAnnouncement:
        """Announce a worker; one of the same name changes."""
        announced = AnnouncedTools.of(_definition(tool) for tool in tools)
        queues = {tool.queue for tool in announced.tools.values()} | {"maintenance"}
        worker = WorkerAnnouncement(
            service=service, node=node, tools=announced.digest, **{"queues": frozenset(queues), **options}
        )
        return self._store.registry.announce(worker, announced)

    def stop(self, worker: WorkerAnnouncement) -> None:
        """Withdraw a worker."""
        self._store.registry.withdraw(worker)


@contextmanager
def announcing(redis_url: str) -> Iterator[Announcer]:
    """An announcer on a store."""
    store = RedisTaskStore(redis_url, pool=2)
    try:
        yield Announcer(store)
    finally:
        store.close()


def _definition(tool: Announced) -> ToolDefinition:
    if isinstance(tool, ToolDefinition):
        return tool
    return (tool if isinstance(tool, Tool) else build_tool(tool)).definition
