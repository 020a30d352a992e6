"""Who asks too often is refused, at whichever front end, and nobody else notices."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis

from tasks_service.domain.errors import TaskNotFound
from tasks_service.domain.events import Cancel
from tasks_service.domain.rates import Counted, Rate, RateExceeded, Rates
from tasks_service.domain.task import MINUTE, SECOND, Slot
from tasks_service.frontend.core.poll_limits import PollLimits
from tasks_service.settings import OTHER_RATES, Settings
from tasks_service.store.redis import AsyncRedisTaskStore, RedisTaskStore
from tasks_service.store.redis.layout import Layout
from tasks_service.store.redis.rates import RateLimiter
from tasks_service.store.redis.timings import Timings
from tasks_service.store.redis.transaction import Backoff, LostConnection, RoundTrip, once
from tasks_service.store.sessions import Session
from tests.kit.factories import ALICE, BOB, creation
from tests.kit.hand_worker import Worker
from tests.kit.serving import registry, serving, settings
from tests.kit.sessions import SessionClient
from tests.kit.waiting import PATIENCE, wait_until
from tests.kit.wire import WireClient

from .abuser import CONNECTIONS
from .front_end import FrontEndProcess

T = TypeVar("T")

SECONDS = float(os.environ.get("TASKS_TEST_ABUSE_SECONDS", "0"))
"""How long an owner is abusive; 0: a sample."""

PER_MINUTE = 600 if SECONDS else 120
"""How many calls an owner may make in a minute."""

TIMES = 20
"""How many times that the abusive owner tries."""

IN_A_WINDOW = PER_MINUTE // 6
"""The same in the window of ten seconds in which they are counted."""

CPU_PER_CONNECTION = 0.1
"""Share of a core that may be spent on refusals on one connection: twice what is, for a busy machine."""

ANN, EVE = "ann-has-a-long-key", "eve-has-a-long-key"
KEYS = f"ann:{ANN},eve:{EVE}"


def greet(name: str) -> str:
    return f"Hello, {name}!"


def session(number: int = 0) -> Session:
    return Session(session_id=f"{number:032}", owner=ALICE, version="2025-11-25")


@contextmanager
def front_ends(url: str, rates: Rates, number: int = 1) -> Iterator[tuple[asyncio.Runner, list[Any]]]:
    """The stores of some front ends, in one event loop."""
    with asyncio.Runner() as runner:
        # A call that is sent again may count twice; here a busy machine loses no connection.
        timings = Timings(connect=PATIENCE)
        stores = [
            AsyncRedisTaskStore(url, deadline=PATIENCE, rates=rates, timings=timings) for _ in range(number)
        ]
        try:
            yield runner, stores
        finally:
            for store in stores:
                runner.run(store.aclose())


async def outcomes(calls: list[Any]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


def refused(results: list[Any]) -> int:
    unexpected = [r for r in results if isinstance(r, BaseException) and not isinstance(r, RateExceeded)]
    assert not unexpected, unexpected
    return sum(isinstance(result, RateExceeded) for result in results)


def test_all_front_ends_together_let_no_more_calls_through_than_an_owner_may_make(redis_url: str) -> None:
    rates = {Counted.CALLS: Rate(7, MINUTE, "TASKS_CALLS_PER_MINUTE")}
    with front_ends(redis_url, rates, 3) as (runner, stores):
        results = runner.run(outcomes([stores[number % 3].create(creation()) for number in range(60)]))
        assert refused(results) == 60 - 7
        error = next(result for result in results if isinstance(result, RateExceeded))
        assert (error.maximum, error.actual, error.setting) == (7, 8, "TASKS_CALLS_PER_MINUTE")
        assert 0 < error.retry_after_ms <= MINUTE
        assert refused(runner.run(outcomes([stores[0].create(creation(BOB)) for _ in range(7)]))) == 0


def test_a_call_whose_first_connection_is_lost_is_counted_all_the_same() -> None:
    layout = Layout("ts", 1)
    limiter = RateLimiter(layout, {Counted.CALLS: Rate(7, MINUTE)})
    program = once([("GET", "key")], deadline=60)
    counting = limiter.beside(program, Counted.CALLS, "ann", layout.home, refuses=True)
    sent = next(counting)
    assert isinstance(counting.throw(LostConnection("gone")), Backoff)
    assert counting.send([]) == sent
    with pytest.raises(RateExceeded):
        counting.send([8, 0, MINUTE, None])


def test_what_comes_in_the_last_millisecond_of_a_window_is_refused_too() -> None:
    layout, seconds = Layout("ts", 1), itertools.count()
    limiter = RateLimiter(layout, {Counted.CALLS: Rate(7, MINUTE)}, clock=lambda: float(next(seconds)))
    program = once([("GET", "key")], deadline=60)
    counting = limiter.beside(program, Counted.CALLS, "ann", layout.home, refuses=True)
    next(counting)
    with pytest.raises(RateExceeded) as refused:
        counting.send([8, 0, 1, None])
    assert refused.value.retry_after_ms == 1


class Calling:
    """A caller with 50 calls in ten seconds, on a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self._layout = Layout("ts", 1)
        rates = {Counted.CALLS: Rate(50, 10 * SECOND)}
        self._limiter = RateLimiter(self._layout, rates, clock=lambda: self.now)

    def call(self, number: int, left_ms: int) -> list[Any]:
        """Call once; so many calls are counted in a window that lasts so long still. What Redis is sent."""
        self._limiter.check(Counted.CALLS, "ann")
        program = once([("GET", "key")], deadline=60)
        counting = self._limiter.beside(program, Counted.CALLS, "ann", self._layout.home, refuses=True)
        step = next(counting)
        assert isinstance(step, RoundTrip)
        sent = list(step.commands)
        with suppress(StopIteration):
            counting.send([None] * (len(sent) - 4) + [number, 0, left_ms, None])
        return sent

    def is_refused(self) -> bool:
        try:
            self._limiter.check(Counted.CALLS, "ann")
        except RateExceeded:
            return True
        return False


