"""A service that has another name now: its callers' idempotency keys still mean what they meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks_service import LOCAL_USER, IdempotencyConflict, TaskService
from tasks_service.extension import IDEMPOTENCY_META
from tests.kit.serving import serving_app, settings
from tests.kit.wire import WireClient

META = {IDEMPOTENCY_META: "order-1"}


def service_of(name: str, redis_url: str, data_dir: Path, *former_names: str) -> TaskService:
    service = TaskService(name, settings=settings(redis_url, data_dir), former_names=former_names)

    @service.tool
    def pack(order: int) -> str:
        """Pack an order."""
        return f"packed {order}"

    return service


def test_a_key_that_was_used_before_the_service_was_renamed_finds_its_task(
    redis_url: str, tmp_path: Path
) -> None:
    with (
        serving_app(service_of("Office", redis_url, tmp_path).asgi()) as port,
        WireClient(port) as client,
    ):
        first = client.task("pack", {"order": 1}, meta=META)

    renamed = service_of("Shop", redis_url, tmp_path, "Bureau", "Office")
    with serving_app(renamed.asgi()) as port, WireClient(port) as client:
        assert client.task("pack", {"order": 1}, meta=META) == first
        assert client.get(first)["status"] == "working"
        assert client.call("pack", {"order": 2}, meta=META).error["code"] == -32602
    again = renamed.submit("pack", order=1, owner=LOCAL_USER, idempotency_key="order-1")
    assert again.task_id == first


def test_a_key_of_another_service_is_refused(redis_url: str, tmp_path: Path) -> None:
    service_of("Office", redis_url, tmp_path).submit(
        "pack", order=1, owner=LOCAL_USER, idempotency_key="order-1"
    )

    other = service_of("Shop", redis_url, tmp_path)
    with serving_app(other.asgi()) as port, WireClient(port) as client:
        assert client.call("pack", {"order": 1}, meta=META).error["code"] == -32602
    with pytest.raises(IdempotencyConflict):
        other.submit("pack", order=1, owner=LOCAL_USER, idempotency_key="order-1")
