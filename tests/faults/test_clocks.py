"""The clocks of front ends, workers and beat are wrong, and step while tasks run: Redis's alone decides."""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tasks_service.domain.task import Phase, TaskStatus
from tasks_service.store.redis import RedisTaskStore
from tests.kit.audit import audit, told
from tests.kit.servers import RedisServer, free_port
from tests.kit.waiting import wait_until
from tests.kit.wire import WireClient

from .clocks import SKEW, WrongClock, library
from .served import Process

pytestmark = pytest.mark.skipif(
    library() is None, reason="libfaketime's wheel has a library for x86-64 Linux only"
)

APP = "tests.faults.toxic_app"
STEPS = int(os.environ.get("TASKS_TEST_CLOCK_STEPS", "1"))
TASKS = 6
Measured = Callable[[str, str], None]


@dataclass
class Skewed:
    """A service of which no process but Redis has the right time."""

    redis: RedisServer
    clocks: dict[str, WrongClock]
    processes: dict[str, Process]
    ports: list[int]

    def turn(self) -> None:
        """Every clock steps to the other side."""
        for name, clock in self.clocks.items():
            self.signs[name] = -self.signs[name]
            clock.be(self.signs[name] * SKEW)

    def __post_init__(self) -> None:
        self.signs = dict(SIGNS)


SIGNS = {"front-0": 1, "front-1": -1, "worker-0": 1, "worker-1": -1, "beat-0": 1, "beat-1": -1}


@pytest.fixture
def skewed(tmp_path: Path) -> Iterator[Skewed]:
    redis = RedisServer()
    ports = [free_port(), free_port()]
    clocks = {name: WrongClock(tmp_path / f"{name}.time", sign * SKEW) for name, sign in SIGNS.items()}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TASKS_")}
    base = {
        **inherited,
        "TASKS_REDIS_URL": redis.url,
        "TASKS_DATA_DIR": str(tmp_path / "data"),
        "TASKS_SWEEP_INTERVAL": "0.3",
    }
    celery = [sys.executable, "-m", "celery", "-A", APP]
    quiet = ["--without-mingle", "--without-gossip", "--without-heartbeat", "--loglevel", "INFO"]
    commands = {
        "front": [sys.executable, "-m", "tasks_service", "serve", "--app", f"{APP}:service"],
        "worker": [*celery, "worker", "--pool", "prefork", "--concurrency", "4", *quiet],
        "beat": [*celery, "beat", "--scheduler", "celery.beat:Scheduler"],
    }
    processes = {}
    for name, clock in clocks.items():
        kind, _, number = name.partition("-")
        named = ["--hostname", f"{name}@test"] if kind == "worker" else []
        env = {**base, **clock.environment, "TASKS_PORT": str(ports[int(number)])}
        processes[name] = Process(name, [*commands[kind], *named], env, tmp_path)
    service = Skewed(redis, clocks, processes, ports)
    try:
        wait_until(lambda: _ready(service), "the service is up", seconds=120)
        yield service
    finally:
        for process in processes.values():
            process.end()
        redis.close()


def _ready(service: Skewed) -> bool:
    if not all(service.processes[f"worker-{n}"].said(" ready.") for n in range(2)):
        return False
    for port in service.ports:
        with suppress(OSError, http.client.HTTPException), WireClient(port) as client:
            if client.probe("/readyz").status == 200:
                continue
        return False
    return True


def test_a_wrong_clock_is_wrong_and_steps_when_told(tmp_path: Path) -> None:
    clock = WrongClock(tmp_path / "time", SKEW)
    assert clock.says() - time.time() == pytest.approx(SKEW, abs=30)
    clock.be(-SKEW)
    assert clock.says() - time.time() == pytest.approx(-SKEW, abs=30)


@pytest.mark.timeout(300)
def test_wrong_clocks_end_no_task_early_and_take_no_lease(
    skewed: Skewed, tmp_path: Path, measured: Measured
) -> None:
    path = tmp_path / "effects"
    began_ms = time.time() * 1000
    seen: dict[str, list[float]] = {}
    with WireClient(skewed.ports[0]) as ahead, WireClient(skewed.ports[1]) as behind:
        clients = [ahead, behind]
        ids = []
        for number in range(TASKS):
            client = clients[number % 2]
            ids.append(client.task("long", {"path": str(path), "seconds": 5.0 + STEPS}))
            ids.append(client.task("nap", {"path": str(path)}))
            ids.append(client.task("good", {"path": str(path)}))

        def all_over() -> bool:
            over = [_look(clients[round(time.monotonic() * 10) % 2], one, seen) for one in ids]
            if time.monotonic() - started > turns[0]:
                turns.pop(0)
                skewed.turn()
            return all(over)

        started, turns = time.monotonic(), [1.5 + 1.5 * n for n in range(STEPS)] + [float("inf")]
        wait_until(all_over, "all tasks are over", seconds=120)
        ended_ms = time.time() * 1000
        ends = [client.get(one) for one in ids for client in clients]

    assert turns == [float("inf")], "the clocks did not step as often as they should"
    assert {end["status"] for end in ends} == {"completed"}
    for moments in seen.values():
        assert moments == sorted(moments), "a task was last updated earlier than before"
        assert began_ms - 1_000 <= moments[0] <= moments[-1] <= ended_ms + 1_000
    with_store = RedisTaskStore(skewed.redis.url)
    records = [with_store.inspect(one) for one in ids]
    with_store.close()
    assert Counter(record.task.tool for record in records) == {"long": TASKS, "nap": TASKS, "good": TASKS}
    for record in records:
        assert record.task.claims == (2 if record.task.tool == "nap" else 1), "a lease was taken away"
        assert not any(line.actor == "sweep" for line in record.log)
        assert {record.task.status} == {TaskStatus.COMPLETED}
        stamps = [line.at_ms for line in record.log]
        assert stamps == sorted(stamps)
        assert began_ms - 1_000 <= stamps[0] <= stamps[-1] <= ended_ms + 1_000
    for record in records:
        if record.task.tool == "nap":
            _, slept, awake = (
                next(line.at_ms for line in record.log if line.revision == revision) for revision in (1, 2, 3)
            )
            assert awake - slept >= 1_100, "it slept too little"
            assert record.log[2].target is Phase.PENDING
    effects = Counter(
        (line["task"], line.get("step")) for line in map(json.loads, path.read_text().splitlines())
    )
    assert set(effects.values()) == {1}
    found = audit(skewed.redis.url, beside=[r"ts:mq:.*"])
    assert not found, told(found)
    measured(
        "R13",
        f"6 processes {SKEW} s ahead or behind, {STEPS} steps of {2 * SKEW} s, {len(ids)} tasks: "
        "0 ended early, 0 leases taken, 0 stamps of another clock",
    )


def _look(client: WireClient, task_id: str, seen: dict[str, list[float]]) -> bool:
    """Poll a task; whether it is over. Remembers when it was last updated."""
    task: Any = client.get(task_id)
    seen.setdefault(task_id, []).append(_milliseconds(task["lastUpdatedAt"]))
    assert _milliseconds(task["createdAt"]) <= seen[task_id][-1]
    return task["status"] in ("completed", "failed", "cancelled")


def _milliseconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() * 1000
