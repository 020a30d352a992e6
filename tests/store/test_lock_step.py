"""Memory and Redis, moved by the same random events, never differ; and neither do the rules that they share.

The clock of both is the test's, so deadlines, leases and expiry take part.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tasks_service.domain.decide import effective
from tasks_service.domain.errors import TasksServiceError
from tasks_service.domain.events import (
    AnswerInput,
    CallerLeft,
    CallerReturned,
    Cancel,
    CancelByOperator,
    Checkpoint,
    Claim,
    ClientEvent,
    CompleteWithResult,
    DeadlinePassed,
    Event,
    Expire,
    ExplainWait,
    FailWithError,
    GrantSlot,
    MakeVisible,
    Question,
    Reap,
    Redispatch,
    Release,
    Renew,
    RequestInput,
    Retry,
    Sleep,
    SweepEvent,
    WorkerEvent,
)
from tasks_service.domain.indexes import Due
from tasks_service.domain.limits import Limits
from tasks_service.domain.names import new_task_id
from tasks_service.domain.task import (
    EntryKind,
    Failure,
    FailureKind,
    JournalEntry,
    JsonText,
    Owner,
    Policy,
    Progress,
    TaskStatus,
    ToolException,
    Wait,
    new_token,
)
from tasks_service.store.memory import MemoryTaskStore
from tasks_service.store.redis import RedisTaskStore
from tests.kit.factories import Clock, creation
from tests.kit.servers import RedisServer
from tests.kit.stored import ids_of

POLICY = Policy(
    ttl_ms=60_000,
    retention_ms=20_000,
    queue_timeout_ms=50_000,
    timeout_ms=40_000,
    question_ms=30_000,
    max_lifetime_ms=200_000,
    lease_ms=10_000,
    max_attempts=2,
)
LIMITS = Limits(
    live_per_owner=4,
    tasks_per_shard=12,
    result_bytes=40,
    variables_bytes=60,
    journal_entries=4,
    running_per_owner={"q": 2},
)
OWNERS = [Owner("alice"), Owner("bob")]
TEXTS = st.sampled_from([JsonText("1"), JsonText('"é"'), JsonText('"' + "x" * 50 + '"'), JsonText("{}")])
KEYS = st.sampled_from(["a", "b", "c"])
RAISED = ToolException(type="builtins.KeyError", message="'é'", traceback="Traceback", claim=1)
DELAYS = st.sampled_from([0, 1, 15_000])


def outcome(action: Any) -> Any:
    """What an action returned, or which error it raised."""
    try:
        return action()
    except TasksServiceError as error:
        return type(error).__name__, str(error)


class LockStep(RuleBasedStateMachine):
    """Every event goes to both stores; what they answer must be the same."""

    server: RedisServer
    steps = 0
    tasks = Bundle("tasks")
    leases = Bundle("leases")

    @initialize()
    def begin(self) -> None:
        with self.server.client() as client:
            client.flushall()
        self.clock = Clock()
        self.memory = MemoryTaskStore(limits=LIMITS, clock=self.clock)
        self.redis = RedisTaskStore(self.server.url, limits=LIMITS, clock=self.clock)

    def teardown(self) -> None:
        if hasattr(self, "redis"):
            self.redis.close()

    def both(self, name: str, *arguments: Any, **options: Any) -> Any:
        ours = outcome(lambda: getattr(self.memory, name)(*arguments, **options))
        theirs = outcome(lambda: getattr(self.redis, name)(*arguments, **options))
        assert ours == theirs
        return ours

    def commit(self, lease: tuple[str, str], make: Any) -> None:
        task_id, lease_id = lease
        event: WorkerEvent = make(lease_id)
        self.both("commit", task_id, event)
        if isinstance(event, CompleteWithResult):
            self.both("commit", task_id, event)

    @rule(
        target=tasks,
        owner=st.sampled_from(OWNERS),
        key=st.sampled_from(["", "k"]),
        digest=KEYS,
        visible=st.booleans(),
        queue=st.sampled_from(["q", "shared"]),
    )
    def create(self, owner: Owner, key: str, digest: str, visible: bool, queue: str) -> tuple[Owner, str]:
        event = creation(
            owner,
            POLICY,
            task_id=new_task_id(owner),
            idempotency=key,
            request_digest=digest if key else "",
            visible=visible,
            queue=queue,
            takes_turns=queue == "shared",
        )
        self.both("create", event)
        return owner, event.task_id

    @rule(target=leases, task=tasks)
    def claim(self, task: tuple[Owner, str]) -> tuple[str, str]:
        event = Claim(lease_id=new_token(), worker="w", dispatched_ms=self.clock.now_ms)
        self.both("claim", task[1], event)
        return task[1], event.lease_id

    @rule(duration=st.sampled_from([1, 5_000, 11_000, 31_000, 70_000]))
    def time_passes(self, duration: int) -> None:
        self.clock.pass_ms(duration)

    @rule(lease=leases)
    def renew(self, lease: tuple[str, str]) -> None:
        self.commit(lease, lambda lease_id: Renew(lease_id=lease_id))

    @rule(lease=leases, name=KEYS, value=st.one_of(st.none(), TEXTS), current=st.integers(0, 9))
    def note(self, lease: tuple[str, str], name: str, value: JsonText | None, current: int) -> None:
        progress = Progress(current=current, total=10, message=f"step {current}")
        self.commit(
            lease, lambda lease_id: Checkpoint(lease_id=lease_id, variables={name: value}, progress=progress)
        )

    @rule(lease=leases, index=st.integers(0, 4), value=TEXTS)
    def step(self, lease: tuple[str, str], index: int, value: JsonText) -> None:
        entry = JournalEntry(kind=EntryKind.STEP, name="s", digest="d", value=value)
        self.commit(lease, lambda lease_id: Checkpoint(lease_id=lease_id, step=entry, step_index=index))

    @rule(lease=leases, keys=st.sets(KEYS), default=st.one_of(st.none(), TEXTS))
    def ask(self, lease: tuple[str, str], keys: set[str], default: JsonText | None) -> None:
        inputs = {key: Question(request=JsonText("{}"), default=default) for key in sorted(keys)}
        self.commit(lease, lambda lease_id: RequestInput(lease_id=lease_id, inputs=inputs))

    @rule(task=tasks, keys=st.sets(KEYS), value=TEXTS)
    def answer(self, task: tuple[Owner, str], keys: set[str], value: JsonText) -> None:
        self.both(
            "apply", task[0], task[1], AnswerInput(answers=dict.fromkeys(sorted(keys), value)), hidden=True
        )

    @rule(lease=leases, delay=DELAYS)
    def sleep(self, lease: tuple[str, str], delay: int) -> None:
        self.commit(lease, lambda lease_id: Sleep(lease_id=lease_id, delay_ms=delay))

    @rule(lease=leases, delay=DELAYS)
    def retry(self, lease: tuple[str, str], delay: int) -> None:
        def make(lease_id: str) -> Retry:
            own = CompleteWithResult(lease_id=lease_id, result=JsonText("[]"), is_error=True)
            return Retry(lease_id=lease_id, delay_ms=delay, otherwise=own)

        self.commit(lease, make)

    @rule(lease=leases, lost=st.booleans())
    def release(self, lease: tuple[str, str], lost: bool) -> None:
        self.commit(lease, lambda lease_id: Release(lease_id=lease_id, lost=lost))

    @rule(lease=leases, result=TEXTS)
    def complete(self, lease: tuple[str, str], result: JsonText) -> None:
        self.commit(lease, lambda lease_id: CompleteWithResult(lease_id=lease_id, result=result))

    @rule(lease=leases)
    def fail(self, lease: tuple[str, str]) -> None:
        failure = Failure(kind=FailureKind.AUTHOR, message="no", code=-1, data=JsonText("[1]"))
        self.commit(
            lease, lambda lease_id: FailWithError(lease_id=lease_id, failure=failure, exception=RAISED)
        )

    @rule(task=tasks, asker=st.sampled_from(OWNERS))
    def cancel(self, task: tuple[Owner, str], asker: Owner) -> None:
        self.both("apply", asker, task[1], Cancel())

    @rule(task=tasks)
    def order(self, task: tuple[Owner, str]) -> None:
        self.both("apply_order", task[1], CancelByOperator())

    @rule(task=tasks, window=st.sampled_from([1, 8_000, 90_000]))
    def leave(self, task: tuple[Owner, str], window: int) -> None:
        self.both("apply", task[0], task[1], CallerLeft(within_ms=window), hidden=True)

    @rule(task=tasks, kind=st.sampled_from([CallerReturned, MakeVisible]))
    def come_back(self, task: tuple[Owner, str], kind: type[ClientEvent]) -> None:
        self.both("apply", task[0], task[1], kind(), hidden=True)

    @rule(task=tasks, kind=st.sampled_from([Reap, DeadlinePassed, Expire, Redispatch, GrantSlot]))
    def apply_sweep(self, task: tuple[Owner, str], kind: type[SweepEvent]) -> None:
        self.both("apply_sweep", task[1], kind())

    @rule(task=tasks, waits=st.sampled_from(Wait), sends=st.booleans())
    def explain(self, task: tuple[Owner, str], waits: Wait, sends: bool) -> None:
        self.both("apply_sweep", task[1], ExplainWait(waits=waits, sends=sends))

    @rule()
    def sweep(self) -> None:
        events: dict[Due, type[Event]] = {
            Due.EXPIRED: Expire,
            Due.OVERDUE: DeadlinePassed,
            Due.LEASES: Reap,
            Due.TIMERS: Redispatch,
        }
        for index, kind in events.items():
            for task_id in sorted(self.both("due", index, limit=100)):
                self.both("apply_sweep", task_id, kind())
        for task_id in self.both("waiting_for_slots", limit=100):
            self.both("apply_sweep", task_id, GrantSlot())

    @rule(owner=st.sampled_from(OWNERS), limit=st.integers(1, 5))
    def list_everything(self, owner: Owner, limit: int) -> None:
        after = None
        for _ in range(20):
            page = self.redis.page(owner, after=after, limit=limit)
            after = page.last
            if after is None:
                break
        ours = {task.task_id for task in self.memory.page(owner, limit=100).tasks}
        theirs = {task.task_id for task in self.redis.page(owner, limit=100).tasks}
        assert ours == theirs

    @invariant()
    def both_hold_the_same_records_and_every_record_is_sound(self) -> None:
        if not hasattr(self, "redis"):
            return
        type(self).steps += 1
        ids = sorted(ids_of(self.memory))
        assert sorted(ids_of(self.redis)) == ids
        for task_id in ids:
            record = self.redis.inspect(task_id)
            assert record == self.memory.inspect(task_id)
            assert self.redis.index_problems(task_id) == []
            assert (record.task.status is TaskStatus.COMPLETED) == (record.result is not None)
            assert (record.task.status is TaskStatus.FAILED) == (record.task.failure is not None)
            assert [line.revision for line in record.log] == list(range(len(record.log)))
            assert len(record.journal) == record.task.journal_length
            now = effective(record.task, self.clock.now_ms)
            assert now is None or effective(now, self.clock.now_ms) == now


@pytest.mark.timeout(600)
def test_memory_and_redis_stay_in_lock_step(
    redis_server: RedisServer, measured: Callable[[str, str], None]
) -> None:
    LockStep.server, LockStep.steps = redis_server, 0
    examples = int(os.environ.get("TASKS_TEST_EXAMPLES", "40"))
    run_state_machine_as_test(
        LockStep,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
    measured("R6", f"{LockStep.steps} steps of {examples} random lives: 0 differences between the stores")
