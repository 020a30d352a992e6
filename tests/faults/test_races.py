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
    DeadlinePassed,
    Event,
    Question,
    Reap,
    Renew,
    RequestInput,
)
from tasks_service.domain.task import MINUTE, JsonText, Phase, Policy, Task
from tasks_service.store.redis import RedisTaskStore
from tests.kit.audit import audit, told
from tests.kit.factories import ALICE, RESULT, creation

ROUNDS = int(os.environ.get("TASKS_TEST_RACES", "200"))
LEASE = "the lease"
SHORT = Policy(lease_ms=5)


@dataclass(frozen=True)
class Side:
    """What one of the two does: the name of an event, and by how much its clock is ahead."""

    event: str
    lease_id: str = LEASE
    shift_ms: int = 0

    def make(self) -> Event:
        events: dict[str, Callable[[], Event]] = {
            "cancel": Cancel,
            "complete": lambda: CompleteWithResult(lease_id=self.lease_id, result=RESULT),
            "answer": lambda: AnswerInput(answers={"a": JsonText("1")}),
            "claim": lambda: Claim(lease_id=self.lease_id, worker=self.lease_id),
            "renew": lambda: Renew(lease_id=self.lease_id),
            "reap": Reap,
            "overdue": DeadlinePassed,
        }
        return events[self.event]()


def race(url: str, side: Side, task_ids: Sequence[str]) -> list[tuple[bool, str]]:
    """One side of all rounds: whether it won, or what it was told."""
    store = RedisTaskStore(url, clock=lambda server_ms: server_ms + side.shift_ms)
    told_ = []
    for task_id in task_ids:
        event: Any = side.make()
        _starts[0].wait(60)
        try:
            if isinstance(event, Claim):
                store.claim(task_id, event)
            elif isinstance(event, Cancel | AnswerInput):
                store.apply(ALICE, task_id, event)
            elif isinstance(event, Reap | DeadlinePassed):
                store.apply_sweep(task_id, event)
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

        def run(url: str, sides: Sequence[Side], task_ids: Sequence[str]) -> Any:
            jobs = [(url, side, list(task_ids)) for side in sides]
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


def parked(store: RedisTaskStore, open_ms: int | None = None) -> Task:
    task = running(store)
    asked = {"a": Question(request=JsonText("{}"), open_ms=open_ms)}
    return store.commit(task.task_id, RequestInput(lease_id=LEASE, inputs=asked))


def phases(store: RedisTaskStore, tasks: Sequence[Task]) -> list[Phase]:
    return [store.get(ALICE, task.task_id).task.phase for task in tasks]


def ids(tasks: Sequence[Task]) -> list[str]:
    return [task.task_id for task in tasks]


Told = Callable[[str, str], None]
Tally = Callable[..., None]


@pytest.fixture
def tally(measured: Told) -> Tally:
    """Tells how a race ended; both sides must have won some rounds, or they never met."""

    def tell(what: str, winners: Sequence[tuple[bool, str]], *, met: bool = True) -> None:
        won = sum(one for one, _ in winners)
        measured("R12", f"{what}: {len(winners)} rounds, the first won {won}; 0 had another outcome")
        assert not met or 0 < won < len(winners), "the two never met"

    return tell


@pytest.mark.timeout(300)
def test_of_cancel_and_complete_one_wins_and_the_other_learns_which(
    store: RedisTaskStore, redis_url: str, run: Sides, tally: Tally
) -> None:
    tasks = [running(store) for _ in range(ROUNDS)]
    cancels, completes = run(redis_url, [Side("cancel"), Side("complete")], ids(tasks))
    for phase, cancelled, completed in zip(phases(store, tasks), cancels, completes, strict=True):
        assert cancelled[0] != completed[0]
        assert phase is (Phase.CANCELLED if cancelled[0] else Phase.COMPLETED)
        assert phase in (cancelled[1], completed[1])
    tally("cancel and complete", cancels)


@pytest.mark.timeout(300)
def test_an_answer_that_meets_a_late_completion_always_counts(
    store: RedisTaskStore, redis_url: str, run: Sides, tally: Tally
) -> None:
    tasks = [parked(store) for _ in range(ROUNDS)]
    answers, completes = run(redis_url, [Side("answer"), Side("complete")], ids(tasks))
    assert all(won for won, _ in answers)
    assert not any(won for won, _ in completes)
    assert set(phases(store, tasks)) == {Phase.PENDING}
    tally("answer and a late complete", answers, met=False)


@pytest.mark.timeout(300)
def test_of_two_answers_to_one_question_one_goes_into_the_journal(
    store: RedisTaskStore, redis_url: str, run: Sides, tally: Tally
) -> None:
    tasks = [parked(store) for _ in range(ROUNDS)]
    sides = run(redis_url, [Side("answer"), Side("answer")], ids(tasks))
    for task, first, second in zip(tasks, *sides, strict=True):
        assert first[0] != second[0]
        assert len(store.inspect(task.task_id).journal) == 1
    tally("answer and answer", sides[0])


