"""Which services can share a store."""

from __future__ import annotations

from typing import Any

import pytest

from tasks_service.domain.tools import ToolDefinition
from tasks_service.store.neighbours import conflicts
from tasks_service.store.registry import (
    NOT_TOLD,
    AnnouncedTools,
    Delivery,
    RegistryView,
    WorkerAnnouncement,
)

REDIS = Delivery("redis", "0", "ts:mq:")
RABBIT = Delivery("amqp", "shop", "")


def tool(name: str, queue: str = "tasks") -> ToolDefinition:
    return ToolDefinition(name=name, input_schema={"type": "object"}, queue=queue)


def view(service: str, *tools: ToolDefinition, delivery: Delivery = REDIS, runs: bool = True) -> RegistryView:
    announced = AnnouncedTools.of(tools)
    worker = WorkerAnnouncement(service=service, node="w@host", tools=announced.digest, delivery=delivery)
    return RegistryView(
        service=service,
        now_ms=0,
        workers=(worker,) if runs else (),
        sets={announced.digest: announced},
    )


def problems(*others: RegistryView, **options: Any) -> list[str]:
    values: dict[str, Any] = {
        "service": "Shop",
        "former_names": (),
        "tools": {"render": tool("render"), "send": tool("send", "mail")},
        "delivery": REDIS,
    }
    return list(conflicts(**{**values, **options}, others=others))


@pytest.mark.parametrize(
    "other",
    [
        view("Shop", tool("render")),
        view("Office", tool("print")),
        view("Office", tool("render", "elsewhere")),
        view("Office", tool("render"), runs=False),
        view("Office", tool("print"), delivery=NOT_TOLD),
    ],
    ids=["itself", "other tools", "other queue", "no worker", "an older release"],
)
def test_services_whose_tools_cannot_be_taken_for_each_other_share_a_store(other: RegistryView) -> None:
    assert problems(other) == []


def test_a_tool_of_one_name_on_one_queue_is_a_conflict_with_two_ways_out() -> None:
    (problem,) = problems(view("Office", tool("render"), tool("print")))

    assert "service 'Office' use the same store, and have a tool 'render' on the queue 'tasks'" in problem
    assert "by TASKS_KEY_PREFIX or another TASKS_REDIS_URL, or the tools another name= or queue=" in problem
    assert "TaskService(..., former_names=['Office'])" in problem


def test_a_former_name_is_no_other_service() -> None:
    assert problems(view("Office", tool("render")), former_names={"Office"}) == []


def test_a_service_starts_beside_workers_to_whom_its_name_is_a_former_one() -> None:
    announced = AnnouncedTools.of([tool("render")])
    newer = WorkerAnnouncement(
        service="Store", node="w@host", tools=announced.digest, former_names=frozenset({"Shop"})
    )
    renamed = RegistryView(service="Store", now_ms=0, workers=(newer,), sets={announced.digest: announced})

    assert problems(renamed) == []
    assert problems(renamed, service="Office") != []
    assert problems(renamed, service="Office", former_names={"Shop"}) != [], "two that have one of old"


def test_workers_that_take_messages_from_elsewhere_are_a_conflict() -> None:
    (prefix,) = problems(view("Office", tool("print"), delivery=REDIS._replace(key_prefix="office:")))
    (broker,) = problems(view("Office", tool("print"), delivery=RABBIT))

    assert "under the prefix 'office:', and those of 'Shop' from database 0 of a Redis" in prefix
    assert "amqp, virtual host 'shop'" in broker
    assert problems(view("Office", tool("print"), delivery=RABBIT), delivery=NOT_TOLD) == []
