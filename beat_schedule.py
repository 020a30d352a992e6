"""What beat does for this deployment, at a glance; `workers/app.py` hands it to Celery."""

from __future__ import annotations

from typing import Any

BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    # Find lost workers, passed deadlines, messages that went astray, and tasks whose time is over. Workers do
    # the same by themselves, more often; beat is for when all of them are busy, stuck or gone.
    "tasks-service-sweep": {
        "task": "tasks_service.sweep",
        "schedule": 10.0,  # seconds
        "options": {"queue": "maintenance", "expires": 10.0},
    },
}