@pytest.mark.timeout(300)
def test_of_two_claims_one_wins_and_its_lease_is_the_tasks(
    store: RedisTaskStore, redis_url: str, run: Sides, tally: Tally
) -> None:
    tasks = [store.create(creation()).task for _ in range(ROUNDS)]
    firsts, seconds = run(redis_url, [Side("claim", "one"), Side("claim", "two")], ids(tasks))
    for task, first, second in zip(tasks, firsts, seconds, strict=True):
        assert first[0] != second[0]
        lease = store.inspect(task.task_id).task.lease
        assert lease is not None and lease.lease_id == ("one" if first[0] else "two")
    tally("claim and claim", firsts)


@pytest.mark.timeout(300)
def test_of_a_renewal_and_a_reaper_one_wins_and_a_reaped_lease_stays_lost(
    store: RedisTaskStore, redis_url: str, run: Sides, tally: Tally
) -> None:
    tasks = [running(store, SHORT) for _ in range(ROUNDS)]
    # By the clock of both the lease has run out: a renewal still revives it, unless the reaper was first.
    sides = [Side("renew", shift_ms=MINUTE), Side("reap", shift_ms=MINUTE)]
    renewals, reaps = run(redis_url, sides, ids(tasks))
    for task, renewed, reaped in zip(tasks, renewals, reaps, strict=True):
        after = store.inspect(task.task_id).task
        assert renewed[0] or reaped[0]
        assert after.phase is (Phase.PENDING if reaped[0] else Phase.RUNNING)
        if renewed[0] and not reaped[0]:
            assert after.lease is not None and after.lease.lease_id == LEASE
    tally("renew and reap", renewals)


@pytest.mark.timeout(300)
def test_of_an_answer_and_its_deadline_one_counts_and_the_other_is_told(
    store: RedisTaskStore, redis_url: str, run: Sides, tally: Tally
) -> None:
    tasks = [parked(store, open_ms=30 * MINUTE) for _ in range(ROUNDS)]
    sides = [Side("answer"), Side("overdue", shift_ms=31 * MINUTE)]
    answers, deadlines = run(redis_url, sides, ids(tasks))
    for phase, answered, overdue in zip(phases(store, tasks), answers, deadlines, strict=True):
        assert answered[0] != overdue[0]
        assert phase is (Phase.PENDING if answered[0] else Phase.FAILED)
        assert phase in (answered[1], overdue[1])
    tally("answer and its deadline", answers)


@pytest.mark.timeout(300)
def test_a_cancellation_that_meets_an_answer_ends_the_task_either_way(
    store: RedisTaskStore, redis_url: str, run: Sides, tally: Tally
) -> None:
    tasks = [parked(store) for _ in range(ROUNDS)]
    answers, cancels = run(redis_url, [Side("answer"), Side("cancel")], ids(tasks))
    assert all(cancelled for cancelled, _ in cancels)
    for task, (answered, met) in zip(tasks, answers, strict=True):
        record = store.inspect(task.task_id)
        assert record.task.phase is Phase.CANCELLED
        assert (len(record.journal), met) == ((1, "") if answered else (0, Phase.CANCELLED))
    tally("answer and cancel", answers)


@pytest.mark.timeout(300)
def test_of_two_completions_of_one_lease_one_counts(
    store: RedisTaskStore, redis_url: str, run: Sides, tally: Tally
) -> None:
    tasks = [running(store) for _ in range(ROUNDS)]
    firsts, seconds = run(redis_url, [Side("complete"), Side("complete")], ids(tasks))
    for first, second in zip(firsts, seconds, strict=True):
        assert first[0] != second[0]
        assert Phase.COMPLETED in (first[1], second[1])
    tally("complete and complete", firsts)


@pytest.mark.timeout(300)
def test_of_a_completion_and_a_reaper_one_wins_and_what_comes_late_is_refused(
    store: RedisTaskStore, redis_url: str, run: Sides, tally: Tally
) -> None:
    tasks = [running(store, SHORT) for _ in range(ROUNDS)]
    completes, reaps = run(redis_url, [Side("complete"), Side("reap", shift_ms=MINUTE)], ids(tasks))
    for phase, completed, reaped in zip(phases(store, tasks), completes, reaps, strict=True):
        assert completed[0] != reaped[0]
        assert phase is (Phase.COMPLETED if completed[0] else Phase.PENDING)
        assert phase in (completed[1], reaped[1])
    tally("complete and reap", completes)


@pytest.mark.timeout(300)
def test_a_replaced_attempts_completion_never_beats_the_present_one(
    store: RedisTaskStore, redis_url: str, run: Sides, tally: Tally
) -> None:
    tasks = [running(store, SHORT) for _ in range(ROUNDS)]
    late = RedisTaskStore(redis_url, clock=lambda server_ms: server_ms + MINUTE)
    for task in tasks:
        late.apply_sweep(task.task_id, Reap())
        late.claim(task.task_id, Claim(lease_id="the next", worker="w"))
    sides = [Side("complete"), Side("complete", "the next")]
    stale, present = run(redis_url, sides, ids(tasks))
    late.close()
    assert all(won for won, _ in present)
    assert {won for won, _ in stale} == {False}
    assert {met for _, met in stale} <= {Phase.RUNNING, Phase.COMPLETED}
    tally("complete of a lost and of the present lease", present, met=False)
