"""What the application stores."""

from __future__ import annotations

from typing import Any

from django.db import models  # type: ignore[import-untyped]


class Picture(models.Model):  # type: ignore[misc]
    width: Any = models.IntegerField()

    class Meta:
        app_label = "pictures"
