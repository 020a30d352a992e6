"""`tasks-service up` on a shop's own Celery app: the tools run, and nothing of the shop's is touched."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tasks_service.local.redis_server import find_running
from tasks_service.store.redis import RedisTaskStore
from tasks_service.worker.maintenance.schedule import REAP
from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until

from .running_up import RunningUp


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer) -> Iterator[RunningUp]:
    running = RunningUp(
        Path(tmp_path_factory.mktemp("shop")),
        TASKS_APP="tests.e2e.shop_service",
        SHOP_BROKER=module_redis.url,
    )
    running.start()
    yield running
    running.stop(signal.SIGTERM)


def test_tools_run_and_nothing_of_the_shops_is_taken_or_scheduled(
    up: RunningUp, module_redis: RedisServer
) -> None:
    from .shop_app import app

    with app.connection_for_write(url=module_redis.url) as connection:
        app.send_task("acme.plain", (21,), connection=connection)
        app.send_task("acme.reindex", ("books",), connection=connection)

    called = up.call("fresh", "--arg", "x=1")
    assert called.returncode == 0, called.stderr + up.text()
    assert called.stdout.strip() == "2"

    wait_until(lambda: REAP in beat_ages(up), up.text)  # ten times as long as the shop's own schedule
    with module_redis.client() as admin:
        assert [admin.llen(key) for key in ("acme-acme", "acme-indexing")] == [1, 1]


def beat_ages(up: RunningUp) -> Mapping[str, int]:
    url = find_running(Path(up.env["TASKS_DATA_DIR"]))
    assert url is not None
    store = RedisTaskStore(url)
    try:
        return store.beat_ages_ms()
    finally:
        store.close()


def test_it_says_at_the_start_which_tools_wait_for_which_worker(up: RunningUp) -> None:
    said = up.text()
    assert "reindex: calls wait for a worker that takes the queue 'indexing'" in said
    assert "flaky, moody, patient, rationed, tidy: calls wait" in said
    assert "--queues" in said
