"""What workers say of themselves, and what becomes of calls whose tool only some workers have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pytest_celery import CeleryTestWorker

from tasks_service import TaskService
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import Phase, Task, Wait
from tasks_service.settings import Settings
from tasks_service.store.registered_tools import registered_tools
from tasks_service.store.registry import WorkerAnnouncement
from tests.e2e.rollout_app import service
from tests.kit.factories import creation
from tests.kit.servers import RedisServer
from tests.kit.waiting import PATIENCE, wait_until
from tests.kit.workers import Client, client_of, worker_node

CALLS = 25
"""Calls of a tool that one of three workers has."""


def start(redis: RedisServer, name: str, release: str, **options: object) -> CeleryTestWorker:
    queues = ("-Q", "tasks,maintenance")
    usual = {"app": "tests.e2e.rollout_app", "pool": "solo", "concurrency": 1, "options": queues}
    values: dict[str, Any] = {**usual, **options}
    return worker_node(redis.url, name=name, TESTS_RELEASE=release, **values)


@pytest.fixture(scope="module")
def workers(module_redis: RedisServer) -> Iterator[dict[str, CeleryTestWorker]]:
    """Two workers of the older release, and one of the newer."""
    releases = {"old1": "old", "old2": "old", "new": "new"}
    nodes = {name: start(module_redis, name, release) for name, release in releases.items()}
    for node in nodes.values():
        assert node.ready(), node.logs()
    yield nodes
    for node in nodes.values():
        node.teardown()


@pytest.fixture
def rollout(module_redis: RedisServer) -> Iterator[Client]:
    with client_of(service, module_redis.url) as client:
        yield client


def running(client: Client) -> dict[str, WorkerAnnouncement]:
    return {worker.node: worker for worker in client.store.registry.read("Rollout").workers}


def seconds(task: Task) -> float:
    """From the call to the end, which must be good."""
    assert task.phase is Phase.COMPLETED
    return (task.updated_ms - task.created_ms) / 1000


def tell(client: Client, command: str) -> None:
    """Let a worker take messages from the queue "gpu", or take them no more."""
    app = TaskService("Rollout", settings=Settings(redis_url=client.outbox.broker_url)).celery
    getattr(app.control, command)("gpu", destination=["new@test"])


def test_workers_say_who_they_are_and_what_they_have(
    workers: dict[str, CeleryTestWorker], rollout: Client
) -> None:
    wait_until(lambda: len(running(rollout)) == 3, "all are announced")
    told = running(rollout)["new@test"]
    assert (told.version, told.pool, told.slots) == ("1.10", "solo", 1)
    assert told.queues == {"tasks", "maintenance"}
    assert (told.former_names, running(rollout)["old1@test"].former_names) == ({"Roll-out"}, frozenset())
    tools = registered_tools(rollout.store.registry.read("Rollout"))
    assert tools["fresh"].takers == ("new@test",)
    assert tools["steady"].takers == ("new@test", "old1@test", "old2@test")
    assert tools["distant"].takers == ()
    assert tools["described"].definition.description == "The newer words."
    assert list(tools["described"].others.values()) == [("old1@test", "old2@test")]
    wait_until(
        lambda: any("different definitions of the tool" in node.logs() for node in workers.values()),
        "a worker's log tells of it",
    )


def test_calls_of_a_tool_that_one_worker_of_three_has_end_within_seconds(
    workers: dict[str, CeleryTestWorker], rollout: Client, measured: Callable[[str, str], None]
) -> None:
    wait_until(lambda: len(running(rollout)) == 3, "all are announced")
    one_by_one = sorted(seconds(rollout.run("fresh").task) for _ in range(CALLS))
    calls = [rollout.call("fresh") for _ in range(CALLS)]
    at_once = sorted(seconds(rollout.ended(task).task) for task in calls)
    for how, took, most in (("one by one", one_by_one, 5), ("at once", at_once, 15)):
        told = f"p50 {took[CALLS // 2]:.2f} s, p99 {took[-1]:.2f} s"
        measured("B6", f"a tool that one of three workers has, {CALLS} calls {how}: {told}")
        assert took[-1] < most
    assert any("lacks the tool 'fresh'" in workers[name].logs() for name in ("old1", "old2"))


def test_a_worker_of_another_service_with_a_tool_of_that_name_on_that_queue_is_refused_at_start(
    workers: dict[str, CeleryTestWorker], rollout: Client, module_redis: RedisServer
) -> None:
    wait_until(lambda: len(running(rollout)) == 3, "all are announced")
    other = start(module_redis, "other", "new", TESTS_SERVICE="Other")
    try:
        assert not other.ready()
        said = other.logs().splitlines()[-1]
        status = other.container.process.wait()
    finally:
        other.teardown()

    assert said.startswith("tasks-service: Workers of the service 'Rollout' use the same store, and have a")
    assert "by TASKS_KEY_PREFIX" in said
    assert status == 2


def test_a_task_of_another_service_is_run_by_no_worker_that_has_a_tool_of_that_name(
    workers: dict[str, CeleryTestWorker], rollout: Client
) -> None:
    calls = [
        rollout.store.create(creation(service="Other", tool="steady", queue="tasks")).task
        for _ in range(CALLS)
    ]

    def handed_on() -> bool:
        logs = "".join(node.logs() for node in workers.values())
        return all(f"Task {task_hash(task.task_id)}: this worker lacks the tool" in logs for task in calls)

    wait_until(handed_on, lambda: "".join(node.logs() for node in workers.values()))
    assert rollout.run("steady").task.phase is Phase.COMPLETED, "the workers' own goes on"
    ended = [rollout.view(task).task for task in calls]
    assert [(task.phase, task.claims) for task in ended] == [(Phase.PENDING, 0)] * CALLS
    for task in calls:
        rollout.cancel(task)


def test_a_task_says_what_it_waits_for_as_that_changes(
    workers: dict[str, CeleryTestWorker], rollout: Client
) -> None:
    task = rollout.call("distant")
    assert task.status_message == "Waits for a worker."
    wait_until(lambda: rollout.view(task).task.waits is Wait.NO_WORKER, "nobody takes its queue")
    assert "takes the queue 'gpu'" in str(rollout.view(task).task.status_message)
    tell(rollout, "add_consumer")
    assert rollout.ended(task).task.phase is Phase.COMPLETED
    wait_until(lambda: "gpu" in running(rollout)["new@test"].queues, "it says so")
    assert registered_tools(rollout.store.registry.read("Rollout"))["distant"].takers == ("new@test",)
    tell(rollout, "cancel_consumer")
    wait_until(lambda: "gpu" not in running(rollout)["new@test"].queues, "it says so")


def test_a_task_whose_tool_was_taken_away_says_so_and_runs_when_it_is_back(
    workers: dict[str, CeleryTestWorker], rollout: Client, module_redis: RedisServer
) -> None:
    wait_until(lambda: len(running(rollout)) == 3, "all are announced")
    workers["new"].container.kill("SIGTERM")
    wait_until(lambda: "new@test" not in running(rollout), "it withdraws")
    wait_until(lambda: workers["new"].container.status == "exited", "it takes no message any more")
    task = rollout.call("fresh")
    wait_until(lambda: rollout.view(task).task.waits is Wait.REMOVED, "no worker has the tool any more")
    assert "'fresh' was removed" in str(rollout.view(task).task.status_message)
    again = start(module_redis, "new", "new")
    try:
        wait_until(lambda: "new@test" in running(rollout), again.logs)
        assert rollout.ended(task, timeout=30).task.phase is Phase.COMPLETED
    finally:
        again.teardown()


def command(redis: RedisServer, *words: str) -> str:
    """What a command of an operator prints."""
    env = {**os.environ, "TASKS_REDIS_URL": redis.url, "TASKS_APP": "tests.e2e.rollout_app:service"}
    run = [sys.executable, "-m", "tasks_service", *words]
    return subprocess.run(run, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False).stdout


def test_commands_tell_who_runs_and_which_worker_lacks_what(
    workers: dict[str, CeleryTestWorker], rollout: Client, module_redis: RedisServer
) -> None:
    bare = start(module_redis, "bare", "new", app="tests.e2e.bare_app", options=("-Q", "tasks"))
    try:
        assert bare.ready(), bare.logs()
        told = json.loads(command(module_redis, "workers", "--json"))
        report = json.loads(command(module_redis, "doctor", "--json"))
    finally:
        bare.teardown()
    assert {worker["worker"] for worker in told} >= {"old1@test", "old2@test"}
    assert {tuple(worker["tools"]) for worker in told if "old" in worker["worker"]} == {
        ("described", "distant", "steady")
    }
    (tools,) = (check for check in report if check["check"] == "tools")
    found = [finding["what"] for finding in tools["findings"]]
    assert any(
        what.startswith("The worker bare@test takes the messages of tools that it has not")
        and "started from another module" in what
        for what in found
    )
    assert any("worker old1@test" in what and "them: fresh." in what for what in found)
