"""docker/users.acl: each role can do its work, and nothing else; who can do less is told so at start."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from tasks_service import TaskService
from tasks_service.cli.default_user import AFFECTED, restart_losses
from tasks_service.domain.errors import StoreForbidden, TaskNotFound
from tasks_service.domain.events import Cancel
from tasks_service.domain.names import new_task_id, task_hash
from tasks_service.store.redis import RedisTaskStore, Role
from tests.kit.metrics import metrics_port, scrape
from tests.kit.serving import settings
from tests.kit.sessions import SessionClient, is_request
from tests.kit.waiting import wait_until
from tests.kit.wire import WITH_TASKS, WireClient
from tests.kit.workers import OWNER

from .asking_app import nap
from .roles import APP, ROLES, SECRET, Flower, FrontEnd, GuardedRedis, Process, command, operate, ready, users

WORKER = [
    *("celery", "-A", APP, "worker", "--concurrency", "2", "--task-events"),
    *("--without-mingle", "--hostname", "worker@test", "--loglevel", "INFO"),
]
BEAT = ["celery", "-A", APP, "beat", "--scheduler", "celery.beat:Scheduler", "--enable-remote-control"]
TASKS = "ts:{00}"
SIGNED = {"TASKS_MESSAGE_SECRET": "the-secret-of-these-messages"}
CAPPED = {"TASKS_MAX_RUNNING_PER_OWNER": "2"}
"""So that tasks wait for their turn, and whoever ends one must be allowed to call the next."""
SAYS_WHY = "flower: channel ts:mq:/0.celery.pidbox"
"""What Flower is denied when it first asks workers something; it does not ask again."""


class Service(NamedTuple):
    """Every process of a service, each as its own user."""

    redis: GuardedRedis
    web: FrontEnd
    worker: Process
    beat: Process
    flower: Flower
    metrics: int


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedRedis]:
    server = GuardedRedis(tmp_path_factory.mktemp("acl"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def service(redis: GuardedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with ExitStack() as ends:
        metrics = metrics_port()
        measured = {"TASKS_METRICS_PORT": str(metrics)}
        web = FrontEnd(redis.url_of("web"), tmp_path_factory.mktemp("web"), **CAPPED, **SIGNED, **measured)
        worker, beat = (
            Process(redis.url_of("worker"), "worker", WORKER, **CAPPED, **SIGNED, **measured),
            Process(redis.url_of("beat"), "beat", BEAT, **SIGNED, **measured),
        )
        flower = Flower(redis.url_of("flower"))
        for process in (web, worker, beat, flower):
            ends.callback(process.teardown)
        ready(web, "/readyz")
        ready(flower, "/healthcheck")
        assert worker.ready(), worker.logs()
        yield Service(redis, web, worker, beat, flower, metrics)


@pytest.fixture(autouse=True)
def _nothing_is_denied(request: pytest.FixtureRequest, redis: GuardedRedis) -> Iterator[None]:
    """Fails a test of what a role does if it was denied anything, whether or not somebody noticed."""
    with redis.client() as admin:
        admin.acl_log_reset()
    yield
    if "service" in request.fixturenames:
        assert set(redis.denied()) <= {SAYS_WHY}


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


def test_every_process_serves_its_metrics_with_the_rights_of_its_user(service: Service) -> None:
    of_front_end, of_worker, of_beat = (scrape(service.metrics + role) for role in range(3))
    assert of_front_end.value("tasks_service_store_up") == 1
    assert set(of_front_end.by("tasks_service_live_workers", "service")) == {"Asking"}
    assert of_front_end.value("tasks_service_tasks", phase="parked") == 0
    assert of_worker.value("tasks_service_info", role="worker") == 1
    assert of_beat.value("tasks_service_info", role="beat") == 1


@pytest.mark.parametrize("user", ["web", "worker"])
def test_a_program_starts_a_tool_and_waits_for_it_as_either_user(
    service: Service, tmp_path: Path, user: str
) -> None:
    connected = settings(
        service.redis.url_of(user), tmp_path, secret=SECRET, message_secret=SIGNED["TASKS_MESSAGE_SECRET"]
    )
    shop = TaskService("Asking", settings=connected)
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
    web = FrontEnd(service.redis.url_of("web"), tmp_path, app=None, **CAPPED, **SIGNED)
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
    done = operate(service.redis, "doctor", TASKS_PORT=str(service.web.port), **SIGNED)
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


def test_flower_hears_the_workers_events_and_gives_up_to_ask_them(service: Service, tmp_path: Path) -> None:
    with WireClient(service.web.port) as client:
        completed(client, client.task("nap", {"path": str(tmp_path / "nap"), "seconds": 0}))
    wait_until(lambda: '"nap"' in service.flower.shows("/api/tasks"), service.flower.logs)
    assert service.flower.shows("/api/workers?refresh=1") == "{}"
    said = service.flower.logs().count("may not give orders to workers")
    service.flower.shows("/api/workers?refresh=1")
    assert service.flower.logs().count("may not give orders to workers") == said > 0


def test_nobody_runs_a_script(service: Service) -> None:
    with service.redis.client() as admin:
        wait_until(lambda: admin.info("commandstats").get("cmdstat_brpop"), "somebody waits for messages")
        assert operate(service.redis, "doctor", **SIGNED, TASKS_PORT=str(service.web.port)).returncode == 0
        ran = {name for name in admin.info("commandstats") if "eval" in name or "script" in name}
    assert ran == set()


def test_beat_asks_for_sweeps_that_workers_make(service: Service) -> None:
    wait_until(lambda: "tasks_service.reap_stale_tasks" in service.worker.logs(), service.beat.logs)


EVERYBODY = (*ROLES, "health")
PIDBOX = "ts:mq:/0.celery.pidbox"
FORBIDDEN: tuple[tuple[str, tuple[str, ...]], ...] = (
    # Of the server: nobody empties, configures, stops, freezes or watches it.
    ("FLUSHALL", EVERYBODY),
    ("FLUSHDB", EVERYBODY),
    ("SWAPDB 0 1", EVERYBODY),
    ("CONFIG SET maxmemory 1", EVERYBODY),
    ("CONFIG GET requirepass", EVERYBODY),
    ("CONFIG REWRITE", EVERYBODY),
    ("SHUTDOWN NOSAVE", EVERYBODY),
    ("CLIENT PAUSE 1", EVERYBODY),
    ("CLIENT KILL TYPE normal", EVERYBODY),
    ("CLIENT LIST", EVERYBODY),
    ("MONITOR", EVERYBODY),
    ("MODULE LIST", EVERYBODY),
    ("REPLICAOF no one", EVERYBODY),
    ("SLAVEOF no one", EVERYBODY),
    ("PSYNC ? -1", EVERYBODY),
    ("FAILOVER", EVERYBODY),
    ("SAVE", EVERYBODY),
    ("BGSAVE", EVERYBODY),
    ("BGREWRITEAOF", EVERYBODY),
    ("LATENCY RESET", EVERYBODY),
    ("SLOWLOG GET", EVERYBODY),
    ("MEMORY PURGE", EVERYBODY),
    ("OBJECT ENCODING ts:swept", EVERYBODY),
    ("ACL LIST", EVERYBODY),
    ("ACL SETUSER web on", EVERYBODY),
    ("ACL LOG", EVERYBODY),
    ("ACL SAVE", EVERYBODY),
    # Scripts, which can freeze it.
    ("EVAL return 0", EVERYBODY),
    ("EVAL_RO return 0", EVERYBODY),
    ("EVALSHA 0000000000000000000000000000000000000000 0", EVERYBODY),
    ("EVALSHA_RO 0000000000000000000000000000000000000000 0", EVERYBODY),
    ("SCRIPT LOAD return", EVERYBODY),
    ("SCRIPT EXISTS 0000000000000000000000000000000000000000", EVERYBODY),
    ("SCRIPT FLUSH", EVERYBODY),
    ("SCRIPT KILL", EVERYBODY),
    ("FUNCTION LOAD x", EVERYBODY),
    ("FUNCTION DUMP", EVERYBODY),
    ("FUNCTION FLUSH", EVERYBODY),
    ("FCALL any 0", EVERYBODY),
    ("SORT ts:swept", EVERYBODY),
    # Other databases, and what others keep in this one.
    ("SELECT 0", EVERYBODY),
    ("SELECT 1", EVERYBODY),
    ("MOVE ts:swept 1", EVERYBODY),
    ("COPY ts:swept ts:swept DB 1", EVERYBODY),
    ("KEYS *", EVERYBODY),
    ("RANDOMKEY", EVERYBODY),
    ("DBSIZE", EVERYBODY),
    ("DUMP ts:swept", EVERYBODY),
    ("RESTORE ts:swept 0 x", EVERYBODY),
    ("MIGRATE 127.0.0.1 1 ts:swept 0 1", EVERYBODY),
    ("GET other:key", EVERYBODY),
    ("HSET other:key field value", EVERYBODY),
    ("DEL other:key", EVERYBODY),
    ("LPUSH other:mq:tasks value", EVERYBODY),
    ("PUBLISH other:changes 1", EVERYBODY),
    ("SUBSCRIBE other:changes", ("web", "worker", "health")),
    ("PSUBSCRIBE *", EVERYBODY),
    ("PSUBSCRIBE ts:*", EVERYBODY),
    ("SCAN 0", ("web", "worker", "beat", "flower", "health")),
    ("INFO", ("beat", "flower", "health")),
    # Tasks, sessions and the registry.
    ("HGETALL ts:{00}:t:none", ("beat", "flower", "health")),
    ("HSET ts:{00}:t:none status completed", ("beat", "flower", "health")),
    ("HGETALL ts:{00}:secrets", ("beat", "flower", "health")),
    ("RENAME ts:{00}:t:none ts:{00}:t:some", ("web", "worker", "beat", "flower")),
    ("SET ts:swept 1", ("web", "beat", "flower")),
    ("GET ts:swept", ("web", "beat", "flower", "health")),
    ("SET ts:session:{none} 1", ("worker", "beat", "flower", "operator")),
    ("GET ts:session:{none}", ("worker", "beat", "flower", "operator")),
    ("HSET ts:registry:{00}:workers:shop node any", ("web", "beat", "flower", "operator")),
    ("HGETALL ts:registry:{00}:workers:shop", ("beat", "flower")),
    ("PUBLISH ts:changes 1", ("beat", "flower")),
    ("SUBSCRIBE ts:reports:none", ("beat", "flower", "operator")),
    # Messages: only workers take them; front ends and beat add them, beat where it has business.
    ("BRPOP ts:mq:tasks 1", ("web", "beat", "flower")),
    ("RPOP ts:mq:tasks", ("web", "beat", "flower")),
    ("LRANGE ts:mq:tasks 0 -1", ("web", "beat", "flower")),
    ("LREM ts:mq:tasks 1 x", ("web", "worker", "beat", "flower")),
    ("DEL ts:mq:tasks", ("web", "beat", "flower")),
    ("UNLINK ts:mq:tasks", ("web", "beat", "flower")),
    ("PEXPIRE ts:mq:tasks 1", ("web", "beat", "flower")),
    ("SET ts:mq:tasks x", ("web", "beat", "flower")),
    ("RENAME ts:mq:tasks ts:mq:some", ("web", "worker", "beat", "flower")),
    ("LPUSH ts:mq:tasks x", ("beat", "flower")),
    ("LPUSH ts:mq:maintenance x", ("flower",)),
    ("BRPOP ts:mq:maintenance 1", ("web", "beat", "flower")),
    ("HGETALL ts:mq:unacked", ("web", "beat", "flower")),
    ("HDEL ts:mq:unacked x", ("web", "beat", "flower")),
    ("SADD ts:mq:_kombu.binding.tasks x", ("web",)),
    # Orders to workers: only an operator gives them.
    (f"PUBLISH {PIDBOX} 1", ("web", "worker", "beat", "flower", "health")),
    (f"PSUBSCRIBE {PIDBOX}", ("web", "flower", "operator")),
    ("PUBLISH ts:mq:/0.celeryev/worker.online 1", ("web", "beat", "flower")),
)


def test_nobody_may_do_what_is_not_their_work(
    redis: GuardedRedis, measured: Callable[[str, str], None]
) -> None:
    tried = 0
    for role in EVERYBODY:
        mine = [forbidden for forbidden, roles in FORBIDDEN if role in roles]
        with redis.client(role) as client:
            connection = client.connection_pool.get_connection()
            for forbidden in mine:
                connection.send_command(*forbidden.split())
                with pytest.raises(NoPermissionError):
                    pytest.fail(f"{role} may {forbidden}: {connection.read_response()}")
        assert len(mine) >= 40
        tried += len(mine)
    assert len({command for command, _ in FORBIDDEN}) >= 80
    assert tried >= 300
    measured("ACL", f"{tried} forbidden pairs of command and role: all denied")


@pytest.mark.parametrize("login", [{}, {"username": "default"}, {"username": "default", "password": "any"}])
def test_whoever_does_not_log_in_may_do_nothing(redis: GuardedRedis, login: dict[str, str]) -> None:
    with Redis(port=redis.port, retry=None, **login) as nobody, pytest.raises(AuthenticationError):
        nobody.ping()


def test_what_was_written_in_transactions_is_there_after_a_restart(tmp_path: Path) -> None:
    """Redis 7.0 reads its append-only file with the rights of whoever does not log in."""
    with closing(GuardedRedis(tmp_path)) as server:
        with server.client("web") as web, web.pipeline(transaction=True) as transaction:
            for name in ("one", "two"):
                transaction.hset(f"{TASKS}:t:{name}", "status", "working")
            transaction.execute()
        server.kill()
        server.start()
        with server.client() as admin:
            assert admin.dbsize() == 2


def test_a_redis_that_would_lose_transactions_at_its_next_start_is_told(tmp_path: Path) -> None:
    with closing(GuardedRedis(tmp_path)) as server:
        url = server.url_of("operator")
        assert list(restart_losses(url)) == []
        with server.client() as admin:
            is_affected = admin.info("server")["redis_version"].startswith(AFFECTED)
            admin.acl_setuser("default", enabled=True, nopass=True, categories=["-@all"], commands=["+ping"])
        findings = [finding.what for finding in restart_losses(url)]
    assert ["lose tasks when it is restarted" in what for what in findings] == [True] * is_affected


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
                "clearselectors",
            ),
            "may not use ts:mq:*. Run ACL SETUSER web (%W~ts:mq:* +lpush),",
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
    assert "Correct the user name and the password in TASKS_REDIS_URL." in done.stdout


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
