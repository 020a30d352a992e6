"""Demands of 2025-11-25, tasks, that no other test shows (docs/requirements-2025-11-25.md)."""

from __future__ import annotations

import re

import pytest

from tasks_service.domain.errors import InvalidTransition
from tasks_service.domain.events import CompleteWithResult
from tasks_service.domain.task import JsonText
from tests.kit.hand_worker import Worker
from tests.kit.sessions import RELATED, SessionClient, is_request
from tests.kit.wire import WireClient

from .lifetimes import assert_same_task

ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_ids_are_made_by_the_server_and_never_twice(session: SessionClient) -> None:
    made = {session.task("greet", {"name": "Ada"}, meta={"taskId": "mine"}) for _ in range(20)}

    assert len(made) == 20
    assert "mine" not in made


def test_every_answer_about_a_task_has_its_times_and_its_ttl(session: SessionClient, worker: Worker) -> None:
    task_id = session.task("greet", {"name": "Ada"})
    stream = session.listen()
    working = session.get(task_id)
    listed = session.result("tasks/list")["tasks"][0]
    cancelled = session.result("tasks/cancel", {"taskId": task_id})
    reported = stream.find(is_request("notifications/tasks/status"))["params"]

    for task in (working, listed, cancelled, reported):
        assert ISO.fullmatch(task["createdAt"])
        assert ISO.fullmatch(task["lastUpdatedAt"])
        assert task["ttl"] > 0
        assert task["pollInterval"] > 0


def test_only_the_result_names_its_task_in_its_metadata(session: SessionClient, worker: Worker) -> None:
    stream = session.listen()
    task_id, other = (session.task("greet", {"name": "Ada"}) for _ in range(2))
    worker.run(task_id)

    assert session.result("tasks/result", {"taskId": task_id})["_meta"][RELATED] == {"taskId": task_id}
    for answer in (
        session.get(task_id),
        session.result("tasks/list"),
        *session.result("tasks/list")["tasks"],
        session.result("tasks/cancel", {"taskId": other}),
        stream.find(is_request("notifications/tasks/status"))["params"],
    ):
        assert RELATED not in answer.get("_meta", {})


@pytest.mark.parametrize("method", ["tasks/get", "tasks/result", "tasks/cancel"])
def test_the_parameter_says_which_task_is_meant_whatever_the_metadata_says(
    session: SessionClient, worker: Worker, method: str
) -> None:
    meant, other = (session.task("greet", {"name": "Ada"}) for _ in range(2))
    if method == "tasks/result":
        worker.run(meant)

    answer = session.result(method, {"taskId": meant, "_meta": {RELATED: {"taskId": other}}})

    assert (answer.get("taskId") or answer["_meta"][RELATED]["taskId"]) == meant
    assert session.get(other)["status"] == "working"


def test_a_cancelled_task_stays_cancelled_whatever_its_worker_does(
    session: SessionClient, worker: Worker
) -> None:
    task_id = session.task("greet", {"name": "Ada"})
    task, _ = worker.claim(task_id)
    assert task.lease is not None
    session.result("tasks/cancel", {"taskId": task_id})

    with pytest.raises(InvalidTransition):
        worker.store.commit(
            task_id, CompleteWithResult(lease_id=task.lease.lease_id, result=JsonText('{"content":[]}'))
        )

    assert session.get(task_id)["status"] == "cancelled"
    assert session.error("tasks/result", {"taskId": task_id})["code"] == -32800


def test_what_can_be_got_is_listed(session: SessionClient, client: WireClient, worker: Worker) -> None:
    here, there = session.task("greet", {"name": "Ada"}), client.task("greet", {"name": "Ada"})
    worker.run(here)

    listed = {task["taskId"]: task for task in session.result("tasks/list")["tasks"]}

    assert {here, there} <= set(listed)
    assert_same_task(listed[there], session.get(there))
    assert_same_task(listed[here], session.get(here))


def test_revisions_without_tasks_ignore_the_parameter(ports: list[int], busy_worker: Worker) -> None:
    with SessionClient(ports, version="2025-06-18") as earlier:
        earlier.initialize()

        params = {"name": "greet", "arguments": {"name": "Ada"}, "task": {"ttl": 1000}}

        assert earlier.result("tools/call", params)["content"][0]["text"] == "Hello, Ada!"
