"""What a running tool holds, with the engine's real attempt behind it and tasks in memory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from tasks_service import (
    AsyncTaskContext,
    AttemptLost,
    AttemptTimedOut,
    TaskCancelled,
    TaskContext,
    WorkerStopping,
)
from tasks_service.domain.errors import LimitExceeded, NotJson
from tasks_service.domain.events import Cancel, Claim, Create, WorkerEvent
from tasks_service.domain.limits import DEFAULT_LIMITS
from tasks_service.domain.names import new_task_id
from tasks_service.domain.task import JsonText, Owner, Progress, Task, new_token
from tasks_service.store.memory import MemoryTaskStore
from tasks_service.worker.attempt import RunningAttempt

OWNER = Owner("tester")


@pytest.fixture
def store() -> MemoryTaskStore:
    return MemoryTaskStore()


@pytest.fixture
def attempt(store: MemoryTaskStore) -> RunningAttempt:
    """An attempt at a task that was just claimed."""
    return an_attempt(store)


def an_attempt(store: MemoryTaskStore) -> RunningAttempt:
    task_id, lease_id = new_task_id(OWNER), new_token()
    store.create(Create(task_id=task_id, owner=OWNER, tool="draw", queue="tasks", arguments=JsonText("{}")))
    claimed = store.claim(task_id, Claim(lease_id=lease_id, worker="here"))
    return RunningAttempt(
        claimed.task, lease_id=lease_id, store=store, limits=DEFAULT_LIMITS, started=time.monotonic()
    )


@pytest.fixture
def context(attempt: RunningAttempt) -> TaskContext:
    return TaskContext(attempt)


def recorded_progress(store: MemoryTaskStore, attempt: RunningAttempt) -> Progress | None:
    return store.inspect(attempt.task.task_id).task.progress


def test_it_says_whose_task_it_is_and_which_attempt(context: TaskContext, attempt: RunningAttempt) -> None:
    assert (context.task_id, context.owner) == (attempt.task.task_id, OWNER)
    assert (context.tool, context.attempt, context.claims) == ("draw", 1, 1)


def test_progress_costs_the_tool_nothing_and_is_written_by_the_keeper(
    context: TaskContext, attempt: RunningAttempt, store: MemoryTaskStore
) -> None:
    context.progress(1, 10, "begun")
    assert recorded_progress(store, attempt) is None
    attempt.flush_progress()
    assert recorded_progress(store, attempt) == Progress(current=1, total=10, message="begun")


class SlowStore(MemoryTaskStore):
    """A store whose next write takes until it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.writing, self.may_go_on = threading.Event(), threading.Event()

    def commit(self, reference: str, event: WorkerEvent) -> Task:
        self.writing.set()
        assert self.may_go_on.wait(10)
        return super().commit(reference, event)


def test_the_end_of_an_attempt_waits_for_the_progress_that_the_keeper_is_writing() -> None:
    store = SlowStore()
    attempt = an_attempt(store)
    TaskContext(attempt).progress(10, 10, "all done")
    keeper = threading.Thread(target=attempt.flush_progress)
    keeper.start()
    assert store.writing.wait(10)
    end = threading.Thread(target=attempt.flush_progress)
    end.start()
    end.join(0.2)
    assert end.is_alive(), "it would end the attempt, and the keeper's write would be refused"
    store.may_go_on.set()
    end.join(10)
    assert recorded_progress(store, attempt) == Progress(current=10, total=10, message="all done")
    keeper.join(10)


