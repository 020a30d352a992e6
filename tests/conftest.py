"""Fixtures for every kind of test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .faults.audit import audit, told
from .support import RedisServer


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
