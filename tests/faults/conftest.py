"""The order of the campaigns, and servers for single tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kit.forgetting import ForgetfulServer
from tests.kit.servers import RedisServer

LONGEST = (
    "test_kills",
    "test_stops",
    "test_chaos",
    "test_mutants",
    "test_kills_of_senders",
    "test_recovery",
    "test_rollback_chaos",
    "test_rabbitmq",
    "test_linearizability",
)
"""The modules that take minutes, longest first: they begin first, so that none is left alone at the end."""

MEASURES = ("test_hot_key",)
"""The modules that measure times: they begin last, when most of what loads the machine has ended."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole modules in their order, the longest first, and what measures times last."""
    items.sort(key=lambda item: _place(item.path.stem))


def _place(module: str) -> int:
    return LONGEST.index(module) if module in LONGEST else len(LONGEST) + (module in MEASURES)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """A real redis-server for a module."""
    server = RedisServer()
    yield server
    server.close()


@pytest.fixture
def server() -> Iterator[ForgetfulServer]:
    """A real redis-server that can be made to forget."""
    server = ForgetfulServer()
    yield server
    server.close()
