"""Tasks of the application, which know no Celery app."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from django.db import transaction  # type: ignore[import-untyped]

from .models import Picture


@shared_task(bind=True, max_retries=5)  # type: ignore[untyped-decorator]
def resize(self: Any, picture: int, width: int) -> dict[str, Any]:
    """Change the width of a picture."""
    with transaction.atomic():
        found, created = Picture.objects.get_or_create(id=picture, defaults={"width": 1})
        before, found.width = found.width, width
        found.save()
    if created:
        raise self.retry(countdown=0.1)
    return {"before": before, "width": Picture.objects.get(id=picture).width, "retries": self.request.retries}
