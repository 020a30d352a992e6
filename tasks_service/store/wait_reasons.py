"""What pending tasks wait for, as far as the registry tells."""

from __future__ import annotations

from collections.abc import Iterable

from ..domain.task import Task, Wait
from .registry import RegistryView


class WaitReasons:
    """Says what pending tasks wait for, by what the registry knew at a moment.

    Args:
        views: Of every service that is known.
    """

    def __init__(self, views: Iterable[RegistryView]) -> None:
        self._views = tuple(views)
        self._found: dict[tuple[str, ...], Wait] = {}

    def of(self, task: Task) -> Wait:
        """What a pending task waits for that waits for no slot.

        Where nothing is known of the task's service, its workers may be of a release that announces nothing:
        then it waits for a worker, like any other.
        """
        return self._looked_up(task.service, task.tool, task.queue)

    def of_named(self, service: str, tool: str, queue: str) -> Wait:
        """The same, by names; if no service is named, any that has such a tool may be the task's own."""
        return self._looked_up(service, tool, queue)

    def _looked_up(self, *key: str) -> Wait:
        if key not in self._found:
            self._found[key] = self._of(*key)
        return self._found[key]

    def _of(self, service: str, tool: str, queue: str) -> Wait:
        views = [view for view in self._views if service in view.names] if service else self._views
        if not any(view.sets for view in views):
            return Wait.QUEUED
        if any(queue in queues for view in views for queues in _queues_of_those_that_have(view, tool)):
            return Wait.QUEUED
        is_taken = any(queue in worker.queues for view in self._views for worker in view.workers)
        is_there = any(True for view in views for _ in _queues_of_those_that_have(view, tool))
        if is_there or not is_taken:
            return Wait.NO_WORKER
        was_there = any(tool in tools.tools for view in views for tools in view.sets.values())
        return Wait.REMOVED if was_there else Wait.NO_TOOL


def _queues_of_those_that_have(view: RegistryView, tool: str) -> Iterable[frozenset[str]]:
    for worker in view.workers:
        if worker.tools not in view.sets or tool in view.sets[worker.tools].tools:
            yield worker.queues
