"""Fairness between owners: real workers, one owner with much to do, and another with one short task."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_celery import CeleryTestWorker

from tasks_service.domain.limits import OTHER_QUEUES, Limits
from tasks_service.domain.task import Owner, Phase, Slot, Task, TaskStatus
from tasks_service.failpoints import TAKEN
from tests.kit.servers import RedisServer
from tests.kit.store_adapter import counts
from tests.kit.waiting import wait_until
from tests.kit.worker_app import service
from tests.kit.workers import Client, client_of

StartWorker = Callable[..., CeleryTestWorker]

BUSY, OTHER = Owner("busy"), Owner("other")
SEATS = 2
CAP = {"TASKS_MAX_RUNNING_PER_OWNER": str(SEATS)}
BACKLOG = int(os.environ.get("TASKS_TEST_BACKLOG", "200"))
"""Short tasks of one owner; 1,000 in earnest."""


@pytest.fixture
def client(module_redis: RedisServer) -> Iterator[Client]:
    """A front end with the workers' cap; nothing is left of the test before."""
    with module_redis.client() as redis:
        redis.flushall()
    limits = Limits(running_per_owner={OTHER_QUEUES: SEATS})
    with client_of(service, module_redis.url, limits=limits) as client:
        yield client


def spans(client: Client, tasks: list[Task]) -> list[tuple[int, int]]:
    """From when to when each task ran, on the store's clock, in ms."""
    logs = [client.record(task).log for task in tasks]
    return [(log[1].at_ms, log[-1].at_ms) for log in logs]


def all_completed(client: Client, tasks: list[Task]) -> bool:
    return all(client.ended(task).task.status is TaskStatus.COMPLETED for task in tasks)


def test_ten_long_tasks_of_one_owner_do_not_starve_anothers_short_one(
    start_worker: StartWorker, client: Client, tmp_path: Path, measured: Callable[[str, str], None]
) -> None:
    runs, told = str(tmp_path / "runs"), tmp_path / "told"
    start_worker(concurrency=SEATS + 1, **CAP)
    long = [client.call_of(BUSY, "run_until", runs=runs, told=str(told)) for _ in range(10)]
    for task in long[:SEATS]:
        client.running(task)

    began = time.monotonic()
    short = client.ended(client.call_of(OTHER, "add", x=1, y=2)).task
    seconds = time.monotonic() - began

    assert short.status is TaskStatus.COMPLETED
    assert [client.view(task).task.phase for task in long[:SEATS]] == [Phase.RUNNING] * SEATS
    assert [client.view(task).task.slot for task in long[SEATS:]] == [Slot.WAITING] * (10 - SEATS)
    told.touch()
    assert all_completed(client, long)
    measured("fair", f"10 endless tasks of another, {SEATS} of {SEATS + 1} slots: {seconds * 1000:.0f} ms")


def test_tasks_that_wait_for_a_slot_run_in_order_and_leave_no_slot_idle(
    start_worker: StartWorker, client: Client, measured: Callable[[str, str], None]
) -> None:
    start_worker(concurrency=SEATS + 1, **CAP)
    client.run("add", x=1, y=1)

    tasks = []
    for _ in range(10):
        tasks.append(client.call_of(BUSY, "unresponsive", seconds=0.5))
        time.sleep(0.002)  # tasks of one millisecond have no order

    assert all_completed(client, tasks)
    ran = spans(client, tasks)
    places = sorted(range(10), key=lambda number: ran[number][0])
    assert all(abs(number - place) < SEATS for place, number in enumerate(places))
    busy_ms = sum(end - begin for begin, end in ran)
    whole_ms = max(end for _, end in ran) - min(begin for begin, _ in ran)
    share = busy_ms / (SEATS * whole_ms)
    assert share > 0.7, ran
    at_once = max(sum(begin <= at < end for begin, end in ran) for at, _ in ran)
    assert at_once <= SEATS
    measured(
        "fair", f"ten tasks of 0.5 s in {SEATS} slots: {share:.0%} of the time in use, {at_once} at once"
    )


