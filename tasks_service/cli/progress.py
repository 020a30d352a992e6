"""A progress bar for a task, in a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from ..client.messages import TaskState
from .waiting import WaitReporter


class ProgressBar:
    """A progress bar that disappears when it ends; without a terminal, only what a task waits for is told.

    Args:
        title: The text in front.
        console: The console to draw on; stderr if not given.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._title = title
        shown_on = console or Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=shown_on,
            transient=True,
            disable=not shown_on.is_terminal,
        )
        self._bar = self._progress.add_task(title, total=None)
        self._waiting = WaitReporter(self._print)

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Hide the bar for a while."""
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()

    def watch(self, state: TaskState) -> None:
        """Show a state of the task."""
        self._waiting.watch(state)
        progress = state.progress
        message = state.status_message or state.status
        self._progress.update(
            self._bar,
            description=f"{self._title}: {message}",
            total=progress.total if progress else None,
            completed=progress.progress if progress else 0.0,
        )

    def _print(self, line: str) -> None:
        self._progress.console.print(f"{self._title}: {line}", markup=False, highlight=False, soft_wrap=True)
