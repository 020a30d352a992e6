"""What beat does for a service."""

from __future__ import annotations

from typing import Any

from ..broker.app import MAINTENANCE_QUEUE

SWEEP_TASK = "tasks_service.sweep"
"""The Celery task that sweeps."""

SWEEP_SECONDS = 10.0
"""Seconds between two sweeps that beat asks for; workers sweep more often by themselves."""

DEFAULT_BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    "tasks-service-sweep": {
        "task": SWEEP_TASK,
        "schedule": SWEEP_SECONDS,
        "options": {"queue": MAINTENANCE_QUEUE, "expires": SWEEP_SECONDS},
    },
}
"""Expiry, deadlines, reaping, redispatch and, rarely, the audit: one sweep does them all. Two beats, or none
for a while, do no harm. On a shop's own app, add it to that app's `beat_schedule`."""
