"""What workers need of a store: to claim a task, to write what becomes of it, and to say how it goes.

Every event after the claim carries the lease, so that whoever has lost it cannot write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..domain.events import Claim, WorkerEvent
from ..domain.task import NOT_RECORDED, Identity, JournalEntry, JsonText, Task
from .changes import Reported


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A task that is now the claimer's, with what the tool needs to run."""

    task: Task
    arguments: JsonText
    caller: Identity = NOT_RECORDED
    journal: tuple[JournalEntry, ...] = ()


class WorkerStore(Protocol):
    """Tasks for those who run them, blocking."""

    def claim(self, reference: str, event: Claim) -> Claimed:
        """Take a pending task, by its name or its id.

        Raises:
            TaskNotFound: It is gone.
            InvalidTransition: It cannot be claimed: running, final or not due; or its attempts are used up,
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

    def report(self, reported: Sequence[Reported]) -> list[int]:
        """Publish what running tools say to whoever waits for them; once, without another try.

        Returns:
            For each, how many front ends have heard it.

        Raises:
            StoreUnavailable: No answer in time; some may have been heard.
        """