def test_a_backlog_of_one_owner_stands_before_nobody_else(
    start_worker: StartWorker, client: Client, measured: Callable[[str, str], None]
) -> None:
    queue = service.tools["add"].definition.queue
    backlog = [client.call_of(BUSY, "add", x=1, y=2) for _ in range(BACKLOG)]
    assert client.outbox.queue_length(queue) == SEATS
    short = client.call_of(OTHER, "add", x=1, y=2)
    assert client.outbox.queue_length(queue) == SEATS + 1

    start_worker(concurrency=SEATS + 1, **CAP)

    assert client.ended(short).task.status is TaskStatus.COMPLETED
    assert all_completed(client, backlog)
    ran = spans(client, backlog)
    ((claimed, _),) = spans(client, [short])
    before = sum(begin < claimed for begin, _ in ran)
    assert before <= 10 * SEATS
    assert {client.record(task).task.claims for task in backlog} == {1}
    seconds = (max(end for _, end in ran) - min(begin for begin, _ in ran)) / 1000
    measured(
        "fair",
        f"{BACKLOG} short tasks of another stand before it: {before} began earlier; "
        f"{BACKLOG / seconds:.0f} tasks a second in {SEATS} slots",
    )


def test_a_slot_is_granted_though_the_process_that_freed_it_is_killed(
    start_worker: StartWorker, client: Client, tmp_path: Path
) -> None:
    points, runs = tmp_path / "points", tmp_path / "runs"
    points.mkdir()
    (points / "GrantSlot.before.member").write_text("kill")
    # First: on a busy machine, each might find a slot free that the one before has given back.
    tasks = [client.call_of(BUSY, "count_runs", path=str(runs)) for _ in range(6)]

    start_worker(concurrency=SEATS + 1, TASKS_FAILPOINTS=str(points), **CAP)

    assert all_completed(client, tasks)
    assert len(list((points / TAKEN).iterdir())) == 1
    assert len(runs.read_text().splitlines()) == len(tasks)
    wait_until(lambda: counts(client.store).waiting == 0)


# --- where owners take turns, and no number is limited ------------------------------------------------


@pytest.fixture
def in_turn(module_redis: RedisServer) -> Iterator[Client]:
    """A front end that knows several owners; nothing is left of the test before."""
    with module_redis.client() as redis:
        redis.flushall()
    with client_of(service, module_redis.url) as client:
        client.take_turns = True
        yield client


def test_a_newcomer_has_the_next_slot_though_another_has_them_all(
    start_worker: StartWorker, in_turn: Client, tmp_path: Path
) -> None:
    start_worker(concurrency=2)
    told = [tmp_path / f"told{number}" for number in range(10)]
    runs = str(tmp_path / "runs")
    long = [in_turn.call_of(BUSY, "run_until", runs=runs, told=str(path)) for path in told]

    def running() -> list[int]:  # those of one millisecond have no order
        return [n for n, task in enumerate(long) if in_turn.view(task).task.phase is Phase.RUNNING]

    wait_until(lambda: len(running()) == 2)

    short = in_turn.call_of(OTHER, "add", x=1, y=2)

    def is_done() -> bool:
        return in_turn.view(short).task.status.is_final

    def free_a_slot() -> None:
        before = running()
        told[before[0]].touch()
        wait_until(lambda: is_done() or (len(running()) == 2 and running() != before))

    ended = 0
    while not is_done():
        free_a_slot()
        ended += 1
    # The second, because a message of the other was on its way; the third, if two had been called at once.
    assert ended <= 3
    wait_until(lambda: len(running()) == 2)

    for path in told:
        path.touch()
    assert all_completed(in_turn, long)


def test_a_backlog_of_one_owner_uses_all_workers_and_stands_before_nobody_else(
    start_worker: StartWorker, in_turn: Client, measured: Callable[[str, str], None]
) -> None:
    queue, slots = service.tools["unresponsive"].definition.queue, 3
    backlog = [in_turn.call_of(BUSY, "unresponsive", seconds=0.3) for _ in range(24)]
    assert in_turn.outbox.queue_length(queue) == 1
    start_worker(concurrency=slots)
    wait_until(lambda: in_turn.view(backlog[slots]).task.phase is not Phase.PENDING)

    short = in_turn.call_of(OTHER, "add", x=1, y=2)

    assert all_completed(in_turn, [short, *backlog])
    ran, ((claimed_ms, _),) = spans(in_turn, backlog), spans(in_turn, [short])
    created_ms = in_turn.record(short).log[0].at_ms
    before = sum(created_ms < begin < claimed_ms for begin, _ in ran)
    assert before <= slots
    assert {in_turn.record(task).task.claims for task in backlog} == {1}
    whole_ms = max(end for _, end in ran) - min(begin for begin, _ in ran)
    share = sum(end - begin for begin, end in ran) / (slots * whole_ms)
    assert share > 0.6, ran
    measured(
        "fair", f"in turn: {before} of another began before a newcomer; {share:.0%} of {slots} slots in use"
    )
