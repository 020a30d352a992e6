"""What the base class of our Celery tasks sees to."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
from celery import Celery
from celery.app.trace import build_tracer

from tasks_service.worker.own_task import OwnTask


class Failed(Exception):
    """Can be asked whether it is still there."""


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
def test_nothing_is_kept_of_a_task_that_has_failed() -> None:
    app, raised = Celery("test", set_as_current=False), []

    @app.task(base=OwnTask, shared=False, throws=(Failed,))  # type: ignore[untyped-decorator]
    def fails() -> None:
        error = Failed()
        raised.append(weakref.ref(error))
        raise error

    build_tracer(fails.name, fails, app=app)("id", [], {}, {"ignore_result": True})

    (error,) = raised
    assert error() is None
