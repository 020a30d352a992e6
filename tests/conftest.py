"""Fixtures for every kind of test."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import _state

from tests.kit import report
from tests.kit.audit import audit, keys_without_end, told
from tests.kit.servers import RedisServer

from .kit.chosen import choose_server, chosen_server

LONGEST = "tests/upgrade/"


def pytest_configure(config: pytest.Config) -> None:
    """Let what tests start be interrupted, also where a shell has started this run to ignore that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    choose_server(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest file, which would keep one process busy when the others are done."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


def pytest_report_header() -> str:
    return f"redis: {chosen_server()}"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Tell what was measured, after everything else."""
    ended = (one for kind in ("passed", "failed") for one in terminalreporter.stats.get(kind, ()))
    if lines := report.told(report.figures(ended)):
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str, str], None]:
    """Says what was measured for a goal of docs/guarantees.md: `measured("R3", "p99 2.9 s of 3.5 s")`."""

    def tell(goal: str, what: str) -> None:
        record_property(f"{report.PROPERTY}{goal}", what)

    return tell


@pytest.fixture(autouse=True)
def no_task_of_a_test_is_made_on_later_apps() -> Iterator[None]:
    """Celery makes the tasks of one app on every app that comes later, those of other tests too."""
    shared = set(_state._on_app_finalizers)
    yield
    _state._on_app_finalizers.intersection_update(shared)


@pytest.fixture(autouse=True)
def every_key_has_a_lifetime_or_an_owner(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails any test that leaves a key which nobody owns and which never ends, in whichever Redis it used."""
    yield
    violations, RedisServer.left = RedisServer.left, []
    for server in RedisServer.running:
        violations += (found := keys_without_end(server.url))
        if found:
            with server.client() as client:
                client.flushall()  # the next test begins without this one's damage
    if request.node.get_closest_marker("damages") is None:
        assert not violations, told(violations)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A real redis-server for the whole run."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> Iterator[str]:
    """The URL of a real Redis that is empty now."""
    with redis_server.client() as client:
        client.flushall()
    yield redis_server.url


@pytest.fixture
def sound_store(request: pytest.FixtureRequest, redis_url: str) -> Iterator[None]:
    """Fails a test that leaves the store unsound: a key without a lifetime or an owner, a record that lies.

    A test that damages a store on purpose says so with `@pytest.mark.damages`.
    """
    yield
    if request.node.get_closest_marker("damages") is None:
        violations = audit(redis_url, beside=["messages"])
        assert not violations, told(violations)
