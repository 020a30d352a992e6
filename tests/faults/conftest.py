"""The order of the campaigns."""

from __future__ import annotations

import pytest

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole modules in their order, the longest first."""
    items.sort(key=lambda item: _place(item.path.stem))


def _place(module: str) -> int:
    return LONGEST.index(module) if module in LONGEST else len(LONGEST)
