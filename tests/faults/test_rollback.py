"""A store that has forgotten its last writes: no old lease writes, no step is lost, nothing is half there."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from tasks_service import TaskContext
from tasks_service.domain.errors import AttemptEnded, LeaseLost
from tasks_service.domain.events import (
    AnswerInput,
    Checkpoint,
    Claim,
    CompleteWithResult,
    FailWithError,
    Question,
    Release,
    Renew,
    RequestInput,
    Retry,
    Sleep,
    WorkerEvent,
)
from tasks_service.domain.limits import DEFAULT_LIMITS
from tasks_service.domain.task import (
    ClientCapability,
    EntryKind,
    Failure,
    FailureKind,
    JournalEntry,
    JsonText,
    Phase,
    Task,
    new_token,
)
from tasks_service.durable.journal import Journal
from tasks_service.store.redis import RedisTaskStore
from tasks_service.worker.attempt import RunningAttempt
from tests.kit.audit import audit, told
from tests.kit.factories import ALICE, creation
from tests.kit.forgetting import ForgetfulServer, check_append_only_file
from tests.kit.waiting import PATIENCE

DONE = JsonText('{"content":[]}')
WORD = {"type": "object", "properties": {"word": {"type": "string"}}}


@pytest.fixture
def store(server: ForgetfulServer) -> Iterator[RedisTaskStore]:
    store = RedisTaskStore(server.url)
    yield store
    found = audit(server.url)
    store.close()
    assert not found, told(found)


def created(store: RedisTaskStore) -> str:
    return store.create(creation(capabilities=frozenset({ClientCapability.FORM}))).task.task_id


def claimed(store: RedisTaskStore, task_id: str) -> Task:
    return store.claim(task_id, Claim(lease_id=new_token(), worker="here")).task


def attempt(store: RedisTaskStore, task_id: str) -> RunningAttempt:
    """A worker's attempt at a task, without the worker around it."""
    lease_id, started = new_token(), time.monotonic()
    claimed = store.claim(task_id, Claim(lease_id=lease_id, worker="here"))
    return RunningAttempt(
        claimed.task,
        lease_id=lease_id,
        store=store,
        limits=DEFAULT_LIMITS,
        started=started,
        journal=Journal(claimed.journal, ordered=True),
    )


# --- leases ------------------------------------------------------------------------------------------------


STEP = JournalEntry(kind=EntryKind.STEP, name="s", digest="", value=JsonText("1"))
WRITES: dict[str, Callable[[str], WorkerEvent]] = {
    "renew": lambda lease: Renew(lease_id=lease),
    "note": lambda lease: Checkpoint(lease_id=lease, variables={"a": JsonText("1")}),
    "step": lambda lease: Checkpoint(lease_id=lease, step=STEP),
    "ask": lambda lease: RequestInput(lease_id=lease, inputs={"k": Question(request=JsonText("{}"))}),
    "sleep": lambda lease: Sleep(lease_id=lease, delay_ms=0),
    "release": lambda lease: Release(lease_id=lease, lost=True),
    "retry": lambda lease: Retry(
        lease_id=lease, delay_ms=0, otherwise=CompleteWithResult(lease_id=lease, result=DONE)
    ),
    "complete": lambda lease: CompleteWithResult(lease_id=lease, result=DONE),
    "fail": lambda lease: FailWithError(
        lease_id=lease, failure=Failure(kind=FailureKind.AUTHOR, message="no")
    ),
}


@pytest.mark.parametrize("how", ["restored", "failed over"])
def test_a_worker_whose_claim_was_forgotten_writes_nothing_though_its_run_is_given_out_again(
    server: ForgetfulServer, store: RedisTaskStore, how: str
) -> None:
    task_id = created(store)
    if how == "failed over":
        server.replicate()
        server.cut_off()
    position = server.position()
    forgotten = claimed(store, task_id)
    if how == "failed over":
        server.fail_over()
    else:
        server.forget_since(position)

    holder = claimed(store, task_id)
    before = store.inspect(task_id)

    assert holder.claims == forgotten.claims == 1
    assert forgotten.lease is not None
    for write in WRITES.values():
        with pytest.raises(LeaseLost):
            store.commit(task_id, write(forgotten.lease.lease_id))
    assert store.inspect(task_id) == before
    assert holder.lease is not None
    store.commit(task_id, CompleteWithResult(lease_id=holder.lease.lease_id, result=DONE))


# --- steps and variables -----------------------------------------------------------------------------------