def begins_slice(sent: list[Any]) -> bool:
    return bool(sent[0] == ("SET", "ts:{00}:rate:calls:ann", 45, "PX", 1_000, "NX"))


def test_who_was_refused_has_the_same_rate_in_slices_until_they_heed_it() -> None:
    ann = Calling()
    assert not begins_slice(ann.call(50, 8_000))
    ann.now = 7
    assert ann.is_refused()
    ann.now = 8
    assert begins_slice(ann.call(46, 1_000))
    assert begins_slice(ann.call(50, 900))
    ann.now = 8.5
    assert ann.is_refused()
    ann.now = 18
    assert begins_slice(ann.call(46, 1_000))
    ann.now = 19
    assert not begins_slice(ann.call(1, 10_000))


def test_who_has_used_up_a_window_and_waits_for_the_next_has_all_of_it() -> None:
    ann = Calling()
    ann.call(50, 8_000)
    ann.now = 8
    assert not begins_slice(ann.call(1, 10_000))


def test_who_has_to_wait_is_refused_without_asking_redis_until_the_window_ends(redis_url: str) -> None:
    with (
        front_ends(redis_url, {Counted.CALLS: Rate(2, 400)}) as (runner, (store,)),
        redis.Redis.from_url(redis_url) as client,
    ):

        def commands() -> int:
            return int(client.info("stats")["total_commands_processed"])

        assert refused(runner.run(outcomes([store.create(creation()) for _ in range(2)]))) == 0
        before, asked = commands(), commands()
        assert refused(runner.run(outcomes([store.create(creation()) for _ in range(50)]))) == 50
        assert commands() - asked <= asked - before + 1
        wait_until(lambda: not refused(runner.run(outcomes([store.create(creation())]))), "the window ends")


def test_look_ups_that_find_nothing_are_limited_and_others_find_their_tasks(redis_url: str) -> None:
    with front_ends(redis_url, {Counted.LOOKUPS: Rate(5, MINUTE)}) as (runner, (store,)):
        own = runner.run(store.create(creation(BOB))).task.task_id
        found = [runner.run(outcomes([store.get(ALICE, own)]))[0] for _ in range(8)]
        assert [type(one) for one in found] == [TaskNotFound] * 5 + [RateExceeded] * 3
        assert runner.run(store.get(BOB, own)).task.task_id == own
        # Who has found a task goes on looking at it, whatever the owner's other clients look for.
        theirs = runner.run(store.create(creation(ALICE))).task.task_id
        assert runner.run(store.get(ALICE, theirs)).task.task_id == theirs
        assert runner.run(store.apply(ALICE, theirs, Cancel())).task_id == theirs
        # What the service itself names is no guess.
        with pytest.raises(TaskNotFound):
            runner.run(store.get(ALICE, own, hidden=True))


@pytest.mark.parametrize("counted", [Counted.SESSIONS, Counted.SUBSCRIPTIONS])
def test_sessions_and_subscriptions_are_limited(redis_url: str, counted: Counted) -> None:
    with front_ends(redis_url, {counted: Rate(3, MINUTE)}) as (runner, (store,)):

        async def one(number: int) -> None:
            if counted is Counted.SESSIONS:
                await store.sessions.create(session(number))
            else:
                await store.sessions.subscribe(session(), f"file:///{number}")

        results = [runner.run(outcomes([one(number)]))[0] for number in range(5)]
        assert [isinstance(result, RateExceeded) for result in results] == [False] * 3 + [True] * 2


