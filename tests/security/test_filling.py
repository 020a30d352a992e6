"""One key neither fills Redis for everybody nor past the level at which workers need the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks_service.domain.limits import GIB, KIB, MIB
from tasks_service.store.redis.memory_guard import ANSWERS_UNTIL, CREATES_UNTIL
from tests.kit.hand_worker import Worker
from tests.kit.servers import RedisServer
from tests.kit.serving import registry, serving, settings
from tests.kit.sessions import SessionClient
from tests.kit.waiting import wait_until
from tests.kit.wire import WireClient

ROOM = 16 * MIB
"""What Redis may take beside what it takes when nothing is stored."""

BIG = "x" * 200 * KIB

ANN, EVE = "ann-has-a-long-key", "eve-has-a-long-key"
KEYS = f"ann:{ANN},eve:{EVE}"


def echo(value: str) -> str:
    return value


@pytest.fixture
def small_redis() -> Iterator[RedisServer]:
    server = RedisServer()
    with server.client() as client:
        client.config_set("maxmemory", client.info("memory")["used_memory"] + ROOM)
    yield server
    server.close()


def calls_until_refused(client: WireClient) -> tuple[list[str], Any]:
    """The tasks that were accepted, and the error that ended it."""
    accepted = []
    for _ in range(ROOM // len(BIG) * 2):
        message = client.call("echo", {"value": BIG}).json
        if "error" in message:
            return accepted, message["error"]
        accepted.append(str(message["result"]["taskId"]))
    raise AssertionError(f"{len(accepted)} calls were accepted")


def percent_used(server: RedisServer) -> float:
    with server.client() as client:
        info = client.info("memory")
    return float(info["used_memory"] - info["mem_not_counted_for_evict"]) / info["maxmemory"] * 100


def fill_to(server: RedisServer, percent: int) -> None:
    """Let what is stored be so much of what Redis may take."""
    with server.client() as client:
        info = client.info("memory")
        used = info["used_memory"] - info["mem_not_counted_for_evict"]
        client.config_set("maxmemory", used * 100 // percent)


def test_an_owner_who_stores_too_much_is_refused_and_others_are_not(
    small_redis: RedisServer, tmp_path: Path
) -> None:
    quota = 4 * MIB
    configuration = settings(small_redis.url, tmp_path, api_keys=KEYS, max_stored_per_owner=quota)
    with (
        serving(registry(echo), configuration) as port,
        WireClient(port, key=EVE) as eve,
        WireClient(port, key=ANN) as ann,
    ):
        accepted, error = calls_until_refused(eve)
        data = error["data"]
        assert (data["limit"], data["setting"]) == ("stored bytes of one owner", "TASKS_MAX_STORED_PER_OWNER")
        assert data["actual"] > data["maximum"] == quota
        assert len(accepted) == quota // (len(BIG) + 4 * KIB)
        # It has ended, and is still stored: calling more does not make room.
        for task_id in accepted[:5]:
            eve.request("tasks/cancel", {"taskId": task_id})
        assert eve.call("echo", {"value": BIG}).error["data"]["limit"] == data["limit"]
        assert ann.call("echo", {"value": BIG}).result["resultType"] == "task"


def test_whatever_a_key_asks_for_workers_have_memory_to_finish_what_was_accepted(
    small_redis: RedisServer, tmp_path: Path
) -> None:
    tools = registry(echo)
    configuration = settings(small_redis.url, tmp_path, api_keys=KEYS, max_stored_per_owner=GIB)
    with (
        serving(tools, configuration) as port,
        WireClient(port, key=EVE) as eve,
        SessionClient([port], key=EVE) as session,
    ):
        session.initialize()
        accepted, error = calls_until_refused(eve)
        assert error["data"]["limit"] == "memory of the task store"
        fill_to(small_redis, CREATES_UNTIL + 3)
        client_info = {"name": "e", "version": "1"}
        begin = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client_info}
        message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": begin}

        def refused() -> bool:
            reply = session.post(message, mcp_session_id=None)
            return reply.status == 503 and "retry-after" in reply.headers

        wait_until(refused, "sessions are refused as well")
        for _ in range(50):
            assert refused()
        assert percent_used(small_redis) < ANSWERS_UNTIL

        worker = Worker(small_redis.url, tools)
        try:
            for task_id in accepted[:3]:
                worker.run(task_id)
        finally:
            worker.close()
        assert eve.get(accepted[0])["status"] == "completed"
