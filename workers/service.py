"""The service of this deployment: its name, its schedule and its tools."""

from __future__ import annotations

from importlib.metadata import version

from beat_schedule import BEAT_SCHEDULE
from tasks_service import TaskService

from . import checksum_tree, profile_csv, publish_report, render_fractal

service = TaskService(
    "Tasks Service",
    version=version("tasks-service"),
    instructions=(
        "Tools that work on the files of one data directory, and one that draws. Paths are relative to that "
        "directory. All of them can take minutes: let them run as tasks where the client can. publish_report "
        "asks a person before it writes."
    ),
)
app = service.celery
app.conf.beat_schedule = BEAT_SCHEDULE

for tool in (checksum_tree, profile_csv, publish_report, render_fractal):
    tool.register(service)
