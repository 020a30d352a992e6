"""A front end for attacks that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import pytest

from tasks_service import Header
from tasks_service.domain.limits import KIB
from tests.kit.servers import RedisServer
from tests.kit.serving import registry, serving, settings

KEY = "mU3xQ9wzR7kYb2Lc"
LARGE, LARGE_BYTES = "res://large", 900 * KIB
"""A resource that is too large for the buffers between a server and a client that does not read."""


def greet(name: str) -> str:
    """Say hello."""
    return f"Hello, {name}!"


def route(region: Annotated[str, Header("Region")]) -> str:
    """Go somewhere; a gateway may read where."""
    return region


def large() -> str:
    """Return the large resource."""
    return "x" * LARGE_BYTES


@pytest.fixture(scope="module")
def steady_redis() -> Iterator[str]:
    """A Redis for all tests of a module."""
    server = RedisServer()
    yield server.url
    server.close()


@pytest.fixture(scope="module")
def steady_port(steady_redis: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A front end in single-user mode, for all tests of a module."""
    configuration = settings(steady_redis, tmp_path_factory.mktemp("data"))
    with serving(registry(greet, route), configuration) as port:
        yield port


@pytest.fixture(scope="module")
def steady_port_with_key(steady_redis: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A front end that wants a key, for all tests of a module."""
    configuration = settings(steady_redis, tmp_path_factory.mktemp("data"), api_keys=f"alice:{KEY}")
    with serving(registry(greet), configuration) as port:
        yield port
