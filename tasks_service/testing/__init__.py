"""Tests of an author's own tools, in the test's own process: no Redis, no worker, no waiting.

run = ToolRun(service, "publish_report", {"path": "people.csv"})
assert run.questions.keys() == {"approval"}
run.accept("approval", publish=True, title="Our people")
assert run.result["published"]
"""

from .tool_run import ToolRun

__all__ = ["ToolRun"]
