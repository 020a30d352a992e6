"""The shop with a schedule: its own nightly task, here each second, and what beat does for tools."""

from __future__ import annotations

import os

from shop import app, service

from tasks_service import BEAT_SCHEDULE

__all__ = ["app", "service"]


@app.task(name="shop.nightly")
def nightly() -> str:
    """Do what the shop's beat asks for."""
    return "done"


SOON = {"expires": None}
app.conf.beat_schedule = {
    **{
        name: {**entry, "schedule": 1.0, "options": {**entry["options"], **SOON}}
        for name, entry in BEAT_SCHEDULE.items()
    },
    "nightly": {"task": "shop.nightly", "schedule": 1.0},
}
app.conf.beat_max_loop_interval = 1
app.conf.redbeat_redis_url = os.environ["TASKS_REDIS_URL"]
