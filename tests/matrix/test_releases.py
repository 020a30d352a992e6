"""Workers and front ends of every promised release of what they stand on, on one store.

Deselected by default: it installs environments. `make test-matrix` runs it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until

from .environments import (
    ROOT,
    Environment,
    Installed,
    NotInstallable,
    build_wheel,
    install,
    resolve,
    shop_environment,
    shops,
)
from .processes import Driver, Worker, running

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(900)]

SERVER = "[server]"
PYTEST = ("pytest", "pytest-timeout", "pytest-celery", "hypothesis")

NEWEST = Environment("newest", "3.13", extras=SERVER)
"""Everything newest, as a new front end has it."""

FRONT_ON_OLDEST = Environment(
    "front-on-oldest",
    "3.11",
    ("celery==5.4.0", "kombu==5.3.7", "redis==4.6.0", "click==8.1.2"),
    extras=SERVER,
)
"""A front end on the oldest that it can have; its pydantic is the SDK's."""

WORKERS = {
    "all oldest": Environment("oldest", "3.11", file="oldest.txt"),
    "all newest": Environment("newest-worker", "3.13"),
    "oldest Celery, newest rest": Environment("old-celery", "3.13", ("celery==5.4.0", "kombu==5.3.7")),
    # Older ones are refused by kombu 5.7, whose transport needs redis-py 6.1, and its extra redis 6.4.
    "newest Celery, oldest redis-py for it": Environment(
        "old-redis", "3.12", ("celery==5.7.0", "redis==6.4.0")
    ),
    "oldest pydantic, newest rest": Environment("old-pydantic", "3.12", ("pydantic==2.7.0",)),
    "Celery 5.5": Environment("celery-5.5", "3.12", ("celery==5.5.3", "redis==5.2.1", "pydantic==2.11.7")),
    "Celery 5.6": Environment("celery-5.6", "3.13", ("celery==5.6.3", "redis==7.1.0", "pydantic==2.12.5")),
    "redis-py 5.3": Environment("redis-5.3", "3.11", ("celery==5.6.3", "kombu==5.6.2", "redis==5.3.1")),
    "redis-py 6": Environment("redis-6", "3.12", ("celery==5.6.3", "redis==6.4.0", "hiredis==3.2.1")),
    "redis-py 7.4": Environment("redis-7.4", "3.13", ("celery==5.7.0", "redis==7.4.0")),
    "superset": shop_environment("shops", "apache/superset"),
    "bookwyrm": shop_environment("shops", "bookwyrm-social/bookwyrm"),
    "treeherder": shop_environment("shops", "mozilla/treeherder"),
    "onyx": shop_environment("shops", "onyx-dot-app/onyx"),
    "paperless-ngx": shop_environment("shops", "paperless-ngx/paperless-ngx"),
}

STORES = {
    "oldest": Environment("oldest-tests", "3.11", file="oldest.txt", beside=PYTEST),
    "redis-py 5.0": Environment("redis-5.0-tests", "3.12", ("redis==5.0.8",), beside=PYTEST),
    "redis-py 5.3": Environment("redis-5.3-tests", "3.12", ("redis==5.3.1",), beside=PYTEST),
    "redis-py 7.4": Environment("redis-7.4-tests", "3.13", ("redis==7.4.0",), beside=PYTEST),
    "newest": Environment("newest-tests", "3.13", beside=PYTEST),
}


@dataclass(frozen=True)
class Pair:
    """A front end and a worker.

    Attributes:
        front: The front end's environment.
        worker: The worker's.
        codeless: Whether the front end serves what the worker announces; otherwise it has the shop's module.
    """

    front: Environment
    worker: Environment
    codeless: bool = True


PAIRS = {
    **{name: Pair(NEWEST, worker) for name, worker in WORKERS.items()},
    "front end with code": Pair(NEWEST, NEWEST, codeless=False),
    "front end on the oldest": Pair(FRONT_ON_OLDEST, WORKERS["all newest"]),
    "front end with code on the oldest": Pair(FRONT_ON_OLDEST, NEWEST, codeless=False),
}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@dataclass
class Running:
    """A service whose processes are of two environments."""

    driver: Driver
    worker: Worker
    home: Path


