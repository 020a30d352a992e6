"""Who does what is on beat's schedule: beat's tasks, and the workers while beat is away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery

import tasks_service
from tasks_service import TaskService
from tasks_service.broker.dispatcher import Dispatcher
from tasks_service.cli.doctor import Examination, check_beat
from tasks_service.domain.errors import TaskNotFound
from tasks_service.domain.events import Cancel, Claim, CompleteWithResult, Retry
from tasks_service.domain.task import HOUR, MINUTE, SECOND, JsonText, Phase, Policy, Task, new_token
from tasks_service.settings import Settings
from tasks_service.store.redis import RedisTaskStore
from tasks_service.worker.maintenance.beat_tasks import BeatWork
from tasks_service.worker.maintenance.schedule import (
    AUDIT,
    CELERY_TASKS,
    EXPIRE,
    REAP,
    RESEND,
    SECONDS,
    left_to_workers,
)
from tasks_service.worker.maintenance.thread import Sweeper, Swept
from tests.kit.factories import ALICE, Clock, creation
from tests.kit.store_adapter import counts

INTERVAL_MS = 100
KINDS = (EXPIRE, REAP, RESEND, AUDIT)


class Shard:
    """A store without workers, whose clock stands still until it is told to go on."""

    def __init__(self, url: str) -> None:
        self.clock = Clock()
        self.settings = Settings(_env_file=None, redis_url=url)
        self.service = TaskService("Maintained", settings=self.settings)
        self.outbox = Dispatcher(self.service.celery, redis_url=url)
        self.store = RedisTaskStore(url, outbox=self.outbox, clock=self.clock)
        self.sweeper = Sweeper(self.store, self.outbox, interval=INTERVAL_MS / 1000)
        self.beat = BeatWork(self.store, self.outbox, interval_ms=INTERVAL_MS, lease_ms=10 * SECOND)

    def create(self) -> Task:
        return self.store.create(creation(queue="tasks", policy=Policy())).task

    def run(self) -> tuple[Task, str]:
        task, lease_id = self.create(), new_token()
        return self.store.claim(task.task_id, Claim(lease_id=lease_id, worker="w")).task, lease_id

    def expired(self) -> Task:
        task = self.store.apply(ALICE, self.create().task_id, Cancel())
        self.clock.pass_ms(HOUR)
        return task

    def lose_messages(self) -> None:
        with self.service.celery.connection_for_write() as connection:
            connection.default_channel.queue_purge("tasks")

    def sweep(self) -> Swept:
        while (swept := self.sweeper.sweep()) is None:
            """Its lock ends by the server's clock."""
        return swept

    def phase(self, task: Task) -> Phase:
        return self.store.inspect(task.task_id).task.phase

    def close(self) -> None:
        self.outbox.close()
        self.store.close()


@pytest.fixture
def shard(redis_url: str) -> Iterator[Shard]:
    shard = Shard(redis_url)
    yield shard
    shard.close()


def seen(shard: Shard, *kinds: str) -> None:
    """Beat has just had this done."""
    for kind in kinds or KINDS:
        shard.store.mark_beat(kind)


# --- what is left to the workers ----------------------------------------------------------------------


def test_all_is_left_to_the_workers_before_beat_has_ever_been_seen() -> None:
    assert left_to_workers({}) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_work_is_left_to_the_workers_a_minute_after_beat_should_have_asked(kind: str) -> None:
    on_time = dict.fromkeys(KINDS, 0)
    late_ms = round(SECONDS[kind] * SECOND) + MINUTE
    assert left_to_workers({**on_time, kind: late_ms}) == set()
    assert left_to_workers({**on_time, kind: late_ms + 1}) == {kind}


def test_while_beat_is_there_a_worker_leaves_expiry_resending_and_audit_to_it(shard: Shard) -> None:
    expired = shard.expired()
    shard.create()
    shard.lose_messages()
    seen(shard)
    swept = shard.sweep()
    assert (swept.expired, swept.redispatched) == (0, 0)
    assert shard.sweeper.audit() is None
    assert shard.phase(expired) is Phase.CANCELLED, "it is still stored"


def test_while_beat_is_there_a_worker_still_finds_lost_workers_timers_and_deadlines(shard: Shard) -> None:
    seen(shard)
    shard.sweep()
    lost, _ = shard.run()
    delayed, lease_id = shard.run()
    otherwise = CompleteWithResult(lease_id=lease_id, result=JsonText("{}"))
    shard.store.commit(delayed.task_id, Retry(lease_id=lease_id, delay_ms=SECOND, otherwise=otherwise))
    timers = leases = 0
    for _ in range(3):  # each within two thirds of a lease, so that nobody seems to have been away
        shard.clock.pass_ms(5 * SECOND)
        seen(shard)
        swept = shard.sweep()
        timers, leases = timers + swept.timers, leases + swept.leases
    assert (timers, leases) == (1, 1)
    assert shard.phase(lost) is Phase.PENDING


