"""A Redis that is there and takes no work: whoever asks is told why, and at once; readiness follows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from tasks_service.authoring.tool import ToolRegistry
from tasks_service.cli import commands
from tests.kit.servers import RedisServer
from tests.kit.serving import serving, settings
from tests.kit.sessions import SessionClient
from tests.kit.waiting import quickest, wait_until
from tests.kit.wire import WITHOUT_TASKS, Reply, WireClient

GREET: dict[str, Any] = {"name": "greet", "arguments": {"name": "Ada"}}
SECONDS = 1.0
"""A refusal comes in less: the deadline of the store is 1.8 s."""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A redis-server that saves to a disk, which tests can spoil."""
    server = RedisServer("--save", "3600 1", "--busy-reply-threshold", "100")
    yield server
    server.close()


@pytest.fixture
def port(server: RedisServer, tools: ToolRegistry, tmp_path: Path) -> Iterator[int]:
    with serving(tools, settings(server.url, tmp_path)) as port:
        yield port


def fill_disk(server: RedisServer) -> None:
    """Let a save fail: from then on Redis takes no writes."""
    (server.path / "dump.rdb").mkdir()  # nothing can be saved under that name
    with server.client() as client:
        with suppress(redis.RedisError):
            client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "a save has failed")


def empty_disk(server: RedisServer) -> None:
    (server.path / "dump.rdb").rmdir()
    with server.client() as client:
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok", "a save has worked")


def demote(server: RedisServer) -> None:
    with server.client() as client:
        client.replicaof("127.0.0.1", 1)


def promote(server: RedisServer) -> None:
    with server.client() as client:
        client.replicaof("NO", "ONE")


def forbid(server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-hset")


def permit(server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "+hset")


CASES = [
    pytest.param(fill_disk, empty_disk, "cannot write to its disk", "Free space", id="disk"),
    pytest.param(demote, promote, "is a replica, which takes no writes", "REPLICAOF NO ONE", id="replica"),
]


def refused(reply: Reply) -> Any:
    assert reply.error["code"] == -32603
    data = reply.error["data"]
    assert data["retryAfterMs"] > 0
    assert data["mayHaveBeenRecorded"] is False
    return reply.error["message"]


@pytest.mark.parametrize(("break_it", "mend", "told", "remedy"), CASES)
def test_a_redis_that_takes_no_writes_is_named_at_once_to_clients_and_operators(
    server: RedisServer,
    port: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Any,
    mend: Any,
    told: str,
    remedy: str,
) -> None:
    with WireClient(port) as client, SessionClient([port]) as session:
        session.initialize()
        task_id = client.task("greet", GREET["arguments"])
        break_it(server)

        def seconds_to_refuse() -> float:
            began = time.monotonic()
            assert told in refused(client.request("tools/call", GREET))
            assert told in session.error("tools/call", GREET)["message"]
            return time.monotonic() - began

        assert quickest(seconds_to_refuse, 2 * SECONDS) < 2 * SECONDS
        assert server.url.partition("/0")[0] not in client.request("tools/call", GREET).error["message"]
        assert remedy in caplog.text
        assert client.get(task_id)["status"] == "working"

        red = client.probe("/readyz")
        assert red.status == 503
        assert remedy in red.json["store"]
        assert client.probe("/healthz").status == 200

        monkeypatch.setenv("TASKS_REDIS_URL", server.url)
        said = CliRunner().invoke(commands, ["doctor", "--app", "tests.kit.worker_app"])
        assert said.exit_code == 1
        assert isinstance(said.exception, SystemExit)
        assert remedy in " ".join(said.output.split())

        mend(server)
        wait_until(lambda: client.probe("/readyz").status == 200, "it is ready again")
        assert client.task("greet", GREET["arguments"])


def test_a_redis_that_does_not_permit_a_write_says_so_to_clients(server: RedisServer, port: int) -> None:
    with WireClient(port) as client:
        forbid(server)
        assert "does not permit what this service does" in refused(client.request("tools/call", GREET))
        permit(server)
        assert client.task("greet", GREET["arguments"])


def test_a_redis_that_runs_somebodys_script_is_busy_and_no_record_is_taken_for_damaged(
    server: RedisServer, port: int
) -> None:
    def run_for_ever() -> None:
        with server.client() as client, suppress(redis.RedisError):
            client.eval("while true do end", 0)

    thread = threading.Thread(target=run_for_ever)
    with WireClient(port) as client, server.client() as operator:
        task_id = client.task("greet", GREET["arguments"])
        thread.start()
        try:
            wait_until(lambda: _is_busy(server), "the script runs")
            for method, params in (("tools/call", GREET), ("tasks/get", {"taskId": task_id})):
                assert "is busy with somebody's script" in refused(client.request(method, params))
        finally:
            operator.script_kill()
            thread.join()
        assert client.get(task_id)["status"] == "working"


def _is_busy(server: RedisServer) -> bool:
    with server.client() as client:
        try:
            client.get("key")
        except redis.ResponseError as error:
            return str(error).startswith("BUSY ")
        return False


def test_a_login_that_redis_refuses_is_named_at_once(server: RedisServer, port: int) -> None:
    with server.client() as operator, WireClient(port, capabilities=WITHOUT_TASKS) as client:
        operator.config_set("requirepass", "changed")
        operator.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        began = time.monotonic()
        assert "refuses the login of this service" in refused(client.request("tools/call", GREET))
        assert time.monotonic() - began < SECONDS
        operator.config_set("requirepass", "")
        wait_until(lambda: client.probe("/readyz").status == 200, "it is ready again")
