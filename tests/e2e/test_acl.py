"""docker/users.acl: each role can do its work, and nothing else; who can do less is told so at start."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis.exceptions import NoPermissionError

from tasks_service import TaskService
from tasks_service.domain.errors import StoreForbidden, TaskNotFound
from tasks_service.domain.events import Cancel
from tasks_service.domain.names import new_task_id, task_hash
from tasks_service.store.redis import RedisTaskStore, Role
from tests.kit.serving import settings
from tests.kit.sessions import SessionClient, is_request
from tests.kit.waiting import wait_until
from tests.kit.wire import WITH_TASKS, WireClient
from tests.kit.workers import OWNER

from .asking_app import nap
from .roles import APP, ROLES, SECRET, Flower, FrontEnd, GuardedRedis, Process, command, operate, ready, users

WORKER = [
    *("celery", "-A", APP, "worker", "--concurrency", "2", "--task-events"),
    *("--hostname", "worker@test", "--loglevel", "INFO"),
]
BEAT = ["celery", "-A", APP, "beat", "--scheduler", "celery.beat:Scheduler", "--enable-remote-control"]
TASKS = "ts:{00}"
CAPPED = {"TASKS_MAX_RUNNING_PER_OWNER": "2"}
"""So that tasks wait for their turn, and whoever ends one must be allowed to call the next."""


class Service(NamedTuple):
    """Every process of a service, each as its own user."""

    redis: GuardedRedis
    web: FrontEnd
    worker: Process
    beat: Process
    flower: Flower


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedRedis]:
    server = GuardedRedis(tmp_path_factory.mktemp("acl"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def service(redis: GuardedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with ExitStack() as ends:
        web = FrontEnd(redis.url_of("web"), tmp_path_factory.mktemp("web"), **CAPPED)
        worker, beat = (
            Process(redis.url_of("worker"), "worker", WORKER, **CAPPED),
            Process(redis.url_of("beat"), "beat", BEAT),
        )
        flower = Flower(redis.url_of("flower"))
        for process in (web, worker, beat, flower):
            ends.callback(process.teardown)
        ready(web, "/readyz")
        ready(flower, "/healthcheck")
        assert worker.ready(), worker.logs()
        yield Service(redis, web, worker, beat, flower)


@pytest.fixture(autouse=True)
def _nothing_is_denied(request: pytest.FixtureRequest, redis: GuardedRedis) -> Iterator[None]:
    """Fails a test of what a role does if it was denied anything, whether or not somebody noticed."""
    with redis.client() as admin:
        admin.acl_log_reset()
    yield
    if "service" in request.fixturenames:
        assert redis.denied() == []


def completed(client: WireClient, task_id: str) -> Any:
    return wait_until(lambda: client.get(task_id)["status"] == "completed", "it completes", seconds=60)


def test_a_task_sleeps_asks_and_completes_and_a_dead_child_is_replaced(
    service: Service, tmp_path: Path
) -> None:
    with WireClient(service.web.port, capabilities={**WITH_TASKS, "elicitation": {}}) as client:
        asked = client.task("ask_twice")
        for _ in range(2):
            questions = wait_until(lambda: client.get(asked).get("inputRequests"), "it asks", seconds=60)
            answer = {"action": "accept", "content": {"word": "yes"}}
            client.update(asked, dict.fromkeys(questions, answer)).result  # noqa: B018
            wait_until(lambda q=questions: client.get(asked).get("inputRequests") != q, "it goes on")
        completed(client, asked)
        completed(client, client.task("nap", {"path": str(tmp_path / "nap"), "seconds": 0.2}))
        dying = {"path": str(tmp_path / "steps"), "marker": str(tmp_path / "died")}
        completed(client, client.task("die_after_step", dying))


@pytest.mark.parametrize("user", ["web", "worker"])
def test_a_program_starts_a_tool_and_waits_for_it_as_either_user(
    service: Service, tmp_path: Path, user: str
) -> None:
    shop = TaskService("Asking", settings=settings(service.redis.url_of(user), tmp_path, secret=SECRET))
    shop.tool()(nap)
    handles = [
        shop.submit("nap", path=str(tmp_path / "nap"), seconds=0.2, owner=owner, idempotency_key=user)
        for owner in (None, "alice")
    ]
    for handle in handles:
        handle.result(60)
    assert not handles[0].cancel()


def test_a_front_end_without_code_serves_what_the_worker_has_announced(
    service: Service, tmp_path: Path
) -> None:
    web = FrontEnd(service.redis.url_of("web"), tmp_path, app=None, **CAPPED)
    try:
        ready(web, "/readyz")
        with WireClient(web.port) as client:
            wait_until(lambda: "nap" in client.request("tools/list").body.decode(), web.logs)
            completed(client, client.task("nap", {"path": str(tmp_path / "nap"), "seconds": 0.2}))
    finally:
        web.teardown()


def test_a_session_lists_cancels_and_is_asked_on_its_stream(service: Service) -> None:
    with SessionClient([service.web.port]) as client:
        client.initialize()
        client.result("logging/setLevel", {"level": "debug"})
        task_id = client.task("busy", {"seconds": 60})
        assert [task["taskId"] for task in client.result("tasks/list")["tasks"]][:1] == [task_id]
        client.result("tasks/cancel", {"taskId": task_id})
        waiting = client.task("ask_twice")
        stream = client.open("tasks/result", {"taskId": waiting})
        for _ in range(2):
            question = stream.find(is_request("elicitation/create"))
            client.respond(question["id"], {"action": "accept", "content": {"word": "yes"}})
        assert "result" in stream.rest()[-1]
        client.post(b"", method="DELETE")


def test_a_sweep_sends_a_lost_message_again(service: Service, tmp_path: Path) -> None:
    with WireClient(service.web.port) as client, service.redis.client() as admin:
        service.worker.kill("SIGSTOP")
        try:
            # The first message is handed to the worker, which waits for one; the others stay in the queue.
            arguments = {"path": str(tmp_path / "nap"), "seconds": 0}
            tasks = [client.task("nap", arguments) for _ in range(3)]
            wait_until(lambda: admin.delete("ts:mq:tasks"), "there is a message")
        finally:
            service.worker.kill("SIGCONT")
        for task_id in tasks:
            completed(client, task_id)


def test_an_operator_lists_inspects_cancels_repairs_and_examines(service: Service) -> None:
    with WireClient(service.web.port) as client:
        task_id = client.task("busy", {"seconds": 60})
    with service.redis.client() as admin:
        wait_until(lambda: admin.zscore(f"{TASKS}:leases", task_hash(task_id)), "it runs")
        listed = json.loads(operate(service.redis, "list", "--json", "--phase", "running").stdout)
        assert [task["task_id"] for task in listed] == [task_id]
        assert operate(service.redis, "cancel", task_id).returncode == 0
        # Its front end has hung up meanwhile: commands take their time.
        with WireClient(service.web.port) as client:
            assert client.get(task_id)["status"] == "cancelled"
        assert task_id in operate(service.redis, "inspect", "--json", task_id).stdout
        admin.zrem(f"{TASKS}:expired", task_hash(task_id))
        assert "1 fixed, 0 left" in operate(service.redis, "repair").stderr
        admin.hset(f"{TASKS}:t:{task_hash(task_id)}", "status", "no such status")
        assert ", 0 left" in operate(service.redis, "repair", "--quarantine").stderr
        assert "Nothing is wrong" in operate(service.redis, "repair").stderr
    done = operate(service.redis, "doctor", TASKS_PORT=str(service.web.port))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout


def test_an_operator_who_cancels_gives_the_turn_to_the_next(service: Service) -> None:
    with WireClient(service.web.port) as client:
        first, second, waiting = (client.task("busy", {"seconds": 60}) for _ in range(3))
        with service.redis.client() as admin:
            wait_until(lambda: admin.zcard(f"{TASKS}:leases") == 2, "two run")
            assert operate(service.redis, "cancel", first, **CAPPED).returncode == 0
            wait_until(lambda: admin.zscore(f"{TASKS}:leases", task_hash(waiting)), "the third runs")
        for task_id in (second, waiting):
            client.request("tasks/cancel", {"taskId": task_id}).result  # noqa: B018


def test_flower_hears_the_workers_events_and_asks_them(service: Service, tmp_path: Path) -> None:
    with WireClient(service.web.port) as client:
        completed(client, client.task("nap", {"path": str(tmp_path / "nap"), "seconds": 0}))
    wait_until(lambda: '"nap"' in service.flower.shows("/api/tasks"), service.flower.logs)
    assert "active_queues" in service.flower.shows("/api/workers?refresh=1")


def test_beat_asks_for_sweeps_that_workers_make(service: Service) -> None:
    wait_until(lambda: "tasks_service.reap_stale_tasks" in service.worker.logs(), service.beat.logs)


EVERYBODY = ROLES
FORBIDDEN: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("FLUSHALL", EVERYBODY),
    ("FLUSHDB", EVERYBODY),
    ("SWAPDB 0 1", EVERYBODY),
    ("CONFIG SET maxmemory 1", EVERYBODY),
    ("CONFIG GET requirepass", EVERYBODY),
    ("KEYS *", EVERYBODY),
    ("EVAL return 0", EVERYBODY),
    ("SHUTDOWN NOSAVE", EVERYBODY),
    ("MODULE LIST", EVERYBODY),
    ("REPLICAOF no one", EVERYBODY),
    ("ACL LIST", EVERYBODY),
    ("ACL SETUSER web on", EVERYBODY),
    ("CLIENT KILL TYPE normal", EVERYBODY),
    ("MONITOR", EVERYBODY),
    ("GET other:key", EVERYBODY),
    ("HSET other:key field value", EVERYBODY),
    ("DEL other:key", EVERYBODY),
    ("PUBLISH other:changes 1", EVERYBODY),
    ("SUBSCRIBE other:changes", ("web", "worker")),
    ("HGETALL ts:{00}:t:none", ("beat", "flower")),
    ("SET ts:swept 1", ("web", "beat", "flower")),
    ("SET ts:session:{none} 1", ("worker", "beat", "flower", "operator")),
    ("GET ts:session:{none}", ("worker", "beat", "flower", "operator")),
    ("HSET ts:registry:{00}:workers:shop node any", ("web", "beat", "flower", "operator")),
    ("HGETALL ts:registry:{00}:workers:shop", ("beat", "flower")),
    ("BRPOP ts:mq:tasks 1", ("web",)),
    ("LRANGE ts:mq:tasks 0 -1", ("web",)),
    ("PUBLISH ts:changes 1", ("beat", "flower")),
    ("PUBLISH ts:mq:/0.celery.pidbox 1", ("web",)),
    ("SUBSCRIBE ts:reports:none", ("beat", "flower", "operator")),
    ("PSUBSCRIBE ts:*", ("web", "worker", "flower")),
    ("SCAN 0", ("web", "worker", "beat", "flower")),
    ("RENAME ts:{00}:t:none ts:{00}:t:some", ("web", "worker", "beat", "flower")),
    ("INFO", ("beat", "flower", "default")),
    ("GET ts:swept", ("default",)),
)


def test_nobody_may_do_what_is_not_their_work(
    redis: GuardedRedis, measured: Callable[[str, str], None]
) -> None:
    tried = 0
    for forbidden, roles in FORBIDDEN:
        for role in roles:
            with redis.client(role) as client:
                connection = client.connection_pool.get_connection()
                connection.send_command(*forbidden.split())
                with pytest.raises(NoPermissionError):
                    connection.read_response()
                connection.disconnect()
            tried += 1
    assert tried >= 100
    measured("ACL", f"{tried} forbidden pairs of command and role: all denied")


@pytest.fixture
def lacking(redis: GuardedRedis) -> Iterator[Callable[..., None]]:
    """Takes rights from a user for the time of the test."""

    def take(role: str, *rules: str) -> None:
        with redis.client() as admin:
            admin.execute_command("ACL", "SETUSER", role, *rules)

    yield take
    with redis.client() as admin:
        admin.acl_load()


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        (("-hset",), "may not run HSET. Run ACL SETUSER web +hset,"),
        (("-subscribe",), "may not run SUBSCRIBE"),
        (
            (
                "resetkeys",
                "%R~ts:registry:*",
                "~ts:{*",
                "~ts:shards",
                "~ts:session:*",
                "~ts:floor:*",
                "~ts:mq:*",
            ),
            "may not use ts:interview:*. Run ACL SETUSER web ~ts:interview:*,",
        ),
        (("resetchannels", "&ts:changes"), "may not use ts:reports:*. Run ACL SETUSER web &ts:reports:*,"),
        (
            (
                "resetkeys",
                "%R~ts:registry:*",
                "~ts:{*",
                "~ts:shards",
                "~ts:session:*",
                "~ts:floor:*",
                "~ts:interview:*",
            ),
            "may not use ts:mq:*. Run ACL SETUSER web %W~ts:mq:*,",
        ),
    ],
)
def test_a_front_end_whose_user_lacks_something_says_what_and_does_not_start(
    redis: GuardedRedis, lacking: Callable[..., None], tmp_path: Path, rules: tuple[str, ...], sentence: str
) -> None:
    lacking("web", *rules)
    web = FrontEnd(redis.url_of("web"), tmp_path)
    try:
        wait_until(lambda: web.status == "exited", web.logs)
        assert f"The Redis user 'web' of this front end {sentence}" in web.logs()
    finally:
        web.teardown()


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        (("-zrangebyscore",), "may not run ZRANGEBYSCORE. Run ACL SETUSER worker +zrangebyscore,"),
        (("-brpop", "-watch"), "may not run WATCH, BRPOP. Run ACL SETUSER worker +watch +brpop,"),
        (
            ("resetkeys", "~ts:registry:*", "~ts:{*", "~ts:shards", "~ts:swept", "~ts:mq:*"),
            "may not use ts:lock:*.",
        ),
    ],
)
def test_a_worker_whose_user_lacks_something_says_what_and_does_not_start(
    redis: GuardedRedis, lacking: Callable[..., None], rules: tuple[str, ...], sentence: str
) -> None:
    lacking("worker", *rules)
    worker = Process(redis.url_of("worker"), "worker", WORKER)
    try:
        wait_until(lambda: worker.status == "exited", worker.logs)
        assert f"The Redis user 'worker' of this worker {sentence}" in worker.logs()
    finally:
        worker.teardown()


def test_doctor_says_what_the_operators_user_lacks(redis: GuardedRedis, lacking: Callable[..., None]) -> None:
    lacking("operator", "-scan")
    done = operate(redis, "doctor")
    assert done.returncode == 1
    assert "may not run SCAN" in done.stdout
    assert "ACL SETUSER operator +scan" in done.stdout


@pytest.mark.parametrize("rules", [("-watch",), ("-hmget",), ("resetkeys",)])
def test_rights_that_are_taken_away_at_run_time_are_no_damage_and_heal(
    redis: GuardedRedis, lacking: Callable[..., None], rules: tuple[str, ...]
) -> None:
    with closing(RedisTaskStore(redis.url_of("operator"))) as store:
        lacking("operator", *rules)
        with pytest.raises(StoreForbidden, match="does not permit"):
            store.apply(OWNER, new_task_id(OWNER), Cancel())
        with redis.client() as admin:
            admin.acl_load()
        with pytest.raises(TaskNotFound):
            store.apply(OWNER, new_task_id(OWNER), Cancel())


def test_a_client_without_a_login_is_told_so(redis: GuardedRedis) -> None:
    done = command("doctor", TASKS_REDIS_URL=f"redis://127.0.0.1:{redis.port}/0")
    assert done.returncode == 1
    assert "The Redis user 'default' of this operator may not run" in done.stdout


def test_the_file_does_not_name_to_an_older_redis_what_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    server, named = tmp_path / "redis-server", {}
    for version in ("7.0.15", "7.2.0"):
        server.write_text(f"#!/bin/sh\necho Redis server v={version} sha=00000000:0 malloc=libc bits=64\n")
        server.chmod(0o755)
        named[version] = "client|setinfo" in users()
    assert named == {"7.0.15": False, "7.2.0": True}


def test_the_file_serves_another_prefix_and_database(tmp_path: Path) -> None:
    redis = GuardedRedis(tmp_path, "acme.1", "3")
    worker = Process(redis.url_of("worker", 3), "worker", WORKER, TASKS_KEY_PREFIX="acme.1")
    try:
        assert worker.ready(), worker.logs()
        done = command("doctor", TASKS_REDIS_URL=redis.url_of("operator", 3), TASKS_KEY_PREFIX="acme.1")
        for title in ("Redis", "broker", "workers", "queues", "sweeps"):
            assert f"ok       {title}" in done.stdout, done.stdout + done.stderr
        store = RedisTaskStore(redis.url_of("web", 3), prefix="acme.1")
        assert store.check_permissions(Role.FRONT_END) == []
        store.close()
        assert redis.denied() == []
    finally:
        worker.teardown()
        redis.close()
