"""A whole service that is killed, stopped and cut off at random while clients use it."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.kit.audit import Violation
from tests.kit.waiting import wait_until

from .crowd import PATIENCE, Caller, Client, Progress, Story, judge
from .served import Process, ServiceUnderFault, send_signal, service_under_fault

KINDS = (
    *("quick", "stepped", "asking", "retrying", "silent", "sleeping") * 4,
    *("quick", "failing", "graceful", "brief", "lasting", "reporting"),
)
"""What clients call, as often as it is named; what holds a worker for long is called less."""


class Nemesis:
    """Does harm, one fault after the other, as a seed has it."""

    def __init__(self, service: ServiceUnderFault, seed: str) -> None:
        self._service, self._random = service, random.Random(seed)
        self.done: Counter[str] = Counter()
        self._faults: tuple[Callable[[], None], ...] = (
            self.kill_child,
            self.kill_child,
            self.kill_worker,
            self.kill_parent,
            self.kill_front_end,
            self.kill_beat,
            self.kill_redis,
            self.stop_child,
            self.stop_worker,
            self.stop_front_end,
            self.stop_redis,
            self.cut_connections,
        )

    def strike(self, progress: Progress) -> None:
        """All faults of a campaign, in step with its tasks; each kind about as often as any other."""
        left: list[Callable[[], None]] = []
        for _ in range(progress.faults):
            if not progress.wait_for_tasks():
                return
            if not left:
                left = self._random.sample(self._faults, len(self._faults))
            fault = left.pop()
            time.sleep(self._random.uniform(0.3, 1.2))
            fault()
            self.done[fault.__name__] += 1
            progress.struck()

    def kill_child(self) -> None:
        if children := self._worker().children():
            send_signal(self._random.choice(children), signal.SIGKILL)

    def kill_worker(self) -> None:
        send_signal(-self._worker().process.pid, signal.SIGKILL)

    def kill_parent(self) -> None:
        send_signal(self._worker().process.pid, signal.SIGKILL)

    def kill_front_end(self) -> None:
        send_signal(self._random.choice(self._service.front_ends).process.pid, signal.SIGKILL)

    def kill_beat(self) -> None:
        send_signal(self._service.beat.process.pid, signal.SIGKILL)

    def kill_redis(self) -> None:
        self._service.redis.kill()
        time.sleep(self._random.uniform(0.1, 1.5))
        self._service.redis.start()

    def stop_child(self) -> None:
        if children := self._worker().children():
            self._pause(self._random.choice(children))

    def stop_worker(self) -> None:
        self._pause(-self._worker().process.pid)

    def stop_front_end(self) -> None:
        self._pause(self._random.choice(self._service.front_ends).process.pid)

    def stop_redis(self) -> None:
        assert self._service.redis.process is not None
        self._pause(self._service.redis.process.pid)

    def cut_connections(self) -> None:
        """All of them, of every process, two times."""
        with self._service.redis.client() as client, suppress(redis.RedisError):
            for _ in range(2):
                for kind in ("normal", "pubsub"):
                    client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
                time.sleep(0.05)

    def _worker(self) -> Process:
        return self._random.choice(self._service.workers)

    def _pause(self, pid: int) -> None:
        send_signal(pid, signal.SIGSTOP)
        try:
            time.sleep(self._random.uniform(1, 3))
        finally:
            send_signal(pid, signal.SIGCONT)


@dataclass
class Campaign:
    """What became of it."""

    violations: list[Violation]
    stories: list[Story]
    faults: Counter[str]
    repeated: int
    restarts: int
    seconds: float

    def summary(self, seed: object) -> str:
        kinds = Counter(story.kind for story in self.stories)
        return (
            f"seed {seed}: {len(self.stories)} tasks {dict(kinds)}, {self.faults.total()} faults "
            f"{dict(self.faults)}, {self.restarts} restarts, {self.repeated} requests repeated, "
            f"{self.seconds:.0f} s, {len(self.violations)} violations"
        )


def finish(
    service: ServiceUnderFault, clients: Sequence[Caller], faults: Counter[str], began: float
) -> Campaign:
    """Heal, apply the tail rule, wait until nothing waits, end everything at once, and judge what is left."""
    service.wait_until_ready()
    for client in clients:
        client.join(2 * PATIENCE)
    for client in clients:
        client.review()
        client.tail()
        client.wait_for_disconnect()
    if not any(client.complaints for client in clients):  # else there may be tasks that nobody ends
        wait_until(service.settled, "nothing waits and nothing runs", seconds=PATIENCE)
    service.kill()  # an audit reads key by key: what a sweep removes meanwhile would look torn
    return Campaign(
        violations=judge(service, clients),
        stories=[story for client in clients for story in client.stories],
        faults=faults,
        repeated=sum(client.repeated for client in clients),
        restarts=service.restarts.total(),
        seconds=time.monotonic() - began,
    )


def chaos(directory: Path, *, tasks: int, faults: int, seed: int, clients: int = 8) -> Campaign:
    """One campaign of random faults; with an odd seed, tasks wait for their turn as well."""
    began = time.monotonic()
    settings = {"TASKS_MAX_RUNNING_PER_OWNER": "3"} if seed % 2 else {}
    with service_under_fault(directory, settings=settings) as service:
        progress = Progress(tasks, faults)
        crowd = [Client(service.ports, f"{seed}.{n}", progress, KINDS) for n in range(clients)]
        for client in crowd:
            client.start()
        nemesis = Nemesis(service, f"{seed}")
        nemesis.strike(progress)
        return finish(service, crowd, nemesis.done, began)
