"""What pending tasks wait for, and how they are told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from tasks_service.domain.events import Claim
from tasks_service.domain.task import SECOND, Task, Wait, new_token
from tasks_service.domain.tools import ToolDefinition
from tasks_service.store.memory import MemoryTaskStore
from tasks_service.store.registry import AnnouncedTools, WorkerAnnouncement
from tasks_service.store.wait_reasons import WaitReasons
from tasks_service.worker.maintenance import waits
from tasks_service.worker.maintenance.waits import PATIENCE_MS, WaitExplainer
from tests.kit.factories import ALICE, Clock, RecordingOutbox, creation


@dataclass
class Queues:
    """How many messages the broker has."""

    lengths: dict[str, int] = field(default_factory=dict)

    def queue_length(self, name: str) -> int:
        return self.lengths.get(name, 0)


class Bench:
    """A store in memory whose registry knows some workers, and what explains its tasks."""

    def __init__(self) -> None:
        self.clock, self.outbox, self.queues = Clock(), RecordingOutbox(), Queues()
        self.store = MemoryTaskStore(clock=self.clock, outbox=self.outbox)
        self.explainer = WaitExplainer(self.store, self.queues)  # type: ignore[arg-type]

    def start(
        self, *tools: str, queues: str = "q", service: str = "shop", node: str = "a", **options: Any
    ) -> WorkerAnnouncement:
        announced = AnnouncedTools.of(ToolDefinition(name=name, input_schema={}, queue="q") for name in tools)
        taken = frozenset(queues.split())
        worker = WorkerAnnouncement(
            service=service, node=node, tools=announced.digest, queues=taken, **options
        )
        return self.store.registry.announce(worker, announced)

    def create(self, **options: Any) -> Task:
        return self.store.create(creation(**options)).task

    def waits(self, task: Task) -> Wait | None:
        return self.store.inspect(task.task_id).task.waits

    def explain(self) -> int:
        self.clock.pass_ms(PATIENCE_MS)
        return self.explainer.explain()


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(
    ("workers", "waits"),
    [
        ([], Wait.QUEUED),  # nothing is known, not even that nobody is there
        ([("noop", "q", "shop")], Wait.QUEUED),
        ([("noop", "other", "shop")], Wait.NO_WORKER),
        ([("noop", "other", "shop"), ("paint", "q", "shop")], Wait.NO_WORKER),
        ([("paint", "q", "shop")], Wait.NO_TOOL),
        ([("paint", "other", "shop")], Wait.NO_WORKER),
        ([("noop", "q", "bank"), ("paint", "q", "shop")], Wait.NO_TOOL),
    ],
)
def test_what_a_task_waits_for_follows_from_who_runs(
    bench: Bench, workers: list[tuple[str, str, str]], waits: Wait
) -> None:
    for number, (tool, queues, service) in enumerate(workers):
        bench.start(tool, queues=queues, service=service, node=str(number))
    registry = bench.store.registry
    reasons = WaitReasons([registry.read(name) for name in registry.services()])
    assert reasons.of(bench.create(service="shop")) is waits


def test_workers_of_a_renamed_service_are_those_of_tasks_of_its_former_name(bench: Bench) -> None:
    bench.start("noop", service="store", former_names=frozenset({"shop"}))
    task = bench.create(tool="noop", queue="q", service="shop")

    assert WaitReasons([bench.store.registry.read("store")]).of(task) is Wait.QUEUED
    assert WaitReasons([bench.store.registry.read("store")]).of_named("office", "noop", "q") is Wait.QUEUED


def test_a_task_without_a_service_waits_for_any_that_has_its_tool(bench: Bench) -> None:
    bench.start("paint", service="bank")
    bench.start("noop", service="shop")
    registry = bench.store.registry
    reasons = WaitReasons([registry.read(name) for name in registry.services()])
    assert reasons.of(bench.create()) is Wait.QUEUED
    assert reasons.of(bench.create(service="bank")) is Wait.NO_TOOL


def test_a_task_is_told_when_its_last_worker_goes_and_when_one_comes(bench: Bench) -> None:
    worker = bench.start("noop")
    task = bench.create()
    assert bench.explain() == 0
    bench.store.registry.withdraw(worker)
    assert bench.explain() == 1
    assert bench.waits(task) is Wait.NO_WORKER
    assert bench.explain() == 0
    bench.start("noop")
    assert bench.explain() == 1
    assert bench.waits(task) is Wait.QUEUED


def test_a_tool_that_was_taken_away_is_called_so_and_runs_at_once_when_it_is_back(bench: Bench) -> None:
    bench.start("noop")
    bench.start("paint")  # the next release, under the same name
    task = bench.create()
    sent = len(bench.outbox.sent)
    assert bench.explain() == 1
    assert bench.waits(task) is Wait.REMOVED
    assert len(bench.outbox.sent) == sent
    bench.start("noop")
    bench.queues.lengths["q"] = 5
    assert bench.explain() == 1
    assert bench.outbox.sent[sent:] == [task.task_id]


@pytest.mark.parametrize(("length", "sent"), [(3, 0), (0, 1)])
def test_a_message_that_is_still_in_the_queue_is_not_sent_again(bench: Bench, length: int, sent: int) -> None:
    bench.start("paint", queues="other")
    bench.create()
    bench.explain()
    before = len(bench.outbox.sent)
    bench.queues.lengths["q"] = length
    bench.start("noop")
    assert bench.explain() == 1
    assert len(bench.outbox.sent) == before + sent


def test_each_task_is_looked_at_once_while_nothing_changes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.start("noop")
    looked: list[str] = []
    tasks = bench.store.tasks
    monkeypatch.setattr(bench.store, "tasks", lambda names: (looked.extend(names), tasks(names))[1])
    for _ in range(5):
        bench.create()
        bench.clock.pass_ms(1)
    bench.explain()
    bench.explain()
    assert len(looked) == 5
    bench.create()
    bench.explain()
    assert len(looked) == 6


def test_tasks_of_the_same_moment_are_all_looked_at_though_a_batch_ends_among_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "BATCH", 3)
    worker = bench.start("noop")
    tasks = [bench.create()]
    bench.clock.pass_ms(1)
    tasks += [bench.create() for _ in range(3)]
    bench.store.registry.withdraw(worker)
    bench.clock.pass_ms(PATIENCE_MS)
    while bench.explainer.explain():
        """The rest comes in the next round."""
    assert [bench.waits(task) for task in tasks] == [Wait.NO_WORKER] * 4


def test_a_task_that_runs_or_has_only_just_been_sent_is_left_alone(bench: Bench) -> None:
    bench.start("paint")
    task = bench.create()
    bench.store.claim(task.task_id, Claim(lease_id=new_token(), worker="w"))
    assert bench.explain() == 0
    bench.create(owner=ALICE)
    assert bench.explainer.explain() == 0


def test_lost_workers_are_forgotten(bench: Bench) -> None:
    bench.start("noop")
    bench.clock.pass_ms(31 * SECOND)
    bench.explain()
    assert bench.store.registry.forget_lost() == 0
    assert bench.store.registry.read("shop").workers == ()
