"""Owners who take turns in a queue: who waits, whose turn it is, and that no worker is left idle."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tasks_service.domain.decide import MESSAGES_AHEAD
from tasks_service.domain.errors import InvalidTransition
from tasks_service.domain.events import (
    Cancel,
    Claim,
    CompleteWithResult,
    DeadlinePassed,
    GrantSlot,
    Redispatch,
)
from tasks_service.domain.limits import Limits
from tasks_service.domain.task import MINUTE, Owner, Phase, Policy, Slot, Task, new_token
from tasks_service.store.redis import RedisTaskStore
from tests.kit.factories import ALICE, BOB, RESULT, Clock, RecordingOutbox, creation
from tests.kit.store_adapter import counts
from tests.kit.stored import ids_of

from .conftest import Face, FaceMaker

CAROL = Owner("carol")


OF_EACH_KIND = pytest.mark.parametrize("make_face", ["memory", "redis", "cluster-of-three"], indirect=True)
"""For whose turn it is, which the same code decides on all faces: those on which it reads in another way."""


@pytest.fixture
def face(make_face: FaceMaker) -> Face:
    """Each face of the store in turn."""
    return make_face()


class Workers:
    """So many slots of workers, which take messages in their order, as a broker hands them out."""

    def __init__(self, face: Face, slots: int) -> None:
        self._face, self._slots = face, slots
        self.running: dict[str, str] = {}
        self.begun: list[str] = []

    def create(self, owner: Owner, **options: object) -> Task:
        """A task; a moment later than what was before, and with whatever free workers make of it."""
        self._face.clock.pass_ms(1)
        task = self._face.create(owner, queue="shared", takes_turns=True, **options)
        self.take()
        return task

    def take(self) -> None:
        """Let free slots take messages until one of both is out."""
        while len(self.running) < self._slots and self._face.outbox.sent:
            task_id, lease_id = self._face.outbox.sent.pop(0), new_token()
            sent_ms = self._face.maintenance.inspect(task_id).task.dispatched_ms
            self._face.clock.pass_ms(1)
            claim = Claim(lease_id=lease_id, worker="w", dispatched_ms=sent_ms)
            if self._face.store.claim(task_id, claim).task.phase is Phase.RUNNING:
                self.running[task_id] = lease_id
                self.begun.append(task_id)

    def finish(self, task: Task | str) -> None:
        """Let a task end, and its slot take another one."""
        task_id = task if isinstance(task, str) else task.task_id
        self._face.clock.pass_ms(1)
        done = CompleteWithResult(lease_id=self.running.pop(task_id), result=RESULT)
        self._face.store.commit(task_id, done)
        self.take()

    def owners(self) -> list[str]:
        """Whose tasks run, in alphabetical order."""
        return sorted(self._face.maintenance.inspect(task_id).task.owner for task_id in self.running)


def assert_sound(face: Face) -> None:
    for name in ids_of(face.maintenance):
        assert face.maintenance.index_problems(name) == []


@OF_EACH_KIND
@pytest.mark.parametrize("slots", [1, 3, 8])
def test_one_owner_alone_has_all_workers(face: Face, slots: int) -> None:
    workers = Workers(face, slots)
    for _ in range(12):
        workers.create(ALICE)
    assert len(workers.running) == slots
    while workers.running:
        workers.finish(next(iter(workers.running)))
        assert len(workers.running) == min(slots, 12 - len(workers.begun) + len(workers.running))
    assert len(workers.begun) == 12
    assert_sound(face)


@OF_EACH_KIND
def test_a_newcomer_is_next_however_many_of_another_wait(face: Face) -> None:
    workers = Workers(face, 2)
    others = [workers.create(ALICE) for _ in range(50)]
    mine = workers.create(BOB)
    for running in others[: 1 + MESSAGES_AHEAD]:
        workers.finish(running)
    assert mine.task_id in workers.running
    assert_sound(face)


@OF_EACH_KIND
def test_who_has_the_fewest_running_is_next(face: Face) -> None:
    """Long tasks of one do not take all slots, one by one, from the short tasks of another."""
    workers = Workers(face, 4)
    for _ in range(20):
        workers.create(ALICE)
    for _ in range(30):
        workers.create(BOB)
    for _ in range(20):
        of_bob = [t for t in workers.running if face.maintenance.inspect(t).task.owner == BOB]
        workers.finish((of_bob or list(workers.running))[0])
    # Alice's end never more, and yet she has not more than half, but for the message that was on its way.
    assert workers.owners().count(ALICE) <= 2 + MESSAGES_AHEAD
    assert workers.owners().count(BOB) >= 1


@OF_EACH_KIND
def test_three_owners_with_backlogs_have_a_third_of_the_workers_each(face: Face) -> None:
    workers = Workers(face, 6)
    for owner in (ALICE, BOB, CAROL):
        for _ in range(20):
            workers.create(owner)
    for _ in range(18):
        workers.finish(next(iter(workers.running)))
    assert workers.owners() == [ALICE] * 2 + [BOB] * 2 + [CAROL] * 2
    assert_sound(face)


@OF_EACH_KIND
def test_tasks_of_one_owner_begin_in_their_order(face: Face) -> None:
    workers = Workers(face, 2)
    tasks = [workers.create(owner) for _ in range(10) for owner in (ALICE, BOB)]
    while workers.running:
        workers.finish(next(iter(workers.running)))
    for owner in (ALICE, BOB):
        own = [task.task_id for task in tasks if task.owner == owner]
        assert [task_id for task_id in workers.begun if task_id in own] == own


def test_what_waits_says_that_it_waits_for_its_turn(face: Face) -> None:
    tasks = [face.create(queue="shared", takes_turns=True) for _ in range(3)]
    last = face.maintenance.inspect(tasks[-1].task_id).task
    assert (last.slot, last.status_message) == (
        Slot.WAITING,
        "Waits for its turn: other tasks are before it in the queue 'shared'.",
    )
    assert counts(face.maintenance).waiting == 2
    assert_sound(face)


ENDS: dict[str, Callable[[Face, Task], object]] = {
    "claimed": lambda face, task: face.claim(task, dispatched_ms=face.clock.now_ms),
    "cancelled": lambda face, task: face.store.apply(task.owner, task.task_id, Cancel()),
    "out of time": lambda face, task: face.maintenance.apply_sweep(task.task_id, DeadlinePassed()),
}


@pytest.mark.parametrize("end", ENDS)
def test_whoever_takes_the_last_message_out_of_a_queue_calls_the_next(face: Face, end: str) -> None:
    brief = Policy(queue_timeout_ms=MINUTE if end == "out of time" else 2 * MINUTE)
    first = face.create(policy=brief, queue="shared", takes_turns=True)
    waiting = face.create(queue="shared", takes_turns=True)
    assert face.maintenance.inspect(waiting.task_id).task.slot is Slot.WAITING
    face.clock.pass_ms(MINUTE)
    face.outbox.sent.clear()
    ENDS[end](face, first)
    assert face.outbox.sent == [waiting.task_id]
    assert_sound(face)


@OF_EACH_KIND
def test_a_message_that_no_worker_can_take_holds_up_nobody(face: Face) -> None:
    stuck = face.create(BOB, queue="shared", takes_turns=True)
    workers = Workers(face, 3)
    face.outbox.sent.clear()
    face.clock.pass_ms(1)
    for _ in range(6):
        workers.create(ALICE)
    assert workers.owners() == [ALICE] * 3
    face.clock.pass_ms(MINUTE)
    face.maintenance.apply_sweep(stuck.task_id, Redispatch())
    face.outbox.sent.remove(stuck.task_id)
    for task_id in list(workers.running):
        workers.finish(task_id)
    for _ in range(3):
        workers.create(ALICE)
    assert workers.owners() == [ALICE] * 3


@OF_EACH_KIND
def test_where_the_number_is_limited_it_is_not_exceeded_though_workers_are_idle(make_face: FaceMaker) -> None:
    face = make_face(Limits(running_per_owner={"shared": 2}))
    workers = Workers(face, 8)
    for _ in range(6):
        workers.create(ALICE)
    assert workers.owners() == [ALICE] * 2


def test_a_turn_that_nobody_called_is_found_by_a_sweep(redis_url: str) -> None:
    """The one who took the message had another configuration, as one that died would leave it."""
    clock = Clock()
    store = RedisTaskStore(redis_url, outbox=RecordingOutbox(), clock=clock)
    tasks = []
    for _ in range(3):
        clock.pass_ms(1)  # those of one millisecond are in no order
        tasks.append(store.create(creation(queue="shared", takes_turns=True)).task)
    first, second, third = tasks
    careless = RedisTaskStore(redis_url, limits=Limits(running_per_owner={"shared": 9}), clock=clock)
    careless.claim(first.task_id, Claim(lease_id=new_token(), worker="w", dispatched_ms=first.dispatched_ms))
    careless.close()
    assert store.inspect(second.task_id).task.slot is Slot.WAITING
    for name in store.waiting_for_slots(limit=100):
        with suppress(InvalidTransition):  # one too many is refused
            store.apply_sweep(name, GrantSlot())
    assert [store.inspect(task.task_id).task.slot for task in (second, third)] == [Slot.HELD, Slot.WAITING]
    store.close()


def test_of_many_that_create_and_claim_at_once_nobody_waits_beside_idle_workers(redis_url: str) -> None:
    """Nothing is watched, and yet nobody is forgotten: no sweep runs here."""
    outbox, owners, each = RecordingOutbox(), [Owner(f"owner{number}") for number in range(4)], 25
    left = threading.Semaphore(0)
    done: list[str] = []

    def create(owner: Owner) -> None:
        store = RedisTaskStore(redis_url, outbox=outbox)
        for _ in range(each):
            store.create(creation(owner, queue="shared", takes_turns=True))
        store.close()

    def work() -> None:
        store = RedisTaskStore(redis_url, outbox=outbox)
        while len(done) < len(owners) * each and not left.acquire(timeout=0):
            try:
                task_id = outbox.sent.pop(0)
            except IndexError:
                continue
            lease_id = new_token()
            sent_ms = store.inspect(task_id).task.dispatched_ms
            store.claim(task_id, Claim(lease_id=lease_id, worker="w", dispatched_ms=sent_ms))
            store.commit(task_id, CompleteWithResult(lease_id=lease_id, result=RESULT))
            done.append(task_id)
        store.close()

    with ThreadPoolExecutor(len(owners) + 3) as pool:
        running = [pool.submit(create, owner) for owner in owners] + [pool.submit(work) for _ in range(3)]
        for one in running:
            one.result(timeout=60)
    assert len(set(done)) == len(owners) * each
