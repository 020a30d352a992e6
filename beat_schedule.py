"""What beat does for this deployment, at a glance; `workers/app.py` hands it to Celery.

Each entry is a Celery task of `tasks_service/worker/maintenance/`, on a queue that a worker of its own may
take (`celery -A workers.app worker -Q maintenance`). While no beat runs, workers do all of it by themselves.
"""

from __future__ import annotations

from typing import Any

BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    # Remove tasks that have ended and are past their expiry, with all that is stored of them.
    "expire-finished-tasks": {
        "task": "tasks_service.expire_finished_tasks",
        "schedule": 60.0,  # seconds
        "options": {"queue": "maintenance", "expires": 60.0},
    },
    # Take tasks from lost workers, end what is past its deadline, grant free slots. Workers do so too, every
    # two seconds, because a task of a lost worker is to run again within 15.
    "reap-stale-tasks": {
        "task": "tasks_service.reap_stale_tasks",
        "schedule": 10.0,
        "options": {"queue": "maintenance", "expires": 10.0},
    },
    # Send messages of tasks that have come due, and again those that seem lost.
    "resend-lost-messages": {
        "task": "tasks_service.resend_lost_messages",
        "schedule": 10.0,
        "options": {"queue": "maintenance", "expires": 10.0},
    },
    # Compare records with their indexes, and log what disagrees.
    "audit-records": {
        "task": "tasks_service.audit_records",
        "schedule": 600.0,
        "options": {"queue": "maintenance", "expires": 600.0},
    },
}
