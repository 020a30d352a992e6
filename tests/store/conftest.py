"""The faces of a store, wherever it is, behind one blocking interface, with a clock that tests move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from tasks_service.domain.events import Claim, ClientEvent, CompleteWithResult, Create, WorkerEvent
from tasks_service.domain.limits import DEFAULT_LIMITS, Limits
from tasks_service.domain.task import Owner, Policy, Task, new_token
from tasks_service.store.clients import ClientStore, Created, Page, TaskView
from tasks_service.store.maintenance import MaintenanceStore
from tasks_service.store.memory import MemoryTaskStore
from tasks_service.store.redis import RedisTaskStore
from tasks_service.store.workers import Claimed, WorkerStore
from tests.kit.audit import audit, told
from tests.kit.factories import ALICE, RESULT, Clock, RecordingOutbox, creation
from tests.kit.groups import ClusterServers, SentinelGroup
from tests.kit.store_adapter import AsyncWorkerStore
from tests.kit.waiting import PATIENCE


class Awaited:
    """The asyncio face, driven from blocking code on a loop of its own."""

    def __init__(self, store: AsyncWorkerStore, runner: asyncio.Runner) -> None:
        self._store, self._runner = store, runner

    def create(self, event: Create) -> Created:
        return self._runner.run(self._store.create(event))

    def get(self, owner: Owner, task_id: str, *, hidden: bool = False) -> TaskView:
        return self._runner.run(self._store.get(owner, task_id, hidden=hidden))

    def apply(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Task:
        return self._runner.run(self._store.apply(owner, task_id, event, hidden=hidden))

    def page(self, owner: Owner, *, after: str | None = None, limit: int = 50) -> Page:
        return self._runner.run(self._store.page(owner, after=after, limit=limit))

    def claim(self, task_id: str, event: Claim) -> Claimed:
        return self._runner.run(self._store.claim(task_id, event))

    def commit(self, task_id: str, event: WorkerEvent) -> Task:
        return self._runner.run(self._store.commit(task_id, event))


class Store(ClientStore, WorkerStore, Protocol):
    """What clients and workers do."""


@dataclass
class Face:
    """A store as tests use it, and shorthand for what most of them do first."""

    store: Store
    maintenance: MaintenanceStore
    clock: Clock
    outbox: RecordingOutbox

    def create(self, owner: Owner = ALICE, policy: Policy | None = None, **options: Any) -> Task:
        return self.store.create(creation(owner, policy, **options)).task

    def claim(self, task: Task, lease_id: str | None = None, **options: Any) -> Claimed:
        return self.store.claim(task.task_id, Claim(lease_id=lease_id or new_token(), worker="w1", **options))

    def run(self, owner: Owner = ALICE, policy: Policy | None = None, **options: Any) -> tuple[Task, str]:
        """A running task and its lease id."""
        lease_id = new_token()
        return self.claim(self.create(owner, policy, **options), lease_id).task, lease_id

    def finish(self, owner: Owner = ALICE, **options: Any) -> Task:
        task, lease_id = self.run(owner, **options)
        return self.store.commit(task.task_id, CompleteWithResult(lease_id=lease_id, result=RESULT))


FaceMaker = Callable[..., Face]


@pytest.fixture(autouse=True)
def every_test_leaves_a_sound_store(sound_store: None) -> None:
    """All tests here are audited when they end."""


SERVERS: dict[str, Callable[[], SentinelGroup | ClusterServers]] = {
    "sentinel": SentinelGroup,
    "cluster-of-one": lambda: ClusterServers(1),
    "cluster-of-three": lambda: ClusterServers(3),
}
FACES = ["memory", *(f"{where}{face}" for where in ("redis", *SERVERS) for face in ("", "-asyncio"))]


@pytest.fixture(scope="session")
def running() -> Iterator[dict[str, SentinelGroup | ClusterServers]]:
    """The groups of servers that were started for some test, by name."""
    started: dict[str, SentinelGroup | ClusterServers] = {}
    yield started
    for group in started.values():
        group.close()


@pytest.fixture
def store_url(
    request: pytest.FixtureRequest, running: dict[str, SentinelGroup | ClusterServers]
) -> Iterator[Callable[[str], str]]:
    """The URL of such servers, empty now; what is left there is audited."""
    used: list[str] = []

    def url(where: str) -> str:
        if where == "redis":
            return str(request.getfixturevalue("redis_url"))
        group = running.get(where) or running.setdefault(where, SERVERS[where]())
        group.flush()
        used.append(group.url)
        return group.url

    yield url
    for group_url in used:
        violations = audit(group_url, beside=["messages"])
        assert not violations, told(violations)


@pytest.fixture(params=FACES)
def make_face(request: pytest.FixtureRequest, store_url: Callable[[str], str]) -> Iterator[FaceMaker]:
    """Makes a face of the store; the arguments are the limits."""
    cleanups: list[Callable[[], Any]] = []
    where, is_asyncio = request.param.removesuffix("-asyncio"), request.param.endswith("-asyncio")
    url = None if where == "memory" else store_url(where)

    def make(limits: Limits = DEFAULT_LIMITS) -> Face:
        clock, outbox = Clock(), RecordingOutbox(in_store=not where.startswith("cluster"))
        if url is None:
            memory = MemoryTaskStore(limits=limits, outbox=outbox, clock=clock)
            return Face(memory, memory, clock, outbox)
        blocking = RedisTaskStore(url, shards=1, limits=limits, outbox=outbox, clock=clock)
        cleanups.append(blocking.close)
        if not is_asyncio:
            return Face(blocking, blocking, clock, outbox)
        runner = asyncio.Runner()
        store = AsyncWorkerStore(url, shards=1, limits=limits, outbox=outbox, clock=clock, deadline=PATIENCE)
        cleanups.extend([runner.close, lambda: runner.run(store.aclose())])
        return Face(Awaited(store, runner), blocking, clock, outbox)

    yield make
    while cleanups:
        cleanups.pop()()


@pytest.fixture
def face(make_face: FaceMaker) -> Face:
    """Each face of the store in turn, with the default limits."""
    return make_face()
