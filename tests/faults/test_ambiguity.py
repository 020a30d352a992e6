"""Every operation, cut on either side of its EXEC or left without an answer, is applied exactly once.

The grid: operations x (cut before, cut after, silence before, silence after) x the two faces. Where the face
gives up within its deadline, the caller repeats the same event, as callers do; that must not count twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from tasks_service.domain.errors import StoreUnavailable
from tasks_service.domain.events import (
    AnswerInput,
    Cancel,
    Claim,
    CompleteWithResult,
    Event,
    FailWithError,
    Note,
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
from tasks_service.store.redis import AsyncRedisTaskStore, RedisTaskStore
from tests.support import RedisServer
from tests.support_proxy import CuttingProxy, Verdict

from ..store.conftest import ALICE, RESULT, creation
from .audit import audit, told

LEASE = "the lease"
FAILURE = Failure(kind=FailureKind.AUTHOR, message="no", code=-1)
STEP = JournalEntry(kind=EntryKind.STEP, name="s", digest="d", value=JsonText("[1]"))
ASKED = {"a": Question(request=JsonText("{}")), "b": Question(request=JsonText("{}"))}

OPERATIONS: dict[str, Callable[[], Event]] = {
    "create": lambda: creation(idempotency=new_token(), request_digest="d"),
    "claim": lambda: Claim(lease_id=LEASE, worker="w"),
    "renew": lambda: Renew(lease_id=LEASE),
    "note": lambda: Note(lease_id=LEASE, step=STEP, step_index=0, variables={"n": JsonText("1")}),
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
CUTS = [Verdict.CUT_BEFORE, Verdict.CUT_AFTER, Verdict.SILENT_BEFORE, Verdict.SILENT_AFTER]
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
        return store.act(ALICE, task_id, event)
    return store.create(event) if hasattr(event, "owner") else store.commit(task_id, event)


def blocking(url: str, task_id: str, event: Event) -> None:
    store = RedisTaskStore(url)
    try:
        send(store, task_id, event)
    finally:
        store.close()


def on_a_loop(url: str, task_id: str, event: Event) -> None:
    async def call() -> None:
        store = AsyncRedisTaskStore(url, deadline=0.5)
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


def cell(
    server: RedisServer, operation: str, verdict: Verdict, face: Callable[[str, str, Event], None]
) -> Cell:
    witness, proxy = RedisTaskStore(server.url), CuttingProxy(server.port)
    try:
        event = OPERATIONS[operation]()
        is_new = operation == "create"
        task_id = event.task_id if is_new else prepared(witness, operation)  # type: ignore[attr-defined]
        before = None if is_new else witness.inspect(task_id)
        proxy.cut_exec(verdict)
        face(proxy.url, task_id, event)
        return Cell(operation, before, witness.inspect(task_id), event.token)
    finally:
        witness.close()
        proxy.close()


@pytest.mark.parametrize("face", [blocking, on_a_loop])
@pytest.mark.parametrize("verdict", CUTS, ids=lambda verdict: verdict.name.lower())
def test_every_operation_is_applied_exactly_once(
    redis_server: RedisServer,
    redis_url: str,
    sound_store: None,
    verdict: Verdict,
    face: Callable[[str, str, Event], None],
) -> None:
    # All at once, because silence lasts for seconds.
    with ThreadPoolExecutor(len(OPERATIONS)) as pool:
        cells = list(pool.map(lambda name: cell(redis_server, name, verdict, face), OPERATIONS))
    for met in cells:
        met.check()
    violations = audit(redis_url)
    assert not violations, told(violations)
