"""The memory of each kind of process over many tasks, called through a front end by clients of all kinds."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tasks_service.domain.task import HOUR
from tasks_service.store.redis import RedisTaskStore
from tasks_service.worker.maintenance.expire import expire_finished_tasks
from tests.kit.audit import audit, told
from tests.kit.servers import RedisServer, free_port
from tests.kit.waiting import wait_until
from tests.kit.wire import WireClient

from .memory_app import POOLS
from .served import Process

TASKS = int(os.environ.get("TASKS_TEST_MEMORY", "100000"))
MARKS = (0.1, 0.4, 0.7, 1.0)
"""When memory is looked at, as parts of all tasks; what grows before the first is what a process needs."""

BATCH = 20
"""How many tasks a client calls before it waits for the last of them."""

MOST_BYTES = 60
"""Bytes that a process may grow by with each task: the noise of an allocator over so many tasks. A single
object that is kept for each takes more."""

APP = "tests.faults.memory_app"
Measured = Callable[[str, str], None]


class Service:
    """One process of each kind, and one more of a child."""

    def __init__(self, directory: Path, redis: RedisServer) -> None:
        self.port, self.redis = free_port(), redis
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TASKS_")},
            "TASKS_REDIS_URL": redis.url,
            "TASKS_DATA_DIR": str(directory / "data"),
            "TASKS_PORT": str(self.port),
        }
        quiet = ("--without-mingle", "--without-gossip", "--without-heartbeat", "--loglevel", "ERROR")
        celery = (sys.executable, "-m", "celery", "-A", APP)
        commands: dict[str, tuple[str, ...]] = {
            "front end": (sys.executable, "-m", "tasks_service", "serve", "--app", f"{APP}:service"),
            "beat": (*celery, "beat", "--loglevel", "ERROR", "--schedule", str(directory / "schedule")),
            **{
                pool: (
                    *(*celery, "worker", "--pool", pool, "--concurrency", "2", "-Q", f"{pool},maintenance"),
                    *("--hostname", f"{pool}@test", *quiet),
                )
                for pool in POOLS
            },
        }
        self.processes = {
            name: Process(name.replace(" ", "-"), command, env, directory)
            for name, command in commands.items()
        }

    def close(self) -> None:
        for process in self.processes.values():
            process.end()

    def is_ready(self) -> bool:
        with self.redis.client() as client:
            alive = client.zcard("ts:registry:{00}:alive:Memory")
        try:
            with closing(WireClient(self.port)) as client:
                return alive == len(POOLS) and client.probe("/readyz").status == 200
        except OSError:
            return False

    def pids(self) -> dict[str, int]:
        """One of each kind."""
        pids = {name: process.process.pid for name, process in self.processes.items()}
        pids["child"] = min(self.processes["prefork"].children())
        return pids

    def bytes_held(self) -> dict[str, int]:
        """What each kind holds, when all tasks have ended and are forgotten."""
        with self.redis.client() as client:
            wait_until(lambda: not client.zcard("ts:{00}:overdue"), "all tasks have ended")
            # Calls that wait for their result are kept for longer, in case their client comes back.
            with closing(RedisTaskStore(self.redis.url, clock=lambda server_ms: server_ms + HOUR)) as later:
                while client.zcard("ts:{00}:expired"):
                    expire_finished_tasks(later)
            held = {name: resident(pid) for name, pid in self.pids().items()}
            return {**held, "Redis": int(client.info("memory")["used_memory"])}


def resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/{pid}/status says nothing of its memory")


class Clients:
    """Clients that call tools in turn: with a task that they poll, or waiting for the result."""

    def __init__(self, port: int) -> None:
        self._port, self._numbers, self.ended = port, itertools.count(), 0
        self._lock = threading.Lock()

    def call(self, number: int) -> None:
        """Until so many tasks have ended."""
        threads = [threading.Thread(target=self._call, args=(number,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert self.ended >= number, f"only {self.ended} of {number} tasks have ended"

    def _call(self, number: int) -> None:
        with WireClient(self._port) as client, WireClient(self._port, capabilities={}) as waiting:
            while self.ended < number:
                calls = self._batch()
                ids = [client.task(tool, {"x": x}) for tool, x in calls]
                wait_until(lambda last=ids[-1]: client.get(last)["status"] != "working", "a batch has ended")  # type: ignore[misc]
                tool, x = calls[0]
                assert waiting.call(tool, {"x": x}).status == 200
                with self._lock:
                    self.ended += len(calls) + 1

    def _batch(self) -> list[tuple[str, int]]:
        with self._lock:
            numbers = list(itertools.islice(self._numbers, BATCH))
        kinds = ("add", "add", "add", "add_async", "fail")
        pool = POOLS[numbers[0] // BATCH % len(POOLS)]
        return [(f"{kinds[number % len(kinds)]}_{pool}", number) for number in numbers]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with ExitStack() as stack:
        redis = RedisServer()
        stack.callback(redis.close)
        service = Service(tmp_path, redis)
        stack.callback(service.close)
        wait_until(service.is_ready, "the service is up")
        yield service


@pytest.mark.memory
@pytest.mark.timeout(0)
def test_the_memory_of_each_kind_of_process_is_flat(service: Service, measured: Measured) -> None:
    before, began = service.pids(), time.monotonic()
    clients, held = Clients(service.port), {}
    for part in MARKS:
        clients.call(round(TASKS * part))
        held[clients.ended] = service.bytes_held()
        print(
            f"{clients.ended} tasks, {time.monotonic() - began:.0f} s:",
            told_of(held[clients.ended]),
            flush=True,
        )
    assert service.pids() == before, "a process was replaced, so that nothing was measured"
    first, last = min(held), max(held)
    slopes = {name: (held[last][name] - held[first][name]) / (last - first) for name in held[last]}
    for name, slope in slopes.items():
        grown = ", ".join(f"{held[number][name] / 2**20:.1f}" for number in sorted(held))
        measured("memory", f"{name}: {slope:+.1f} bytes a task over {last - first}; MiB: {grown}")
    found = audit(service.redis.url, beside=[r"ts:mq:.*"])
    assert not found, told(found)
    assert {name: slope for name, slope in slopes.items() if slope > MOST_BYTES} == {}


def told_of(held: dict[str, int]) -> str:
    return ", ".join(f"{name} {number / 2**20:.1f} MiB" for name, number in held.items())
