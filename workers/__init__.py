"""The deployment that ships: its Celery application, and the tools that come with it.

`celery -A workers worker` finds `app`; `tasks-service up --app workers:service` finds `service`.
"""

from .service import app, service

__all__ = ["app", "service"]
