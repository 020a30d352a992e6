"""What is published to whoever waits."""

from __future__ import annotations

from typing import NamedTuple

from ..domain.reports import Report


class Change(NamedTuple):
    """A transition that was logged, as it is published to whoever waits.

    Attributes:
        name: The task's; or whatever else is woken by a name (see `store.sessions`, `store.announcements`).
        revision: The task's; 0 for anything else.
    """

    name: str
    revision: int


class Reported(NamedTuple):
    """What the tool of a task, known by its name, has said, as it is published; oldest first."""

    name: str
    reports: tuple[Report, ...]
