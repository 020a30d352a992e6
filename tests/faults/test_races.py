"""Two processes want two things of one task at the same moment: one gets it, the other is told."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from typing import Any

import pytest

from tasks_service.domain.errors import InvalidTransition, TasksServiceError
from tasks_service.domain.events import (
    AnswerInput,
    Cancel,
    Claim,
    CompleteWithResult,
    Event,
    Question,
    Reap,
    Renew,
    RequestInput,
)
from tasks_service.domain.task import JsonText, Phase, Policy, Task
from tasks_service.store.redis import RedisTaskStore

from ..store.conftest import ALICE, RESULT, creation
from .audit import audit, told

ROUNDS = int(os.environ.get("TASKS_TEST_RACES", "200"))
LEASE = "the lease"
SHORT = Policy(lease_ms=5)


@dataclass(frozen=True)
class Side:
    """What one of the two does: the name of an event, and a process that knows how to send it."""

    event: str
    lease_id: str = LEASE

    def make(self) -> Event:
        events: dict[str, Callable[[], Event]] = {
            "cancel": Cancel,
            "complete": lambda: CompleteWithResult(lease_id=self.lease_id, result=RESULT),
            "answer": lambda: AnswerInput(answers={"a": JsonText("1")}),
            "claim": lambda: Claim(lease_id=self.lease_id, worker=self.lease_id),
            "renew": lambda: Renew(lease_id=self.lease_id),
            "reap": Reap,
        }
        return events[self.event]()


def race(url: str, side: Side, task_ids: Sequence[str], shift_ms: int) -> list[tuple[bool, str]]:
    """One side of all rounds: whether it won, or what it was told."""
    store = RedisTaskStore(url, clock=lambda server_ms: server_ms + shift_ms)
    told_ = []
    for task_id in task_ids:
        event: Any = side.make()
        _starts[0].wait(60)
        try:
            if isinstance(event, Claim):
                store.claim(task_id, event)
            elif isinstance(event, Cancel | AnswerInput):
                store.act(ALICE, task_id, event)
            elif isinstance(event, Reap):
                store.settle(task_id, event)
            else:
                store.commit(task_id, event)
            told_.append((True, ""))
        except InvalidTransition as error:
            told_.append((False, error.current))
        except TasksServiceError as error:
            told_.append((False, type(error).__name__))
    store.close()
    return told_


Sides = Callable[..., list[list[tuple[bool, str]]]]
_starts: list[Barrier] = []
"""In a process that takes a side: where it meets the other, before each round."""


def _meet_at(barrier: Barrier) -> None:
    _starts.append(barrier)


@pytest.fixture(scope="module")
def run() -> Iterator[Sides]:
    """Runs all rounds, each of two sides in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(2, _meet_at, (context.Barrier(2),)) as pool:

        def run(url: str, sides: Sequence[Side], task_ids: Sequence[str], shift_ms: int = 0) -> Any:
            jobs = [(url, side, list(task_ids), shift_ms) for side in sides]
            return pool.starmap(race, jobs, chunksize=1)

        yield run
        pool.close()
        pool.join()


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisTaskStore]:
    store = RedisTaskStore(redis_url)
    yield store
    store.close()
    violations = audit(redis_url)
    assert not violations, told(violations)


def running(store: RedisTaskStore, policy: Policy | None = None) -> Task:
    task = store.create(creation(policy=policy)).task
    return store.claim(task.task_id, Claim(lease_id=LEASE, worker="w")).task


def parked(store: RedisTaskStore) -> Task:
    task = running(store)
    asked = {"a": Question(request=JsonText("{}"))}
    return store.commit(task.task_id, RequestInput(lease_id=LEASE, inputs=asked))


def phases(store: RedisTaskStore, tasks: Sequence[Task]) -> list[Phase]:
    return [store.get(ALICE, task.task_id).task.phase for task in tasks]


def ids(tasks: Sequence[Task]) -> list[str]:
    return [task.task_id for task in tasks]


@pytest.mark.timeout(300)
def test_of_cancel_and_complete_one_wins_and_the_other_learns_which(
    store: RedisTaskStore, redis_url: str, run: Sides
) -> None:
    tasks = [running(store) for _ in range(ROUNDS)]
    cancels, completes = run(redis_url, [Side("cancel"), Side("complete")], ids(tasks))
    for phase, cancelled, completed in zip(phases(store, tasks), cancels, completes, strict=True):
        assert cancelled[0] != completed[0]
        assert phase is (Phase.CANCELLED if cancelled[0] else Phase.COMPLETED)
        assert phase in (cancelled[1], completed[1])
    assert {won for won, _ in cancels} == {True, False}, "the two never met"


@pytest.mark.timeout(300)
def test_an_answer_that_meets_a_late_completion_always_counts(
    store: RedisTaskStore, redis_url: str, run: Sides
) -> None:
    tasks = [parked(store) for _ in range(ROUNDS)]
    answers, completes = run(redis_url, [Side("answer"), Side("complete")], ids(tasks))
    assert all(won for won, _ in answers)
    assert not any(won for won, _ in completes)
    assert set(phases(store, tasks)) == {Phase.PENDING}


@pytest.mark.timeout(300)
def test_of_two_answers_to_one_question_one_goes_into_the_journal(
    store: RedisTaskStore, redis_url: str, run: Sides
) -> None:
    tasks = [parked(store) for _ in range(ROUNDS)]
    sides = run(redis_url, [Side("answer"), Side("answer")], ids(tasks))
    for task, first, second in zip(tasks, *sides, strict=True):
        assert first[0] != second[0]
        assert len(store.inspect(task.task_id).journal) == 1


@pytest.mark.timeout(300)
def test_of_two_claims_one_wins_and_its_lease_is_the_tasks(
    store: RedisTaskStore, redis_url: str, run: Sides
) -> None:
    tasks = [store.create(creation()).task for _ in range(ROUNDS)]
    firsts, seconds = run(redis_url, [Side("claim", "one"), Side("claim", "two")], ids(tasks))
    for task, first, second in zip(tasks, firsts, seconds, strict=True):
        assert first[0] != second[0]
        lease = store.inspect(task.task_id).task.lease
        assert lease is not None and lease.lease_id == ("one" if first[0] else "two")
    assert {won for won, _ in firsts} == {True, False}, "the two never met"


@pytest.mark.timeout(300)
def test_of_a_renewal_and_a_reaper_one_wins_and_a_reaped_lease_stays_lost(
    store: RedisTaskStore, redis_url: str, run: Sides
) -> None:
    tasks = [running(store, SHORT) for _ in range(ROUNDS)]
    # By the clock of both the lease has run out: a renewal still revives it, unless the reaper was first.
    renewals, reaps = run(redis_url, [Side("renew"), Side("reap")], ids(tasks), shift_ms=60_000)
    for task, renewed, reaped in zip(tasks, renewals, reaps, strict=True):
        after = store.inspect(task.task_id).task
        assert renewed[0] or reaped[0]
        assert after.phase is (Phase.PENDING if reaped[0] else Phase.RUNNING)
        if renewed[0] and not reaped[0]:
            assert after.lease is not None and after.lease.lease_id == LEASE
    assert {won for won, _ in renewals} == {True, False}, "the two never met"
