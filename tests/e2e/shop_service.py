"""Tools on the shop's own app."""

from __future__ import annotations

from datetime import timedelta

from tasks_service import RetryPolicy, TaskService

from .shop_app import app

service = TaskService("Acme", celery=app)
service.expose("acme.reindex", description="Rebuild an index.")
service.expose("acme.moody", retry=RetryPolicy(first_delay=timedelta(milliseconds=10)), max_attempts=2)
service.expose("acme.tidy", timeout=timedelta(seconds=1))
service.expose("acme.flaky", max_attempts=1)
service.expose("acme.patient")
service.expose("acme.rationed")


@service.tool()
def fresh(x: int) -> int:
    """A tool beside the shop's tasks."""
    return x + 1
