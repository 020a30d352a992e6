"""Calls whose callers hang up while Redis does not answer leave nothing behind that runs for nobody."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kit.servers import RedisServer
from tests.kit.serving import registry, serving, settings
from tests.kit.waiting import wait_until
from tests.kit.wire import WireClient

CALLS = int(os.environ.get("TASKS_TEST_HANGUPS", "60"))
"""Calls that wait when Redis stops, and that are made while it stands."""

PAUSE = 2.6
"""Seconds for which Redis stands: longer than a front end tries to cancel a call at once."""


def greet(name: str) -> str:
    return f"Hello, {name}!"


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


def begun_call(client: WireClient) -> socket.socket:
    """A connection on which a call has been sent that nobody answers."""
    params = {"name": "greet", "arguments": {"name": "Ada"}}
    body = json.dumps(client.message("tools/call", params)).encode()
    headers = {**client.headers("tools/call", params), "host": "localhost", "content-length": str(len(body))}
    connection = socket.create_connection(("127.0.0.1", client.port))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    connection.sendall(f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + body)
    return connection


def test_calls_that_hang_up_while_redis_stands_are_cancelled_once_it_goes_on(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    process = own_redis.process
    assert process is not None
    with (
        serving(registry(greet), settings(own_redis.url, tmp_path)) as port,
        WireClient(port, capabilities={}) as client,
        own_redis.client() as redis,
    ):

        def live() -> int:
            return int(redis.zcard("ts:{00}:overdue"))

        with ExitStack() as open_calls:
            for _ in range(CALLS):
                open_calls.enter_context(begun_call(client))
            wait_until(lambda: live() == CALLS, lambda: f"{live()} of {CALLS} calls are recorded")
            process.send_signal(signal.SIGSTOP)
            stopped = time.monotonic()
            for _ in range(CALLS // 2):
                open_calls.enter_context(begun_call(client))
        # All have hung up. Whatever is tried meanwhile fails.
        time.sleep(max(stopped + PAUSE - time.monotonic(), 0))
        process.send_signal(signal.SIGCONT)

        wait_until(lambda: live() == 0, lambda: f"{live()} executions run on for nobody")
        assert redis.zcard("ts:{00}:expired") >= CALLS
