"""What is published to those who wait for a task."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

from ..domain.reports import Report


class Change(NamedTuple):
    """A transition that was logged, as it is published to those who wait for the task.

    Attributes:
        name: The task's; or whatever else is woken by a name (see `store.sessions`, `store.announcements`).
        revision: The task's; 0 for anything else.
    """

    name: str
    revision: int


class Reported(NamedTuple):
    """Reports of the tool of a task, known by its name, as they are published; oldest first."""

    name: str
    reports: tuple[Report, ...]


class ChangeSource(Protocol):
    """Where a front end learns of changes and reports."""

    def changes(self) -> AsyncIterator[Change | Reported | None]:
        """Every logged transition as it happens; None whenever the subscription is made (again).

        Reports of the tasks that `subscribe_reports` names come among them, in the order in which they were
        published. What was published while the subscription was lost is missed, so read what you wait for
        whenever None comes. One at a time.
        """

    def subscribe_reports(self, task_id: str) -> None:
        """Let the reports of a task's tool come among the changes, from now on."""

    def unsubscribe_reports(self, task_id: str) -> None:
        """Let them come no more."""

    async def catch_up(self) -> None:
        """Return when all has come that was published before; at once while there is no subscription."""
