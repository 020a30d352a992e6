"""The settings of the project; those of Celery begin with `CELERY_`."""

from __future__ import annotations

import os

SECRET_KEY = "only for tests"
INSTALLED_APPS = ["tests.e2e.django_shop.pictures"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("SHOP_DATABASE")}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

CELERY_BROKER_URL = os.environ.get("SHOP_BROKER")
CELERY_TASK_DEFAULT_QUEUE = "shop"
CELERY_TASK_SOFT_TIME_LIMIT = 300
