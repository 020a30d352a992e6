"""What a request costs Redis: counted at the server."""

from __future__ import annotations

from collections import Counter

from tests.kit.hand_worker import Worker
from tests.kit.servers import RedisServer
from tests.kit.wire import WireClient

WRITES = {
    "hset",
    "hmset",
    "set",
    "zadd",
    "rpush",
    "lpush",
    "del",
    "unlink",
    "exec",
    "expire",
    "pexpireat",
    "zrem",
}


def commands(server: RedisServer) -> Counter[str]:
    """How often each command has run."""
    with server.client() as client:
        stats = client.info("commandstats")
    ignored = {"info", "config|resetstat", "ping", "client|setinfo", "client|setname", "hello", "select"}
    counts = {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in stats.items()}
    return Counter({name: calls for name, calls in counts.items() if name not in ignored})


def test_a_poll_is_one_read_of_two_commands_and_writes_nothing(
    client: WireClient, redis_server: RedisServer
) -> None:
    task_id = client.task("greet", {"name": "Ada"})
    client.get(task_id)
    before = commands(redis_server)

    for _ in range(50):
        client.get(task_id)

    spent = commands(redis_server) - before
    assert sum(spent.values()) <= 2 * 50, spent
    assert not WRITES & set(spent), spent


def test_a_poll_of_a_completed_task_costs_the_same(
    client: WireClient, worker: Worker, redis_server: RedisServer
) -> None:
    task_id = client.task("greet", {"name": "Ada"})
    worker.run(task_id)
    client.get(task_id)
    before = commands(redis_server)

    for _ in range(50):
        client.get(task_id)

    spent = commands(redis_server) - before
    assert sum(spent.values()) <= 2 * 50, spent
    assert not WRITES & set(spent), spent


def test_what_is_refused_never_reaches_redis(client: WireClient, redis_server: RedisServer) -> None:
    before = commands(redis_server)

    client.call("nothing")
    client.call("greet", {"name": 3})
    client.request("tasks/get", {"taskId": "x"}, mcp_name="y")
    client.request("tools/list")

    assert not commands(redis_server) - before
