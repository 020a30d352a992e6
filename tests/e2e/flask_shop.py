"""A shop on Flask with an app factory: the Celery app is made with it, and tasks run in its context."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, Task, shared_task
from flask import Flask, current_app

from tasks_service import TaskService


def create_app() -> Flask:
    """Make the Flask app, and the Celery app as one of its extensions."""
    flask = Flask("flask_shop")
    flask.config.update(GREETING="Hello", CELERY={"broker_url": os.environ.get("SHOP_BROKER")})

    class ContextTask(Task):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with flask.app_context():
                return super().__call__(*args, **kwargs)

    celery = Celery(flask.name, task_cls=ContextTask)
    celery.config_from_object(flask.config["CELERY"])
    celery.set_default()
    flask.extensions["celery"] = celery
    return flask


@shared_task  # type: ignore[untyped-decorator]
def greet(name: str) -> str:
    """Greet somebody."""
    return f"{current_app.config['GREETING']}, {name}"


flask_app = create_app()
app: Celery = flask_app.extensions["celery"]
service = TaskService("Flask shop", celery=app)
service.expose(greet, queue="tasks")


@service.tool
def greeting() -> str:
    """Tell how people are greeted."""
    with flask_app.app_context():
        return str(current_app.config["GREETING"])
