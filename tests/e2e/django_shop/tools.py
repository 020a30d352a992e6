"""The project's tools: two lines for what it has, and a function that uses its models."""

from __future__ import annotations

from tasks_service import TaskService

from .celery import app

service = TaskService("Django shop", celery=app)
service.expose("tests.e2e.django_shop.pictures.tasks.resize", queue="tasks")


@service.tool
def count_pictures() -> int:
    """Count the pictures of the shop."""
    from .pictures.models import Picture

    return int(Picture.objects.count())
