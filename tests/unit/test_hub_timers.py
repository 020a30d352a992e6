"""The memory of a worker's main process, measured where it grew: at its event loop's timers."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from celery import Celery
from kombu.asynchronous import Hub
from kombu.asynchronous import timer as kombu_timer

from tasks_service.worker.hub_timers import forget_cancelled_timers, keep_flat

TASKS = 100_000
DAY_SECONDS = 86_400
Measured = Callable[[str, str], None]


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


def run_tasks(hub: Hub, number: int) -> None:
    """Each has a time limit of a day, and ends at once; the loop runs in between."""
    for count in range(number):
        hub.call_later(DAY_SECONDS, print, "too late").cancel()
        if count % 5_000 == 0:
            hub.run_once()
    hub.run_once()


def held_by_timers() -> int:
    """Bytes that were allocated for timers and are held; what else goes on in this process does not count."""
    gc.collect()
    snapshot = tracemalloc.take_snapshot()
    timers = snapshot.filter_traces([tracemalloc.Filter(True, kombu_timer.__file__)])
    return sum(statistic.size for statistic in timers.statistics("filename"))


def test_time_limits_of_tasks_that_have_ended_hold_no_memory(hub: Hub, measured: Measured) -> None:
    keep_flat(hub, seconds=0.001)
    run_tasks(hub, 10_000)
    tracemalloc.start()
    run_tasks(hub, TASKS)
    held = held_by_timers()
    tracemalloc.stop()
    measured("memory", f"{held / TASKS:.2f} bytes a task stay in the main process, of {TASKS:,}")
    assert len(hub.timer) < 10
    assert held < 1_000_000, "it was 516 bytes a task"


def test_timers_that_were_not_cancelled_come_when_they_are_due_and_in_order(hub: Hub) -> None:
    came: list[int] = []
    for number in (3, 1, 2):
        hub.call_later(number / 50, came.append, number)
    keep_flat(hub, seconds=0.001)
    run_tasks(hub, 20_000)
    while len(came) < 3:
        hub.run_once()
    assert came == [1, 2, 3]


def test_several_services_on_one_app_look_after_its_timers_once() -> None:
    app = Celery("shop")
    before = len(app.steps["worker"])
    forget_cancelled_timers(app)
    forget_cancelled_timers(app)
    assert len(app.steps["worker"]) == before + 1
