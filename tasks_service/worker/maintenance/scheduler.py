"""A scheduler of beat that asks for maintenance, and for nothing that the app's own schedule has."""

from __future__ import annotations

from celery.beat import Scheduler

from .schedule import BEAT_SCHEDULE


class MaintenanceScheduler(Scheduler):  # type: ignore[misc]
    """For a beat beside a shop's own: whatever the shop has scheduled would otherwise be sent twice."""

    def setup_schedule(self) -> None:
        """Take our entries alone, instead of the app's `beat_schedule` and Celery's own entry."""
        self.merge_inplace(BEAT_SCHEDULE)
