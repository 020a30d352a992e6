"""Redis goes and comes back under sessions."""

from __future__ import annotations

import time
from pathlib import Path

from tasks_service.authoring.tool import ToolRegistry
from tests.kit.hand_worker import Worker
from tests.kit.servers import RedisServer
from tests.kit.serving import serving, settings
from tests.kit.sessions import SessionClient, is_answer, is_request
from tests.kit.waiting import quickest, wait_until

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


def test_without_redis_a_session_is_told_when_to_try_again(
    own_redis: RedisServer, tools: ToolRegistry, tmp_path: Path
) -> None:
    with serving(tools, settings(own_redis.url, tmp_path)) as port, SessionClient([port]) as session:
        session.initialize()
        own_redis.kill()

        def seconds_to_fail() -> float:
            began = time.monotonic()
            reply = session.post(PING)
            assert reply.status == 503
            assert reply.error["code"] == -32603
            assert reply.error["data"]["retryAfterMs"] > 0
            return time.monotonic() - began

        assert quickest(seconds_to_fail, 2.5) < 2.5


def test_streams_and_waits_go_on_when_redis_is_back(
    own_redis: RedisServer, tools: ToolRegistry, tmp_path: Path
) -> None:
    with serving(tools, settings(own_redis.url, tmp_path)) as port, SessionClient([port]) as session:
        session.initialize()
        listening = session.listen()
        task_id = session.task("greet", {"name": "Ada"})
        waiting = session.open("tasks/result", {"taskId": task_id})
        time.sleep(0.2)
        own_redis.kill()
        time.sleep(0.5)
        own_redis.start()
        worker = Worker(own_redis.url, tools)
        wait_until(lambda: session.post(PING).status == 200, "the session is back")

        worker.run(task_id)

        assert waiting.find(is_answer)["result"]["content"][0]["text"] == "Hello, Ada!"
        note = listening.find(is_request("notifications/tasks/status"))
        assert note["params"]["status"] == "completed"
        worker.close()
