"""The service of this deployment: its name, its tools, and its beat schedule.

`celery -A workers.app worker` uses `app`, and `tasks-service serve --app workers.app` uses `service`. The
engine is the library `tasks_service`: `worker/` runs the tools, `domain/decide.py` is the state machine, and
`store/redis/transaction.py` sends WATCH and MULTI.
"""

from __future__ import annotations

from importlib.metadata import version

from beat_schedule import BEAT_SCHEDULE
from tasks_service import TaskService

from .settings import ToolSettings
from .tools import checksum_tree, profile_csv, publish_report, render_fractal

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

settings = ToolSettings()
checksum_tree.register(service, settings)
profile_csv.register(service, settings)
publish_report.register(service, settings)
render_fractal.register(service)