def test_every_rate_is_counted_somewhere_and_has_a_default_where_there_are_callers() -> None:
    with_keys = Settings(_env_file=None, api_keys=KEYS)
    in_each_process = {Counted.POLLS}
    assert set(with_keys.rates) == set(Counted) - in_each_process == {Counted.CALLS, *OTHER_RATES}
    assert with_keys.rates[Counted.CALLS] == Rate(500, 10 * SECOND, "TASKS_CALLS_PER_MINUTE")
    assert Settings(_env_file=None, api_keys_file="keys").rates == with_keys.rates
    assert not Settings(_env_file=None).rates
    assert not Settings(_env_file=None, api_keys=KEYS, calls_per_minute=0).rates
    assert Settings(_env_file=None, calls_per_minute=6).rates[Counted.CALLS].number == 1


def test_a_call_over_the_rate_is_answered_with_429_in_both_revisions(redis_url: str, tmp_path: Path) -> None:
    configuration = settings(redis_url, tmp_path, api_keys=KEYS, calls_per_minute=6)
    with (
        serving(registry(greet), configuration) as port,
        WireClient(port, key=EVE) as client,
        SessionClient([port], key=EVE) as legacy,
    ):
        legacy.initialize()
        task_id = client.task("greet", {"name": "Eve"})
        modern = client.call("greet", {"name": "Eve"})
        params = {"name": "greet", "arguments": {"name": "Eve"}, "task": {}}
        handshake = legacy.post({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        for reply in (modern, handshake):
            assert reply.status == 429
            assert 1 <= int(reply.headers["retry-after"]) <= 10
            assert reply.error["code"] == -32603
            data = reply.error["data"]
            assert data["limit"] == "calls of one owner"
            assert (data["reason"], data["setting"]) == ("rateLimited", "TASKS_CALLS_PER_MINUTE")
            assert 0 < data["retryAfterMs"] <= 10_000
        assert client.get(task_id)["status"] == "working"


@pytest.mark.parametrize(("keys", "take_turns"), [(KEYS, True), (f"eve:{EVE}", False)])
def test_tasks_of_a_front_end_that_knows_several_owners_take_turns(
    redis_url: str, tmp_path: Path, keys: str, take_turns: bool
) -> None:
    configuration = settings(redis_url, tmp_path, api_keys=keys)
    with serving(registry(greet), configuration) as port, WireClient(port, key=EVE) as client:
        tasks = [client.task("greet", {"name": "Eve"}) for _ in range(2)]
    store = RedisTaskStore(redis_url)
    slots = [store.inspect(task_id).task.slot for task_id in tasks]
    store.close()
    assert slots == ([Slot.HELD, Slot.WAITING] if take_turns else [None, None])


def test_a_session_over_the_rate_is_answered_with_429(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = settings(redis_url, tmp_path, api_keys=KEYS)
    monkeypatch.setitem(configuration.rates, Counted.SESSIONS, Rate(2, MINUTE))
    begin = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "e", "version": "1"}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": begin}
    with serving(registry(greet), configuration) as port, SessionClient([port], key=EVE) as client:
        replies = [client.post(message) for _ in range(3)]
        assert [reply.status for reply in replies] == [200, 200, 429]
        assert replies[2].error["data"]["limit"] == "new sessions of one owner"
        assert 0 < int(replies[2].headers["retry-after"]) <= 60


# --- polls ----------------------------------------------------------------------------------------------


class Polling:
    """A client that polls, with a clock of its own."""

    def __init__(self, interval_ms: int) -> None:
        self.now, self.interval_ms, self.refused = 0.0, interval_ms, 0
        self.limits = PollLimits(limits=True, clock=lambda: self.now)

    def polls(self, number: int, *, every_ms: float) -> int:
        """How many of some polls are refused."""
        refused = 0
        for _ in range(number):
            try:
                self.limits.check(ALICE, "task")
                self.limits.note(ALICE, "task", self.interval_ms)
            except RateExceeded:
                refused += 1
            self.now += every_ms / 1000
        return refused


@pytest.mark.parametrize("interval_ms", [1, 200, 1000, 60_000])
def test_a_client_that_polls_as_often_as_it_was_told_is_never_refused(interval_ms: int) -> None:
    client = Polling(interval_ms)
    assert client.polls(20_000, every_ms=interval_ms) == 0
    # A network delivers some of them together.
    for _ in range(99):
        assert client.polls(3, every_ms=0) + client.polls(1, every_ms=3 * interval_ms) == 0


def test_a_client_that_polls_far_too_often_is_refused_most_of_the_time_and_not_when_it_has_waited() -> None:
    client = Polling(1000)
    assert client.polls(1_000, every_ms=1) < 1_000
    assert client.polls(10_000, every_ms=1) >= 9_900
    client.now += 31
    assert client.polls(5, every_ms=1000) == 0


def test_a_poll_that_comes_far_too_often_is_answered_with_429(redis_url: str, tmp_path: Path) -> None:
    with (
        serving(registry(greet), settings(redis_url, tmp_path, api_keys=KEYS)) as port,
        WireClient(port, key=EVE) as client,
    ):
        task_id, other = client.task("greet", {"name": "Eve"}), client.task("greet", {"name": "Eve"})
        params = {"taskId": task_id}
        replies = (client.request("tasks/get", params) for _ in range(10_000))
        reply = next(reply for reply in replies if reply.status != 200)
        assert reply.status == 429
        assert reply.error["data"]["limit"] == "polls of one task"
        assert int(reply.headers["retry-after"]) >= 1
        assert client.get(other)["status"] == "working"


# --- an abuser beside an honest caller ------------------------------------------------------------------


class AbuserProcess:
    """An owner who calls at a pace, whenever it is let."""

    def __init__(self, port: int, pace: float) -> None:
        command = [sys.executable, "-m", "tests.security.abuser", str(port), EVE, str(pace)]
        root, pipe = Path(__file__).parents[2], subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=root, stdin=pipe, stdout=pipe, text=True)
        self.answered, self.allowed = Counter[int](), 0

    @contextmanager
    def abusing(self) -> Iterator[None]:
        """Let it call meanwhile, and be refused already."""
        begun = time.monotonic()
        self._tell()
        yield
        told = self._tell()
        # It begins with a whole window, and has a slice more than the time that passes gives it.
        self.allowed += round(PER_MINUTE * (time.monotonic() - begun) / 60 + 1.1 * IN_A_WINDOW)
        self.answered.update({int(status): number for status, number in told.items()})

    def _tell(self) -> dict[str, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        told: dict[str, int] = json.loads(self._process.stdout.readline())
        return told

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def end_to_end(client: WireClient, seconds: float) -> list[float]:
    """How long each of some calls of an honest caller takes, from the call to its result, in seconds."""
    took, begun = list[float](), time.monotonic()
    while len(took) < 4 or time.monotonic() - begun < seconds:
        sent = time.monotonic()
        reply = client.call("greet", {"name": "Ann"})
        assert reply.status == 200, reply.body
        assert reply.result["content"][0]["text"] == "Hello, Ann!"
        took.append(time.monotonic() - sent)
        time.sleep(0.12 if SECONDS else 0.05)
    return took


def measured_share(front_end: FrontEndProcess, work: Callable[[], T]) -> tuple[T, float]:
    """What some work returns, and which share of a core the front end has used meanwhile."""
    spent, begun = front_end.cpu_seconds(), time.monotonic()
    returned = work()
    return returned, (front_end.cpu_seconds() - spent) / (time.monotonic() - begun)


def part(times: list[float], share: float) -> float:
    """What so large a share of some times does not exceed, in milliseconds."""
    return sorted(times)[math.ceil(len(times) * share) - 1] * 1000


def test_an_abuser_is_refused_and_an_honest_caller_waits_no_longer(
    redis_url: str, tmp_path: Path, measured: Callable[[str, str], None]
) -> None:
    front_end = FrontEndProcess(redis_url, tmp_path, api_keys=KEYS, calls_per_minute=str(PER_MINUTE))
    worker = Worker(redis_url, registry(greet))
    # A tenth more than so many times, since a machine that is busy sends less than it should.
    abuser = AbuserProcess(front_end.port, 1.1 * TIMES * PER_MINUTE / 60 if SECONDS else 1_000)
    worker.start()
    try:
        with WireClient(front_end.port, key=ANN, capabilities={}) as ann:
            end_to_end(ann, 0)
            alone, for_one = measured_share(front_end, lambda: end_to_end(ann, SECONDS))
            with abuser.abusing():
                beside, for_both = measured_share(front_end, lambda: end_to_end(ann, SECONDS))
    finally:
        worker.close()
        front_end.close()
        abuser.close()
    answered, tried = abuser.answered, abuser.answered.total()
    times = "; ".join(
        f"p{share * 100:.0f} {part(alone, share):.0f} ms alone, {part(beside, share):.0f} ms beside"
        for share in (0.5, 0.99)
    )
    measured("S7", f"{answered[429] / tried:.1%} of {tried} calls refused; of an honest caller {times}")
    measured("S7", f"the front end takes {for_one:.0%} of a core, {for_both:.0%} beside the abuser")
    assert set(answered) <= {200, 429}
    assert answered[200] <= abuser.allowed
    if SECONDS:
        assert answered[429] >= 0.95 * tried
        # The tail of a machine that does other things as well says nothing of the front end.
        assert part(beside, 0.5) <= max(1.5 * part(alone, 0.5), part(alone, 0.5) + 20)
        assert for_both - for_one <= CPU_PER_CONNECTION * CONNECTIONS
