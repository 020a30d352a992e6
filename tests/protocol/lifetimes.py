"""Two looks at a task that lives: its ttl grows from one to the next."""

from __future__ import annotations

from typing import Any

TTL = ("ttl", "ttlMs")


def assert_same_task(early: dict[str, Any], late: dict[str, Any]) -> None:
    """Nothing has changed between two looks but the ttl, which has not shrunk."""
    assert _without_ttl(early) == _without_ttl(late)
    assert [early[name] <= late[name] for name in TTL if name in early] == [True]


def _without_ttl(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in TTL}
