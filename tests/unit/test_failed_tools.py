"""A process keeps nothing of the tools that failed in it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.app.trace import build_tracer

from tasks_service.domain.task import Task, TaskStatus
from tasks_service.worker.exposed_run import Body, run_exposed
from tasks_service.worker.own_task import OwnTask

from .recording import RecordingAttempt

RAISED: list[weakref.ref[Failed]] = []


class Failed(Exception):
    """Can be asked whether it is still there."""

    def __init__(self) -> None:
        RAISED.append(weakref.ref(self))


@pytest.fixture
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def app() -> Celery:
    return Celery("test", set_as_current=False)


@pytest.fixture(autouse=True)
def nothing_raised() -> None:
    RAISED.clear()


@pytest.mark.usefixtures("no_collection")
def test_nothing_is_kept_of_a_task_that_has_failed(app: Celery) -> None:
    @app.task(base=OwnTask, shared=False, throws=(Failed,))  # type: ignore[untyped-decorator]
    def fails() -> None:
        raise Failed

    build_tracer(fails.name, fails, app=app)("id", [], {}, {"ignore_result": True})

    assert RAISED
    assert not any(error() for error in RAISED)


@pytest.mark.usefixtures("no_collection")
def test_nothing_is_kept_of_what_an_exposed_task_has_raised(app: Celery) -> None:
    attempt: Any = RecordingAttempt()

    @app.task(shared=False)  # type: ignore[untyped-decorator]
    def fails() -> None:
        raise Failed

    def execute(*, body: Body) -> Task:
        with suppress(Failed):
            body(attempt, {})
        return replace(attempt.task, status=TaskStatus.COMPLETED, is_error=True)

    run_exposed(app, fails.name, Context(id="id"), execute)

    assert RAISED
    assert not any(error() for error in RAISED)
