"""Each limit at its edge, the moment of expiry, and keys that go while they are being written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from tasks_service.domain.errors import (
    LimitExceeded,
    QuotaExceeded,
    TaskNotFound,
    TasksServiceError,
)
from tasks_service.domain.events import (
    AnswerInput,
    Cancel,
    Checkpoint,
    Claim,
    CompleteWithResult,
    FailWithError,
    Question,
    Renew,
    RequestInput,
)
from tasks_service.domain.limits import Limits
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import (
    SECOND,
    EntryKind,
    Failure,
    FailureKind,
    JournalEntry,
    JsonText,
    Phase,
    Policy,
    Progress,
    Task,
    TaskStatus,
    new_token,
)
from tasks_service.store.redis import RedisTaskStore
from tests.kit.factories import ALICE, RESULT, creation
from tests.kit.proxy import CuttingProxy, Verdict
from tests.kit.servers import RedisServer
from tests.kit.stored import ids_of

from .conftest import Face, FaceMaker

EDGE = 40
SMALL = Limits(
    arguments_bytes=EDGE,
    result_bytes=EDGE,
    variables_bytes=EDGE,
    status_message_bytes=EDGE,
    answers_bytes=EDGE,
    journal_bytes=2 * EDGE,
    journal_entries=EDGE,
    open_inputs=EDGE,
    live_per_owner=EDGE,
    tasks_per_shard=2 * EDGE,
)


def text(length: int) -> JsonText:
    """JSON of so many bytes, of which not every character takes one."""
    return JsonText('"é' + "x" * (length - 4) + '"')


# --- limits ------------------------------------------------------------------------------------------------


def arguments(face: Face, length: int) -> None:
    face.create(arguments=text(length))


def result(face: Face, length: int) -> None:
    task, lease_id = face.run()
    face.store.commit(task.task_id, CompleteWithResult(lease_id=lease_id, result=text(length)))


def variables(face: Face, length: int) -> None:
    task, lease_id = face.run()
    value = text(length - len('"v":,'))
    face.store.commit(task.task_id, Checkpoint(lease_id=lease_id, variables={"v": value}))


def error_data(face: Face, length: int) -> None:
    task, lease_id = face.run()
    failure = Failure(kind=FailureKind.AUTHOR, message="no", data=text(length))
    face.store.commit(task.task_id, FailWithError(lease_id=lease_id, failure=failure))


def answers(face: Face, length: int) -> None:
    task, lease_id = face.run()
    asked = {key: Question(request=JsonText("{}")) for key in "ab"}
    face.store.commit(task.task_id, RequestInput(lease_id=lease_id, inputs=asked))
    given = {"a": text(length - 5), "b": text(5)}
    face.store.apply(ALICE, task.task_id, AnswerInput(answers=given))


def step(lease_id: str, index: int, value: JsonText) -> Checkpoint:
    entry = JournalEntry(kind=EntryKind.STEP, name="s", digest="d", value=value)
    return Checkpoint(lease_id=lease_id, step=entry, step_index=index)


def journal_bytes(face: Face, length: int) -> None:
    task, lease_id = face.run()
    face.store.commit(task.task_id, step(lease_id, 0, text(EDGE)))
    face.store.commit(task.task_id, step(lease_id, 1, text(length)))


def journal_entries(face: Face, length: int) -> None:
    task, lease_id = face.run()
    for index in range(length):
        face.store.commit(task.task_id, step(lease_id, index, JsonText("1")))


def open_inputs(face: Face, length: int) -> None:
    task, lease_id = face.run()
    asked = {f"k{number}": Question(request=JsonText("{}")) for number in range(length)}
    face.store.commit(task.task_id, RequestInput(lease_id=lease_id, inputs=asked))


def live_tasks(face: Face, length: int) -> None:
    for _ in range(length):
        face.create()


def all_tasks(face: Face, length: int) -> None:
    for _ in range(length + EDGE):
        face.store.apply(ALICE, face.create().task_id, Cancel())


LIMITED: dict[str, Callable[[Face, int], None]] = {
    action.__name__: action
    for action in (
        arguments,
        result,
        variables,
        error_data,
        answers,
        journal_bytes,
        journal_entries,
        open_inputs,
        live_tasks,
        all_tasks,
    )
}


def records(face: Face) -> list[Any]:
    """Everything that is stored, by what does not depend on chance."""
    tasks = [face.maintenance.inspect(task_id).task for task_id in ids_of(face.maintenance)]
    return sorted((task.phase, task.revision, task.journal_length, task.journal_bytes) for task in tasks)


@pytest.mark.parametrize("action", LIMITED.values(), ids=LIMITED)
@pytest.mark.parametrize("length", [EDGE - 1, EDGE])
def test_a_limit_allows_what_is_below_it_and_at_it(
    make_face: FaceMaker, action: Callable[[Face, int], None], length: int
) -> None:
    action(make_face(SMALL), length)


@pytest.mark.parametrize("action", LIMITED.values(), ids=LIMITED)
def test_a_limit_refuses_what_is_above_it_and_says_by_how_much(
    make_face: FaceMaker, action: Callable[[Face, int], None]
) -> None:
    with pytest.raises((LimitExceeded, QuotaExceeded)) as refused:
        action(make_face(SMALL), EDGE + 1)
    limit = 2 * EDGE if action in (journal_bytes, all_tasks) else EDGE
    assert refused.value.maximum == limit
    assert refused.value.actual == limit + (0 if action in (live_tasks, all_tasks) else 1)


@pytest.mark.parametrize("name", sorted(set(LIMITED) - {"live_tasks", "all_tasks"}))
def test_what_is_too_large_leaves_the_task_as_it_was(make_face: FaceMaker, name: str) -> None:
    face = make_face(SMALL)
    with pytest.raises(LimitExceeded):
        LIMITED[name](face, EDGE + 1)
    if name == "arguments":
        assert records(face) == []
        return
    ((phase, revision, length, _),) = records(face)
    before = {"answers": (Phase.PARKED, 2, 0), "journal_bytes": (Phase.RUNNING, 1, 1)}
    entries = EDGE if name == "journal_entries" else 0
    assert (phase, revision, length) == before.get(name, (Phase.RUNNING, 1, entries))


def test_a_result_that_is_too_large_leaves_the_lease_and_the_task_can_still_end(make_face: FaceMaker) -> None:
    face = make_face(SMALL)
    task, lease_id = face.run()
    with pytest.raises(LimitExceeded):
        face.store.commit(task.task_id, CompleteWithResult(lease_id=lease_id, result=text(EDGE + 1)))
    failure = Failure(kind=FailureKind.RESULT_INVALID, message="too large")
    failed = face.store.commit(task.task_id, FailWithError(lease_id=lease_id, failure=failure))
    assert failed.status is TaskStatus.FAILED


@pytest.mark.parametrize("length", [EDGE - 1, EDGE, EDGE + 1])
def test_a_message_for_people_is_cut_and_never_refused(make_face: FaceMaker, length: int) -> None:
    face = make_face(SMALL)
    task, lease_id = face.run()
    message = "é" + "x" * (length - 2)
    progress = Progress(current=1, message=message)
    noted = face.store.commit(task.task_id, Checkpoint(lease_id=lease_id, progress=progress))
    said = noted.status_message or ""
    assert len(said.encode()) <= EDGE
    assert (said == message) == (length <= EDGE)


@pytest.mark.parametrize("task_id", ["", "0", "00", "zz", "00" + "x" * 10_000, "00\x00", "00\ud800", "ff:{}"])
def test_an_id_of_any_shape_is_an_unknown_one(face: Face, task_id: str) -> None:
    for attempt in (
        lambda: face.store.get(ALICE, task_id),
        lambda: face.store.apply(ALICE, task_id, Cancel()),
        lambda: face.store.claim(task_id, Claim(lease_id="l", worker="w")),
        lambda: face.store.commit(task_id, Renew(lease_id="l")),
    ):
        with pytest.raises(TaskNotFound):
            attempt()


# --- expiry ------------------------------------------------------------------------------------------------


def touches(face: Face, task: Task, lease_id: str) -> dict[str, Callable[[], Any]]:
    """Every way to touch a task by its id."""
    done = CompleteWithResult(lease_id=lease_id, result=RESULT)
    return {
        "get": lambda: face.store.get(ALICE, task.task_id),
        "cancel": lambda: face.store.apply(ALICE, task.task_id, Cancel()),
        "answer": lambda: face.store.apply(ALICE, task.task_id, AnswerInput(answers={"a": JsonText("1")})),
        "claim": lambda: face.store.claim(task.task_id, Claim(lease_id=new_token(), worker="w")),
        "complete": lambda: face.store.commit(task.task_id, done),
        "renew": lambda: face.store.commit(task.task_id, Renew(lease_id=lease_id)),
    }


def test_a_task_is_there_until_its_last_millisecond_and_then_for_nobody(face: Face) -> None:
    task, lease_id = face.run()
    task = face.store.commit(task.task_id, CompleteWithResult(lease_id=lease_id, result=RESULT))
    face.clock.pass_ms(task.expires_ms - 1 - face.clock())
    assert face.store.get(ALICE, task.task_id).result == RESULT
    assert [one.task_id for one in face.store.page(ALICE).tasks] == [task.task_id]
    for name, touch in touches(face, task, lease_id).items():
        if name != "get":
            with pytest.raises(TasksServiceError) as refused:
                touch()
            assert not isinstance(refused.value, TaskNotFound), name
    face.clock.pass_ms(1)
    for touch in touches(face, task, lease_id).values():
        with pytest.raises(TaskNotFound):
            touch()
    assert face.store.page(ALICE).tasks == ()
    assert face.maintenance.inspect(task.task_id).task == task, "no sweep has come yet"


def test_a_task_that_runs_does_not_expire_but_fails_at_its_deadline_and_its_worker_is_told(
    face: Face,
) -> None:
    policy = Policy(ttl_ms=1, retention_ms=SECOND, queue_timeout_ms=SECOND, timeout_ms=5 * SECOND)
    task, lease_id = face.run(policy=policy)
    face.clock.pass_ms(5 * SECOND - 1)
    assert face.store.get(ALICE, task.task_id).task.phase is Phase.RUNNING
    face.clock.pass_ms(1)
    assert face.store.get(ALICE, task.task_id).task.phase is Phase.FAILED
    with pytest.raises(TasksServiceError, match="failed"):
        face.store.commit(task.task_id, Renew(lease_id=lease_id))
    face.clock.pass_ms(SECOND)
    with pytest.raises(TaskNotFound):
        face.store.commit(task.task_id, Renew(lease_id=lease_id))


# --- between WATCH and EXEC --------------------------------------------


@dataclass
class Between:
    """A store whose EXEC is held until something else has been done."""

    store: RedisTaskStore
    admin: Any
    _proxy: CuttingProxy

    def do(self, action: Callable[[], Any]) -> None:
        """Before the next EXEC, and that one only."""

        def judge(packet: bytes) -> Verdict:
            if b"\r\nEXEC\r\n" in packet:
                self._proxy.judge = lambda packet: Verdict.PASS
                action()
            return Verdict.PASS

        self._proxy.judge = judge


@pytest.fixture
def between(redis_server: RedisServer, redis_url: str) -> Iterator[Between]:
    proxy = CuttingProxy(redis_server.port)
    store = RedisTaskStore(proxy.url)
    with redis.Redis.from_url(redis_url, decode_responses=True) as admin:
        yield Between(store, admin, proxy)
    store.close()
    proxy.close()


LEASE = "the lease"
WRITES: dict[str, Callable[[RedisTaskStore, str], Any]] = {
    "note": lambda s, i: s.commit(i, Checkpoint(lease_id=LEASE, variables={"v": JsonText("1")})),
    "renew": lambda s, i: s.commit(i, Renew(lease_id=LEASE)),
    "complete": lambda s, i: s.commit(i, CompleteWithResult(lease_id=LEASE, result=RESULT)),
    "cancel": lambda s, i: s.apply(ALICE, i, Cancel()),
}


def running(store: RedisTaskStore) -> str:
    task = store.create(creation()).task
    store.claim(task.task_id, Claim(lease_id=LEASE, worker="w"))
    time.sleep(0.002)  # so that a renewal has something to write
    return task.task_id


def _expire_now(admin: Any, key: str) -> None:
    admin.pexpire(key, 1)
    time.sleep(0.01)


@pytest.mark.damages
@pytest.mark.parametrize("how", ["deleted", "expired"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_record_that_goes_before_exec_is_not_brought_back_in_part(
    between: Between, write: Callable[[RedisTaskStore, str], Any], how: str
) -> None:
    task_id = running(between.store)
    key = f"ts:{{00}}:t:{task_hash(task_id)}"
    go = {"deleted": lambda: between.admin.delete(key), "expired": lambda: _expire_now(between.admin, key)}
    between.do(go[how])
    with pytest.raises(TaskNotFound):
        write(between.store, task_id)
    with pytest.raises(TaskNotFound):
        write(between.store, task_id)
    assert not between.admin.exists(key)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_lifetime_that_is_touched_before_exec_costs_a_second_try_and_nothing_else(
    between: Between, write: Callable[[RedisTaskStore, str], Any]
) -> None:
    task_id = running(between.store)
    key = f"ts:{{00}}:t:{task_hash(task_id)}"
    ends_ms = between.admin.pexpiretime(key)
    between.do(lambda: between.admin.pexpireat(key, ends_ms))
    revision = between.store.inspect(task_id).task.revision
    after = write(between.store, task_id)
    assert after.revision - revision in (0, 1)
    assert between.store.index_problems(task_id) == []
    assert len(between.store.inspect(task_id).log) == after.revision + 1


@pytest.mark.damages
@pytest.mark.parametrize("index", ["leases", "overdue", "expired", "pending:q", f"live:{ALICE}"])
def test_an_index_of_another_type_costs_no_call_and_is_made_anew_by_a_repair(
    redis_url: str, between: Between, index: str
) -> None:
    store, key = between.store, f"ts:{{00}}:{index}"
    running(store)
    between.do(lambda: (between.admin.delete(key), between.admin.set(key, "poison")))
    assert store.apply(ALICE, running(store), Cancel()).phase is Phase.CANCELLED
    assert all(found.fixed for found in store.repair())
    assert list(store.repair(dry_run=True)) == []
    for task_id in ids_of(store):
        if not store.inspect(task_id).task.status.is_final:
            assert store.apply(ALICE, task_id, Cancel()).phase is Phase.CANCELLED
        assert store.index_problems(task_id) == []