def test_only_the_last_progress_is_written_and_not_again_for_a_second(
    context: TaskContext, attempt: RunningAttempt, store: MemoryTaskStore
) -> None:
    for current in range(5):
        context.progress(current)
    before = time.monotonic()
    attempt.flush_progress()
    assert recorded_progress(store, attempt) == Progress(current=4)
    context.progress(5)
    assert before + 1 <= attempt.progress_due <= time.monotonic() + 1


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_progress_that_json_does_not_have_is_refused(context: TaskContext, number: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        context.progress(number)
    with pytest.raises(ValueError, match="finite"):
        context.progress(1, number)


def test_track_reports_each_item_and_knows_the_total(
    context: TaskContext, attempt: RunningAttempt, store: MemoryTaskStore
) -> None:
    assert list(context.track("abc", "reading")) == ["a", "b", "c"]
    attempt.flush_progress()
    assert recorded_progress(store, attempt) == Progress(current=3, total=3, message="reading")


def test_track_takes_a_generator_whose_length_nobody_knows(
    context: TaskContext, attempt: RunningAttempt, store: MemoryTaskStore
) -> None:
    def items() -> Iterator[int]:
        yield from range(3)

    assert sum(context.track(items())) == 3
    attempt.flush_progress()
    assert recorded_progress(store, attempt) == Progress(current=3)


def test_variables_are_written_together_and_null_deletes(
    context: TaskContext, attempt: RunningAttempt, store: MemoryTaskStore
) -> None:
    context.write_variables({"phase": "one", "rows": [1, 2]})
    context.write_variables({"phase": None, "done": True})
    assert dict(context.variables) == {"rows": [1, 2], "done": True}
    assert dict(store.inspect(attempt.task.task_id).task.variables) == {"rows": "[1,2]", "done": "true"}


def test_waiting_progress_goes_with_the_variables(
    context: TaskContext, attempt: RunningAttempt, store: MemoryTaskStore
) -> None:
    context.progress(3)
    context.write_variables({"phase": "one"})
    assert recorded_progress(store, attempt) == Progress(current=3)


def test_variables_over_the_limit_are_refused_and_none_is_written(
    context: TaskContext, attempt: RunningAttempt, store: MemoryTaskStore
) -> None:
    with pytest.raises(LimitExceeded):
        context.write_variables({"small": 1, "large": "x" * 70_000})
    assert not store.inspect(attempt.task.task_id).task.variables
    assert not context.variables


def test_variables_that_json_does_not_have_are_refused(context: TaskContext) -> None:
    with pytest.raises(NotJson):
        context.write_variables({"rate": float("nan")})


@pytest.mark.parametrize("kind", [TaskCancelled, AttemptLost, AttemptTimedOut, WorkerStopping])
def test_every_call_is_a_checkpoint(
    context: TaskContext, attempt: RunningAttempt, kind: type[BaseException]
) -> None:
    assert not context.cancelled
    attempt.request_stop(kind)  # type: ignore[arg-type]
    assert context.cancelled
    for call in (
        context.check,
        lambda: context.progress(1),
        lambda: context.write_variables({"a": 1}),
        lambda: list(context.track([1])),
    ):
        with pytest.raises(kind):
            call()


def test_an_end_cannot_be_swallowed_by_an_authors_except_exception(
    context: TaskContext, attempt: RunningAttempt
) -> None:
    attempt.request_stop(TaskCancelled)
    with pytest.raises(TaskCancelled):
        try:
            context.check()
        except Exception:
            pytest.fail("swallowed")


def test_a_cancellation_is_noticed_when_something_is_written(
    context: TaskContext, attempt: RunningAttempt, store: MemoryTaskStore
) -> None:
    store.apply(OWNER, attempt.task.task_id, Cancel())
    with pytest.raises(TaskCancelled):
        context.write_variables({"a": 1})
    assert context.cancelled


def test_the_first_reason_stays_but_a_stopping_worker_gives_way(attempt: RunningAttempt) -> None:
    attempt.request_stop(WorkerStopping)
    attempt.request_stop(TaskCancelled)
    attempt.request_stop(AttemptTimedOut)
    assert attempt.stop_reason is TaskCancelled


def test_an_async_tool_has_the_same_calls(attempt: RunningAttempt, store: MemoryTaskStore) -> None:
    async def tool(context: AsyncTaskContext) -> list[int]:
        await context.check()
        await context.progress(0, message="begun")
        await context.write_variables({"phase": "one"})
        return [item async for item in context.track([1, 2], "going")]

    assert asyncio.run(tool(AsyncTaskContext(attempt))) == [1, 2]
    attempt.flush_progress()
    assert recorded_progress(store, attempt) == Progress(current=2, total=2, message="going")
    assert dict(store.inspect(attempt.task.task_id).task.variables) == {"phase": '"one"'}
