"""The scheduled shop on Django, whose database has the schedule."""

from __future__ import annotations

import os

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="of a test",
    USE_TZ=True,
    INSTALLED_APPS=["django.contrib.contenttypes", "django_celery_beat"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["SHOP_DATABASE"]}},
    DEFAULT_AUTO_FIELD="django.db.models.AutoField",
)
django.setup()

from scheduled_shop import app, service  # noqa: E402 - the app needs Django's settings

__all__ = ["app", "service"]

if __name__ == "__main__":
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
