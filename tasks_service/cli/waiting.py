"""What a call waits for, told to whoever waits, once it has waited for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..client.messages import TaskState

#: Seconds for which a task may wait for a worker before that is worth a line.
QUIET_SECONDS = 3.0

WAY_OUT = "The task is kept; `tasks-service doctor`, where the service runs, says what is missing."


class WaitReporter:
    """Says why nothing happens; each reason once, and none of what passes by itself.

    Args:
        emit: Prints a line.
        clock: Seconds that pass.
    """

    def __init__(self, emit: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._emit, self._clock = emit, clock
        self._reason: str | None = None
        self._since, self._told = 0.0, False

    def watch(self, state: TaskState) -> None:
        """Look at a state of the task."""
        reason = _reason(state)
        if reason != self._reason:
            self._reason, self._since, self._told = reason, self._clock(), False
        elif reason is not None and not self._told and self._clock() - self._since >= QUIET_SECONDS:
            self._emit(f"{reason} {WAY_OUT}")
            self._told = True


def _reason(state: TaskState) -> str | None:
    """Why a task does not run; None if it does, or has ended, or somebody is asked.

    The message of a task that has reported progress is its tool's, and no reason.
    """
    return state.status_message if state.status == "working" and state.progress is None else None
