"""The pools that are not Celery's own default, with tools of each kind and an exposed task.

Deselected by default: it installs an environment. `make test-matrix` runs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until

from .environments import Environment, build_wheel, install
from .processes import Driver, Worker, running

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(900)]

FRONT = Environment("newest", "3.13", extras="[server]")
POOLS = Environment("pools", "3.12", ("celery==5.7.0", "gevent==26.9.0", "eventlet==0.41.3"))

OPTIONS = {
    "gevent": ("--pool", "gevent"),
    "eventlet": ("--pool", "eventlet"),
    "threads": ("--pool", "threads"),
    "solo": ("--pool", "solo"),
    "autoscale": ("--autoscale", "3,1"),
}

Service = tuple[Driver, Worker, Path]


@pytest.fixture(scope="module", params=OPTIONS)
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    wheel = build_wheel(tmp_path_factory.mktemp("wheel"))
    front, behind = install(FRONT, wheel), install(POOLS, wheel)
    home, server = tmp_path_factory.mktemp("service"), RedisServer()
    try:
        options = OPTIONS[request.param]
        with running(front, behind, server.url, home, codeless=True, options=options) as (front_end, worker):
            yield Driver(front_end.url), worker, home
            assert worker.runs, worker.logs()
    finally:
        server.close()


def test_tools_of_each_kind_and_an_exposed_task_run(service: Service) -> None:
    driver, _, home = service
    assert driver.call("order", orders=[{"article": "pen"}]) == {"total": 1, "lines": ["1 pen any day"]}
    assert driver.call("resize", width=3) == {"area": 6}
    assert driver.call("nap", seconds=0.3) == "slept"
    assert driver.call("bake", runs=str(home / "runs")) == ["knead", "bake"]
    assert driver.call("refuse") == "error: The oven is cold."


def test_a_running_tool_is_cancelled(service: Service) -> None:
    driver, worker, home = service
    task = driver.start("watch", told=str(home / "never"))
    wait_until(lambda: "claim 1" in (driver.get(task).status_message or ""), worker.logs)
    driver.cancel(task)
    wait_until(lambda: driver.get(task).status == "cancelled", worker.logs)
    assert driver.call("resize", width=4) == {"area": 8}  # the slot is free again
