"""Fixtures for pytest; loaded only where a test module, or the root conftest.py, asks for them.

    pytest_plugins = ["tasks_service.testing.pytest_plugin"]

`run_tool` runs tools of the service that the fixture `task_service` returns; define that one yourself.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..service import TaskService
from .clock import Clock
from .run_tool import RunTool


@pytest.fixture
def tool_clock() -> Clock:
    """The clock of the runs of this test; define your own to begin at another time."""
    return Clock()


@pytest.fixture
def task_service() -> TaskService:
    """The service whose tools are run; define your own, which returns yours.

    Raises:
        UsageError: It is not defined.
    """
    raise pytest.UsageError(
        "run_tool needs a fixture task_service that returns your TaskService. Write in your conftest.py, or "
        "in the test module: @pytest.fixture, def task_service(): return service"
    )


@pytest.fixture
def run_tool(task_service: TaskService, tool_clock: Clock) -> Iterator[RunTool]:
    """Run a tool: `run_tool("publish", {"scene": "forest"})` gives a `ToolRun`."""
    runs = RunTool(task_service, tool_clock)
    yield runs
    runs.check()
