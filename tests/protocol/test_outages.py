"""Redis goes, and comes back; the front end says so, and needs no help."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks_service.authoring.tool import ToolRegistry
from tests.kit.hand_worker import Worker
from tests.kit.servers import RedisServer, free_port
from tests.kit.serving import serving, settings
from tests.kit.waiting import quickest, wait_until
from tests.kit.wire import WITHOUT_TASKS, WireClient


def is_ready(client: WireClient) -> bool:
    return client.probe("/readyz").status == 200


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {"name": "greet", "arguments": {"name": "Ada"}}),
        ("tasks/get", {"taskId": "00aaaaaaaaaaaaaaaaaaaaaaaaaa"}),
        ("tasks/cancel", {"taskId": "00aaaaaaaaaaaaaaaaaaaaaaaaaa"}),
        ("tasks/update", {"taskId": "00aaaaaaaaaaaaaaaaaaaaaaaaaa", "inputResponses": {}}),
    ],
)
def test_without_redis_a_request_fails_within_two_seconds_and_says_when_to_retry(
    own_redis: RedisServer, tools: ToolRegistry, tmp_path: Path, method: str, params: dict[str, object]
) -> None:
    with serving(tools, settings(own_redis.url, tmp_path)) as port, WireClient(port) as client:
        own_redis.kill()

        def seconds_to_fail() -> float:
            began = time.monotonic()
            error = client.request(method, params).error
            assert error["code"] == -32603
            assert error["data"]["retryAfterMs"] > 0
            return time.monotonic() - began

        assert quickest(seconds_to_fail, 2.0) < 2.0


def test_readiness_follows_redis_and_liveness_does_not(
    own_redis: RedisServer, tools: ToolRegistry, tmp_path: Path
) -> None:
    with serving(tools, settings(own_redis.url, tmp_path)) as port, WireClient(port) as client:
        assert is_ready(client)
        task_id = client.task("greet", {"name": "Ada"})

        own_redis.kill()
        red = client.probe("/readyz")
        alive = client.probe("/healthz")
        own_redis.start()

        assert (red.status, alive.status) == (503, 200)
        assert "store" in red.json
        wait_until(lambda: is_ready(client), "it is ready again")
        assert client.get(task_id)["status"] == "working"
        assert client.task("greet", {"name": "Ada"})


def test_it_starts_without_redis_and_becomes_ready_with_it(tools: ToolRegistry, tmp_path: Path) -> None:
    port_of_redis = free_port()
    url = f"redis://127.0.0.1:{port_of_redis}/0"
    with serving(tools, settings(url, tmp_path)) as port, WireClient(port) as client:
        assert client.probe("/readyz").status == 503

        server = RedisServer(port=port_of_redis)
        try:
            wait_until(lambda: is_ready(client), "it is ready")
            assert client.task("greet", {"name": "Ada"})
        finally:
            server.close()


def test_a_redis_that_may_evict_tasks_is_refused_at_start(
    tools: ToolRegistry, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server = RedisServer("--maxmemory-policy", "allkeys-lru")
    try:
        with (
            pytest.raises(AssertionError, match="refused to start"),
            serving(tools, settings(server.url, tmp_path)),
        ):
            pass
    finally:
        server.close()

    log = capfd.readouterr().err
    assert "maxmemory-policy is allkeys-lru" in log
    assert "CONFIG SET maxmemory-policy noeviction" in log


def test_a_redis_that_comes_up_with_the_wrong_policy_never_makes_it_ready(
    tools: ToolRegistry, tmp_path: Path
) -> None:
    port_of_redis = free_port()
    url = f"redis://127.0.0.1:{port_of_redis}/0"
    with serving(tools, settings(url, tmp_path)) as port, WireClient(port) as client:
        server = RedisServer("--maxmemory-policy", "allkeys-lru", port=port_of_redis)
        try:
            reply = wait_until(lambda: _names(client, "allkeys-lru"), "it says why")
        finally:
            server.close()

    assert reply.status == 503


def test_a_waiting_call_survives_an_outage(
    own_redis: RedisServer, tools: ToolRegistry, tmp_path: Path
) -> None:
    with (
        serving(tools, settings(own_redis.url, tmp_path)) as port,
        WireClient(port, capabilities=WITHOUT_TASKS) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        worker = Worker(own_redis.url, tools)
        reply = pool.submit(client.call, "greet", {"name": "Ada"})
        task_id = wait_until(worker.pending, "the call is recorded")[0]

        own_redis.kill()
        time.sleep(0.5)
        own_redis.start()
        worker.run(task_id)

        assert reply.result(60).result["content"][0]["text"] == "Hello, Ada!"
        worker.close()


def _names(client: WireClient, word: str) -> object:
    reply = client.probe("/readyz")
    return reply if word in reply.json.get("store", "") else None
