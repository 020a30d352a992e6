"""Starting tools from Python, on real workers: by a program, by its forks, and by tools."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_celery import CeleryTestWorker

from tasks_service import (
    LOCAL_USER,
    ConfigurationError,
    StoreUnavailable,
    TaskFailed,
    TaskNotFound,
    TaskService,
    TaskWasCancelled,
)
from tasks_service.domain.errors import StoreFull
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import Phase, Task
from tasks_service.failpoints import TAKEN, VARIABLE
from tasks_service.store.redis import RedisTaskStore
from tasks_service.submission.change_listener import HEAL
from tests.kit.servers import RedisServer
from tests.kit.serving import serving_app, settings
from tests.kit.waiting import quickest, wait_until
from tests.kit.wire import WireClient
from tests.kit.workers import worker_node

from .submitting_app import Picture, build

APP = "tests.e2e.submitting_app"
SECRET = "5ad41c8e0b972f63d8e17ba0946cf325"
LISTENER = "tasks-service-submitted"
"""The thread that hears of changes; threads do not survive a fork."""
KEY = "alice-mU3xQ9wzR7kYb2Lc"


@pytest.fixture(scope="module")
def worker(module_redis: RedisServer) -> Iterator[CeleryTestWorker]:
    """One worker, which runs two tools at a time."""
    node = worker_node(module_redis.url, app=APP, pool="threads", concurrency=2, options=("-Q", "tasks"))
    assert node.ready(), node.logs()
    yield node
    node.teardown()


@pytest.fixture
def store(module_redis: RedisServer) -> Iterator[RedisTaskStore]:
    """What an operator sees."""
    store = RedisTaskStore(module_redis.url)
    yield store
    store.close()


@pytest.fixture(scope="module")
def service(module_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> TaskService:
    """The service, in a program of the shop."""
    return build(settings(module_redis.url, tmp_path_factory.mktemp("data"), secret=SECRET))


def children_of(store: RedisTaskStore, task_id: str) -> list[Task]:
    tasks = [store.inspect(name).task for name in store.task_names()]
    return [task for task in tasks if task.parent == task_hash(task_id)]


@pytest.mark.usefixtures("worker")
def test_a_program_starts_a_tool_and_gets_what_its_function_returns(service: TaskService) -> None:
    assert service.submit("render", scene="hall", frames=3).result(60) == Picture(scene="hall", frames=3)


@pytest.mark.usefixtures("worker")
def test_the_same_on_an_event_loop_many_at_once(service: TaskService) -> None:
    async def rendered(scene: str) -> str:
        handle = await service.asubmit("render", scene=scene)
        picture: Picture = await handle.aresult(60)
        return picture.scene

    async def all_rendered() -> list[str]:
        return await asyncio.gather(*(rendered(f"scene {number}") for number in range(20)))

    assert asyncio.run(all_rendered()) == [f"scene {number}" for number in range(20)]


@pytest.mark.usefixtures("worker")
def test_a_handle_can_be_had_again_by_its_id(service: TaskService, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task_id = service.submit("gated", gate=str(gate)).task_id
    again = service.handle(task_id)
    wait_until(lambda: again.status() == "working", "it is there")
    with pytest.raises(TaskNotFound):
        service.handle(task_id, owner=LOCAL_USER).status()
    gate.touch()
    assert again.result(60) == "open"


@pytest.mark.usefixtures("worker")
def test_failures_are_raised_with_what_their_caller_may_know(service: TaskService) -> None:
    with pytest.raises(TaskFailed, match="There is no such scene"):
        service.submit("refused").result(60)
    with pytest.raises(TaskFailed, match="no more") as raised:
        service.submit("rejected").result(60)
    assert (raised.value.kind, raised.value.code, raised.value.data) == ("author", 4001, {"left": 0})


@pytest.mark.usefixtures("worker")
def test_a_running_tool_is_cancelled(service: TaskService, store: RedisTaskStore, tmp_path: Path) -> None:
    handle = service.submit("gated", gate=str(tmp_path / "never"))
    wait_until(lambda: store.inspect(handle.task_id).task.phase is Phase.RUNNING, "it runs")
    assert handle.cancel("The shop is closed.")
    with pytest.raises(TaskWasCancelled, match="The shop is closed"):
        handle.result(60)


@pytest.mark.usefixtures("worker")
def test_whoever_waits_is_woken_and_does_not_poll(
    service: TaskService, module_redis: RedisServer, tmp_path: Path
) -> None:
    gates = iter(range(100))

    def reads() -> int:
        with module_redis.client() as redis:
            return int(redis.info("commandstats").get("cmdstat_hmget", {}).get("calls", 0))

    def seconds_from_gate_to_result() -> float:
        gate, results = tmp_path / f"gate{next(gates)}", []
        handle = service.submit("gated", gate=str(gate))
        wait_until(lambda: handle.status() == "working", "it is there")
        waiting = threading.Thread(
            target=lambda: results.append((handle.result(60), time.monotonic())), daemon=True
        )
        waiting.start()
        waiting.join(0.5)
        before = reads()
        waiting.join(1.0)
        assert reads() - before < 20, "sweeps and the lease keeper read too, a poll would read more"
        gate.touch()
        opened = time.monotonic()
        waiting.join()
        ((said, ended),) = results
        assert said == "open"
        return ended - opened

    assert quickest(seconds_from_gate_to_result, 1.0, seconds=HEAL) < 1.0


@pytest.mark.usefixtures("worker")
def test_a_forked_process_has_connections_and_a_listener_of_its_own(
    service: TaskService, tmp_path: Path
) -> None:
    assert service.submit("render", scene="parent").result(60).scene == "parent"
    gate = tmp_path / "gate"
    waits = service.submit("gated", gate=str(gate))
    waiting = threading.Thread(target=waits.result, args=(60,), daemon=True)
    waiting.start()

    children = []
    for number in range(3):
        if (pid := os.fork()) == 0:
            code = 1
            try:
                same = service.submit("render", scene=str(number)).result(60).scene == str(number)
                code = 0 if same and LISTENER in {thread.name for thread in threading.enumerate()} else 2
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]

    assert service.submit("render", scene="again").result(60).scene == "again"
    gate.touch()
    waiting.join()


def test_short_memory_refuses_new_tasks_before_redis_does(
    service: TaskService, module_redis: RedisServer
) -> None:
    with module_redis.client() as redis:
        redis.config_set("maxmemory", int(redis.info("memory")["used_memory"] * 1.2))
        try:
            wait_until(lambda: refused_for_memory(service), "the use of memory was seen", seconds=20)
        finally:
            redis.config_set("maxmemory", 0)
    wait_until(lambda: not refused_for_memory(service), "there is memory again", seconds=20)


def refused_for_memory(service: TaskService) -> bool:
    try:
        service.submit("render", scene="hall").cancel()
    except StoreFull as error:
        return error.maximum < 100  # before Redis itself refuses
    return False


def test_a_redis_that_does_not_answer_is_said_in_seconds(tmp_path: Path) -> None:
    shop = build(settings("redis://127.0.0.1:1/0", tmp_path, store_deadline=0.2))
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        shop.submit("render", scene="hall")
    assert time.monotonic() - began < 20


# --- clients ------------------------------------------------------------------------------------------


def test_clients_see_what_was_submitted_for_their_owner_and_nothing_else(
    service: TaskService, module_redis: RedisServer, tmp_path: Path
) -> None:
    keys = {"secret": SECRET, "api_keys": f"alice:{KEY}"}
    front_end = build(settings(module_redis.url, tmp_path, **keys)).asgi()
    hers = service.submit("render", scene="hall", owner="alice")
    hidden = service.submit("render", scene="hall", owner="alice", visible=False)
    nobodys = service.submit("render", scene="hall")

    with serving_app(front_end) as port, WireClient(port, key=KEY) as client:
        assert client.get(hers.task_id)["status"] in ("working", "completed")
        for task_id in (hidden.task_id, nobodys.task_id):
            assert client.request("tasks/get", {"taskId": task_id}).error["message"] == "Task not found"
        told = client.task("render", {"scene": "hall"})
        assert service.handle(told, owner="alice").status() in ("working", "completed")


def test_an_owner_under_another_secret_than_the_front_ends_have_is_refused(
    module_redis: RedisServer, tmp_path: Path
) -> None:
    with module_redis.client() as redis:
        redis.delete("ts:{00}:secrets")
    front_end = build(settings(module_redis.url, tmp_path / "other", secret=SECRET[::-1])).asgi()
    with serving_app(front_end):
        shop = build(settings(module_redis.url, tmp_path, secret=SECRET))
        with pytest.raises(ConfigurationError, match="another secret than the front ends"):
            shop.submit("render", scene="hall", owner="alice")
        shop.submit("render", scene="hall").cancel()


# --- inside a tool --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
def test_a_tool_submits_once_however_often_it_runs_and_waits_without_a_worker(
    service: TaskService, store: RedisTaskStore, tmp_path: Path
) -> None:
    scenes, runs = [f"scene {number}" for number in range(5)], tmp_path / "runs"
    # Two of them at once would keep both threads of the worker from the tools that they wait for.
    handles = [service.submit("album", scenes=scenes, runs=str(runs)) for _ in range(2)]

    assert [handle.result(60) for handle in handles] == [scenes, scenes]
    assert runs.read_text().count("run") > 2
    for handle in handles:
        children = children_of(store, handle.task_id)
        assert len(children) == 5
        assert {(child.owner, child.visible) for child in children} == {
            (store.inspect(handle.task_id).task.owner, False)
        }


@pytest.mark.usefixtures("worker")
def test_branches_of_an_async_tool_do_so_too(service: TaskService, store: RedisTaskStore) -> None:
    scenes = [f"scene {number}" for number in range(5)]
    handle = service.submit("concurrent_album", scenes=scenes)
    assert handle.result(60) == scenes
    assert len(children_of(store, handle.task_id)) == 5


@pytest.mark.usefixtures("worker")
def test_a_tool_waits_as_long_as_it_says_and_its_child_goes_on(service: TaskService, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    task_id, told = service.submit("impatient", gate=str(gate)).result(60)
    assert told == "The task did not end within 0.4 s; it goes on"
    gate.touch()
    assert service.handle(task_id).result(60) == "open"


@pytest.mark.usefixtures("worker")
def test_children_go_on_when_their_parent_is_cancelled(
    service: TaskService, store: RedisTaskStore, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    parent = service.submit("parent", gate=str(gate))
    (child,) = wait_until(lambda: children_of(store, parent.task_id), "it has submitted its child")
    assert parent.cancel()
    gate.touch()
    assert service.handle(child.task_id).result(60) == "open"
    assert parent.status() == "cancelled"


@pytest.mark.usefixtures("worker")
def test_a_worker_that_dies_between_submission_and_journal_does_not_submit_twice(
    service: TaskService, module_redis: RedisServer, store: RedisTaskStore, tmp_path: Path
) -> None:
    points, runs = tmp_path / "points", tmp_path / "runs"
    points.mkdir()
    parent = service.submit("doomed_album", scenes=["hall"], runs=str(runs))
    (points / "Create.after").write_text("kill")
    armed = {VARIABLE: str(points)}
    node = worker_node(module_redis.url, app=APP, concurrency=1, options=("-Q", "doomed"), **armed)
    try:
        assert parent.result(90) == ["hall"], node.logs()
    finally:
        node.teardown()
    assert len(list((points / TAKEN).iterdir())) == 1
    assert len(children_of(store, parent.task_id)) == 1
