"""What a context needs of the engine that runs its tool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

from ..domain.events import Question
from ..domain.reports import LogMessage
from ..domain.task import JournalEntry, Task
from .journal import Journal


class Attempt(Protocol):
    """What the engine of a worker offers to a context; safe to call from any thread."""

    @property
    def task(self) -> Task:
        """The task as of the claim."""

    @property
    def cancelled(self) -> bool:
        """Whether this attempt is to stop, for whatever reason."""

    @property
    def variables(self) -> Mapping[str, Any]:
        """The task's variables, decoded, as this attempt knows them."""

    def check(self) -> None:
        """Raise the `AttemptEnded` that applies, if any; touches no network."""

    def progress(self, current: float, total: float | None, message: str | None) -> None:
        """Record progress; returns at once.

        About one write a second reaches the store; the last one always does, before the task ends. Whoever
        waits for the task is told at once, up to 50 times a second.
        """

    def log(self, message: LogMessage) -> None:
        """Tell whoever waits for the task; returns at once, records nothing."""

    def write_variables(self, changes: Mapping[str, Any]) -> None:
        """Write several variables in one transaction; `None` deletes; waits for the store."""

    @property
    def journal(self) -> Journal:
        """What earlier attempts recorded, and this one adds to."""

    @property
    def answers(self) -> Mapping[str, Any]:
        """The answers to the questions that the tool declared, as it reads them."""

    def now_ms(self) -> int:
        """The store's clock, as well as this process knows it."""

    def record(self, entry: JournalEntry) -> None:
        """Record a journal entry; once this returns, what it stands for never runs again."""

    def park(self, questions: Mapping[str, Question]) -> NoReturn:
        """Ask, and end the attempt.

        Raises:
            AttemptEnded: Always: `Parked`, or what ended the attempt before.
        """

    def suspend(self, delay_ms: int, timer: JournalEntry | None) -> NoReturn:
        """Let the task come due again after a while, and end the attempt.

        Raises:
            AttemptEnded: Always: `Parked`, or what ended the attempt before.
        """
