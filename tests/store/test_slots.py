"""A cap of running tasks per owner and queue: who waits, who is called, and that no slot is ever lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks_service.domain.errors import InvalidTransition
from tasks_service.domain.events import (
    AnswerInput,
    Cancel,
    Claim,
    CompleteWithResult,
    DeadlinePassed,
    Expire,
    FailWithError,
    GrantSlot,
    Question,
    Reap,
    Redispatch,
    Release,
    RequestInput,
    Retry,
    Sleep,
    WorkerEvent,
)
from tasks_service.domain.indexes import Due
from tasks_service.domain.limits import OTHER_QUEUES, Limits
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import (
    DAY,
    MINUTE,
    SECOND,
    Failure,
    FailureKind,
    JsonText,
    Owner,
    Phase,
    Policy,
    Slot,
    Task,
    new_token,
)
from tasks_service.store.redis import RedisTaskStore
from tests.kit.factories import ALICE, BOB, RESULT, RecordingOutbox, creation
from tests.kit.servers import RedisServer
from tests.kit.store_adapter import counts
from tests.kit.stored import ids_of

from .conftest import Face, FaceMaker

TWO_SLOTS = Limits(running_per_owner={OTHER_QUEUES: 2})
FAILURE = Failure(kind=FailureKind.AUTHOR, message="no", code=-1)
ANSWER = JsonText("{}")
ROUNDS, RACERS = 40, 4
PATIENCE = 60.0
"""Seconds that one of them waits for the others."""


@pytest.fixture
def face(make_face: FaceMaker) -> Face:
    """Each face of the store in turn; an owner has two slots in each queue."""
    return make_face(TWO_SLOTS)


def turns(face: Face, *tasks: Task) -> list[Slot | None]:
    return [face.maintenance.inspect(task.task_id).task.slot for task in tasks]


def complete(lease_id: str) -> CompleteWithResult:
    return CompleteWithResult(lease_id=lease_id, result=RESULT)


def sweep(face: Face) -> None:
    """What a sweep does for tasks that are due, and for turns."""
    events = {Due.TIMERS: Redispatch, Due.OVERDUE: DeadlinePassed, Due.LEASES: Reap, Due.EXPIRED: Expire}
    for index, kind in events.items():
        for task_id in face.maintenance.due(index, limit=100):
            face.maintenance.apply_sweep(task_id, kind())
    for task_id in face.maintenance.waiting_for_slots(limit=100):
        face.maintenance.apply_sweep(task_id, GrantSlot())


def assert_consistent(face: Face) -> None:
    for task_id in ids_of(face.maintenance):
        assert face.maintenance.index_problems(task_id) == []


def test_only_tasks_with_a_slot_are_sent_and_the_others_wait_their_turn(face: Face) -> None:
    tasks = [face.create() for _ in range(4)]
    assert turns(face, *tasks) == [Slot.HELD, Slot.HELD, Slot.WAITING, Slot.WAITING]
    assert face.outbox.sent == [task.task_id for task in tasks[:2]]
    held = counts(face.maintenance)
    assert (held.pending, held.waiting, held.running) == (4, 2, 0)
    assert_consistent(face)


def test_the_slots_of_an_owner_in_a_queue_are_nobody_elses(face: Face) -> None:
    for _ in range(3):
        face.create()
    assert turns(face, face.create(BOB), face.create(queue="other")) == [Slot.HELD, Slot.HELD]


def test_whoever_ends_calls_the_one_that_waits_longest_and_no_other(face: Face) -> None:
    first, lease_id = face.run()
    tasks = []
    for _ in range(4):
        face.clock.pass_ms(1)
        tasks.append(face.create())
    face.outbox.sent.clear()

    face.store.commit(first.task_id, complete(lease_id))

    assert turns(face, *tasks) == [Slot.HELD, Slot.HELD, Slot.WAITING, Slot.WAITING]
    assert face.outbox.sent == [tasks[1].task_id]
    assert face.claim(tasks[1]).task.phase is Phase.RUNNING
    assert_consistent(face)


ENDINGS: dict[str, Callable[[str], WorkerEvent]] = {
    "complete": complete,
    "fail": lambda lease_id: FailWithError(lease_id=lease_id, failure=FAILURE),
    "ask": lambda lease_id: RequestInput(lease_id=lease_id, inputs={"k": Question(request=ANSWER)}),
    "sleep": lambda lease_id: Sleep(lease_id=lease_id, delay_ms=MINUTE),
    "retry": lambda lease_id: Retry(lease_id=lease_id, delay_ms=MINUTE, otherwise=complete(lease_id)),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_attempt_that_ends_gives_its_slot_to_the_next(face: Face, ending: str) -> None:
    (first, lease_id), _ = face.run(), face.create()
    waiting = face.create()
    face.store.commit(first.task_id, ENDINGS[ending](lease_id))
    assert turns(face, first, waiting) == [None, Slot.HELD]
    assert face.outbox.sent.count(waiting.task_id) == 1
    assert_consistent(face)


def test_a_cancelled_task_gives_its_slot_to_the_next_whether_it_ran_or_not(face: Face) -> None:
    (first, _), second = face.run(), face.create()
    waiting = [face.create(), face.create()]
    for task in (first, second):
        face.store.apply(ALICE, task.task_id, Cancel())
    assert turns(face, *waiting) == [Slot.HELD, Slot.HELD]
    assert_consistent(face)


def test_a_task_that_waits_can_be_cancelled_and_is_passed_over(face: Face) -> None:
    (first, lease_id), _ = face.run(), face.create()
    cancelled, waiting = face.create(), face.create()
    face.store.apply(ALICE, cancelled.task_id, Cancel())
    assert turns(face, waiting) == [Slot.WAITING]
    face.store.commit(first.task_id, complete(lease_id))
    assert turns(face, cancelled, waiting) == [None, Slot.HELD]
    assert_consistent(face)


def test_a_task_handed_back_or_reaped_keeps_its_slot(face: Face) -> None:
    (first, lease_id), (second, _) = face.run(), face.run()
    waiting = face.create()
    face.store.commit(first.task_id, Release(lease_id=lease_id))
    face.clock.pass_ms(MINUTE)
    face.maintenance.apply_sweep(second.task_id, Reap())
    assert turns(face, first, second, waiting) == [Slot.HELD, Slot.HELD, Slot.WAITING]
    assert face.maintenance.waiting_for_slots(limit=10) == []
    assert face.claim(first).task.phase is face.claim(second).task.phase is Phase.RUNNING


def test_a_task_that_goes_on_after_a_question_waits_if_its_slot_is_taken_meanwhile(face: Face) -> None:
    (first, lease_id), _ = face.run(), face.create()
    face.store.commit(first.task_id, ENDINGS["ask"](lease_id))
    taking, waiting = face.create(), face.create()
    face.store.apply(ALICE, first.task_id, AnswerInput(answers={"k": ANSWER}))

    with pytest.raises(InvalidTransition, match="waits for a slot"):
        face.claim(first, dispatched_ms=face.clock.now_ms)

    assert turns(face, first, taking, waiting) == [Slot.WAITING, Slot.HELD, Slot.WAITING]
    assert face.maintenance.overtaken_ms("q") == face.clock.now_ms
    face.store.apply(ALICE, taking.task_id, Cancel())
    assert turns(face, first, waiting) in ([Slot.HELD, Slot.WAITING], [Slot.WAITING, Slot.HELD])
    assert_consistent(face)


def test_a_task_that_waits_is_never_taken_for_lost(face: Face) -> None:
    tasks = [face.create() for _ in range(3)]
    face.clock.pass_ms(MINUTE)
    assert sorted(face.maintenance.pending("q", until_ms=face.clock.now_ms, limit=10)) == sorted(
        task_hash(task.task_id) for task in tasks[:2]
    )
    with pytest.raises(InvalidTransition):
        face.maintenance.apply_sweep(tasks[2].task_id, Redispatch())


def test_a_slot_whose_holder_ran_out_of_time_goes_to_the_next(face: Face) -> None:
    brief = Policy(timeout_ms=SECOND, queue_timeout_ms=DAY)
    face.run(policy=brief)
    face.create()
    waiting = face.create()
    face.clock.pass_ms(2 * SECOND)
    assert face.maintenance.waiting_for_slots(limit=10) == [task_hash(waiting.task_id)]
    sweep(face)
    assert turns(face, waiting) == [Slot.HELD]
    assert face.outbox.sent.count(waiting.task_id) == 1
    assert_consistent(face)


def test_a_task_whose_turn_does_not_come_in_time_fails_and_leaves_the_queue(face: Face) -> None:
    for _ in range(2):
        face.run()
    waiting = face.create(policy=Policy(queue_timeout_ms=MINUTE))
    face.clock.pass_ms(MINUTE)
    read = face.store.get(ALICE, waiting.task_id).task
    assert read.failure is not None and "It got no slot in time" in read.failure.message
    sweep(face)
    assert counts(face.maintenance).waiting == 0
    assert_consistent(face)


def test_one_message_goes_out_for_each_slot_and_no_slot_is_lost(face: Face) -> None:
    tasks = [face.create() for _ in range(40)]
    done: list[str] = []
    while len(done) < len(tasks):
        sent, face.outbox.sent[:] = list(face.outbox.sent), []
        assert 0 < len(sent) <= 2
        for task_id in sent:
            lease_id = new_token()
            face.store.claim(task_id, Claim(lease_id=lease_id, worker="w"))
            face.store.commit(task_id, complete(lease_id))
            done.append(task_id)
    assert len(set(done)) == len(tasks)
    assert turns(face, face.create(), face.create(), face.create()) == [
        Slot.HELD,
        Slot.HELD,
        Slot.WAITING,
    ]


# --- what the Redis store alone can meet -------------------------------------------------------------


def test_a_slot_that_nobody_granted_is_granted_by_a_sweep(redis_url: str) -> None:
    """The one who ended had another configuration, as one that died before its call would leave it."""
    outbox = RecordingOutbox()
    capped = RedisTaskStore(redis_url, limits=TWO_SLOTS, outbox=outbox)
    careless = RedisTaskStore(redis_url)
    tasks = [capped.create(creation()).task for _ in range(3)]
    lease_id = new_token()
    careless.claim(tasks[0].task_id, Claim(lease_id=lease_id, worker="w"))
    careless.commit(tasks[0].task_id, complete(lease_id))
    assert capped.inspect(tasks[2].task_id).task.slot is Slot.WAITING

    (called,) = capped.waiting_for_slots(limit=10)
    capped.apply_sweep(called, GrantSlot())

    assert called == task_hash(tasks[2].task_id)
    assert outbox.sent[-1] == tasks[2].task_id
    assert capped.waiting_for_slots(limit=10) == []
    capped.close()
    careless.close()


def test_what_waits_behind_records_that_ended_while_nobody_swept_is_called(
    redis_server: RedisServer, redis_url: str
) -> None:
    store = RedisTaskStore(redis_url, limits=TWO_SLOTS)
    tasks = [store.create(creation()).task for _ in range(42)]
    with redis_server.client() as client:
        for task in tasks[2:-1]:
            client.delete(f"ts:{{00}}:t:{task_hash(task.task_id)}", f"ts:{{00}}:l:{task_hash(task.task_id)}")
    store.apply(ALICE, tasks[0].task_id, Cancel())
    for _ in range(10):
        for task_id in store.waiting_for_slots(limit=100):
            store.apply_sweep(task_id, GrantSlot())
    assert store.inspect(tasks[-1].task_id).task.slot is Slot.HELD
    assert list(store.repair())  # their other places are not this test's matter
    store.close()


def test_a_limit_that_was_lifted_lets_a_sweep_call_all_that_wait(redis_url: str) -> None:
    capped = RedisTaskStore(redis_url, limits=TWO_SLOTS)
    tasks = [capped.create(creation()).task for _ in range(20)]
    capped.close()
    free = RedisTaskStore(redis_url)
    for task_id in free.waiting_for_slots(limit=100):
        free.apply_sweep(task_id, GrantSlot())
    assert counts(free).waiting == 0
    for task in tasks:
        free.claim(task.task_id, Claim(lease_id=new_token(), worker="w"))
    free.close()


def test_of_many_that_come_at_once_as_many_take_a_slot_as_there_are(redis_url: str) -> None:
    owners = [Owner(f"owner{number}") for number in range(ROUNDS)]
    stores = [RedisTaskStore(redis_url, limits=TWO_SLOTS) for _ in range(RACERS)]
    together = threading.Barrier(RACERS)

    def race(store: RedisTaskStore) -> list[str]:
        return [
            store.create(creation(owner)).task.task_id for owner in owners if together.wait(PATIENCE) >= 0
        ]

    with ThreadPoolExecutor(RACERS) as pool:
        rounds = list(zip(*pool.map(race, stores), strict=True))
    took = [[stores[0].inspect(task_id).task.slot for task_id in ids].count(Slot.HELD) for ids in rounds]
    assert took == [2] * ROUNDS
    for store in stores:
        store.close()


def test_of_several_that_end_at_once_each_gives_its_own_slot(redis_url: str) -> None:
    """Both slots are given back at a time, again and again: neither is given twice, nor forgotten."""
    stores = [RedisTaskStore(redis_url, limits=TWO_SLOTS) for _ in range(2)]
    together = threading.Barrier(2)
    ids = [stores[0].create(creation()).task.task_id for _ in range(2 * ROUNDS)]

    def seated() -> list[str]:
        live = [task.task for task in map(stores[0].inspect, ids) if not task.task.status.is_final]
        return [task.task_id for task in live if task.slot is Slot.HELD]

    def cancel(store: RedisTaskStore, task_id: str) -> None:
        together.wait(PATIENCE)
        store.apply(ALICE, task_id, Cancel())

    with ThreadPoolExecutor(2) as pool:
        for left in range(2 * ROUNDS, 0, -2):
            for task_id in stores[0].waiting_for_slots(
                limit=1
            ):  # left to a sweep, where a machine was too busy
                stores[0].apply_sweep(task_id, GrantSlot())
            have = seated()
            assert len(have) == 2, left
            list(pool.map(cancel, stores, have))
    for store in stores:
        store.close()
