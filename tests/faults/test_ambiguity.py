"""Every operation, cut on either side of its EXEC or left without an answer, is applied exactly once.

The grid: operations x (cut before, cut after, silence before, silence after) x the two faces x (one server,
the master of sentinels, a cluster of three). Where the face gives up within its deadline, the caller repeats
the same event, as callers do; that must not count twice.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tasks_service.domain.errors import StoreUnavailable
from tasks_service.domain.events import (
    AnswerInput,
    Cancel,
    Checkpoint,
    Claim,
    CompleteWithResult,
    Event,
    FailWithError,
    Question,
    Release,
    Renew,
    RequestInput,
    Retry,
    Sleep,
)
from tasks_service.domain.task import (
    EntryKind,
    Failure,
    FailureKind,
    JournalEntry,
    JsonText,
    TaskRecord,
    new_token,
)
from tasks_service.store.redis import RedisTaskStore
from tests.kit.audit import audit, told
from tests.kit.factories import ALICE, RESULT, creation
from tests.kit.groups import ClusterServers, SentinelGroup
from tests.kit.proxy import CuttingProxy, Verdict
from tests.kit.servers import RedisServer
from tests.kit.store_adapter import AsyncWorkerStore

LEASE = "the lease"
FAILURE = Failure(kind=FailureKind.AUTHOR, message="no", code=-1)
STEP = JournalEntry(kind=EntryKind.STEP, name="s", digest="d", value=JsonText("[1]"))
ASKED = {"a": Question(request=JsonText("{}")), "b": Question(request=JsonText("{}"))}

OPERATIONS: dict[str, Callable[[], Event]] = {
    "create": lambda: creation(idempotency=new_token(), request_digest="d"),
    "claim": lambda: Claim(lease_id=LEASE, worker="w"),
    "renew": lambda: Renew(lease_id=LEASE),
    "note": lambda: Checkpoint(lease_id=LEASE, step=STEP, step_index=0, variables={"n": JsonText("1")}),
    "request_input": lambda: RequestInput(lease_id=LEASE, inputs=ASKED),
    "answer_input": lambda: AnswerInput(answers={"a": JsonText("1")}),
    "sleep": lambda: Sleep(lease_id=LEASE, delay_ms=0, timer=STEP),
    "retry": lambda: Retry(
        lease_id=LEASE, delay_ms=0, otherwise=FailWithError(lease_id=LEASE, failure=FAILURE)
    ),
    "release": lambda: Release(lease_id=LEASE),
    "complete": lambda: CompleteWithResult(lease_id=LEASE, result=RESULT),
    "fail": lambda: FailWithError(lease_id=LEASE, failure=FAILURE),
    "cancel": Cancel,
}
SILENT_LOG = frozenset({"renew", "note"})
"""Operations that leave no line in the log."""


@dataclass
class Cell:
    """One operation whose EXEC met one fate."""

    operation: str
    before: TaskRecord | None
    after: TaskRecord
    token: str

    def check(self) -> None:
        lines = [line for line in self.after.log if line.token == self.token]
        assert len(lines) == (self.operation not in SILENT_LOG), (self.operation, self.after.log)
        moved = len(self.after.log) - (0 if self.before is None else len(self.before.log))
        assert moved == len(lines), self.operation
        entries = 0 if self.before is None else len(self.before.journal)
        journaled = self.operation in ("note", "sleep", "answer_input")
        assert len(self.after.journal) - entries == journaled, self.operation


def prepared(store: RedisTaskStore, operation: str) -> str:
    """A task in the phase that an operation needs."""
    task_id = store.create(creation()).task.task_id
    if operation in ("claim", "cancel"):
        return task_id
    store.claim(task_id, Claim(lease_id=LEASE, worker="w"))
    if operation == "answer_input":
        store.commit(task_id, RequestInput(lease_id=LEASE, inputs=ASKED))
    return task_id


def send(store: Any, task_id: str, event: Any) -> Any:
    """One call of either face."""
    if isinstance(event, Claim):
        return store.claim(task_id, event)
    if isinstance(event, Cancel | AnswerInput):
        return store.apply(ALICE, task_id, event)
    return store.create(event) if hasattr(event, "owner") else store.commit(task_id, event)


def blocking(url: str, task_id: str, event: Event) -> None:
    with closing(RedisTaskStore(url, shards=1)) as store:
        send(store, task_id, event)


def on_a_loop(url: str, task_id: str, event: Event) -> None:
    async def call() -> None:
        store = AsyncWorkerStore(url, shards=1, deadline=0.5)
        try:
            for _ in range(3):
                try:
                    await send(store, task_id, event)
                    return
                except StoreUnavailable:
                    continue
            raise AssertionError("it never answered")
        finally:
            await store.aclose()

    asyncio.run(call())


class Fates:
    """Decides over the next EXEC of each task, at whichever proxy it comes by."""

    def __init__(self, proxies: Sequence[CuttingProxy]) -> None:
        self._lock = threading.Lock()
        self._fates: dict[bytes, Verdict] = {}
        for proxy in proxies:
            proxy.judge = self._judge

    def decide(self, task_id: str, verdict: Verdict) -> None:
        with self._lock:
            self._fates[task_id.encode()] = verdict

    def all_met(self) -> bool:
        return not self._fates

    def _judge(self, packet: bytes) -> Verdict:
        if b"\r\nEXEC\r\n" not in packet:
            return Verdict.PASS
        with self._lock:
            met = next((task_id for task_id in self._fates if task_id in packet), None)
            return Verdict.PASS if met is None else self._fates.pop(met)


@dataclass
class Deployment:
    """A Redis behind proxies, and who decides there."""

    url: str
    fates: Fates


@contextmanager
def one_server() -> Iterator[Deployment]:
    server = RedisServer()
    proxy = CuttingProxy(server.port)
    try:
        yield Deployment(proxy.url, Fates([proxy]))
    finally:
        proxy.close()
        server.close()


@contextmanager
def under_sentinels() -> Iterator[Deployment]:
    with closing(SentinelGroup()) as group:
        yield Deployment(group.url, Fates(list(group.proxies.values())))


@contextmanager
def cluster_of_three() -> Iterator[Deployment]:
    with closing(ClusterServers(3)) as servers:
        yield Deployment(servers.url, Fates(servers.proxies))


DEPLOYMENTS = [one_server, under_sentinels, cluster_of_three]


@pytest.fixture(scope="module", params=DEPLOYMENTS, ids=lambda make: make.__name__)
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    with request.param() as running:
        yield running


def cell(
    where: Deployment, operation: str, verdict: Verdict, face: Callable[[str, str, Event], None]
) -> Cell:
    with closing(RedisTaskStore(where.url, shards=1)) as witness:
        event = OPERATIONS[operation]()
        is_new = operation == "create"
        task_id = event.task_id if is_new else prepared(witness, operation)  # type: ignore[attr-defined]
        before = None if is_new else witness.inspect(task_id)
        where.fates.decide(task_id, verdict)
        face(where.url, task_id, event)
        return Cell(operation, before, witness.inspect(task_id), event.token)


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict.CUT_BEFORE,
        Verdict.CUT_AFTER,
        pytest.param(Verdict.SILENT_BEFORE, marks=pytest.mark.faults),
        pytest.param(Verdict.SILENT_AFTER, marks=pytest.mark.faults),
    ],
    ids=lambda verdict: verdict.name.lower(),
)
def test_every_operation_is_applied_exactly_once(
    deployment: Deployment, verdict: Verdict, measured: Callable[[str, str], None]
) -> None:
    grid = [(operation, face) for operation in OPERATIONS for face in (blocking, on_a_loop)]
    # All at once, because silence lasts for seconds.
    with ThreadPoolExecutor(len(grid)) as pool:
        cells = list(pool.map(lambda one: cell(deployment, one[0], verdict, one[1]), grid))
    for met in cells:
        met.check()
    assert deployment.fates.all_met()
    violations = audit(deployment.url)
    assert not violations, told(violations)
    measured("R7", f"{len(cells)} of {len(cells)} cells applied exactly once")
