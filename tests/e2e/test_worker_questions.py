"""Tools that ask, sleep and step: on real workers, killed where it hurts."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pytest_celery import CeleryTestWorker

from tasks_service.domain.decide import kept_until_ms
from tasks_service.domain.errors import InvalidTransition
from tasks_service.domain.events import AnswerInput, Cancel, Create
from tasks_service.domain.names import new_task_id
from tasks_service.domain.task import (
    DAY,
    HOUR,
    ClientCapability,
    EntryKind,
    FailureKind,
    JournalEntry,
    JsonText,
    Phase,
    Task,
    TaskStatus,
)
from tasks_service.durable.questions import question_digest
from tasks_service.store.clients import TaskView
from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until
from tests.kit.workers import OWNER, Client, client_of, worker_node

from .asking_app import DIE_AFTER_ASKING, service
from .conftest import StartWorker

APP = "tests.e2e.asking_app"
YES = '{"action":"accept","content":{"publish":true,"title":"News"}}'


ANYTHING = frozenset(ClientCapability) - {ClientCapability.MODEL}


class Asker(Client):
    """A client that can be asked anything."""

    def call(self, tool_name: str, **arguments: Any) -> Task:
        return self.call_as(ANYTHING, tool_name, **arguments)

    def call_as(self, capabilities: Collection[ClientCapability], tool_name: str, **arguments: Any) -> Task:
        tool = self.service.tools[tool_name]
        event = Create(
            task_id=new_task_id(OWNER),
            owner=OWNER,
            tool=tool.name,
            queue=tool.definition.queue,
            arguments=tool.check_arguments(arguments),
            policy=tool.definition.policy,
            capabilities=frozenset(capabilities),
        )
        return self.store.create(event).task

    def asked(self, task: Task, *keys: str) -> Task:
        """Wait until exactly these questions are open."""
        wait_until(lambda: set(self.view(task).task.inputs) == set(keys), lambda: repr(self.view(task)))
        return self.view(task).task

    def answer(self, task: Task, **answers: str) -> Task:
        texts = {key: JsonText(text) for key, text in answers.items()}
        return self.store.apply(OWNER, task.task_id, AnswerInput(answers=texts))


@pytest.fixture
def asker(module_redis: RedisServer) -> Iterator[Asker]:
    with client_of(service, module_redis.url) as client:
        client.__class__ = Asker
        yield client  # type: ignore[misc]


@pytest.fixture(scope="module", params=["prefork", "threads", "solo"])
def any_pool(module_redis: RedisServer, request: pytest.FixtureRequest) -> Iterator[CeleryTestWorker]:
    yield from started(module_redis, pool=request.param, name=f"any-{request.param}")


@pytest.fixture(scope="module")
def worker(module_redis: RedisServer) -> Iterator[CeleryTestWorker]:
    yield from started(module_redis, pool="prefork", concurrency=1, name="one-slot")


def started(server: RedisServer, **options: Any) -> Iterator[CeleryTestWorker]:
    node = worker_node(server.url, app=APP, **options)
    assert node.ready(), node.logs()
    yield node
    node.teardown()


def value_of(view: TaskView) -> Any:
    assert view.result is not None, view
    structured = json.loads(view.result).get("structuredContent", {})
    return structured.get("result", structured)


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_a_tool_asks_waits_and_goes_on_where_it_was(
    any_pool: CeleryTestWorker, asker: Asker, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    task = asker.call("publish", path=str(notes))
    parked = asker.asked(task, "question")
    assert (parked.status, parked.lease, parked.attempts) == (TaskStatus.INPUT_REQUIRED, None, 0)
    assert parked.status_message == "Publish it?"
    recorded = json.loads(parked.inputs["question"].request)
    assert recorded["schema"]["properties"]["publish"]["type"] == "boolean"
    asker.answer(task, question=YES)
    assert value_of(asker.ended(task)) == {"published": True, "title": "News", "steps": [1, 2]}
    assert lines_of(notes) == ["first", "second News"]


@pytest.mark.parametrize(("action", "name"), [("decline", "Declined"), ("cancel", "Cancelled")])
def test_a_person_may_decline_or_dismiss(
    worker: CeleryTestWorker, asker: Asker, tmp_path: Path, action: str, name: str
) -> None:
    task = asker.call("publish", path=str(tmp_path / "notes"))
    asker.asked(task, "question")
    asker.answer(task, question=json.dumps({"action": action}))
    assert value_of(asker.ended(task)) == {"published": False, "why": name}


def test_a_question_that_is_used_again_has_a_name_of_its_own(worker: CeleryTestWorker, asker: Asker) -> None:
    task = asker.call("ask_twice")
    asker.asked(task, "question")
    asker.answer(task, question='{"action":"accept","content":{"word":"a"}}')
    asker.asked(task, "question#2")
    asker.answer(task, **{"question#2": '{"action":"accept","content":{"word":"b"}}'})
    assert value_of(asker.ended(task)) == ["{'word': 'a'}", "{'word': 'b'}"]


@pytest.mark.parametrize("order", [("name", "colour"), ("colour", "name")])
def test_questions_asked_at_once_are_answered_in_any_order(
    worker: CeleryTestWorker, asker: Asker, order: tuple[str, str]
) -> None:
    task = asker.call("ask_all")
    asker.asked(task, "name", "colour")
    for key in order:
        still = asker.answer(task, **{key: json.dumps({"action": "accept", "content": {"value": key}})})
        assert key not in still.inputs
    assert value_of(asker.ended(task)) == {"name": {"value": "name"}, "colour": {"value": "colour"}}


def test_silence_takes_the_default(worker: CeleryTestWorker, asker: Asker) -> None:
    assert value_of(asker.run("ask_with_default")) is False


def test_a_client_that_cannot_be_asked_fails_the_task_with_what_is_missing(
    worker: CeleryTestWorker, asker: Asker, tmp_path: Path
) -> None:
    task = asker.call_as([ClientCapability.SAMPLING], "publish", path=str(tmp_path / "notes"))
    failure = asker.ended(task).task.failure
    assert failure is not None
    assert (failure.kind, failure.data) == (FailureKind.CLIENT_CANNOT, '{"needs": "form"}')


def test_a_parked_task_holds_no_slot(worker: CeleryTestWorker, asker: Asker, tmp_path: Path) -> None:
    parked = [asker.call("publish", path=str(tmp_path / f"notes{n}")) for n in range(20)]
    for task in parked:
        asker.asked(task, "question")
    assert value_of(asker.run("busy", seconds=0)) == "done"
    for task in parked:
        asker.store.apply(OWNER, task.task_id, Cancel())


def test_a_sleep_survives_every_worker_and_holds_nothing(
    start_worker: StartWorker, asker: Asker, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    first = start_worker(app=APP, concurrency=1)
    task = asker.call("nap", path=str(notes), seconds=2)
    wait_until(
        lambda: notes.exists() and asker.view(task).task.phase is Phase.PENDING, "it has begun and sleeps"
    )
    assert asker.view(task).task.due_ms > asker.view(task).task.updated_ms
    assert asker.view(task).task.status is TaskStatus.WORKING
    first.kill("SIGKILL")
    start_worker(app=APP, concurrency=1)
    assert value_of(asker.ended(task)) == 2
    assert lines_of(notes) == ["before", "after"]


def test_sleeps_use_up_no_attempts(worker: CeleryTestWorker, asker: Asker) -> None:
    ended = asker.run("nap_often", times=4)
    assert value_of(ended) == 4
    assert ended.task.claims == 5


def test_a_recorded_step_never_runs_again_though_its_worker_is_killed(
    worker: CeleryTestWorker, asker: Asker, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    ended = asker.run("die_after_step", path=str(notes), marker=str(tmp_path / "marker"))
    assert value_of(ended) == 1
    assert ended.task.claims == 2
    assert lines_of(notes) == ["once"]


def test_a_step_is_tried_again_by_its_own_policy(
    worker: CeleryTestWorker, asker: Asker, tmp_path: Path
) -> None:
    ended = asker.run("stubborn_step", path=str(tmp_path / "notes"))
    assert (value_of(ended), ended.task.claims) == (3, 1)


def test_a_tool_that_has_changed_fails_and_says_what_does_not_fit(
    worker: CeleryTestWorker, asker: Asker, tmp_path: Path
) -> None:
    code = tmp_path / "code"
    code.write_text("old")
    task = asker.call("changed", path=str(code))
    asker.asked(task, "question")
    code.write_text("new")
    asker.answer(task, question=YES)
    failure = asker.ended(task).task.failure
    assert failure is not None and failure.kind is FailureKind.HISTORY
    assert "entry 0 is step 'old'" in failure.message
    assert "step 'new'" in failure.message


def test_an_authors_except_exception_does_not_swallow_the_question(
    worker: CeleryTestWorker, asker: Asker
) -> None:
    task = asker.call("swallowing")
    asker.asked(task, "question")
    asker.answer(task, question='{"action":"cancel"}')
    assert value_of(asker.ended(task)) == "Cancelled()"


def test_branches_of_an_async_tool_ask_together_after_its_steps_have_ended(
    worker: CeleryTestWorker, asker: Asker, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    task = asker.call("gather", path=str(notes))
    asker.asked(task, "one", "two")
    assert lines_of(notes) == ["slow"]
    kinds = {entry.kind for entry in asker.record(task).journal}
    assert kinds == {EntryKind.STEP, EntryKind.TIMER}
    asker.answer(task, two='{"action":"accept","content":{"value":"2"}}')
    asker.answer(task, one='{"action":"accept","content":{"value":"1"}}')
    assert value_of(asker.ended(task)) == {"one": {"value": "1"}, "two": {"value": "2"}, "lines": 1}
    assert lines_of(notes) == ["slow"]


def test_an_exposed_celery_task_asks_through_the_context(worker: CeleryTestWorker, asker: Asker) -> None:
    task = asker.call("confirm", what="delete")
    asker.asked(task, "question")
    asker.answer(task, question='{"action":"decline"}')
    assert value_of(asker.ended(task)) == "delete: Declined()"


def test_answers_from_before_the_task_reach_the_tool(worker: CeleryTestWorker, asker: Asker) -> None:
    tool = service.tools["asked_before"]
    entry = JournalEntry(
        kind=EntryKind.ANSWER,
        name="approval",
        digest=question_digest(tool.definition.ask["approval"]),
        value=JsonText(YES),
    )
    event = Create(
        task_id=new_task_id(OWNER),
        owner=OWNER,
        tool=tool.name,
        queue=tool.definition.queue,
        arguments=JsonText("{}"),
        policy=tool.definition.policy,
        capabilities=frozenset({ClientCapability.FORM}),
        journal=(entry,),
    )
    task = asker.store.create(event).task
    asker.asked(task, "question")
    asker.answer(task, question='{"action":"cancel"}')
    assert value_of(asker.ended(task)) == "publish=True title='News' Cancelled()"


def test_an_answer_that_was_acknowledged_survives_the_death_of_every_worker(
    start_worker: StartWorker, asker: Asker, tmp_path: Path
) -> None:
    first = start_worker(app=APP, concurrency=1)
    task = asker.call("publish", path=str(tmp_path / "notes"))
    asker.asked(task, "question")
    first.kill("SIGKILL")
    first.container.process.wait()
    assert asker.answer(task, question=YES).phase is Phase.PENDING
    start_worker(app=APP, concurrency=1)
    assert value_of(asker.ended(task))["published"] is True


@contextmanager
def world_of_its_own(*redis_options: str, **env: str) -> Iterator[tuple[Asker, RedisServer]]:
    """A Redis and one worker that no other test uses."""
    server = RedisServer(*redis_options)
    worker = worker_node(server.url, app=APP, concurrency=1, name="alone", **env)
    try:
        assert worker.ready(), worker.logs()
        with client_of(service, server.url) as client:
            client.__class__ = Asker
            yield client, server  # type: ignore[misc]
    finally:
        worker.teardown()
        server.close()


def test_a_process_killed_right_after_its_question_was_written_has_asked_exactly_once(tmp_path: Path) -> None:
    marker = tmp_path / "died"
    with world_of_its_own(**{DIE_AFTER_ASKING: str(marker)}) as (asker, _):
        task = asker.call("publish", path=str(tmp_path / "notes"))
        parked = asker.asked(task, "question")
        wait_until(marker.exists)
        assert asker.run("busy", seconds=0).task.status is TaskStatus.COMPLETED
        again = asker.view(task).task
        assert (again.revision, again.used_keys) == (parked.revision, ("question",))
        asker.answer(task, question=YES)
        ended = asker.ended(task)
        assert value_of(ended)["published"] is True
        assert ended.task.used_keys == ("question",)
        assert lines_of(tmp_path / "notes") == ["first", "second News"]


def test_an_answer_that_was_acknowledged_survives_a_killed_redis(tmp_path: Path) -> None:
    with world_of_its_own("--appendonly", "yes", "--appendfsync", "always") as (asker, server):
        task = asker.call("publish", path=str(tmp_path / "notes"))
        asker.asked(task, "question")
        asker.answer(task, question=YES)
        server.kill()
        server.start()
        assert value_of(asker.ended(task))["published"] is True


def test_a_parked_task_lives_as_long_as_its_question_and_says_so(
    worker: CeleryTestWorker, asker: Asker, tmp_path: Path
) -> None:
    task = asker.call("publish", path=str(tmp_path / "notes"))
    parked = asker.asked(task, "question")
    assert parked.deadline_ms - parked.updated_ms == 7 * DAY
    assert kept_until_ms(parked) >= parked.updated_ms + HOUR
    asker.store.apply(OWNER, task.task_id, Cancel())


def test_eight_racing_answers_give_one_resumption(
    worker: CeleryTestWorker, asker: Asker, tmp_path: Path
) -> None:
    task = asker.call("publish", path=str(tmp_path / "notes"))
    runs = asker.asked(task, "question").claims

    def answer(number: int) -> bool:
        try:
            asker.answer(task, question=YES)
        except InvalidTransition:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(answer, range(8)))
    ended = asker.ended(task)
    assert ended.task.claims == runs + 1
    answers = [e for e in asker.record(task).journal if e.kind is EntryKind.ANSWER]
    assert len(answers) == 1
