"""Tools on a Celery app that a shop has already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from pytest_celery import CeleryTestWorker

from tasks_service import ConfigurationError, TaskService
from tasks_service.broker.message import celery_id
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import FailureKind, TaskStatus
from tasks_service.worker.incoming import MessageInspector
from tests.kit.hostile import variants
from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until
from tests.kit.workers import Client, client_of, worker_node

SHOW_SETTINGS = """
import json, sys, {module}
from tests.e2e.shop_app import app
settings = {{k: repr(v) for k, v in app.conf.items()}}
print(json.dumps([settings, sorted(q for q in app.amqp.queues), repr(app.tasks["acme.plain"].acks_late)]))
"""


def settings_of_app_after_importing(module: str) -> object:
    shown = subprocess.run(
        [sys.executable, "-c", SHOW_SETTINGS.format(module=module)],
        capture_output=True,
        check=True,
        text=True,
    )
    return json.loads(shown.stdout)


def test_a_shops_settings_stay_as_they_are() -> None:
    before = settings_of_app_after_importing("tests.e2e.shop_app")
    after = settings_of_app_after_importing("tests.e2e.shop_service")
    assert after == before


@pytest.fixture(scope="module")
def shop_worker(module_redis: RedisServer) -> Iterator[CeleryTestWorker]:
    node = worker_node(
        module_redis.url,
        app="tests.e2e.shop_service:app",
        options=("-Q", "acme,indexing,tasks"),
        SHOP_BROKER=module_redis.url,
    )
    assert node.ready(), node.logs()
    yield node
    node.teardown()


@pytest.fixture
def shop(module_redis: RedisServer) -> Iterator[Client]:
    from .shop_service import service

    with client_of(service, module_redis.url) as client:
        yield client


def test_an_exposed_task_runs_as_its_shop_wrote_it(shop_worker: CeleryTestWorker, shop: Client) -> None:
    ended = shop.run("reindex", index="books")
    assert json.loads(ended.result or "")["structuredContent"] == {
        "index": "books",
        "opened": True,
        "direct": False,
    }
    assert ended.task.queue == "indexing"


def test_update_state_becomes_progress(shop_worker: CeleryTestWorker, shop: Client) -> None:
    progress = shop.run("reindex", index="books", size=4).task.progress
    assert progress is not None
    assert (progress.current, progress.total, progress.message) == (4, 4, "PROGRESS")


def test_a_retry_is_judged_by_the_tools_policy(shop_worker: CeleryTestWorker, shop: Client) -> None:
    ended = shop.run("moody", mood="retry").task
    assert (ended.status, ended.is_error, ended.claims) == (TaskStatus.COMPLETED, True, 2)


@pytest.mark.parametrize("mood", ["ignore", "reject", "replace"])
def test_what_only_celery_can_mean_fails_the_task_and_says_so(
    shop_worker: CeleryTestWorker, shop: Client, mood: str
) -> None:
    failure = shop.run("moody", mood=mood).task.failure
    assert failure is not None
    assert failure.kind is FailureKind.AUTHOR
    assert "Celery task" in failure.message


def test_an_exposed_task_gets_the_soft_time_limit_that_it_knows(
    shop_worker: CeleryTestWorker, shop: Client
) -> None:
    failure = shop.run("tidy", seconds=60).task.failure
    assert failure is not None
    assert failure.kind is FailureKind.TIMEOUT
    shop_worker.assert_log_does_not_exist("Hard time limit", timeout=1)


def test_its_hooks_run_once_for_each_attempt_beside_celerys_signals_for_the_tool(
    shop_worker: CeleryTestWorker, shop: Client
) -> None:
    ended = shop.run("flaky", failures=1)

    name = task_hash(ended.task.task_id)
    result = json.loads(ended.result or "")["structuredContent"]
    assert result == {"retries": 1, "id": name, "max": 3}
    assert (ended.task.claims, ended.task.is_error) == (2, False)

    def hooks() -> list[str]:
        lines = [line for line in shop_worker.logs().splitlines() if "hook: " in line and name in line]
        said = [line.partition("hook: ")[2].partition("  ")[0] for line in lines]  # without the line's fields
        return [hook.replace(f" acme.flaky {name}", "") for hook in said]

    first = ["before_start try 0", "on_retry try 0"]
    second = ["before_start try 1", "on_success try 1", "after_return try 1"]
    # The second attempt may begin in another child before the first has called its hook, as Celery's may.
    wait_until(
        lambda: sorted(hooks()) == sorted([*first, *second]), lambda: f"{hooks()}\n{shop_worker.logs()}"
    )


@pytest.mark.parametrize("catches", [True, False])
def test_a_task_may_still_end_with_a_result_after_its_own_soft_time_limit(
    shop_worker: CeleryTestWorker, shop: Client, catches: bool
) -> None:
    ended = shop.run("patient", catches=catches)
    if catches:
        assert "tidied up" in (ended.result or "")
    else:
        failure = ended.task.failure
        assert failure is not None
        assert (failure.kind, failure.message) == (
            FailureKind.TIMEOUT,
            "The tool ran longer than its soft limit of 1 s.",
        )


def test_its_rate_limit_holds_and_no_turn_is_lost_to_messages_that_were_sent_again(
    shop_worker: CeleryTestWorker, shop: Client
) -> None:
    calls = [shop.call("rationed", number=number) for number in range(6)]
    ended = [shop.ended(call) for call in calls]
    times = sorted(json.loads(record.result or "")["structuredContent"]["result"] for record in ended)
    assert all(later - earlier > 0.8 for earlier, later in pairwise(times))
    for call in calls:
        # Each was taken once while it waited for its turn, though sweeps took it for lost and sent it again.
        before, _, _ = shop_worker.logs().partition(f"Task rationed[{celery_id(call)}] succeeded")
        assert before.count(f"Task rationed[{celery_id(call)}] received") == 1
    assert "seem lost and were sent again" in shop_worker.logs()
    assert {record.task.claims for record in ended} == {1}


def test_tools_and_the_shops_own_tasks_share_a_worker(shop_worker: CeleryTestWorker, shop: Client) -> None:
    shop_broker = shop.outbox.broker_url
    with shop.service.celery.connection_for_write(url=shop_broker) as connection:
        shop.service.celery.send_task("acme.plain", args=(21,), connection=connection)
    shop_worker.assert_log_exists("Task acme.plain", timeout=60)
    assert shop.run("fresh", x=1).task.status is TaskStatus.COMPLETED


def test_a_worker_that_takes_tools_needs_to_know_the_store(module_redis: RedisServer) -> None:
    node = worker_node(
        None, app="tests.e2e.shop_service:app", options=("-Q", "tasks"), SHOP_BROKER=module_redis.url
    )
    try:
        assert not node.ready()
        assert "Set TASKS_REDIS_URL" in node.logs()
    finally:
        node.teardown()


def test_a_worker_of_other_queues_does_not(module_redis: RedisServer) -> None:
    node = worker_node(
        None, app="tests.e2e.shop_service:app", options=("-Q", "mail"), SHOP_BROKER=module_redis.url
    )
    try:
        assert node.ready(), node.logs()
    finally:
        node.teardown()


def test_a_task_that_the_app_lacks_cannot_be_exposed() -> None:
    from .shop_app import app

    with pytest.raises(ConfigurationError, match="no Celery task"):
        TaskService("Acme", celery=app).expose("acme.nothing")


def test_a_tool_cannot_take_the_name_of_a_celery_task() -> None:
    from .shop_app import app

    with pytest.raises(ConfigurationError, match="another name="):
        TaskService("Acme", celery=app).expose("acme.plain", name="acme.plain")


def test_importing_a_service_needs_no_redis() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("TASKS_")}
    code = "import tests.kit.worker_app as a; assert a.service.tools['add'].definition.queue == 'tasks'"
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


def names(message: Any) -> Any:
    headers = message.get("headers")
    return headers.get("task") if isinstance(headers, dict) else None


def test_a_message_of_any_shape_that_names_a_tool_is_dropped_in_a_queue_that_the_shop_uses_too(
    shop_worker: CeleryTestWorker, shop: Client, module_redis: RedisServer
) -> None:
    from .shop_app import app

    (push,) = shop.outbox.pushes(shop.run("reindex", index="books").task, 1)
    real = json.loads(push.payload)
    of_tool = [message for message in variants(real) if names(message) == "reindex"]
    with module_redis.client() as admin, app.connection_for_write(url=module_redis.url) as connection:
        for message in of_tool:
            admin.lpush("acme-indexing", json.dumps(message))
        app.send_task("acme.plain", (1,), queue="indexing", connection=connection)
        wait_until(lambda: not admin.llen("acme-indexing"), shop_worker.logs)
        wait_until(lambda: "acme.plain" in shop_worker.logs(), shop_worker.logs)
    assert shop.run("reindex", index="films").task.status is TaskStatus.COMPLETED
    assert shop_worker.container.status == "running", shop_worker.logs()
    wait_until(lambda: "indexing" in shop.store.dropped_messages(), shop_worker.logs)


def test_what_names_no_tool_is_left_to_celery_unless_the_queue_is_the_tools_alone() -> None:
    from .shop_service import app, service

    dropped: list[str] = []
    inspector = MessageInspector(
        app, service.tools, lambda queue, problem: dropped.append(queue), owns_app=False
    )
    assert [inspector.is_alone(queue) for queue in ("tasks", "indexing", "acme")] == [True, False, False]
    assert inspector.admits("indexing", b"not JSON")
    assert inspector.admits("acme", b"not JSON")
    assert not inspector.admits("tasks", b"not JSON")
    assert dropped == ["tasks"]