def test_a_worker_does_it_all_when_beat_has_been_away_for_long_enough(shard: Shard) -> None:
    seen(shard)
    expired = shard.expired()
    assert shard.sweep().expired == 1
    with pytest.raises(TaskNotFound):
        shard.store.inspect(expired.task_id)
    assert shard.sweeper.audit() == 0


def test_a_message_that_beat_found_missing_is_sent_again_by_the_next_worker_that_sweeps(shard: Shard) -> None:
    shard.create()
    shard.lose_messages()
    assert shard.beat.resend() == 0, "it may only be on its way"
    seen(shard)
    shard.clock.pass_ms(INTERVAL_MS - 1)
    assert shard.sweep().redispatched == 0
    shard.clock.pass_ms(1)
    assert shard.sweep().redispatched == 1
    assert shard.outbox.queue_length("tasks") == 1


# --- what beat's tasks do -------------------------------------------------------------------------------


def test_beats_tasks_do_their_work_whatever_lock_a_worker_that_sweeps_holds(shard: Shard) -> None:
    shard.sweep()
    shard.expired()
    assert shard.store.try_lock("sweep", for_ms=MINUTE) or shard.sweeper.sweep() is None
    assert shard.beat.expire() == 1
    assert shard.beat.reap() == 0
    assert shard.beat.resend() == 0
    assert shard.beat.audit() == 0
    assert shard.store.beat_ages_ms() == dict.fromkeys(KINDS, 0)


def test_what_two_beats_ask_for_at_once_is_done_once(shard: Shard) -> None:
    shard.expired()
    assert [shard.beat.expire(), shard.beat.expire()] == [1, None]
    assert shard.sweep() is not None, "nor does that keep a worker from sweeping"


def test_beat_removes_what_ended_by_a_deadline_and_expired_before_anybody_wrote_that_down(
    shard: Shard,
) -> None:
    shard.create()
    shard.clock.pass_ms(25 * HOUR)
    assert shard.beat.reap() == 1
    assert counts(shard.store).total == 0


@pytest.mark.parametrize("kind", KINDS)
def test_each_celery_task_of_the_schedule_has_its_work_done(shard: Shard, kind: str) -> None:
    shard.service.celery.tasks[CELERY_TASKS[kind]].apply(throw=True)
    assert shard.store.beat_ages_ms().keys() == {kind}


# --- what doctor says -----------------------------------------------------------------------------------


class AnsweredByNobody(Examination):
    """An examination in which no process answers by remote control, as beat does by default."""

    def nodes(self) -> set[str]:
        return set()


def said(shard: Shard, service: TaskService | None = None) -> list[str]:
    examined = AnsweredByNobody(service or shard.service, shard.settings, shard.store)
    return [finding.what for finding in check_beat(examined)]


def test_doctor_is_content_with_a_beat_whose_work_is_done_though_it_answers_nobody(shard: Shard) -> None:
    shard.beat.reap()
    assert said(shard) == []


def test_doctor_says_that_beat_was_never_seen_or_for_how_long_it_was_not(shard: Shard) -> None:
    assert ["ever done" in what for what in said(shard)] == [True]
    shard.beat.reap()
    shard.clock.pass_ms(5 * MINUTE)
    assert ["for 300 s" in what for what in said(shard)] == [True]


def test_doctor_names_work_that_beat_is_late_with(shard: Shard) -> None:
    seen(shard)
    shard.clock.pass_ms(5 * MINUTE)
    seen(shard, REAP, RESEND, AUDIT)
    (what,) = said(shard)
    assert what.startswith(EXPIRE)


def test_doctor_names_what_the_schedule_of_a_shops_own_app_lacks(shard: Shard) -> None:
    app = Celery("shop")
    service = TaskService("Shop", celery=app, settings=shard.settings)
    lacking, never_done = said(shard, service)
    assert all(name in lacking for name in CELERY_TASKS.values())
    app.conf.beat_schedule = {"nightly": {"task": "shop.nightly", "schedule": 3600.0}}
    app.conf.beat_schedule.update(tasks_service.BEAT_SCHEDULE)
    assert said(shard, service) == [never_done]
    seen(shard)
    assert said(shard, service) == []
