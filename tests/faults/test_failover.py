"""A master is killed while both faces write: what was acknowledged is there, but for what no replica had yet.

Replication is asynchronous, so the last moment before the kill may be lost, as whole transitions. Nothing
else may: no record is damaged, nothing is applied twice, and writing goes on by itself.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest

from tasks_service.domain.errors import InvalidTransition, StoreUnavailable, TaskNotFound
from tasks_service.domain.events import Claim, CompleteWithResult
from tasks_service.domain.names import new_task_id
from tasks_service.domain.task import Owner, Phase, TaskStatus, new_token
from tasks_service.store.redis import RedisTaskStore
from tests.kit.audit import audit, told
from tests.kit.factories import RESULT, creation
from tests.kit.groups import ClusterServers, SentinelGroup
from tests.kit.store_adapter import AsyncWorkerStore
from tests.kit.waiting import wait_until
from tests.kit.worker_app import service
from tests.kit.workers import client_of, worker_node

LOSS_SECONDS = 1.0
"""How long before the kill something may have been acknowledged that is lost: much, for a busy machine."""


@dataclass
class Story:
    """What one client has been told of its tasks.

    Attributes:
        acknowledged: Each event that was acknowledged: which task, its token, when.
        ended: How many tasks it has led to their end.
    """

    acknowledged: list[tuple[str, str, float]] = field(default_factory=list)
    ended: int = 0


Life = Generator[tuple[str, Any], None, None]


def life(story: Story, number: int, shards: int) -> Life:
    """One task from its creation to its end: each call of the store, by name and arguments.

    A task that is not where it was acknowledged to be is left there: its writes went with the master.
    """
    owner = Owner(f"owner-{number}")
    event = creation(owner, task_id=new_task_id(owner, shards))
    task_id, lease_id = event.task_id, new_token()
    claim = Claim(lease_id=lease_id, worker="w")
    done = CompleteWithResult(lease_id=lease_id, result=RESULT)
    for name, arguments, token in (
        ("create", (event,), event.token),
        ("claim", (task_id, claim), claim.token),
        ("commit", (task_id, done), done.token),
    ):
        try:
            yield name, arguments
        except (TaskNotFound, InvalidTransition):
            return
        story.acknowledged.append((task_id, token, time.monotonic()))
    story.ended += 1


def lives(url: str, story: Story, enough: threading.Event, shards: int, first: int) -> None:
    with closing(RedisTaskStore(url, deadline=120)) as store:
        number = first
        while not enough.is_set():
            number += 1
            calls = life(story, number, shards)
            call = next(calls, None)
            while call is not None:
                try:
                    getattr(store, call[0])(*call[1])
                except (TaskNotFound, InvalidTransition) as error:
                    call = _thrown(calls, error)
                else:
                    call = next(calls, None)


async def lives_on_a_loop(url: str, story: Story, enough: threading.Event, shards: int, first: int) -> None:
    store, number = AsyncWorkerStore(url), first
    while not enough.is_set():
        number += 1
        calls = life(story, number, shards)
        call = next(calls, None)
        while call is not None:
            try:
                await getattr(store, call[0])(*call[1])
            except StoreUnavailable:
                continue  # the same event again, as clients do
            except (TaskNotFound, InvalidTransition) as error:
                call = _thrown(calls, error)
            else:
                call = next(calls, None)
    await store.aclose()


def _thrown(calls: Life, error: Exception) -> tuple[str, Any] | None:
    try:
        return calls.throw(error)
    except StopIteration:
        return None


def play(url: str, shards: int, fault: Callable[[], float]) -> str:
    """Both faces write while something dies; returns what was seen.

    Args:
        url: Where they write.
        shards: How many the store has.
        fault: Kills, and returns when; the replica may still be taking over.
    """
    stories, enough = [Story(), Story(), Story()], threading.Event()
    threads = [
        threading.Thread(target=lives, args=(url, stories[0], enough, shards, 0)),
        threading.Thread(target=lives, args=(url, stories[1], enough, shards, 100_000)),
        threading.Thread(
            target=lambda: asyncio.run(lives_on_a_loop(url, stories[2], enough, shards, 200_000))
        ),
    ]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: all(story.ended > 50 for story in stories), "all write")
        killed = fault()
        ends = [story.ended for story in stories]
        wait_until(
            lambda: all(story.ended > end + 50 for story, end in zip(stories, ends, strict=True)),
            "all go on after the fault",
            seconds=120,
        )
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    return judged(url, stories, killed)


def judged(url: str, stories: list[Story], killed: float) -> str:
    violations = audit(url)
    assert not violations, told(violations)
    lost = 0
    with closing(RedisTaskStore(url)) as store:
        for story in stories:
            for task_id, token, at in story.acknowledged:
                try:
                    times = [line.token for line in store.inspect(task_id).log].count(token)
                except TaskNotFound:
                    times = 0
                assert times <= 1, f"{task_id}: applied {times} times"
                if times == 0:
                    lost += 1
                    assert killed - LOSS_SECONDS < at < killed + LOSS_SECONDS, (task_id, at - killed)
    acknowledged = sum(len(story.acknowledged) for story in stories)
    return f"{acknowledged} acknowledged, {lost} lost with the master, 0 doubled, 0 damaged"


@pytest.mark.faults
def test_a_killed_master_under_sentinels_takes_at_most_its_last_moment_along(
    measured: Callable[[str, str], None],
) -> None:
    with closing(SentinelGroup()) as group:

        def kill() -> float:
            killed = time.monotonic()
            group.kill_master()
            return killed

        measured("R8", f"Sentinel: {play(group.url, 1, kill)}")


@pytest.mark.faults
def test_a_killed_primary_of_a_cluster_takes_at_most_its_last_moment_along(
    measured: Callable[[str, str], None],
) -> None:
    with closing(ClusterServers(3, followers=1)) as servers:

        def kill() -> float:
            servers.servers[0].kill()
            return time.monotonic()

        measured("R8", f"Cluster: {play(servers.url, 16, kill)}")


@pytest.mark.faults
def test_a_task_that_runs_while_its_master_is_killed_completes_once() -> None:
    with closing(SentinelGroup()) as group:
        worker = worker_node(group.url, name="failover")
        try:
            assert worker.ready(), worker.logs()
            with client_of(service, group.url) as client:
                task = client.running(client.call("wait_async", seconds=6))
                group.kill_master()
                assert client.ended(task).task.status is TaskStatus.COMPLETED
                assert sum(line.target is Phase.COMPLETED for line in client.record(task).log) == 1
                assert client.run("add", x=1, y=2).task.status is TaskStatus.COMPLETED, worker.logs()
        finally:
            worker.teardown()
