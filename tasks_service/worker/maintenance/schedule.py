"""What beat asks for, and how often; and what falls to the workers while it does not.

Each kind of work is a Celery task of its own (`beat_tasks`), on a queue of its own, so that it never waits
behind hour-long tools and can be given a worker of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ...broker.app import MAINTENANCE_QUEUE
from ...domain.task import MINUTE, SECOND

EXPIRE: Final = "expire-finished-tasks"
REAP: Final = "reap-stale-tasks"
RESEND: Final = "resend-lost-messages"
AUDIT: Final = "audit-records"

CELERY_TASKS: Mapping[str, str] = {
    EXPIRE: "tasks_service.expire_finished_tasks",
    REAP: "tasks_service.reap_stale_tasks",
    RESEND: "tasks_service.resend_lost_messages",
    AUDIT: "tasks_service.audit_records",
}
"""By the kind of work: the name of its Celery task."""

SECONDS: Mapping[str, float] = {EXPIRE: 60.0, REAP: 10.0, RESEND: 10.0, AUDIT: 600.0}
"""By the kind of work: how often beat asks for it."""

LATE_MS: Final = MINUTE
"""How long beat's work may be overdue before the workers do it themselves."""


def _entry(kind: str) -> dict[str, Any]:
    """A request that was not taken up when the next one is sent is dropped."""
    options = {"queue": MAINTENANCE_QUEUE, "expires": SECONDS[kind]}
    return {"task": CELERY_TASKS[kind], "schedule": SECONDS[kind], "options": options}


BEAT_SCHEDULE: dict[str, dict[str, Any]] = {kind: _entry(kind) for kind in CELERY_TASKS}
"""For the `beat_schedule` of an app: an app that a service makes has it, a shop adds it to its own.

The deployment of this repository writes the same out in `beat_schedule.py`; a test keeps them equal.

Two beats at once do no harm, nor does none: see `left_to_workers`.
"""


def left_to_workers(ages_ms: Mapping[str, int]) -> frozenset[str]:
    """Which kinds of work beat has never had done, or is more than a minute late with.

    Args:
        ages_ms: By the kind of work, how long ago beat last had it done.
    """
    return frozenset(
        kind
        for kind, seconds in SECONDS.items()
        if kind not in ages_ms or ages_ms[kind] > seconds * SECOND + LATE_MS
    )
