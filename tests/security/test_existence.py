"""S1: nobody learns whether there is a task of somebody else: not from the time of an answer either."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import pytest
import redis

from tasks_service.crypto.envelope import Mode
from tasks_service.domain.errors import TaskNotFound
from tasks_service.domain.events import AnswerInput, Cancel, Claim, CompleteWithResult
from tasks_service.domain.limits import MIB
from tasks_service.domain.names import new_session_id, new_task_id
from tasks_service.domain.rates import Counted, Rate
from tasks_service.domain.task import MINUTE, JsonText, Owner, new_token
from tasks_service.domain.tools import COMPANION_TOOLS
from tasks_service.frontend.core.companion_tools import TASK_ANSWER
from tasks_service.store.redis import AsyncRedisTaskStore, RedisTaskStore
from tasks_service.store.sessions import Session
from tests.kit.factories import ALICE, BOB, creation
from tests.kit.records import SAID, parked, ring, store_of
from tests.kit.servers import RedisServer
from tests.kit.serving import registry, serving, settings
from tests.kit.sessions import SessionClient, Stream
from tests.kit.waiting import PATIENCE
from tests.kit.wire import TASK_METHODS, WireClient

from .conftest import greet

SHARE, MICROSECONDS = 0.05, 10.0
"""How far answers may differ: the share of an answer's time, or the time, whichever is more."""

SAMPLES, MOST_SECONDS = 400, 20.0
"""Answers of each kind that are timed at a time, and for how long again on a machine that is busy."""

LARGE = JsonText(f'{{"content":[{{"type":"text","text":"{"x" * (MIB - 200)}"}}]}}')
LARGEST = "with a result of 1 MiB"
ANSWERS = {"inputResponses": {"q": {"action": "cancel"}}}
ANN, EVE = "ann-has-a-long-key", "eve-has-a-long-key"


def drawn_before(owner: Owner) -> str:
    """A task id as the release before drew it: it does not say whose it is."""
    return f"00{token_urlsafe(18)}"


def session_drawn_before(owner: Owner) -> str:
    """A session's id, likewise."""
    return token_urlsafe(24)


Draw = Callable[[Owner], str]
DRAWN: dict[str, tuple[Draw, Draw]] = {
    "this release": (new_task_id, new_session_id),
    "the release before": (drawn_before, session_drawn_before),
}


@pytest.fixture(scope="module")
def store_url() -> Iterator[str]:
    server = RedisServer()
    yield server.url
    server.close()


def tasks_of_alice(url: str, draw: Draw) -> dict[str, str]:
    """A task of each kind, by what it is."""
    plain, sealed = RedisTaskStore(url), store_of(url, ring("new"))
    drawn = [draw(ALICE) for _ in range(6)]
    running, large = (plain.create(creation(task_id=task_id)).task for task_id in drawn[:2])
    for task in (running, large):
        lease = new_token()
        plain.claim(task.task_id, Claim(lease_id=lease, worker="w"))
        if task is large:
            plain.commit(large.task_id, CompleteWithResult(lease_id=lease, result=LARGE))
    cancelled = plain.create(creation(task_id=drawn[2])).task
    plain.apply(ALICE, cancelled.task_id, Cancel())
    asking = parked(plain, task_id=drawn[3], idempotency=drawn[3])
    hidden = plain.create(creation(task_id=drawn[4], visible=False)).task
    encrypted = parked(sealed, task_id=drawn[5], idempotency=drawn[5])
    plain.close()
    sealed.close()
    return {
        "running": running.task_id,
        LARGEST: large.task_id,
        "cancelled": cancelled.task_id,
        "asking": asking.task_id,
        "hidden": hidden.task_id,
        "encrypted": encrypted.task_id,
    }


Ask = Callable[[str], Awaitable[object]]


async def microseconds(ask: Ask, name: str) -> float:
    begun = time.perf_counter()
    try:
        found = await ask(name)
    except TaskNotFound:
        found = None
    took = time.perf_counter() - begun
    assert found is None
    return took * 1e6