@pytest.fixture(scope="module", params=PAIRS)
def service(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    pair = PAIRS[request.param]
    front, worker = (installed(environment, wheel) for environment in (pair.front, pair.worker))
    print(f"\nfront end: {front.versions()}\nworker: {worker.versions()}")
    home = tmp_path_factory.mktemp("service")
    server = RedisServer()
    try:
        with running(front, worker, server.url, home, codeless=pair.codeless) as (front_end, behind):
            yield Running(Driver(front_end.url), behind, home)
            assert front_end.runs and behind.runs, front_end.logs() + behind.logs()
            assert "Traceback" not in front_end.logs(), front_end.logs()
    finally:
        server.close()


def installed(environment: Environment, wheel: Path) -> Installed:
    try:
        return install(environment, wheel)
    except NotInstallable as error:
        pytest.fail(f"{environment.name}: {error}", pytrace=False)


def test_a_tool_gets_models_and_returns_one(service: Running) -> None:
    orders = [{"article": "pen", "count": 2, "wanted": "2026-12-24"}, {"article": "ink"}]
    assert service.driver.call("order", orders=orders) == {
        "total": 3,
        "lines": ["2 pen 2026-12-24", "1 ink any day"],
    }


def test_an_exposed_task_of_the_shop_runs(service: Running) -> None:
    assert service.driver.call("resize", width=3) == {"area": 6}


def test_a_tool_asks_while_it_runs_and_before(service: Running) -> None:
    assert service.driver.call("send", parcel="a box") == "sent a box"
    assert service.driver.call("hurry", parcel="a box") == "a box: True"


def test_a_tool_sleeps_and_takes_each_step_once(service: Running) -> None:
    runs = service.home / "runs"
    assert service.driver.call("nap", seconds=0.3) == "slept"
    assert service.driver.call("bake", runs=str(runs)) == ["knead", "bake"]
    assert runs.read_text() == "knead\nbake\n"


def test_a_tool_that_fails_says_why(service: Running) -> None:
    assert service.driver.call("refuse") == "error: The oven is cold."


def test_a_task_whose_process_is_killed_is_run_again(service: Running) -> None:
    assert service.driver.call("crash") == 2


def test_a_running_task_is_cancelled(service: Running) -> None:
    task = service.driver.start("watch", told=str(service.home / "never"))
    reached(service, task, "claim 1")
    service.driver.cancel(task)
    wait_until(lambda: service.driver.get(task).status == "cancelled", service.worker.logs)


def test_a_worker_that_is_stopped_hands_its_task_to_the_next(service: Running) -> None:
    told = service.home / "told"
    task = service.driver.start("watch", told=str(told))
    reached(service, task, "claim 1")
    service.worker.stop()
    service.worker.start()
    reached(service, task, "claim 2")
    told.touch()
    wait_until(lambda: service.driver.get(task).is_final, service.worker.logs)
    assert service.driver.get(task).status == "completed"


def reached(service: Running, task: str, message: str) -> None:
    """Wait until a task says that it runs."""
    wait_until(
        lambda: message in (service.driver.get(task).status_message or ""),
        lambda: f"{service.driver.get(task)}\n{service.worker.logs()}",
    )


@pytest.mark.parametrize("name", STORES)
def test_the_store_does_what_it_promises(name: str, wheel: Path) -> None:
    there = installed(STORES[name], wheel)
    files = ["tests/store/test_behaviour.py", "tests/store/test_redis.py"]
    # What other packages deprecate between releases is no error here.
    command = [
        there.python,
        "-m",
        "pytest",
        *files,
        "-q",
        "-o",
        "filterwarnings=default",
        "-p",
        "no:cacheprovider",
    ]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, f"{there.versions()}\n{ran.stdout[-5000:]}{ran.stderr[-1000:]}"


@pytest.mark.parametrize("kind, name", [(kind, name) for kind in ("sets", "shops") for name in shops(kind)])
def test_it_installs_beside_the_pins_of_a_shop(kind: str, name: str, wheel: Path) -> None:
    shop = shops(kind)[name]
    resolved = resolve(shop["python"], shop["pins"], wheel).splitlines()
    plain = {pin.split("[")[0].split("==")[0] + "==" + pin.split("==")[1] for pin in shop["pins"]}
    assert plain <= set(resolved)


OVER_RABBITMQ = {"makeplane/plane"}
"""Sends its messages over RabbitMQ; over Redis, kombu 5.7, which its pins admit, refuses its redis-py 5.0."""


@pytest.mark.parametrize("name", sorted(shops("shops").keys() - OVER_RABBITMQ))
def test_a_tool_runs_beside_the_pins_of_a_shop(name: str, wheel: Path, tmp_path: Path) -> None:
    front, shop = (installed(environment, wheel) for environment in (NEWEST, shop_environment("shops", name)))
    server = RedisServer()
    try:
        with running(front, shop, server.url, tmp_path, codeless=True) as (front_end, worker):
            driver = Driver(front_end.url)
            assert driver.call("order", orders=[{"article": "ink"}])["total"] == 1, worker.logs()
            assert driver.call("resize", width=3) == {"area": 6}, worker.logs()
    finally:
        server.close()
