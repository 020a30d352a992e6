"""Shops on Django and on Flask with an app factory: their tasks and their context, as tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.kit.servers import RedisServer
from tests.kit.workers import worker_node


@contextmanager
def worker_of(module: str, redis: RedisServer, **env: str) -> Iterator[dict[str, str]]:
    """A worker of a shop, of the tools' queue; yields the environment of its processes."""
    shop = {"SHOP_BROKER": redis.url, **env}
    node = worker_node(redis.url, app=f"{module}:app", concurrency=1, options=("-Q", "tasks"), **shop)
    try:
        assert node.ready(), node.logs()
        yield {**os.environ, "TASKS_REDIS_URL": redis.url, **shop}
    finally:
        node.teardown()


def call(module: str, env: dict[str, str], *calls: str) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.shop_calls", module, *calls],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_task_that_django_discovers_runs_as_a_tool_with_its_models(
    module_redis: RedisServer, tmp_path: Path
) -> None:
    module, database = "tests.e2e.django_shop.tools", {"SHOP_DATABASE": str(tmp_path / "shop.sqlite3")}
    migrate = [sys.executable, "-m", "django", "migrate", "--run-syncdb", "--verbosity", "0"]
    settings = {"DJANGO_SETTINGS_MODULE": "tests.e2e.django_shop.settings", **database}
    subprocess.run(migrate, env={**os.environ, **settings}, check=True)

    with worker_of(module, module_redis, **database) as env:
        ended = call(module, env, 'resize={"picture": 7, "width": 40}', "count_pictures={}")

    assert ended == [{"before": 40, "width": 40, "retries": 1}, {"result": 1}]


def test_a_task_of_a_flask_factory_runs_as_a_tool_in_its_context(module_redis: RedisServer) -> None:
    module = "tests.e2e.flask_shop"
    with worker_of(module, module_redis) as env:
        ended = call(module, env, 'greet={"name": "Ada"}', "greeting={}")
    assert ended == [{"result": "Hello, Ada"}, {"result": "Hello"}]
