"""The registry of workers and tools: what readers see, when workers are lost, and what is kept."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pytest

from tasks_service.domain.task import DAY, HOUR, MINUTE, Policy
from tasks_service.domain.tools import ToolDefinition
from tasks_service.store.memory_registry import MemoryRegistry
from tasks_service.store.redis import AsyncRedisTaskStore, RedisTaskStore
from tasks_service.store.registered_tools import registered_tools
from tasks_service.store.registry import (
    LIFETIME_MS,
    REMEMBERED_SETS,
    AnnouncedTools,
    RegistryReader,
    RegistryView,
    WorkerAnnouncement,
    WorkerRegistry,
    registry_name,
)
from tests.kit.audit import client_of
from tests.kit.factories import Clock
from tests.kit.waiting import PATIENCE


class Registry(WorkerRegistry, RegistryReader, Protocol):
    """What workers and readers do."""


class ReadByLoop:
    """The asyncio reader, driven from blocking code; workers have the blocking face."""

    def __init__(self, writer: Registry, reader: AsyncRedisTaskStore, runner: asyncio.Runner) -> None:
        self._reader, self._runner = reader, runner
        self.announce, self.refresh, self.withdraw = writer.announce, writer.refresh, writer.withdraw
        self.forget_lost = writer.forget_lost

    def services(self) -> list[str]:
        return self._runner.run(self._reader.registry.services())

    def read(self, service: str, known: RegistryView | None = None) -> RegistryView:
        return self._runner.run(self._reader.registry.read(service, known))


@dataclass
class Bench:
    """A registry, its clock, and shorthand for what most tests do first."""

    registry: Registry
    clock: Clock

    def start(self, node: str, *tools: ToolDefinition, **options: Any) -> WorkerAnnouncement:
        announced = AnnouncedTools.of(tools)
        values: dict[str, Any] = {"service": "shop", "queues": frozenset({"tasks"})} | options
        worker = WorkerAnnouncement(node=node, tools=announced.digest, **values)
        return self.registry.announce(worker, announced)

    def read(self, known: RegistryView | None = None) -> RegistryView:
        return self.registry.read("shop", known)

    def nodes(self) -> list[str]:
        return [worker.node for worker in self.read().workers]

    def listed(self) -> list[str]:
        view = self.read()
        return [name for name, tool in registered_tools(view).items() if tool.is_listed(view.now_ms)]


@pytest.fixture(params=["memory", "redis", "redis-asyncio", "sentinel", "cluster-of-three"])
def bench(request: pytest.FixtureRequest, store_url: Callable[[str], str]) -> Iterator[Bench]:
    clock = Clock()
    if request.param == "memory":
        yield Bench(MemoryRegistry(clock=clock), clock)
        return
    url = store_url(request.param.removesuffix("-asyncio"))
    with closing(RedisTaskStore(url, clock=clock)) as store:
        if not request.param.endswith("-asyncio"):
            yield Bench(store.registry, clock)
            return
        with asyncio.Runner() as runner:
            reader = AsyncRedisTaskStore(url, clock=clock, deadline=PATIENCE)
            yield Bench(ReadByLoop(store.registry, reader, runner), clock)
            runner.run(reader.aclose())


@pytest.fixture
def redis_bench(redis_url: str) -> Iterator[Bench]:
    clock = Clock()
    with closing(RedisTaskStore(redis_url, clock=clock)) as store:
        yield Bench(store.registry, clock)


def tool(name: str, description: str = "", **options: Any) -> ToolDefinition:
    return ToolDefinition(name=name, description=description, input_schema={"type": "object"}, **options)


# --- what readers see -----------------------------------------------------------------------------------


def test_a_reader_sees_what_a_worker_has_announced(bench: Bench) -> None:
    started = bench.start("celery@a", tool("draw", "Draws."), version="1.2", pool="threads", slots=8)
    view = bench.read()
    assert view.workers == (started,)
    assert started.since_ms == bench.clock.now_ms
    assert view.sets[started.tools].tools == {"draw": tool("draw", "Draws.")}
    assert bench.registry.services() == ["shop"]


def test_a_renamed_service_has_its_former_names_also_while_no_worker_runs(bench: Bench) -> None:
    worker = bench.start("celery@a", tool("draw"), former_names=frozenset({"studio", "atelier"}))
    older = bench.start("celery@b", tool("paint"))
    assert bench.read().workers[0].former_names == {"studio", "atelier"}
    assert bench.read().names == {"shop", "studio", "atelier"}

    bench.registry.withdraw(worker)
    assert bench.read().names == {"shop"}, "those that run do not say so"

    bench.registry.withdraw(older)
    assert bench.read().names == {"shop", "studio", "atelier"}, "of those that ran, one has said so"


def test_a_service_that_nobody_has_announced_is_empty(bench: Bench) -> None:
    assert bench.read().workers == ()
    assert registered_tools(bench.read()) == {}
    assert bench.registry.services() == []


def test_services_on_one_store_are_kept_apart(bench: Bench) -> None:
    bench.start("celery@a", tool("draw", "The shop's."))
    bench.start("celery@a", tool("draw", "The bank's."), service="bank")
    bench.start("celery@a", tool("pay"), service="shop:tools")
    assert registered_tools(bench.registry.read("shop"))["draw"].definition.description == "The shop's."
    assert registered_tools(bench.registry.read("bank"))["draw"].definition.description == "The bank's."
    assert bench.registry.services() == ["bank", "shop", "shop:tools"]


def test_workers_of_one_release_share_what_is_stored_of_their_tools(redis_bench: Bench) -> None:
    for number in range(5):
        redis_bench.start(f"celery@{number}", tool("draw"))
    view = redis_bench.read()
    assert len(view.workers) == 5
    assert len(view.sets) == 1


# --- how a reader learns that something has changed -----------------------------------------------------


def test_the_mark_stays_while_workers_only_say_that_they_run(bench: Bench) -> None:
    worker = bench.start("celery@a", tool("draw"))
    view = bench.read()
    bench.clock.pass_ms(LIFETIME_MS - 1)
    assert bench.registry.refresh(worker, view.sets[worker.tools])
    bench.clock.pass_ms(LIFETIME_MS - 1)
    again = bench.read(view)
    assert again.mark == view.mark
    assert again.now_ms == bench.clock.now_ms
    assert again.workers == view.workers


@pytest.mark.parametrize("event", ["another worker", "other queues", "withdrawn", "lost"])
def test_the_mark_changes_when_workers_do(bench: Bench, event: str) -> None:
    worker = bench.start("celery@a", tool("draw"))
    view = bench.read()
    match event:
        case "another worker":
            bench.start("celery@b", tool("draw"))
        case "other queues":
            bench.registry.announce(replace(worker, queues=frozenset({"gpu"})), view.sets[worker.tools])
        case "withdrawn":
            bench.registry.withdraw(worker)
        case "lost":
            bench.clock.pass_ms(LIFETIME_MS)
    assert bench.read(view).mark != view.mark
    assert bench.read(view) == bench.read()


def test_readers_are_woken_by_what_changes_and_not_by_what_stays(redis_url: str) -> None:
    with closing(RedisTaskStore(redis_url)) as store:
        changes = store.changes(poll=0.2)
        assert next(changes) is None
        tools = AnnouncedTools.of([tool("draw")])
        worker = store.registry.announce(
            WorkerAnnouncement(service="shop", node="a", tools=tools.digest), tools
        )
        assert store.registry.refresh(worker, tools)
        store.registry.withdraw(worker)
        heard = [change.name for change in (next(changes), next(changes)) if change is not None]
        assert heard == [registry_name("shop")] * 2
        assert next(changes) is None


# --- lost workers ---------------------------------------------------------------------------------------


def test_a_worker_that_says_nothing_any_more_is_lost_at_its_time_without_a_sweep(bench: Bench) -> None:
    bench.start("celery@a", tool("draw"))
    bench.clock.pass_ms(LIFETIME_MS - 1)
    assert bench.nodes() == ["celery@a"]
    bench.clock.pass_ms(1)
    assert bench.nodes() == []


def test_a_worker_that_comes_back_after_it_was_lost_is_told_to_announce_itself(bench: Bench) -> None:
    worker = bench.start("celery@a", tool("draw"))
    tools = bench.read().sets[worker.tools]
    bench.clock.pass_ms(LIFETIME_MS)
    assert not bench.registry.refresh(worker, tools)
    bench.registry.announce(worker, tools)
    assert bench.registry.refresh(worker, tools)
    assert bench.nodes() == ["celery@a"]


def test_sweeping_removes_lost_workers_and_leaves_the_others(bench: Bench) -> None:
    bench.start("celery@a", tool("draw"))
    bench.clock.pass_ms(LIFETIME_MS)
    bench.start("celery@b", tool("draw"))
    view = bench.read()
    assert bench.registry.forget_lost() == 1
    assert bench.registry.forget_lost() == 0
    assert bench.read().workers == view.workers
    assert bench.read(view).mark != view.mark


def test_a_withdrawal_leaves_the_worker_that_follows_under_the_same_name(bench: Bench) -> None:
    old = bench.start("celery@a", tool("draw"))
    new = bench.start("celery@a", tool("draw"), version="2.0")
    bench.registry.withdraw(old)
    assert bench.read().workers == (new,)
    assert not bench.registry.refresh(old, bench.read().sets[old.tools])
    bench.registry.withdraw(new)
    assert bench.nodes() == []


# --- tools ----------------------------------------------------------------------------------------------


def test_a_tool_that_lost_its_last_worker_is_listed_for_its_queue_timeout(bench: Bench) -> None:
    policy = Policy(queue_timeout_ms=HOUR)
    worker = bench.start("celery@a", tool("draw", policy=policy), tool("paint"))
    bench.registry.withdraw(worker)
    assert bench.listed() == ["draw", "paint"]
    assert registered_tools(bench.read())["draw"].lost_ms == bench.clock.now_ms
    bench.clock.pass_ms(HOUR - 1)
    assert bench.listed() == ["draw", "paint"]
    bench.clock.pass_ms(1)
    assert bench.listed() == ["paint"]
    bench.registry.forget_lost()
    assert bench.listed() == ["paint"]


def test_a_service_is_forgotten_with_the_last_of_its_tools(bench: Bench) -> None:
    bench.start("celery@a", tool("draw"))
    bench.clock.pass_ms(DAY + MINUTE)
    assert bench.registry.services() == ["shop"]
    assert bench.registry.forget_lost() == 2
    assert bench.registry.services() == []
    assert bench.read().sets == {}


def test_only_so_many_sets_are_remembered(bench: Bench) -> None:
    for number in range(REMEMBERED_SETS + 5):
        bench.registry.withdraw(bench.start("celery@a", tool(f"draw{number}")))
        bench.clock.pass_ms(1)
    assert bench.registry.forget_lost() == 5
    assert bench.listed() == sorted(f"draw{number}" for number in range(5, REMEMBERED_SETS + 5))


def test_a_tool_is_taken_by_those_that_consume_its_queue(bench: Bench) -> None:
    bench.start("celery@a", tool("draw", queue="gpu"), queues=frozenset({"gpu", "tasks"}))
    bench.start("celery@b", tool("draw", queue="gpu"))
    found = registered_tools(bench.read())["draw"]
    assert found.workers == ("celery@a", "celery@b")
    assert found.takers == ("celery@a",)


def test_a_tool_whose_queue_nobody_takes_is_lost_although_workers_have_it(bench: Bench) -> None:
    both = (tool("draw", queue="gpu", policy=Policy(queue_timeout_ms=HOUR)), tool("paint"))
    on_gpu = bench.start("celery@a", *both, queues=frozenset({"gpu"}))
    bench.registry.withdraw(on_gpu)
    lost_ms = bench.clock.now_ms
    bench.clock.pass_ms(HOUR - 1)
    bench.start("celery@b", *both)
    found = registered_tools(bench.read())["draw"]
    assert (found.workers, found.takers, found.lost_ms) == (("celery@b",), (), lost_ms)
    assert bench.listed() == ["draw", "paint"]
    bench.clock.pass_ms(1)
    assert bench.listed() == ["paint"]


@pytest.mark.parametrize("versions", [("1.9", "1.10"), ("1.9.9", "v2.0rc1"), ("", ""), ("1.0", "1.0")])
def test_the_newer_release_decides_what_a_tool_is(bench: Bench, versions: tuple[str, str]) -> None:
    bench.start("celery@old", tool("draw", "old"), version=versions[0])
    bench.clock.pass_ms(1)
    bench.start("celery@new", tool("draw", "new"), version=versions[1])
    bench.clock.pass_ms(1)
    bench.start("celery@old", tool("draw", "old"), version=versions[0])  # it was started again
    found = registered_tools(bench.read())["draw"]
    assert found.definition.description == "new"
    assert found.others == {tool("draw", "old").digest: ("celery@old",)}
    assert found.workers == ("celery@new", "celery@old")


def test_a_version_counts_for_more_than_the_order_of_coming(bench: Bench) -> None:
    bench.start("celery@new", tool("draw", "new"), version="2.0")
    bench.clock.pass_ms(1)
    bench.start("celery@old", tool("draw", "old"), version="1.0")
    assert registered_tools(bench.read())["draw"].definition.description == "new"


def test_a_tool_that_only_the_older_release_has_stays(bench: Bench) -> None:
    bench.start("celery@old", tool("draw"), tool("paint"), version="1.0")
    bench.start("celery@new", tool("draw"), version="2.0")
    assert registered_tools(bench.read())["paint"].workers == ("celery@old",)


# --- what is stored -------------------------------------------------------------------------------------


def test_what_another_release_or_a_hand_has_written_is_passed_over(
    redis_bench: Bench, redis_url: str
) -> None:
    worker = redis_bench.start("celery@a", tool("draw"), tool("paint"))
    now_ms = redis_bench.clock.now_ms
    with client_of(redis_url) as client:
        key = "ts:registry:{00}"
        client.hset(f"{key}:workers:shop", "celery@b", '{"service":"shop","node":"celery@b","colour":"red"}')
        client.hset(f"{key}:workers:shop", "celery@c", "no JSON")
        client.hset(f"{key}:workers:shop", "celery@d", '{"v":9,"service":"shop","node":"celery@d"}')
        client.zadd(f"{key}:alive:shop", {f"celery@{name}": now_ms + 1000 for name in "bcd"})
        tools = f"{key}:tools:shop:{worker.tools}"
        client.set(tools, client.get(tools).replace('"input_schema"', '"inputs"', 1), keepttl=True)
    assert redis_bench.nodes() == ["celery@a", "celery@b"]
    assert len(registered_tools(redis_bench.read())) == 1
    assert redis_bench.registry.forget_lost() == 0


def test_a_worker_announces_its_tools_again_when_the_store_has_lost_them(
    redis_bench: Bench, redis_url: str
) -> None:
    worker = redis_bench.start("celery@a", tool("draw"))
    tools = redis_bench.read().sets[worker.tools]
    with client_of(redis_url) as client:
        client.delete(f"ts:registry:{{00}}:tools:shop:{worker.tools}")
    assert registered_tools(redis_bench.read()) == {}
    assert not redis_bench.registry.refresh(worker, tools)
    redis_bench.registry.announce(worker, tools)
    assert list(registered_tools(redis_bench.read())) == ["draw"]


KEYS = ("services", "alive:shop", "workers:shop", "sets:shop", "mark:shop")


@pytest.mark.parametrize("name", [*KEYS, "tools"])
def test_a_worker_that_goes_on_mends_a_key_of_a_wrong_type(
    redis_bench: Bench, redis_url: str, name: str
) -> None:
    worker = redis_bench.start("celery@a", tool("draw"))
    tools = redis_bench.read().sets[worker.tools]
    with client_of(redis_url) as client:
        key = f"ts:registry:{{00}}:{name if name in KEYS else f'tools:shop:{worker.tools}'}"
        client.delete(key)
        client.rpush(key, "no such thing")
        client.expire(key, 60)
    assert redis_bench.registry.services() in (["shop"], [])
    redis_bench.read()
    redis_bench.registry.forget_lost()
    redis_bench.registry.refresh(worker, tools) or redis_bench.registry.announce(worker, tools)
    assert redis_bench.registry.services() == ["shop"]
    assert redis_bench.nodes() == ["celery@a"]
    assert list(registered_tools(redis_bench.read())) == ["draw"]


@pytest.mark.parametrize("text", ["no JSON", "[]", "", "[" * 100_000])
def test_tools_that_cannot_be_read_are_forgotten_and_their_worker_says_them_again(
    redis_bench: Bench, redis_url: str, text: str
) -> None:
    worker = redis_bench.start("celery@a", tool("draw"))
    tools = redis_bench.read().sets[worker.tools]
    with client_of(redis_url) as client:
        client.set(f"ts:registry:{{00}}:tools:shop:{worker.tools}", text, keepttl=True)
    assert registered_tools(redis_bench.read()) == {}
    redis_bench.registry.forget_lost()
    assert not redis_bench.registry.refresh(worker, tools)
    redis_bench.registry.announce(worker, tools)
    assert list(registered_tools(redis_bench.read())) == ["draw"]


@pytest.mark.parametrize("taken", ['{"tasks":[1]}', '{"tasks":"x"}', '{"tasks":null}', "5"])
def test_times_of_a_set_of_tools_that_are_none_are_passed_over(
    redis_bench: Bench, redis_url: str, taken: str
) -> None:
    worker = redis_bench.start("celery@a", tool("draw"))
    with client_of(redis_url) as client:
        key = "ts:registry:{00}:sets:shop"
        row = json.loads(client.hget(key, worker.tools))
        client.hset(key, worker.tools, json.dumps({**row, "taken": json.loads(taken)}))
    assert list(registered_tools(redis_bench.read())) == ["draw"]
    redis_bench.registry.withdraw(worker)
    assert registered_tools(redis_bench.read()) == {}
