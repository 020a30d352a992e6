"""Tests of an author's own tools, in the test's own process: no Redis, no worker, no waiting.

run = ToolRun(service, "publish_report", {"path": "people.csv"})
assert run.questions.keys() == {"approval"}
run.accept("approval", publish=True, title="Our people")
assert run.result["published"]

See docs/guide-testing.md. Nothing here needs pytest, whose fixtures are in `pytest_plugin`.
"""

from .answers import ANSWERS, Answer
from .clock import Clock
from .failures import NoResult, NotDeterministic, NotInAStep, RunError
from .interruptions import RESULT, Cancellation, Crash, Shutdown
from .questions import OpenQuestion
from .reports import Logged
from .run_tool import RunTool
from .tool_run import Revision, ToolRun

__all__ = [
    "ANSWERS",
    "RESULT",
    "Answer",
    "Cancellation",
    "Clock",
    "Crash",
    "Logged",
    "NoResult",
    "NotDeterministic",
    "NotInAStep",
    "OpenQuestion",
    "Revision",
    "RunError",
    "RunTool",
    "Shutdown",
    "ToolRun",
]
