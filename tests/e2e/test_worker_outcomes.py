"""What becomes of a task, by what its tool does; on real workers of every pool."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_celery import CeleryTestWorker

from tasks_service.domain.events import Create
from tasks_service.domain.names import new_task_id, task_hash
from tasks_service.domain.task import FailureKind, JsonText, Phase, TaskStatus
from tasks_service.store.clients import TaskView
from tests.kit.servers import RedisServer
from tests.kit.waiting import quickest, wait_until
from tests.kit.worker_app import ENDS, SECRET
from tests.kit.workers import OWNER, Client, worker_node


@pytest.fixture(scope="module", params=["prefork", "threads", "solo"])
def worker(module_redis: RedisServer, request: pytest.FixtureRequest) -> Iterator[CeleryTestWorker]:
    node = worker_node(module_redis.url, pool=request.param, name=request.param)
    assert node.ready(), node.logs()
    yield node
    node.teardown()


def text_of(view: TaskView) -> str:
    assert view.result is not None
    return str(json.loads(view.result)["content"][0]["text"])


def test_a_tool_runs_and_its_result_is_recorded(worker: CeleryTestWorker, client: Client) -> None:
    ended = client.run("add", x=2, y=3)
    assert ended.task.status is TaskStatus.COMPLETED
    assert json.loads(ended.result or "") == {
        "content": [{"type": "text", "text": "5"}],
        "structuredContent": {"result": 5},
    }


def test_a_tool_learns_whose_task_it_is(worker: CeleryTestWorker, client: Client) -> None:
    ended = client.run("identity")
    said: dict[str, Any] = json.loads(ended.result or "")["structuredContent"]
    assert said["task"] == ended.task.task_id
    assert (said["owner"], said["tool"], said["run"]) == (OWNER, "identity", 1)


def test_the_authors_sentence_reaches_the_client(worker: CeleryTestWorker, client: Client) -> None:
    ended = client.run("refuse")
    assert ended.task.status is TaskStatus.COMPLETED
    assert ended.task.is_error
    assert text_of(ended) == "The printer is out of paper."


def test_celery_sees_that_a_tool_failed_and_nothing_of_why(worker: CeleryTestWorker, client: Client) -> None:
    ended = client.run("refuse")
    wait_until(lambda: f"ToolFailed('the record of task {task_hash(ended.task.task_id)}" in worker.logs())
    assert "out of paper" not in worker.logs()


def test_the_authors_protocol_error_fails_the_task(worker: CeleryTestWorker, client: Client) -> None:
    failure = client.run("protest").task.failure
    assert failure is not None
    assert (failure.kind, failure.code, failure.message) == (FailureKind.AUTHOR, 4050, "Not on a Sunday.")
    assert json.loads(failure.data or "") == {"day": "Sunday"}


def test_any_other_exception_is_in_the_record_and_the_log_and_the_client_learns_nothing_of_it(
    worker: CeleryTestWorker, client: Client
) -> None:
    ended = client.run("crash")
    assert ended.task.is_error
    assert "The tool 'crash' failed" in text_of(ended)
    assert SECRET not in repr(ended)
    record = client.record(ended.task)
    assert record.exception is not None
    assert (record.exception.type, record.exception.message) == ("builtins.RuntimeError", SECRET)
    assert record.exception.claim == 1
    first_frame = record.exception.traceback.splitlines()[1]
    assert "worker_app.py" in first_frame and "in crash" in first_frame
    assert SECRET not in repr(replace(record, exception=None))
    worker.wait_for_log(SECRET, timeout=60)


def test_sys_exit_is_a_failure_of_the_tool_and_not_the_end_of_the_worker(
    worker: CeleryTestWorker, client: Client
) -> None:
    assert client.run("exit_by_itself").task.is_error
    assert client.run("add", x=1, y=1).task.status is TaskStatus.COMPLETED


@pytest.mark.parametrize("name", ENDS)
def test_whatever_a_tool_raises_is_counted_and_costs_no_slot(
    worker: CeleryTestWorker, client: Client, name: str
) -> None:
    for tool in ("end_with", "end_with", "end_with", "end_branch_with"):  # more than the worker has slots
        ended = client.run(tool, name=name)
        assert (ended.task.is_error, ended.task.claims) == (True, 1)
        assert f"The tool '{tool}' failed" in text_of(ended)
    assert client.run("add", x=1, y=1).task.status is TaskStatus.COMPLETED
    assert client.run("wait_async", seconds=0).task.status is TaskStatus.COMPLETED


def test_odd_progress_is_converted_and_the_outcome_is_recorded(
    worker: CeleryTestWorker, client: Client
) -> None:
    task = client.run("say_odd_things").task
    assert (task.status, task.claims) == (TaskStatus.COMPLETED, 1)
    assert task.progress is not None
    assert (task.progress.current, task.progress.total) == (1.5, 10)
    assert task.progress.message == "half ? a pair"


def test_a_sentence_that_cannot_be_written_is_written_as_far_as_it_can_be(
    worker: CeleryTestWorker, client: Client
) -> None:
    ended = client.run("refuse_oddly")
    assert (ended.task.is_error, ended.task.claims, text_of(ended)) == (True, 1, "half ? a pair")


def test_an_exception_is_retried_by_the_tools_policy(worker: CeleryTestWorker, client: Client) -> None:
    ended = client.run("flaky", succeed_at=3)
    assert (ended.task.is_error, ended.task.claims) == (False, 3)


def test_a_tool_that_never_succeeds_ends_with_an_error_result(
    worker: CeleryTestWorker, client: Client
) -> None:
    ended = client.run("flaky", succeed_at=9)
    assert (ended.task.is_error, ended.task.claims) == (True, 3)
    assert SECRET not in text_of(ended)
    exception = client.record(ended.task).exception
    assert exception is not None and (exception.type, exception.claim) == ("builtins.ConnectionError", 3)


@pytest.mark.parametrize(
    ("tool", "kind"),
    [
        ("too_large", FailureKind.RESULT_LIMIT),
        ("not_json", FailureKind.RESULT_INVALID),
        ("wrong_shape", FailureKind.RESULT_INVALID),
    ],
)
def test_a_result_that_cannot_be_recorded_fails_the_task(
    worker: CeleryTestWorker, client: Client, tool: str, kind: FailureKind
) -> None:
    ended = client.run(tool).task
    assert ended.status is TaskStatus.FAILED
    assert ended.failure is not None
    assert ended.failure.kind is kind


def test_progress_and_variables_are_recorded_up_to_the_last(worker: CeleryTestWorker, client: Client) -> None:
    task = client.run("report", steps=50).task
    assert task.progress is not None
    assert (task.progress.current, task.progress.total, task.progress.message) == (50, 50, "stepping")
    assert dict(task.variables) == {"phase": '"done"'}


def test_an_attempt_that_runs_too_long_fails_the_task(worker: CeleryTestWorker, client: Client) -> None:
    failure = client.run("slow").task.failure
    assert failure is not None
    assert failure.kind is FailureKind.TIMEOUT


def test_a_cancellation_reaches_a_running_tool_within_a_second(
    worker: CeleryTestWorker, client: Client
) -> None:
    def seconds_to_reach_it() -> float:
        before = worker.logs().count("ended early: The task was cancelled")
        task = client.call("loop")
        client.running(task)
        began = time.monotonic()
        client.cancel(task)
        wait_until(lambda: worker.logs().count("ended early: The task was cancelled") > before, worker.logs)
        seconds = time.monotonic() - began
        # On a solo worker, and where all slots but one are taken, only an ended tool lets the next one run.
        assert client.run("add", x=1, y=1).task.status is TaskStatus.COMPLETED
        return seconds

    assert quickest(seconds_to_reach_it, 1.0) < 1.0


def test_a_cancellation_reaches_an_async_tool(worker: CeleryTestWorker, client: Client) -> None:
    before = worker.logs().count("ended early")
    task = client.call("wait_async", seconds=60)
    client.running(task)
    client.cancel(task)
    wait_until(lambda: worker.logs().count("ended early") > before, worker.logs)


def test_a_message_that_comes_twice_runs_the_tool_once(
    worker: CeleryTestWorker, client: Client, module_redis: RedisServer, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    task = client.call("count_runs", path=str(runs))
    ((key, payload),) = client.outbox.pushes(task, task.dispatched_ms)
    with module_redis.client() as redis:
        redis.lpush(key, payload, payload)
    client.ended(task)
    client.run("add", x=1, y=1)
    wait_until(lambda: client.outbox.queue_length("tasks") == 0)
    assert runs.read_text() == "run\n"


def test_a_message_for_a_tool_that_the_worker_lacks_leaves_the_task_pending(
    worker: CeleryTestWorker, client: Client
) -> None:
    task = client.store.create(
        Create(task_id=new_task_id(OWNER), owner=OWNER, tool="ghost", queue="tasks", arguments=JsonText("{}"))
    ).task
    worker.wait_for_log("ghost", timeout=60)
    assert client.run("add", x=1, y=1).task.status is TaskStatus.COMPLETED
    assert client.view(task).task.phase is Phase.PENDING
    client.cancel(task)
