"""What workers need of a store."""

from __future__ import annotations

from dataclasses import dataclass

from ..domain.task import JournalEntry, JsonText, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A task that is now the claimer's, with what the tool needs to run."""

    task: Task
    arguments: JsonText
    journal: tuple[JournalEntry, ...] = ()
