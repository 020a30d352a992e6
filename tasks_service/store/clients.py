"""What a store promises.

`TaskStore` is what callers need: clients of a front end (every such method takes the `Owner`, so that
forgetting whose task it is cannot be written) and workers (every such event carries the lease id).
`AsyncTaskStore` is the same with `await`. `TaskStoreMaintenance` is what sweeps and operators need; no
owner's request ever reaches it.

Every method is one atomic step: it reads the record and the store's clock, asks `decide`, and writes all
that `decide` says or nothing. A refusal is raised as the error that `decide` named and is never retried; an
outage is `StoreUnavailable`, after the store's deadline.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from ..domain.events import Claim, ClientEvent, Create, WorkerEvent
from ..domain.task import JsonText, Owner, Task
from .workers import Claimed

logger = logging.getLogger(__name__)


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


class TaskStore(Protocol):
    """Tasks for those who own them and those who run them, blocking."""

    def create(self, event: Create) -> Created:
        """Record a task.

        Raises:
            LimitExceeded: Arguments too large.
            QuotaExceeded: The owner or the store has too many tasks.
            IdempotencyConflict: The key was used with another request.
            StoreUnavailable: No answer in time; the task may exist, and the same event settles it.
        """

    def get(self, owner: Owner, task_id: str, *, hidden: bool = False) -> TaskView:
        """Read a task in its effective state; writes nothing.

        Args:
            owner: Whose task it must be.
            task_id: Any text; a malformed id is an unknown one.
            hidden: Also find a task whose handle was never given out.

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

    def claim(self, reference: str, event: Claim) -> Claimed:
        """Take a pending task, by its name or its id.

        Raises:
            TaskNotFound: It is gone.
            InvalidTransition: It is not to be had: running, final or not due; or its attempts are used up,
                in which case it is now failed and `current` says so; or its owner has no slot free, in which
                case it now waits for one.
            StoreUnavailable: No answer in time; the message may be dropped, pending remains.
        """

    def commit(self, reference: str, event: WorkerEvent) -> Task:
        """Apply an event of the lease's holder, to a task by its name or its id.

        Raises:
            LeaseLost: The task is another's, or over; `current` says which.
            LimitExceeded: What is to be written is too large; nothing was written, the lease stands.
            InvalidTransition: Refused for another reason.
            StoreUnavailable: No answer in time; the same event may be committed again.
        """


class AsyncTaskStore(Protocol):
    """`TaskStore` for an event loop; the same promises, method for method."""

    async def create(self, event: Create) -> Created:
        """See `TaskStore.create`."""

    async def get(self, owner: Owner, task_id: str, *, hidden: bool = False) -> TaskView:
        """See `TaskStore.get`."""

    async def apply(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Task:
        """See `TaskStore.apply`."""

    async def page(self, owner: Owner, *, after: str | None = None, limit: int = 50) -> Page:
        """See `TaskStore.page`."""

    async def claim(self, task_id: str, event: Claim) -> Claimed:
        """See `TaskStore.claim`."""

    async def commit(self, reference: str, event: WorkerEvent) -> Task:
        """See `TaskStore.commit`."""
