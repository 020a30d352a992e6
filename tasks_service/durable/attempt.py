"""The interface between a tool's context and the engine that runs the tool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

from ..domain.events import Question
from ..domain.reports import LogMessage
from ..domain.task import Identity, JournalEntry, Progress, Task
from .clock import Clock
from .journal import Journal


class Attempt(Protocol):
    """The engine's side of one attempt, as a context sees it; safe to call from any thread."""

    @property
    def task(self) -> Task:
        """The task as of the claim."""

    @property
    def caller(self) -> Identity:
        """Who has called, as recorded with the task."""

    @property
    def cancelled(self) -> bool:
        """Whether this attempt must stop, for any reason."""

    @property
    def variables(self) -> Mapping[str, Any]:
        """The task's variables, decoded, as this attempt knows them."""

    def check(self) -> None:
        """Raise the `AttemptEnded` that applies, if any; sends nothing."""

    def progress(self, progress: Progress) -> None:
        """Record progress; returns at once.

        About one write a second reaches the store; the last one always does, before the task ends. Clients
        that wait for the task get up to 50 reports a second.
        """

    def log(self, message: LogMessage) -> None:
        """Send a log message to clients that wait for the task; returns at once, records nothing."""

    def write_variables(self, changes: Mapping[str, Any]) -> None:
        """Write several variables in one transaction and wait for the store; `None` deletes a variable."""

    @property
    def journal(self) -> Journal:
        """The journal: entries of earlier attempts, and those that this one adds."""

    @property
    def answers(self) -> Mapping[str, Any]:
        """The answers to the questions that the tool declared with `ask=`, decoded."""

    @property
    def clock(self) -> Clock:
        """What short waits within the attempt are measured by."""

    def now_ms(self) -> int:
        """The store's time in milliseconds, estimated from the claim and this process's clock."""

    def record(self, entry: JournalEntry) -> None:
        """Record a journal entry; once this returns, the call behind it never runs again."""

    def park(self, questions: Mapping[str, Question]) -> NoReturn:
        """Record questions and end the attempt.

        Raises:
            AttemptEnded: Always: `Parked`, or the reason why the attempt had ended before.
        """

    def suspend(self, delay_ms: int, timer: JournalEntry | None) -> NoReturn:
        """Make the task due again after `delay_ms`, and end the attempt.

        Raises:
            AttemptEnded: Always: `Parked`, or the reason why the attempt had ended before.
        """