class Tool:
    """Two steps, then something else; counts how often each step has run."""

    def __init__(self, then: Callable[[TaskContext], Any]) -> None:
        self.runs = {"first": 0, "second": 0}
        self._then = then

    def step(self, ctx: TaskContext, name: str) -> None:
        def run() -> None:
            self.runs[name] += 1

        ctx.step(name, run)

    def rest(self, ctx: TaskContext) -> None:
        with suppress(AttemptEnded):
            self._then(ctx)

    def again(self, store: RedisTaskStore, task_id: str) -> None:
        """From the top, as the next attempt runs it, to the end."""
        following = attempt(store, task_id)
        ctx = TaskContext(following)
        self.step(ctx, "first")
        self.step(ctx, "second")
        self._then(ctx)
        following.journal.finish()
        following.commit(CompleteWithResult(lease_id=following.lease_id, result=DONE))


def test_a_step_that_the_store_forgot_is_recorded_again_by_its_worker_before_it_sleeps(
    server: ForgetfulServer, store: RedisTaskStore
) -> None:
    task_id, tool = created(store), Tool(lambda ctx: ctx.sleep(timedelta(milliseconds=1)))
    ctx = TaskContext(attempt(store, task_id))
    tool.step(ctx, "first")
    position = server.position()
    tool.step(ctx, "second")
    server.forget_since(position)

    tool.rest(ctx)

    assert [entry.name for entry in store.inspect(task_id).journal][:2] == ["first", "second"]
    time.sleep(0.05)
    tool.again(store, task_id)
    assert tool.runs == {"first": 1, "second": 1}


def test_a_step_that_the_store_forgot_is_recorded_again_by_its_worker_before_it_asks(
    server: ForgetfulServer, store: RedisTaskStore
) -> None:
    task_id, tool = created(store), Tool(lambda ctx: ctx.elicit("Which word?", WORD))
    ctx = TaskContext(attempt(store, task_id))
    position = server.position()
    tool.step(ctx, "first")
    tool.step(ctx, "second")
    server.forget_since(position)

    tool.rest(ctx)

    answer = JsonText('{"action":"accept","content":{"word":"x"}}')
    store.apply(ALICE, task_id, AnswerInput(answers={"question": answer}))
    tool.again(store, task_id)
    assert tool.runs == {"first": 1, "second": 1}


def test_steps_that_the_store_forgot_are_recorded_again_before_the_next_step_and_before_the_end(
    server: ForgetfulServer, store: RedisTaskStore
) -> None:
    task_id = created(store)
    running = attempt(store, task_id)
    ctx = TaskContext(running)
    for name in ("a", "b", "c", "d"):
        position = server.position()
        ctx.step(name, str)
        server.forget_since(position)

    running.commit(CompleteWithResult(lease_id=running.lease_id, result=DONE))

    record = store.inspect(task_id)
    assert [entry.name for entry in record.journal] == ["a", "b", "c", "d"]
    assert record.task.phase is Phase.COMPLETED


def test_variables_that_the_store_forgot_are_written_again_with_the_next_ones(
    server: ForgetfulServer, store: RedisTaskStore
) -> None:
    task_id = created(store)
    running = attempt(store, task_id)
    running.write_variables({"kept": 1, "dropped": 1})
    position = server.position()
    running.write_variables({"forgotten": 2, "kept": 2, "dropped": None})
    server.forget_since(position)

    running.write_variables({"next": 3})

    stored = store.inspect(task_id).task.variables
    assert dict(stored) == {"kept": "2", "forgotten": "2", "next": "3"}
    assert running.variables == {"kept": 2, "forgotten": 2, "next": 3}


# --- a torn file -------------------------------------------------------------------------------------------


def test_of_a_transaction_that_is_torn_in_the_file_nothing_is_left(
    server: ForgetfulServer, store: RedisTaskStore
) -> None:
    seed = secrets.randbelow(1_000_000)
    task_id = created(store)
    running = claimed(store, task_id)
    assert running.lease is not None
    begins, before = server.position(), store.inspect(task_id)
    store.commit(task_id, CompleteWithResult(lease_id=running.lease.lease_id, result=DONE))
    written = server.file.read_bytes()

    for position in random.Random(seed).sample(range(begins, len(written)), 8):
        server.kill()
        server.file.write_bytes(written[:position])
        server.start()
        assert store.inspect(task_id) == before, f"seed {seed}: cut at {position} of {len(written)}"
        assert not (found := audit(server.url)), f"seed {seed}: {told(found)}"


def test_a_redis_that_loads_no_torn_file_starts_when_the_file_is_repaired(server: ForgetfulServer) -> None:
    store = RedisTaskStore(server.url)
    task_id = created(store)
    before = store.inspect(task_id)
    claimed(store, task_id)
    size = server.position()
    server.options = (*server.options, "--aof-load-truncated", "no")
    server.kill()
    with server.file.open("r+b") as file:
        file.truncate(size - 3)
    with pytest.raises(RuntimeError):
        server.start(seconds=1.0)
    assert server.process is not None
    assert server.process.wait(PATIENCE) == 1, "it has ended itself"

    check_append_only_file(server.file, "--fix")
    server.start()

    assert store.inspect(task_id) == before
    store.close()
