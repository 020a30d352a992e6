"""What a worker says to the registry, and when."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tasks_service import TaskService
from tasks_service.authoring.tool import ToolRegistry, build_tool
from tasks_service.domain.errors import StoreUnavailable
from tasks_service.domain.task import SECOND
from tasks_service.domain.tools import ToolDefinition
from tasks_service.store.memory_registry import MemoryRegistry
from tasks_service.store.registry import LIFETIME_MS, REFRESH_SECONDS, AnnouncedTools, WorkerAnnouncement
from tasks_service.worker.announcer import Announcements, Described, Description
from tests.kit.factories import Clock

TOOLS = AnnouncedTools.of([ToolDefinition(name="draw", input_schema={"type": "object"})])
WORKER = WorkerAnnouncement(service="shop", node="celery@a", tools=TOOLS.digest, queues=frozenset({"tasks"}))


class CountedRegistry(MemoryRegistry):
    """Counts what it is told, and may be out of reach."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.heard: list[str] = []
        self.is_away = False

    def _hears(self, what: str) -> None:
        if self.is_away:
            raise StoreUnavailable("no answer in time")
        self.heard.append(what)

    def announce(self, worker: WorkerAnnouncement, tools: AnnouncedTools) -> WorkerAnnouncement:
        self._hears("announce")
        return super().announce(worker, tools)

    def refresh(self, worker: WorkerAnnouncement, tools: AnnouncedTools) -> bool:
        self._hears("refresh")
        return super().refresh(worker, tools)

    def withdraw(self, worker: WorkerAnnouncement) -> None:
        self._hears("withdraw")
        super().withdraw(worker)


class Bench:
    """A worker's announcements, second by second."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.registry = CountedRegistry(self.clock)
        self.announcements = Announcements(lambda: self.clock.now_ms / 1000)
        self.described: Described | None = (WORKER, TOOLS)

    def passes(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.clock.pass_ms(SECOND)
            self.keep()

    def keep(self) -> None:
        try:
            self.announcements.keep(self.registry, self.described)
        except StoreUnavailable as error:
            self.announcements.missed(error)

    def nodes(self) -> list[str]:
        return [worker.node for worker in self.registry.read("shop").workers]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_worker_is_announced_once_and_then_only_says_that_it_still_runs(bench: Bench) -> None:
    bench.keep()
    bench.passes(10 * REFRESH_SECONDS)
    assert bench.registry.heard[0] == "announce"
    assert set(bench.registry.heard[1:]) == {"refresh"}
    assert 10 <= len(bench.registry.heard) <= 12
    assert bench.nodes() == ["celery@a"]


def test_a_worker_says_at_once_that_it_takes_other_queues(bench: Bench) -> None:
    bench.keep()
    started = bench.registry.read("shop").workers[0]
    bench.described = (replace(WORKER, queues=frozenset({"gpu"})), TOOLS)
    bench.passes(1)
    (worker,) = bench.registry.read("shop").workers
    assert worker.queues == {"gpu"}
    assert worker.since_ms == started.since_ms


def test_a_worker_that_takes_no_message_any_more_withdraws(bench: Bench) -> None:
    bench.keep()
    bench.described = None
    bench.passes(2)
    assert bench.nodes() == []
    assert bench.registry.heard == ["announce", "withdraw"]


def test_an_outage_is_told_once_and_survived(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.keep()
    bench.registry.is_away = True
    bench.passes(LIFETIME_MS / SECOND + 5)
    assert bench.nodes() == []
    bench.registry.is_away = False
    bench.passes(1)
    assert bench.nodes() == ["celery@a"]
    assert [record.levelname for record in caplog.records].count("WARNING") == 1


def test_a_store_that_has_lost_everything_is_told_again(bench: Bench) -> None:
    bench.keep()
    bench.registry = CountedRegistry(bench.clock)
    bench.passes(REFRESH_SECONDS)
    assert bench.nodes() == ["celery@a"]


# --- what a Celery worker is ----------------------------------------------------------------------------


def celery_worker(*queues: str, **options: Any) -> Any:
    consumer = SimpleNamespace(queues=[SimpleNamespace(name=name) for name in queues])
    values = {
        "app": TaskService("shop").celery,
        "hostname": "celery@a",
        "consumer": SimpleNamespace(task_consumer=consumer),
        "pool": SimpleNamespace(limit=4),
        "autoscale": None,
        "max_concurrency": None,
        "concurrency": 4,
    }
    return SimpleNamespace(**(values | options))


def describe(worker: Any) -> Description:
    def draw(x: int) -> int:
        return x

    tools = ToolRegistry()
    tools.add(build_tool(draw))
    return Description(worker, service="shop", version="1.2", instructions="", tools=tools)


def test_a_worker_tells_what_it_really_consumes() -> None:
    worker = celery_worker("tasks", "celery")
    description = describe(worker)
    described = description()
    assert described is not None
    announced, tools = described
    assert announced.queues == {"tasks", "celery"}
    assert (announced.version, announced.slots) == ("1.2", 4)
    assert list(tools.tools) == ["draw"]
    worker.consumer.task_consumer = None  # it connects again
    assert description() == described


def test_a_worker_that_takes_no_queue_of_the_service_has_nothing_to_say() -> None:
    assert describe(celery_worker("celery"))() is None
    assert describe(celery_worker())() is None
    assert describe(celery_worker("tasks", consumer=None))() is None


def test_a_worker_that_grows_with_its_load_tells_how_far() -> None:
    described = describe(celery_worker("tasks", autoscale=(2, 8), max_concurrency=8))()
    assert described is not None
    assert described[0].slots == 8
