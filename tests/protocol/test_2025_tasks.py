"""Tasks of 2025-11-25, requirement by requirement (specification page "Tasks")."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from tasks_service.authoring.tool import ToolRegistry, error_result
from tasks_service.domain.events import Cancel, CompleteWithResult
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import DAY, HOUR, Failure, FailureKind, JsonText, Progress
from tests.kit.hand_worker import Worker
from tests.kit.serving import serving, settings
from tests.kit.sessions import RELATED, SessionClient, is_request
from tests.kit.store_adapter import counts
from tests.kit.wire import WireClient

from .lifetimes import assert_same_task

IMMEDIATE = "io.modelcontextprotocol/model-immediate-response"
ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def complete_with_error(worker: Worker, task_id: str) -> None:
    task, _ = worker.claim(task_id)
    assert task.lease is not None
    event = CompleteWithResult(
        lease_id=task.lease.lease_id,
        result=error_result("The disk is full.").result,
        is_error=True,
        message="The disk is full.",
    )
    worker.store.commit(task_id, event)


# --- creation ---


def test_a_call_as_a_task_is_answered_at_once_with_the_task(session: SessionClient) -> None:
    params = {"name": "greet", "arguments": {"name": "Ada"}, "task": {"ttl": 60_000}}

    result = session.result("tools/call", params)

    task = result["task"]
    assert task["status"] == "working"
    assert ISO.fullmatch(task["createdAt"])
    assert task["createdAt"] == task["lastUpdatedAt"]
    assert isinstance(task["ttl"], int)
    assert task["pollInterval"] == 1000
    assert task["taskId"] in result["_meta"][IMMEDIATE]
    assert set(result) == {"task", "_meta"}


def test_the_ttl_that_is_asked_for_is_granted_up_to_that_of_the_tool(
    session: SessionClient, worker: Worker
) -> None:
    def granted(ttl: int | None) -> int:
        return int(session.get(session.task("greet", {"name": "Ada"}, ttl=ttl))["ttl"])

    # Ended, since one that lives is kept for what may still come.
    def once_ended(ttl: int) -> int:
        task_id = session.task("greet", {"name": "Ada"}, ttl=ttl)
        session.request("tasks/cancel", {"taskId": task_id})
        return int(session.get(task_id)["ttl"])

    for longer in (10 * DAY, 10**18):
        assert once_ended(longer) == pytest.approx(HOUR, abs=30_000)
    # Shorter ones are covered by the deadlines of a task that has not ended yet.
    # It grows with the task's age, so two of them differ by what their first looks took.
    assert granted(1) == pytest.approx(granted(None), abs=30_000)


@pytest.mark.parametrize("task", [{"ttl": 0}, {"ttl": -1}, {"ttl": "long"}, {"ttl": True}, [], "task", 7])
def test_a_task_parameter_of_the_wrong_shape_is_refused(session: SessionClient, task: Any) -> None:
    params = {"name": "greet", "arguments": {"name": "Ada"}, "task": task}

    assert session.error("tools/call", params)["code"] == -32602


def test_grace_does_not_hold_up_a_call_as_a_task(session: SessionClient) -> None:
    began = time.monotonic()

    session.task("soon", {"name": "Ada"})

    assert time.monotonic() - began < 10


def test_a_tool_says_whether_it_runs_as_a_task(session: SessionClient) -> None:
    forbidden = session.error("tools/call", {"name": "alone", "arguments": {}, "task": {}})
    required = session.error("tools/call", {"name": "heavy", "arguments": {}})

    assert (forbidden["code"], required["code"]) == (-32601, -32601)
    assert "call it without task" in forbidden["message"]
    assert "call it with task" in required["message"]


def test_bad_arguments_of_a_task_are_an_error_that_names_the_field(
    session: SessionClient, worker: Worker
) -> None:
    params = {"name": "greet", "arguments": {"name": 3}, "task": {}}

    error = session.error("tools/call", params)

    assert error["code"] == -32602
    assert "name" in error["message"]
    assert counts(worker.store).total == 0


def test_an_unknown_tool_is_refused(session: SessionClient) -> None:
    assert session.error("tools/call", {"name": "nothing", "task": {}})["code"] == -32602


# --- get, result ---


def test_get_tells_the_state_on_any_front_end(session: SessionClient, worker: Worker) -> None:
    task_id = session.task("greet", {"name": "Ada"}, at=0)
    before = session.get(task_id, at=1)
    worker.run(task_id)

    after = session.get(task_id, at=1)

    assert before["status"] == "working"
    assert after["status"] == "completed"
    assert after["createdAt"] == before["createdAt"]
    assert "_meta" not in after
    assert "result" not in after


def test_result_waits_and_returns_what_the_call_would_have_returned(
    session: SessionClient, worker: Worker
) -> None:
    task_id = session.task("names", at=0)
    waiting = session.open("tasks/result", {"taskId": task_id}, at=1)
    time.sleep(0.2)
    worker.run(task_id)
    answer = waiting.next()
    worker.start()
    plain = session.result("tools/call", {"name": "names", "arguments": {}})

    assert answer is not None
    result = answer["result"]
    assert result.pop("_meta") == {RELATED: {"taskId": task_id}}
    assert result == plain
    assert result["structuredContent"] == {"result": ["ada", "grace"]}


def test_result_can_be_asked_for_any_number_of_times(session: SessionClient, busy_worker: Worker) -> None:
    task_id = session.task("greet", {"name": "Ada"})

    first = session.result("tasks/result", {"taskId": task_id}, at=0)
    again = session.result("tasks/result", {"taskId": task_id}, at=1)

    assert first == again


def test_a_result_with_an_error_makes_the_task_failed(session: SessionClient, worker: Worker) -> None:
    task_id = session.task("greet", {"name": "Ada"})
    complete_with_error(worker, task_id)

    task = session.get(task_id)
    result = session.result("tasks/result", {"taskId": task_id})

    assert (task["status"], task["statusMessage"]) == ("failed", "The disk is full.")
    assert result["isError"] is True
    assert result["content"][0]["text"] == "The disk is full."
    assert result["_meta"][RELATED] == {"taskId": task_id}
    with WireClient(session.ports[0]) as later:
        assert later.get(task_id)["status"] == "completed"


def test_an_error_goes_out_unchanged(session: SessionClient, busy_worker: Worker) -> None:
    task_id = session.task("broken")

    error = session.error("tasks/result", {"taskId": task_id})

    assert error == {"code": 4050, "message": "the author says no"}
    assert session.get(task_id)["status"] == "failed"
    assert session.get(task_id)["statusMessage"] == "the author says no"


def test_a_task_that_needs_what_the_client_cannot_give_ends_with_a_result_that_says_so(
    session: SessionClient, worker: Worker
) -> None:
    task_id = session.task("greet", {"name": "Ada"})
    failure = Failure(
        kind=FailureKind.CLIENT_CANNOT, message="It cannot sample.", data=JsonText('{"needs":"sampling"}')
    )
    worker.fail(task_id, failure)

    assert session.get(task_id)["status"] == "failed"
    assert session.result("tasks/result", {"taskId": task_id})["isError"] is True


@pytest.mark.parametrize("method", ["tasks/get", "tasks/result", "tasks/cancel"])
@pytest.mark.parametrize("params", [{"taskId": "nothing"}, {"taskId": 7}, {}, {"taskId": "00" + "x" * 24}])
def test_unknown_tasks_are_invalid_parameters(
    session: SessionClient, method: str, params: dict[str, Any]
) -> None:
    assert session.error(method, params)["code"] == -32602


def test_hanging_up_on_a_result_leaves_the_task_alone(session: SessionClient, worker: Worker) -> None:
    task_id = session.task("greet", {"name": "Ada"})
    waiting = session.open("tasks/result", {"taskId": task_id})
    time.sleep(0.1)
    waiting.close()
    time.sleep(0.2)

    assert session.get(task_id)["status"] == "working"


def test_cancelling_the_request_for_a_result_leaves_the_task_alone(
    session: SessionClient, worker: Worker
) -> None:
    task_id = session.task("greet", {"name": "Ada"})
    waiting = session.open("tasks/result", {"taskId": task_id}, at=0, identity="wait")
    time.sleep(0.2)

    session.notify("notifications/cancelled", {"requestId": "wait"}, at=1)

    assert waiting.rest() == []
    assert session.get(task_id)["status"] == "working"


# --- cancel ---


def test_cancelling_ends_the_task_and_its_result_says_so(session: SessionClient) -> None:
    task_id = session.task("greet", {"name": "Ada"}, at=0)
    waiting = session.open("tasks/result", {"taskId": task_id}, at=1)

    task = session.result("tasks/cancel", {"taskId": task_id}, at=0)

    assert (task["taskId"], task["status"]) == (task_id, "cancelled")
    answer = waiting.next()
    assert answer is not None
    assert answer["error"]["code"] == -32800
    assert session.get(task_id)["status"] == "cancelled"


def test_a_task_that_has_ended_cannot_be_cancelled(session: SessionClient, worker: Worker) -> None:
    completed, failed, cancelled = (session.task("greet", {"name": "Ada"}) for _ in range(3))
    worker.run(completed)
    complete_with_error(worker, failed)
    session.result("tasks/cancel", {"taskId": cancelled})

    for task_id, status in ((completed, "completed"), (failed, "failed"), (cancelled, "cancelled")):
        assert session.error("tasks/cancel", {"taskId": task_id})["code"] == -32602
        assert session.get(task_id)["status"] == status


# --- list ---


def test_a_task_whose_record_cannot_be_read_is_left_out_of_the_list_and_the_rest_is_in_it(
    session: SessionClient, redis_url: str
) -> None:
    damaged, sound = session.task("greet", {"name": "Ada"}), session.task("greet", {"name": "Grace"})
    with redis.Redis.from_url(redis_url) as client:
        client.hset(f"ts:{{00}}:t:{task_hash(damaged)}", "state", b"\xff")

    assert [task["taskId"] for task in session.result("tasks/list")["tasks"]] == [sound]


def test_tasks_are_listed_newest_first_page_by_page(session: SessionClient) -> None:
    made = [session.task("add", {"left": number}) for number in range(60)]

    first = session.result("tasks/list", at=0)
    newest = session.task("add", {"left": 99})
    session.result("tasks/cancel", {"taskId": made[30]})
    second = session.result("tasks/list", {"cursor": first["nextCursor"]}, at=1)

    listed = [task["taskId"] for task in first["tasks"] + second["tasks"]]
    assert listed == made[::-1]
    assert newest not in listed
    assert "nextCursor" not in second
    assert_same_task(first["tasks"][0], session.get(made[-1]))


def test_plain_calls_are_not_listed(session: SessionClient, busy_worker: Worker) -> None:
    session.result("tools/call", {"name": "greet", "arguments": {"name": "Ada"}})

    assert session.result("tasks/list") == {"tasks": []}


def test_a_cursor_is_good_for_its_owner_only_and_cannot_be_altered(
    redis_url: str, tools: ToolRegistry, tmp_path: Path
) -> None:
    keys = {"ada": "mU3xQ9wzR7kYb2Lc", "grace": "Hn8vT4sJd6pGq1Wf"}
    with (
        serving(tools, settings(redis_url, tmp_path, api_keys=keys)) as port,
        SessionClient([port], key=keys["ada"]) as ada,
        SessionClient([port], key=keys["grace"]) as grace,
    ):
        ada.initialize()
        grace.initialize()
        mine = [ada.task("add", {"left": number}) for number in range(51)]
        cursor = ada.result("tasks/list")["nextCursor"]

        for bad in (cursor[:-2] + "xx", "50", "", mine[0]):
            assert ada.error("tasks/list", {"cursor": bad})["code"] == -32602
        assert grace.error("tasks/list", {"cursor": cursor})["code"] == -32602
        assert grace.result("tasks/list") == {"tasks": []}
        for method in ("tasks/get", "tasks/result", "tasks/cancel"):
            assert grace.error(method, {"taskId": mine[0]})["message"] == "Task not found"
        assert ada.get(mine[0])["status"] == "working"


# --- notifications ---


def test_changes_of_status_are_reported_on_the_sessions_stream(
    session: SessionClient, worker: Worker
) -> None:
    stream = session.listen(at=0)
    task_id = session.task("greet", {"name": "Ada"}, at=1)
    worker.run(task_id)

    note = stream.find(is_request("notifications/tasks/status"))

    assert note["params"] == session.get(task_id)
    assert note["params"]["status"] == "completed"
    assert "id" not in note


def test_a_session_hears_of_its_own_tasks_only(
    session: SessionClient, ports: list[int], worker: Worker
) -> None:
    with SessionClient(ports) as other:
        other.initialize()
        stream, elsewhere = session.listen(at=0), other.listen(at=0)
        task_id = session.task("greet", {"name": "Ada"})
        worker.run(task_id)
        theirs = other.task("greet", {"name": "Ada"})
        worker.run(theirs)

        note = stream.find(is_request("notifications/tasks/status"))
        other_note = elsewhere.find(is_request("notifications/tasks/status"))

    assert note["params"]["taskId"] == task_id
    assert other_note["params"]["taskId"] == theirs


def test_what_became_of_a_task_meanwhile_is_reported_when_the_stream_opens(
    session: SessionClient, worker: Worker
) -> None:
    task_id = session.task("greet", {"name": "Ada"})
    worker.store.apply(worker.store.inspect(task_id).task.owner, task_id, Cancel())

    note = session.listen(at=1).find(is_request("notifications/tasks/status"))

    assert (note["params"]["taskId"], note["params"]["status"]) == (task_id, "cancelled")


def test_progress_of_a_task_is_reported_for_its_life_and_only_grows(
    session: SessionClient, worker: Worker
) -> None:
    stream = session.listen(at=0)
    task_id = session.task("greet", {"name": "Ada"}, meta={"progressToken": "p1"})
    task, _ = worker.claim(task_id)

    def reported(current: float) -> Any:
        worker.note(task, progress=Progress(current=current, total=10))
        return stream.find(is_request("notifications/progress"))["params"]

    first = reported(1)
    time.sleep(1.1)
    second = reported(4)

    assert (first["progress"], second["progress"]) == (1, 4)
    assert first["progressToken"] == "p1"
    assert first["total"] == 10
    assert first["_meta"] == {RELATED: {"taskId": task_id}}