async def answered_in(ask: Ask, foreign: str, unknown: str) -> tuple[float, float]:
    """The median times of answers about two names, in microseconds; they are asked for in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(SAMPLES):
        for which in (0, 1) if number % 2 else (1, 0):
            times[which].append(await microseconds(ask, (foreign, unknown)[which]))
    return statistics.median(times[0]), statistics.median(times[1])


def is_same(foreign: float, unknown: float) -> bool:
    return abs(foreign - unknown) <= max(SHARE * unknown, MICROSECONDS)


@pytest.mark.parametrize("release", DRAWN)
def test_what_is_somebody_elses_is_refused_as_fast_as_what_does_not_exist(
    store_url: str, release: str, measured: Callable[[str, str], None]
) -> None:
    draw, draw_session = DRAWN[release]
    medians: dict[str, tuple[float, float]] = {}

    async def compare(what: str, ask: Ask, foreign: str, unknown: str) -> None:
        begun = time.monotonic()
        found = await answered_in(ask, foreign, unknown)
        while not is_same(*found) and time.monotonic() - begun < MOST_SECONDS:
            found = await answered_in(ask, foreign, unknown)
        medians[what] = found

    async def ask_all(store: AsyncRedisTaskStore) -> None:
        tasks = tasks_of_alice(store_url, draw)
        for kind, task_id in tasks.items():
            await compare(f"get {kind}", lambda one: store.get(BOB, one), task_id, draw(ALICE))
        for event in (Cancel(), AnswerInput(answers={"q": SAID})):
            what = f"{type(event).__name__} {LARGEST}"
            ask = partial(store.apply, BOB, event=event)
            await compare(what, ask, tasks[LARGEST], draw(ALICE))
        session = Session(session_id=draw_session(ALICE), owner=ALICE, version="2025-11-25")
        await store.sessions.create(session)
        find = partial(store.sessions.find, BOB)
        await compare("session", find, session.session_id, draw_session(ALICE))

    with asyncio.Runner() as runner:
        store = AsyncRedisTaskStore(store_url, deadline=PATIENCE, envelope=ring("new", mode=Mode.ACCEPT))
        runner.run(ask_all(store))
        runner.run(store.aclose())
    worst = max(medians, key=lambda what: abs(medians[what][0] - medians[what][1]))
    foreign, unknown = medians[worst]
    measured("S1", f"ids of {release}: {worst}: {foreign:.0f} µs, unknown {unknown:.0f} µs")
    assert [what for what, times in medians.items() if not is_same(*times)] == [], medians


def listened(client: WireClient, task_id: str) -> Any:
    """What a stream says that is asked for the changes of a task."""
    params = {"notifications": {"taskIds": [task_id]}}
    body = json.dumps(client.message("subscriptions/listen", params)).encode()
    stream = Stream(client.port, "POST", body, client.headers("subscriptions/listen", params))
    try:
        return stream.next()
    finally:
        stream.close()


def test_nothing_of_somebody_else_is_read_whatever_is_asked_in_both_revisions(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = settings(store_url, tmp_path, api_keys=f"ann:{ANN},eve:{EVE}")
    monkeypatch.setitem(configuration.rates, Counted.LOOKUPS, Rate(100_000, MINUTE))
    with ExitStack() as stack:
        port = stack.enter_context(serving(registry(greet), configuration))
        ann, eve = (stack.enter_context(WireClient(port, key=key)) for key in (ANN, EVE))
        plain = stack.enter_context(WireClient(port, key=EVE, capabilities={}))
        theirs, session = (stack.enter_context(SessionClient([port], key=key)) for key in (ANN, EVE))
        client = stack.enter_context(redis.Redis.from_url(store_url))
        theirs.initialize()
        session.initialize()

        def in_session(session_id: str) -> Any:
            message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
            return session.post(message, mcp_session_id=session_id).status

        def companion(name: str, task_id: str) -> Any:
            more: dict[str, Any] = {"answers": {}} if name == TASK_ANSWER else {}
            return plain.call(name, {"task_id": task_id, **more}).result

        asks: dict[str, Callable[[str], Any]] = {
            **{name: partial(companion, name) for name in COMPANION_TOOLS},
            **{
                f"2025 {method}": partial(lambda method, one: session.error(method, {"taskId": one}), method)
                for method in ("tasks/get", "tasks/result", "tasks/cancel")
            },
            **{
                method: partial(
                    lambda method, one: eve.request(method, {"taskId": one, **ANSWERS}).error, method
                )
                for method in TASK_METHODS
            },
            "listen": partial(listened, eve),
        }
        task_id = ann.task("greet", {"name": "Ann"})
        pairs = {name: (ask, task_id, new_task_id(ALICE)) for name, ask in asks.items()}
        assert theirs.session_id is not None
        pairs["session"] = (in_session, theirs.session_id, new_session_id(ALICE))

        def keys_found(ask: Callable[[str], Any], one: str) -> int:
            """How many keys Redis finds for an answer; the fewest, as a front end has other work as well."""
            found = []
            for _ in range(3):
                before = client.info("stats")["keyspace_hits"]
                ask(one)
                found.append(client.info("stats")["keyspace_hits"] - before)
            return int(min(found))

        for name, (ask, foreign, unknown) in pairs.items():
            said = [str(ask(one)).replace(one, "") for one in (foreign, unknown)]
            assert said[0] == said[1], name
            assert keys_found(ask, foreign) == keys_found(ask, unknown), name
