"""The tasks of a path: the store's, under the names that its clients know, without those of other services.

A task is recorded with the service that it is of. At the path of one service, the tasks of others are not
found, as if they were another owner's: a client there lists tools of that service alone, and nothing that it
sends should reach what runs elsewhere. At a path that serves all that there is, all are found.
"""

from __future__ import annotations

from dataclasses import replace

from ...domain.errors import TaskNotFound
from ...domain.events import ClientEvent, Create
from ...domain.task import Owner, Task, Wait
from ...observability.context import note_action, note_task
from ...store.clients import AsyncClientStore, Created, Page, TaskView
from .catalogue import Catalogue


class ServiceTasks:
    """`AsyncClientStore` for one path; see there what each method promises.

    Args:
        store: Where the tasks of all services are.
        catalogue: Of the path.
        take_turns: Whether owners take turns in queues.
    """

    def __init__(self, store: AsyncClientStore, catalogue: Catalogue, *, take_turns: bool = False) -> None:
        self._store, self._catalogue, self._take_turns = store, catalogue, take_turns

    async def create(self, event: Create) -> Created:
        """See `ClientStore.create`; the event names the tool as clients do."""
        service, tool, has_worker, former_names = self._catalogue.origin(event.tool)
        waits = Wait.QUEUED if has_worker else Wait.NO_WORKER
        of_service = replace(
            event,
            service=service,
            former_names=former_names,
            tool=tool,
            waits=waits,
            takes_turns=self._take_turns,
        )
        note_action()
        note_task("", event.tool, event.trace)
        created = await self._store.create(of_service)
        note_task(created.task.task_id)
        shown = self._shown(created.task)
        return created if shown is created.task else replace(created, task=shown)

    async def get(self, owner: Owner, task_id: str, *, hidden: bool = False) -> TaskView:
        """See `ClientStore.get`."""
        note_task(task_id)
        view = await self._store.get(owner, task_id, hidden=hidden)
        shown = self._shown(view.task)
        note_task("", shown.tool, shown.trace)
        return view if shown is view.task else replace(view, task=shown)

    async def apply(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Task:
        """See `ClientStore.apply`."""
        note_action()
        note_task(task_id)
        if self._catalogue.hides:
            await self.get(owner, task_id, hidden=hidden)  # whose it is never changes
        shown = self._shown(await self._store.apply(owner, task_id, event, hidden=hidden))
        note_task("", shown.tool, shown.trace)
        return shown

    async def page(self, owner: Owner, *, after: str | None = None, limit: int = 50) -> Page:
        """See `ClientStore.page`; a page may have fewer than `limit` tasks, and not be the last."""
        page = await self._store.page(owner, after=after, limit=limit)
        shown = (self._catalogue.shown(task) for task in page.tasks)
        return replace(page, tasks=tuple(task for task in shown if task is not None))

    def _shown(self, task: Task) -> Task:
        shown = self._catalogue.shown(task)
        if shown is None:
            raise TaskNotFound(task.task_id)
        return shown
