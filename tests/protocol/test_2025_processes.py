"""Sessions over front-end processes that are killed: none of them remembers anything."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks_service.authoring.tool import ToolRegistry
from tasks_service.durable.questions import Form
from tests.kit.hand_worker import Worker, asked
from tests.kit.serving import registry
from tests.kit.sessions import SessionClient, is_answer, is_request
from tests.kit.waiting import wait_until

from .front_end import FrontEnd, greet

NAME = asked(Form("Your name?", {"type": "object", "properties": {"name": {"type": "string"}}}))
ADA = {"action": "accept", "content": {"name": "Ada"}}
elicitation = is_request("elicitation/create")


@pytest.fixture
def tools() -> ToolRegistry:
    return registry(greet)


@pytest.fixture
def front_ends(redis_url: str, tmp_path: Path) -> Iterator[list[FrontEnd]]:
    front_ends = [FrontEnd(redis_url, tmp_path) for _ in range(3)]
    try:
        for front_end in front_ends:
            wait_until(front_end.ready, "it is ready")
        yield front_ends
    finally:
        for front_end in front_ends:
            front_end.kill()


def test_a_task_lives_through_the_death_of_every_process_that_served_it(
    front_ends: list[FrontEnd], worker: Worker
) -> None:
    first, second, third = front_ends
    with SessionClient([front_end.port for front_end in front_ends]) as session:
        session.initialize(at=0)
        first.kill()
        task_id = session.task("greet", {"name": "Ada"}, at=1)
        second.kill()
        first.start()
        wait_until(first.ready, "it is ready")
        stream = session.open("tasks/result", {"taskId": task_id}, at=0)
        worker.ask(task_id, {"name": NAME})
        request = stream.find(elicitation)
        assert session.respond(request["id"], ADA, at=2).status == 202
        wait_until(lambda: session.get(task_id, at=2)["status"] == "working", "it goes on")
        third.restart()
        worker.run(task_id)

        assert stream.find(is_answer)["result"]["content"][0]["text"] == "Hello, Ada!"
        assert session.get(task_id, at=2)["status"] == "completed"


def test_a_question_whose_process_was_killed_is_asked_again_elsewhere(
    front_ends: list[FrontEnd], worker: Worker
) -> None:
    with SessionClient([front_end.port for front_end in front_ends]) as session:
        session.initialize(at=0)
        task_id = session.task("greet", {"name": "Ada"}, at=1)
        dead = session.open("tasks/result", {"taskId": task_id}, at=0)
        worker.ask(task_id, {"name": NAME})
        dead.find(elicitation)
        front_ends[0].kill()

        request = session.open("tasks/result", {"taskId": task_id}, at=2).find(elicitation)

        session.respond(request["id"], ADA, at=1)
        wait_until(lambda: session.get(task_id, at=1)["status"] == "working", "it goes on")


def test_a_front_end_that_is_told_to_stop_ends_its_streams_and_nothing_is_lost(
    front_ends: list[FrontEnd], worker: Worker
) -> None:
    with SessionClient([front_end.port for front_end in front_ends]) as session:
        session.initialize(at=0)
        listening = session.listen(at=0)
        task_id = session.task("greet", {"name": "Ada"}, at=0)
        waiting = session.open("tasks/result", {"taskId": task_id}, at=0)
        time.sleep(0.2)

        assert front_ends[0].stop() < 50  # after 60 they would be cut off

        assert listening.next() is None
        answer = waiting.find(is_answer)
        assert answer["error"]["data"]["reason"] == "stopping"
        assert answer["error"]["data"]["retryAfterMs"] > 0
        worker.run(task_id)
        assert (
            session.result("tasks/result", {"taskId": task_id}, at=1)["content"][0]["text"] == "Hello, Ada!"
        )


def test_a_front_end_that_is_told_to_stop_lets_a_plain_call_end(
    front_ends: list[FrontEnd], worker: Worker
) -> None:
    with SessionClient([front_end.port for front_end in front_ends]) as session:
        session.initialize(at=0)
        call = session.open("tools/call", {"name": "greet", "arguments": {"name": "Ada"}}, at=0)
        task_id = wait_until(worker.pending, "the call is recorded")[0]
        timer = threading.Timer(0.5, worker.run, (task_id,))
        timer.start()

        front_ends[0].stop()

        assert call.find(is_answer)["result"]["content"][0]["text"] == "Hello, Ada!"
        timer.join()
