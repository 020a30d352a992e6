"""A process that was stopped past its lease wakes up, and can write nothing any more."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from tasks_service.domain.errors import InvalidTransition
from tasks_service.domain.events import Claim, CompleteWithResult, Reap
from tasks_service.domain.task import Phase, Policy, Task, TaskStatus, new_token
from tasks_service.store.redis import RedisTaskStore
from tests.kit.audit import audit, told
from tests.kit.factories import ALICE, RESULT, creation
from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until
from tests.kit.workers import client_of, worker_node

from .toxic_app import service
from .zombie import haunt, writes

ROUNDS = int(os.environ.get("TASKS_TEST_ZOMBIES", "24"))
LEASE_MS = 20
Measured = Callable[[str, str], None]


class Zombie:
    """A real process that holds one task after the other."""

    def __init__(self, url: str, points: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.points = points
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=haunt, args=(url, theirs))
        self.process.start()
        theirs.close()

    def stopped_with(self, task: Task, moment: str) -> str:
        """Let it take a task, and stop it: its lease id."""
        if moment == "completing":
            (self.points / "CompleteWithResult.before").write_text("stop")
        self.pipe.send((task.task_id, moment))
        lease_id = str(_received(self.pipe))
        if moment == "held":
            os.kill(self._pid, signal.SIGSTOP)
        _, status = os.waitpid(self._pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        return lease_id

    def accepted_after_waking(self) -> list[str]:
        """Let it go on: the kinds of writes that it got through."""
        os.kill(self._pid, signal.SIGCONT)
        return list(_received(self.pipe))

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self.pipe.send(None)
        os.kill(self._pid, signal.SIGCONT)
        self.process.join(30)

    @property
    def _pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid


def _received(pipe: Connection) -> list[str] | str:
    assert pipe.poll(60), "the zombie says nothing"
    received: list[str] | str = pipe.recv()
    return received


@pytest.fixture
def zombie(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Zombie]:
    monkeypatch.setenv("TASKS_FAILPOINTS", str(tmp_path))
    zombie = Zombie(redis_url, tmp_path)
    yield zombie
    zombie.close()


def reaped(store: RedisTaskStore, task: Task) -> Task:
    """The task, as soon as its lease is over."""
    while True:
        with suppress(InvalidTransition):
            found = store.apply_sweep(task.task_id, Reap())
            assert found is not None
            return found
        time.sleep(LEASE_MS / 4000)


@pytest.mark.timeout(300)
def test_a_process_that_wakes_up_after_its_lease_can_write_nothing(
    zombie: Zombie, redis_url: str, measured: Measured
) -> None:
    store = RedisTaskStore(redis_url)
    for _, moment in zip(range(ROUNDS), itertools.cycle(["held", "completing"])):
        task = store.create(creation(policy=Policy(lease_ms=LEASE_MS))).task
        stale = zombie.stopped_with(task, moment)
        reaped(store, task)
        lease_id = new_token()
        store.claim(task.task_id, Claim(lease_id=lease_id, worker="another"))
        store.commit(task.task_id, CompleteWithResult(lease_id=lease_id, result=RESULT))
        before = store.inspect(task.task_id)

        assert zombie.accepted_after_waking() == []

        assert store.inspect(task.task_id) == before
        assert store.get(ALICE, task.task_id).result == RESULT
        assert before.task.claims == 2
        assert stale != lease_id
    store.close()
    found = audit(redis_url)
    assert not found, told(found)
    kinds = len(list(writes("")))
    measured("R11", f"{ROUNDS} rounds of {kinds} writes after SIGSTOP past the lease: 0 accepted")


@pytest.mark.timeout(300)
def test_a_process_that_wakes_up_while_another_runs_the_task_cannot_disturb_it(
    zombie: Zombie, redis_url: str
) -> None:
    store = RedisTaskStore(redis_url)
    for _, moment in zip(range(max(ROUNDS // 4, 4)), itertools.cycle(["held", "completing"])):
        task = store.create(creation(policy=Policy(lease_ms=LEASE_MS))).task
        zombie.stopped_with(task, moment)
        reaped(store, task)
        lease_id = new_token()
        store.claim(task.task_id, Claim(lease_id=lease_id, worker="another"))

        assert zombie.accepted_after_waking() == []

        assert store.inspect(task.task_id).task.phase is Phase.RUNNING
        done = store.commit(task.task_id, CompleteWithResult(lease_id=lease_id, result=RESULT))
        assert done.status is TaskStatus.COMPLETED
    store.close()


CHILDREN = int(os.environ.get("TASKS_TEST_ZOMBIE_CHILDREN", "2"))


@pytest.mark.timeout(600)
def test_a_tool_in_a_stopped_child_learns_from_its_context_that_the_task_is_anothers(
    tmp_path: Path, measured: Measured
) -> None:
    server = RedisServer()
    node = worker_node(server.url, app="tests.faults.toxic_app", concurrency=2)
    learned = []
    try:
        assert node.ready(), node.logs()
        with client_of(service, server.url) as client:
            for number in range(CHILDREN):
                diary, gate = tmp_path / f"diary-{number}", tmp_path / f"gate-{number}"
                task = client.call("haunted", diary=str(diary), gate=str(gate))
                first = wait_until_written(diary, 1)[0]
                os.kill(first["pid"], signal.SIGSTOP)
                wait_until(lambda task=task: client.view(task).task.claims == 2, node.logs)  # type: ignore[misc]
                gate.touch()
                view = client.ended(task)
                os.kill(first["pid"], signal.SIGCONT)
                woken = time.monotonic()
                wait_until(lambda diary=diary: "learned" in diary.read_text(), node.logs)  # type: ignore[misc]

                told_ = wait_until_written(diary, 3)[-1]
                assert told_["pid"] == first["pid"]
                assert told_["learned"] == "AttemptLost"
                assert told_["step"] == "AttemptLost", "no step of it was recorded"
                learned.append(max(told_["at"] - woken, 0.0))
                assert json.loads(view.result or "")["structuredContent"]["result"] == 2
                assert client.view(task) == view
                record = client.record(task)
                assert [entry.name for entry in record.journal] == ["begun by 2"]
        worst = max(learned) * 1000
        measured("R11", f"{CHILDREN} prefork children: the body learned at most {worst:.0f} ms after SIGCONT")
    finally:
        node.teardown()
        server.close()


def test_a_tool_that_lets_no_other_thread_run_loses_its_lease_and_its_result(tmp_path: Path) -> None:
    server = RedisServer()
    node = worker_node(server.url, app="tests.faults.toxic_app", concurrency=2)
    path = tmp_path / "runs"
    try:
        assert node.ready(), node.logs()
        with client_of(service, server.url) as client:
            view = client.run("deafening", path=str(path))
            wait_until(lambda: path.read_text().count("\n") == 2, node.logs)
            later = client.run("good", path=str(tmp_path / "good"))
            assert client.view(view.task) == view
        assert json.loads(view.result or "")["structuredContent"]["result"] == 2
        assert (view.task.claims, later.task.status) == (2, TaskStatus.COMPLETED)
        assert not (found := audit(server.url, beside=[r"ts:mq:.*"])), told(found)
    finally:
        node.teardown()
        server.close()


def wait_until_written(diary: Path, lines: int) -> list[dict[str, object]]:
    """The lines of a diary, when there are enough."""
    wait_until(lambda: diary.exists() and diary.read_text().count("\n") >= lines)
    return [json.loads(line) for line in diary.read_text().splitlines()]
