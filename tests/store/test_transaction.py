"""What the transaction loop makes of each answer, driven by hand, and when its driver ends it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import ExecAbortError, MovedError, OutOfMemoryError, ReadOnlyError, ResponseError

from tasks_service.domain.errors import CorruptRecord, StoreFull, StoreRefuses, StoreUnavailable
from tasks_service.store.redis.connection import Pools, connection_options
from tasks_service.store.redis.drivers import AsyncDriver
from tasks_service.store.redis.layout import Command
from tasks_service.store.redis.servers import Servers
from tasks_service.store.redis.transaction import Backoff, LostConnection, RoundTrip, Write, once, transact
from tests.kit.proxy import CuttingProxy, Verdict
from tests.kit.servers import RedisServer

NOT_NOW = [
    ReadOnlyError("You can't write against a read only replica."),
    MovedError("7638 127.0.0.1:7001"),
    ResponseError("NOREPLICAS Not enough good replicas to write."),
    ResponseError("MISCONF Errors writing to the AOF file"),
    ResponseError("BUSY Redis is busy running a script."),
    ResponseError("LOADING Redis is loading the dataset in memory"),
    ExecAbortError("Transaction discarded because of: READONLY You can't write against a read only replica."),
    ExecAbortError("Transaction discarded because of: CLUSTERDOWN The cluster is down"),
]


class Setting:
    """Sets a key, whatever it was."""

    task_id, name, token = "id", "Claim", "t"

    def watch(self) -> list[str]:
        return ["key"]

    def reads(self) -> list[Command]:
        return [("GET", "key")]

    def judge(self, replies: list[Any]) -> Write[str]:
        return Write([("SET", "key", "value")], "done")


def transition() -> Any:
    return transact(Setting(), deadline=60)


def at_exec(program: Any) -> RoundTrip:
    """The exchange that writes."""
    assert next(program) == RoundTrip([("UNWATCH",), ("WATCH", "key"), ("GET", "key")])
    return program.send(["OK", "OK", None])  # type: ignore[no-any-return]


def test_what_writes_goes_over_the_connection_that_watches() -> None:
    assert at_exec(transition()) == RoundTrip([("MULTI",), ("SET", "key", "value"), ("EXEC",)], follows=True)


@pytest.mark.parametrize("answer", NOT_NOW, ids=str)
def test_an_answer_that_means_not_now_leaves_the_connection_and_is_tried_again(answer: Exception) -> None:
    program = transition()
    at_exec(program)
    pause = program.send(["OK", "QUEUED", answer])
    assert isinstance(pause, Backoff)
    assert pause.leave
    assert program.send([]) == RoundTrip([("UNWATCH",), ("WATCH", "key"), ("GET", "key")])


@pytest.mark.parametrize("answer", NOT_NOW, ids=str)
def test_a_read_that_is_answered_not_now_leaves_the_connection_too(answer: Exception) -> None:
    program = once([("GET", "key")], deadline=60)
    next(program)
    pause = program.send([answer])
    assert isinstance(pause, Backoff)
    assert pause.leave


def test_a_transaction_whose_answer_is_lost_may_have_been_applied_until_its_token_is_looked_for() -> None:
    lost = transact(Setting(), deadline=0)
    at_exec(lost)
    with pytest.raises(StoreUnavailable) as unknown:
        lost.throw(LostConnection("cut"))
    assert unknown.value.may_have_applied

    refused = transact(Setting(), deadline=0)
    at_exec(refused)
    with pytest.raises(StoreRefuses) as known:
        refused.send(["OK", "QUEUED", ResponseError("MISCONF Errors writing to the AOF file")])
    assert known.value.told == "cannot write to its disk"
    assert not known.value.may_have_applied


def test_a_lost_race_keeps_the_connection() -> None:
    program = transition()
    at_exec(program)
    assert program.send(["OK", "QUEUED", None]).leave is False


@pytest.mark.parametrize(
    "answer",
    [
        OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        ExecAbortError("Transaction discarded because of: OOM command not allowed"),
    ],
    ids=str,
)
def test_a_full_redis_ends_the_trying(answer: Exception) -> None:
    program = transition()
    at_exec(program)
    with pytest.raises(StoreFull):
        program.send(["OK", "QUEUED", answer])


def test_an_answer_that_nothing_explains_is_damage() -> None:
    program = transition()
    at_exec(program)
    with pytest.raises(CorruptRecord):
        program.send(["OK", ResponseError("WRONGTYPE"), ExecAbortError("because of previous errors.")])


def test_what_is_never_answered_is_unavailable_when_the_time_is_over() -> None:
    program = once([("GET", "key")], deadline=0)
    next(program)
    with pytest.raises(StoreUnavailable, match="cut"):
        program.throw(LostConnection("cut"))


def test_a_connection_that_cannot_be_closed_in_time_does_not_outlast_the_deadline(
    redis_server: RedisServer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, close = CuttingProxy(redis_server.port), redis.asyncio.Connection.disconnect
    silent = [Verdict.SILENT_BEFORE]

    def judge(packet: bytes) -> Verdict:
        return silent.pop() if silent and b"\r\nWATCH\r\n" in packet else Verdict.PASS

    async def fail_to_close(connection: redis.asyncio.Connection, *args: Any, **options: Any) -> None:
        await close(connection, *args, **options)
        raise redis.TimeoutError("Timed out closing connection")

    async def scenario() -> None:
        options = connection_options(redis.asyncio.retry.Retry)
        pool = redis.asyncio.BlockingConnectionPool.from_url(proxy.url, timeout=None, **options)
        with monkeypatch.context() as patched:
            patched.setattr(redis.asyncio.Connection, "disconnect", fail_to_close)
            with pytest.raises(StoreUnavailable):
                await AsyncDriver(Pools(lambda node: pool), Servers(), proxy.url).run(transition(), 0.3)
        await pool.disconnect()

    proxy.judge = judge
    asyncio.run(scenario())
    proxy.close()
    assert not silent
    with redis_server.client() as client:
        assert not client.exists("key")
