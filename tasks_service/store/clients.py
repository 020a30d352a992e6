"""What clients need of a store: front ends, commands, and whoever starts tasks from Python.

Every method takes the `Owner`, so that forgetting whose task it is cannot be written.

Every method of a store, here and in `workers` and `maintenance`, is one atomic step: it reads the record and
the store's clock, asks `decide`, and writes all that `decide` says or nothing. A refusal is raised as the
error that `decide` named and is never retried; an outage is `StoreUnavailable`, after the store's deadline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..domain.events import ClientEvent, Create
from ..domain.task import JsonText, Owner, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A task was recorded, or found under its idempotency key (`replayed`)."""

    task: Task
    replayed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """A task as its owner may see it: in its effective state, with its result once it has one."""

    task: Task
    result: JsonText | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of an owner's tasks, newest first; `last` continues the listing, None at its end."""

    tasks: tuple[Task, ...]
    last: str | None = None


class ClientStore(Protocol):
    """Tasks for those who own them, blocking."""

    def create(self, event: Create) -> Created:
        """Record a task.

        Raises:
            LimitExceeded: Arguments too large.
            QuotaExceeded: The owner or the store has too many tasks.
            IdempotencyConflict: The key was used with another request.
            StoreUnavailable: No answer in time; the task may exist: create it with the same event again.
        """

    def get(self, owner: Owner, task_id: str, *, hidden: bool = False) -> TaskView:
        """Read a task in its effective state; writes nothing.

        Args:
            owner: Whose task it must be.
            task_id: Any text; a malformed id is an unknown one.
            hidden: Also find a task whose handle was never given to a client.

        Raises:
            TaskNotFound: Unknown, foreign, hidden or expired.
            StoreUnavailable: No answer in time.
        """

    def apply(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Task:
        """Apply an owner's event.

        Raises:
            TaskNotFound: Unknown, foreign, hidden or expired.
            InvalidTransition: Refused; `current` says what was met.
            StoreUnavailable: No answer in time.
        """

    def page(self, owner: Owner, *, after: str | None = None, limit: int = 50) -> Page:
        """List an owner's visible tasks, newest first, after the position that an earlier page ended with."""


class AsyncClientStore(Protocol):
    """`ClientStore` for an event loop; the same promises, method for method."""

    async def create(self, event: Create) -> Created:
        """See `ClientStore.create`."""

    async def get(self, owner: Owner, task_id: str, *, hidden: bool = False) -> TaskView:
        """See `ClientStore.get`."""

    async def apply(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Task:
        """See `ClientStore.apply`."""

    async def page(self, owner: Owner, *, after: str | None = None, limit: int = 50) -> Page:
        """See `ClientStore.page`."""
