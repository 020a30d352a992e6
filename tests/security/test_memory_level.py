"""Nothing that a client can make a front end keep is written while Redis has little memory left.

By class: every method of the stores that a front end has, found by reflection. Redis itself says what was
written: it counts commands, and marks those that may take memory.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from tasks_service.domain.errors import LimitExceeded, StoreFull
from tasks_service.domain.events import (
    AnswerInput,
    CallerLeft,
    CallerReturned,
    Cancel,
    Claim,
    ClientEvent,
    Create,
    MakeVisible,
    Question,
    RequestInput,
)
from tasks_service.domain.reports import LogLevel
from tasks_service.domain.task import JsonText, Task, new_token
from tasks_service.store.clients import AsyncClientStore
from tasks_service.store.redis import AsyncRedisTaskStore, RedisTaskStore
from tasks_service.store.redis.memory_guard import ANSWERS_UNTIL, CREATES_UNTIL
from tasks_service.store.redis.sessions import ROW_BYTES
from tasks_service.store.redis.timings import Timings
from tasks_service.store.sessions import Session, SessionStore, SessionTask
from tests.kit.factories import ALICE, creation
from tests.kit.servers import RedisServer
from tests.kit.waiting import PATIENCE

SESSION = Session(session_id="s" * 32, owner=ALICE, version="2025-11-25")
SAMPLES: dict[str, Any] = {
    "session": SESSION,
    "session_id": SESSION.session_id,
    "owner": ALICE,
    "level": LogLevel.ERROR,
    "enlisted": SessionTask("00task", "token"),
    "at_ms": 1,
    "task_id": "00task",
    "stream": "stream",
    "uri": "file:///a",
    "request": JsonText("1"),
    "key": "q",
    "holder": "stream",
    "problem": "expected text",
    "request_id": "id",
    "interview": "i",
    "answer": JsonText("{}"),
}
"""An argument of each name that a method of sessions has; one of a new name has to be named here."""

LETS_GO = {Cancel, CallerLeft, CallerReturned, MakeVisible}
"""Events of clients that are taken at every level: each says once, in a few bytes, that less is wanted, or
shows a task that was recorded already."""

EVENTS: dict[type[ClientEvent], ClientEvent] = {
    AnswerInput: AnswerInput(answers={"q": JsonText("{}")}),
    Cancel: Cancel(),
    CallerLeft: CallerLeft(within_ms=1000),
    CallerReturned: CallerReturned(),
    MakeVisible: MakeVisible(),
}


def methods_of(protocol: type) -> list[str]:
    return [name for name, found in vars(protocol).items() if inspect.iscoroutinefunction(found)]


@dataclass
class Filling:
    """A Redis of which a test says how full it is."""

    server: RedisServer
    client: redis.Redis
    take_memory: frozenset[str]

    def is_used(self, percent: int) -> None:
        info = self.client.info("memory")
        used = info["used_memory"] - info["mem_not_counted_for_evict"]
        self.client.config_set("maxmemory", used * 100 // percent)

    def writes(self) -> dict[str, int]:
        """How often each command ran that may take memory."""
        stats = self.client.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): told["calls"] for name, told in stats.items()}
        return {name: number for name, number in calls.items() if name in self.take_memory}


@pytest.fixture(scope="module")
def filling() -> Iterator[Filling]:
    server = RedisServer()
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        commands = client.command().items()
        yield Filling(
            server, client, frozenset(name for name, told in commands if "denyoom" in told["flags"])
        )
    server.close()


@asynccontextmanager
async def front_end(filling: Filling, percent: int | None) -> AsyncIterator[AsyncRedisTaskStore]:
    """The store of a front end that has noticed how full Redis is."""
    filling.client.config_set("maxmemory", 0)
    timings = Timings(memory=0.0)
    store = AsyncRedisTaskStore(filling.server.url, deadline=PATIENCE, timings=timings)
    try:
        await store.sessions.create(SESSION)
        if percent is not None:
            filling.is_used(percent)
            await store.ping()
            with pytest.raises(StoreFull):
                await store.sessions.create(SESSION)
        yield store
    finally:
        filling.client.config_set("maxmemory", 0)
        await store.aclose()


def call_of(store: AsyncRedisTaskStore, method: str) -> Callable[[], Awaitable[Any]]:
    found = getattr(store.sessions, method)
    arguments = {name: SAMPLES[name] for name in inspect.signature(found).parameters}
    return lambda: found(**arguments)


@pytest.mark.parametrize("method", methods_of(SessionStore))
def test_no_row_of_a_session_is_written_above_the_level(filling: Filling, method: str) -> None:
    async def scenario() -> None:
        async with front_end(filling, None) as store:
            before = filling.writes()
            await call_of(store, method)()
            takes_memory = filling.writes() != before
        async with front_end(filling, ANSWERS_UNTIL + 3) as store:
            before = filling.writes()
            if takes_memory:
                with pytest.raises(StoreFull):
                    await call_of(store, method)()
            else:
                await call_of(store, method)()
            assert filling.writes() == before

    asyncio.run(scenario())


@pytest.mark.parametrize("method", ["create", "subscribe"])
def test_new_sessions_and_subscriptions_are_refused_as_early_as_new_tasks(
    filling: Filling, method: str
) -> None:
    async def scenario() -> None:
        async with front_end(filling, CREATES_UNTIL + 3) as store:
            before = filling.writes()
            with pytest.raises(StoreFull) as refusal:
                await call_of(store, method)()
            assert refusal.value.maximum == CREATES_UNTIL
            assert filling.writes() == before
            await store.sessions.take_stream(SESSION.session_id, "stream")
            # It is asked again, so that it goes on as soon as there is memory.
            filling.client.config_set("maxmemory", 0)
            await call_of(store, method)()

    asyncio.run(scenario())


def test_every_event_of_a_client_asks_for_memory_or_lets_go_of_something(filling: Filling) -> None:
    kinds = {kind.__name__ for kind in ClientEvent.__subclasses__()}
    assert {kind.__name__ for kind in EVENTS} == kinds
    assert set(methods_of(AsyncClientStore)) == {"create", "get", "apply", "page"}

    async def scenario() -> None:
        with_question = asking_task(filling)
        async with front_end(filling, ANSWERS_UNTIL + 3) as store:
            before = filling.writes()
            with pytest.raises(StoreFull):
                await store.create(creation())
            for kind in EVENTS.keys() - LETS_GO:
                with pytest.raises(StoreFull):
                    await store.apply(ALICE, with_question.task_id, EVENTS[kind], hidden=True)
            assert filling.writes() == before

    asyncio.run(scenario())


def asking_task(filling: Filling) -> Task:
    filling.client.config_set("maxmemory", 0)
    store = RedisTaskStore(filling.server.url)
    try:
        event: Create = creation(visible=False)
        lease_id = new_token()
        task = store.create(event).task
        store.claim(task.task_id, Claim(lease_id=lease_id, worker="w"))
        question = Question(request=JsonText('{"m":1}'), digest="d")
        return store.commit(task.task_id, RequestInput(lease_id=lease_id, inputs={"q": question}))
    finally:
        store.close()


def test_no_row_of_a_session_is_larger_than_its_maximum(filling: Filling) -> None:
    async def scenario() -> None:
        large = "x" * (ROW_BYTES + 1)
        async with front_end(filling, None) as store:
            before = filling.writes()
            for call in (
                store.sessions.subscribe(SESSION, large),
                store.sessions.enlist(SESSION.session_id, SessionTask("00task", large), at_ms=1),
                store.sessions.cancel(SESSION.session_id, JsonText(large)),
                store.sessions.leave_answer("i", "q", JsonText("x" * (64 * 1024 + 1))),
            ):
                with pytest.raises(LimitExceeded):
                    await call
            assert filling.writes() == before

    asyncio.run(scenario())
