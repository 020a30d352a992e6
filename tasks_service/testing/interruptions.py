"""What a test lets happen to an attempt, at a point that it chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ..domain.events import (
    Checkpoint,
    CompleteWithResult,
    FailWithError,
    RequestInput,
    Retry,
    Sleep,
    WorkerEvent,
)
from .failures import RunError

RESULT = "<result>"
"""The name of what a tool ends with, where a step, a question or a sleep could be named."""


class Moment(Enum):
    """Where in the life of a step, a question, a sleep or a result."""

    BEFORE = "before"
    BEFORE_RECORDING = "before_recording"
    AFTER = "after"


@dataclass(frozen=True, kw_only=True)
class Interruption:
    """Something that happens to an attempt; exactly one of the three names says where.

    A name is that of a step, a question or a sleep, as in the journal (`charge`, `charge#2`), or `RESULT`.

    Attributes:
        before: Before the step's function is called, before the question is asked, before the sleep.
        before_recording: When the step's function has returned, or the tool has, and nothing is recorded yet.
        after: When it is recorded.
        times: How often, at this point: in this attempt and in those that follow.

    Raises:
        RunError: None or several of the names are given.
    """

    before: str | None = None
    before_recording: str | None = None
    after: str | None = None
    times: int = 1

    def __post_init__(self) -> None:
        given = [moment for moment in Moment if getattr(self, moment.value) is not None]
        if len(given) != 1:
            raise RunError(
                f"{type(self).__name__}: give one of before=, before_recording= and after=, with the name of "
                "a step, a question or a sleep, or RESULT"
            )

    @property
    def point(self) -> tuple[Moment, str]:
        """The moment and the name."""
        return next((moment, name) for moment in Moment if (name := getattr(self, moment.value)) is not None)

    def __str__(self) -> str:
        moment, name = self.point
        return f"{type(self).__name__}({moment.value}={name!r})"


@dataclass(frozen=True, kw_only=True)
class Crash(Interruption):
    """The worker dies. The attempt counts, and the next one begins from the top, with the journal.

    In the test's process the tool is ended by an exception, so its `finally` blocks run. In a worker that is
    killed they do not.
    """


@dataclass(frozen=True, kw_only=True)
class Shutdown(Interruption):
    """The worker is stopped by its operator: the task is handed back, and the attempt does not count."""


@dataclass(frozen=True, kw_only=True)
class Cancellation(Interruption):
    """The client cancels the task."""


class Interruptions:
    """The interruptions of a run that are still to come."""

    def __init__(self, planned: Sequence[Interruption]) -> None:
        self._left = [(one, one.times) for one in planned]
        self.passed: list[str] = []
        """The names that the run has come to so far."""

    def plan(self, more: Sequence[Interruption]) -> None:
        """Let more happen."""
        self._left += [(one, one.times) for one in more]

    def at(self, moment: Moment, names: Sequence[str]) -> list[Interruption]:
        """Those that happen now; each counts as happened."""
        self.passed += [name for name in names if name not in self.passed]
        points = [(moment, name) for name in names]
        due = [one for one, _ in self._left if one.point in points]
        self._left = [(one, left - 1 if one in due else left) for one, left in self._left]
        self._left = [(one, left) for one, left in self._left if left]
        return due

    @property
    def left(self) -> list[Interruption]:
        """Those that have not happened, or not as often as planned."""
        return [one for one, _ in self._left]


def recorded_names(event: WorkerEvent) -> list[str]:
    """What an event of a worker records, by the names that interruptions have for it."""
    match event:
        case Checkpoint(step=step) if step is not None:
            return [step.name]
        case RequestInput(inputs=inputs):
            return list(inputs)
        case Sleep(timer=timer) if timer is not None:
            return [timer.name]
        case CompleteWithResult() | FailWithError() | Retry():
            return [RESULT]
        case _:
            return []
