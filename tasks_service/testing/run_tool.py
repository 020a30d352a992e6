"""Runs of the tools of one service, on one clock."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ..domain.task import Identity
from ..service import TaskService
from .clock import Clock
from .interruptions import Interruption
from .tool_run import ALL_CAPABILITIES, TESTER, ToolRun


class RunTool:
    """Runs tools of one service, on one clock; what the fixture `run_tool` is.

    Args:
        service: The service.
        clock: The clock of all its runs.
    """

    def __init__(self, service: TaskService, clock: Clock) -> None:
        self._service, self._clock = service, clock
        self._runs: list[ToolRun] = []

    def __call__(
        self,
        tool: str,
        arguments: Mapping[str, Any] | None = None,
        *interruptions: Interruption,
        answers: Mapping[str, Any] | None = None,
        client_can: Collection[str] = ALL_CAPABILITIES,
        caller: Identity = TESTER,
        sleep_at_once: bool = True,
        replay: bool = True,
    ) -> ToolRun:
        """Run a tool; see `ToolRun`."""
        run = ToolRun(
            self._service,
            tool,
            arguments,
            *interruptions,
            answers=answers,
            client_can=client_can,
            caller=caller,
            clock=self._clock,
            sleep_at_once=sleep_at_once,
            replay=replay,
        )
        self._runs.append(run)
        return run

    def check(self) -> None:
        """Check that every planned interruption has happened; the fixture does so after the test.

        Raises:
            RunError: One has not.
        """
        for run in self._runs:
            run.check_interruptions()
