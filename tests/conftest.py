"""Fixtures for every kind of test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from . import report
from .faults.audit import audit, told
from .support import RedisServer


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
