"""A service that has another name now: its callers' idempotency keys still mean what they meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tasks_service import LOCAL_USER, IdempotencyConflict, TaskService
from tasks_service.extension import IDEMPOTENCY_META
from tests.kit.announcing import Announcer, announcing
from tests.kit.hand_worker import Worker
from tests.kit.serving import registry, serving_app, serving_codeless, settings
from tests.kit.waiting import wait_until
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


# --- a front end without code ---------------------------------------------------------------------------

OFFICE = frozenset({"Office"})
"""What the service `Shop` was called before."""


def pack(order: int) -> str:
    """Pack an order."""
    return f"packed {order}"


def ship(order: int) -> str:
    """Ship an order."""
    return f"shipped {order}"


@pytest.fixture
def announcer(redis_url: str) -> Iterator[Announcer]:
    with announcing(redis_url) as announcer:
        yield announcer


@pytest.fixture
def at(redis_url: str, tmp_path: Path) -> Iterator[Callable[[str], WireClient]]:
    """Clients of a front end without code, by the path that they call."""
    with ExitStack() as open_ones:
        port = open_ones.enter_context(serving_codeless(settings(redis_url, tmp_path)))
        yield lambda path: open_ones.enter_context(WireClient(port, path=path))


def until_served(client: WireClient, name: str, *tools: str) -> None:
    """Wait until a path is that of a service of this name, with these tools beside the front end's own."""

    def is_served() -> bool:
        reply = client.request("tools/list")
        if reply.status != 200 or not set(tools) <= {tool["name"] for tool in reply.result["tools"]}:
            return False
        told = client.request("server/discover").result["_meta"]["io.modelcontextprotocol/serverInfo"]
        return bool(told["name"] == name)

    wait_until(is_served, f"{name} is served with {tools}")


def test_without_its_code_a_renamed_service_has_the_tasks_keys_and_path_of_its_former_name(
    at: Callable[[str], WireClient], announcer: Announcer
) -> None:
    old = announcer.start("Office", pack)
    until_served(at("/office/mcp"), "Office", "pack")
    first = at("/office/mcp").task("pack", {"order": 1}, meta=META)

    announcer.stop(old)
    new = announcer.start("Shop", pack, former_names=OFFICE)

    for path in ("/mcp", "/shop/mcp", "/office/mcp"):
        client = at(path)
        until_served(client, "Shop", "pack")
        assert client.get(first)["status"] == "working"
        assert client.task("pack", {"order": 1}, meta=META) == first
        assert client.call("pack", {"order": 2}, meta=META).error["code"] == -32602

    announcer.stop(new)
    wait_until(lambda: "No worker" in str(at("/shop/mcp").request("tools/list").result), "it says so")
    assert at("/shop/mcp").get(first)["status"] == "working", "also while no worker runs"


def test_without_its_code_a_service_that_says_no_former_name_has_nothing_of_another_one(
    at: Callable[[str], WireClient], announcer: Announcer
) -> None:
    announcer.stop(announcer.start("Office", pack))
    until_served(at("/office/mcp"), "Office", "pack")
    first = at("/office/mcp").task("pack", {"order": 1}, meta=META)

    announcer.start("Shop", ship)

    shop = at("/shop/mcp")
    until_served(shop, "Shop", "ship")
    assert shop.request("tasks/get", {"taskId": first}).error is not None
    assert shop.call("ship", {"order": 1}, meta=META).error["code"] == -32602


def test_while_workers_of_the_former_name_run_calls_are_recorded_so_that_all_can_take_them(
    at: Callable[[str], WireClient],
    announcer: Announcer,
    redis_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    old = announcer.start("Office", pack, ship)
    announcer.start("Shop", pack, node="celery@b", former_names=OFFICE)
    client = at("/mcp")
    until_served(client, "Shop", "pack", "ship")
    worker = Worker(redis_url, registry(pack, ship))

    def recorded_as(tool: str, key: str) -> str:
        return worker.task(client.task(tool, {"order": 1}, meta={IDEMPOTENCY_META: key})).service

    assert (recorded_as("pack", "1"), recorded_as("ship", "2")) == ("Office", "Office")
    first = client.task("pack", {"order": 1}, meta={IDEMPOTENCY_META: "1"})

    announcer.stop(old)

    wait_until(lambda: "No worker" in str(client.request("tools/list").result), "ship has lost its worker")
    assert recorded_as("pack", "3") == "Shop"
    assert client.task("pack", {"order": 1}, meta={IDEMPOTENCY_META: "1"}) == first
    assert "is not offered" not in caplog.text
    worker.store.close()


def test_among_all_services_the_tasks_of_a_former_name_have_the_present_one_in_front(
    redis_url: str, tmp_path: Path, announcer: Announcer
) -> None:
    old = announcer.start("Office", pack)
    with (
        serving_codeless(settings(redis_url, tmp_path), together=True) as port,
        WireClient(port) as client,
    ):
        until_served(client, "Office", "office_pack")
        first = client.task("office_pack", {"order": 1})
        announcer.stop(old)

        announcer.start("Shop", pack, former_names=OFFICE)

        until_served(client, "Shop", "shop_pack")
        assert "'shop_pack'" in client.call("task_status", {"task_id": first}).result["content"][0]["text"]
