"""What is published to whoever waits."""

from __future__ import annotations

from typing import NamedTuple

from ..domain.reports import Report


class Change(NamedTuple):
    """A transition that was logged, as it is published to whoever waits."""

    task_id: str
    revision: int


class Reported(NamedTuple):
    """What a running tool has said, as it is published to whoever waits; oldest first."""

    task_id: str
    reports: tuple[Report, ...]
