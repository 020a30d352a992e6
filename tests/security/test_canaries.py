"""Nothing secret is in Redis, in a log, in metrics, on a page of Flower, or in the list of processes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tasks_service.domain.names import task_hash
from tests.e2e.roles import Flower, FrontEnd, Process, command, ready
from tests.kit.metrics import metrics_port, scrape
from tests.kit.servers import RedisServer
from tests.kit.waiting import wait_until
from tests.kit.wire import WITH_TASKS, WITHOUT_TASKS, WireClient

APP = "tests.security.vault_app"

ARGUMENT, ANSWER = "CANARY-argument-5e1f", "CANARY-answer-77ab"
KEY, SECRET, MESSAGES = (
    "CANARY-api-key-0123",
    "CANARY-secret-4567-of-front-ends",
    "CANARY-messages-89ab-signed",
)
READER = "CANARY-of-prometheus-cdef"
"""The key with which metrics are read."""

ENCRYPTION = base64.b64encode(hashlib.sha256(b"a key of a test").digest()).decode()
CANARIES = ("CANARY", ENCRYPTION, base64.b64decode(ENCRYPTION).hex())
"""What must not be found anywhere."""

RECORDS = {"TASKS_ENCRYPTION_KEYS": f"k:{ENCRYPTION}"}
DEBUG = {"TASKS_LOG_LEVEL": "debug"}
SIGNED = {"TASKS_MESSAGE_SECRET": MESSAGES}
EVERYWHERE = bool(os.environ.get("TASKS_TEST_CANARIES"))
"""Whether beat and Flower are looked at as well."""

PAGES = ("/workers", "/tasks", "/broker", "/metrics", "/api/workers", "/api/tasks", "/api/queues/length")


class Vault(NamedTuple):
    """Every process of a service, and the ids of the tasks that went through it."""

    redis: RedisServer
    processes: dict[str, Any]
    metrics: dict[str, str]
    tasks: list[str]


def ended(client: WireClient, task_id: str) -> Any:
    final = ("completed", "failed", "cancelled")
    return wait_until(lambda: (task := client.get(task_id))["status"] in final and task)


def use(port: int) -> list[str]:
    """Have every tool told the secret; the ids of the tasks."""
    arguments, tasks = {"combination": ARGUMENT}, []
    asks = {**WITH_TASKS, "elicitation": {"form": {}}}
    with (
        WireClient(port, key=KEY, capabilities=asks) as client,
        WireClient(port, key=KEY, capabilities=WITHOUT_TASKS) as plain,
    ):
        for tool in ("open_vault", "knock", "refuse", "drop"):
            tasks.append(client.task(tool, arguments))
            ended(client, tasks[-1])
            assert plain.call(tool, arguments).status == 200
        asking = client.task("unlock", arguments)
        task = wait_until(lambda: (found := client.get(asking))["status"] != "working" and found)
        (question,) = task["inputRequests"]
        answer = {"action": "accept", "content": {"combination": ANSWER}}
        client.update(asking, {question: answer})
        opened = ended(client, asking)["result"]["structuredContent"]
        assert opened == {"opened": [ARGUMENT, ANSWER]}
        assert client.request("prompts/get", {"name": "recall", "arguments": arguments}).error
        assert plain.request("tasks/get", {"taskId": ARGUMENT}).error
        assert plain.call(ARGUMENT, arguments).error
        assert plain.request(f"{ARGUMENT}/get", {}).error
    with WireClient(port, key="CANARY-of-nobody") as stranger:
        assert stranger.call("knock", arguments).status == 401
    return [*tasks, asking]


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    redis = RedisServer("--appendonly", "yes", "--rdbcompression", "no", "--aof-use-rdb-preamble", "no")
    with ExitStack() as ends:
        ends.callback(redis.close)
        worker = ["celery", "-A", APP, "worker", "--pool", "threads", "--concurrency", "2", "--task-events"]
        worker += ["--without-mingle", "--hostname", "worker@test", "--loglevel", "DEBUG"]
        beat = ["celery", "-A", APP, "beat", "--scheduler", "celery.beat:Scheduler", "--loglevel", "DEBUG"]
        keys = {"TASKS_API_KEYS": f"ann:{KEY}", "TASKS_SECRET": SECRET, **DEBUG}
        port = metrics_port()
        measured = {"TASKS_METRICS_PORT": str(port), "TASKS_METRICS_KEY": READER}
        processes: dict[str, Any] = {
            "web": FrontEnd(
                redis.url, tmp_path_factory.mktemp("web"), APP, **RECORDS, **SIGNED, **keys, **measured
            ),
            "worker": Process(redis.url, "worker", worker, **RECORDS, **SIGNED, **measured),
        }
        ports = {"web": port, "worker": port + 1}
        if EVERYWHERE:
            processes["beat"] = Process(redis.url, "beat", beat, **SIGNED, **measured)
            ports["beat"] = port + 2
            processes["flower"] = Flower(redis.url, APP)
        for process in processes.values():
            ends.callback(process.teardown)
        ready(processes["web"], "/readyz")
        if EVERYWHERE:
            ready(processes["flower"], "/healthcheck")
        assert processes["worker"].ready(), processes["worker"].logs()
        tasks = use(processes["web"].port)
        yield Vault(
            redis, processes, {name: scrape(port, READER).text for name, port in ports.items()}, tasks
        )


def hits(text: str) -> list[str]:
    """The lines in which there is anything secret."""
    return [line[:300] for line in text.splitlines() if any(canary in line for canary in CANARIES)]


def test_no_log_has_anything_secret_at_any_level(vault: Vault) -> None:
    for name, process in vault.processes.items():
        assert hits(process.logs()) == [], name
        named = [line for line in process.logs().splitlines() for task in vault.tasks if task in line]
        assert named == [], name


def test_the_log_says_where_a_tool_failed(vault: Vault) -> None:
    log = vault.processes["worker"].logs()
    assert "Tool open_vault failed (task " in log
    assert "vault_app.py" in log
    assert "in open_vault" in log
    assert "builtins.ValueError" in log


def test_no_metrics_have_anything_secret(vault: Vault) -> None:
    for name, read in vault.metrics.items():
        assert "tasks_service_info" in read, name
        assert hits(read) == [], name
        assert not [task for task in vault.tasks for shown in (task, task_hash(task)) if shown in read], name
    assert 'tool="unlock"' in vault.metrics["worker"]


def test_what_a_caller_names_is_no_label(vault: Vault) -> None:
    """The calls of `use` name a tool, a method and a task that there are not."""
    for name, read in vault.metrics.items():
        assert ARGUMENT not in read, name
    assert 'tasks_service_requests_refused_total{reason="invalid"}' in vault.metrics["web"]


def test_nothing_that_redis_keeps_in_memory_or_in_files_has_anything_secret(vault: Vault) -> None:
    with vault.redis.client() as client:
        client.set("control", "CANARY", px=60_000)
        client.save()
        keys = [key for key in client.scan_iter() if hits(key)]
    found = {path.name: path.read_bytes() for path in vault.redis.path.rglob("*") if path.is_file()}
    assert keys == []
    assert sum(content.count(b"CANARY") for content in found.values()) == 2, "the control, in both files"
    assert any(name.endswith(".rdb") for name in found)
    assert any(name.endswith(".aof") for name in found)
    assert not any(canary.encode() in content for content in found.values() for canary in CANARIES[1:])


def test_no_page_of_flower_and_no_list_of_processes_has_anything_secret(vault: Vault) -> None:
    for name, process in vault.processes.items():
        assert hits(Path(f"/proc/{process.id}/cmdline").read_text()) == [], name
    if not EVERYWHERE:
        return
    flower = vault.processes["flower"]
    listed = json.loads(flower.shows("/api/tasks"))
    assert listed
    for page in (*PAGES, *(f"/task/{uuid}" for uuid in listed)):
        assert hits(flower.shows(page)) == [], page


def test_operators_with_the_key_are_shown_what_a_tool_raised_and_others_are_told_its_name(
    vault: Vault,
) -> None:
    where = {"TASKS_REDIS_URL": vault.redis.url, "TASKS_APP": f"{APP}:service"}
    with_key = command("inspect", vault.tasks[0], **where, **RECORDS)
    without = command("inspect", vault.tasks[0], **where)
    assert f"cannot open vault with {ARGUMENT}" in with_key.stdout
    assert without.returncode != 0
    assert "under the key 'k." in without.stderr
    assert hits(without.stdout + without.stderr) == []
