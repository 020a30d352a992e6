"""A whole service to do harm to: real processes, and a supervisor that starts again what has died.

Two front ends, two prefork workers, a beat, and a Redis that syncs each write to its disk. The processes are
started warm (see `warm`), since a campaign kills hundreds of them.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

from tasks_service.failpoints import VARIABLE
from tests.kit.servers import RedisServer, free_port
from tests.kit.waiting import wait_until
from tests.kit.wire import WireClient

from .warm import ROOT, WarmParent

APP = "tests.faults.chaos_app"
BROKER_KEYS = (r"ts:mq:.*",)
"""What the broker keeps in the same database."""

SWEEP_SECONDS = 0.3


class Process:
    """A process of the service, in a group of its own; its output goes to a file."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], directory: Path) -> None:
        self.name, self._command, self._env = name, command, env
        self.log = directory / f"{name}.log"
        self.groups: list[int] = []
        self.start()

    def start(self) -> None:
        self.began = self.log.stat().st_size if self.log.exists() else 0
        self.process = self._launch()
        self.groups.append(self.process.pid)

    def _launch(self) -> Any:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._command, cwd=ROOT, env=self._env, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def said(self, what: str) -> bool:
        """Whether the process that runs now has said something."""
        if not self.log.exists():
            return False
        with self.log.open("rb") as log:
            log.seek(self.began)
            return what.encode() in log.read()

    def times_said(self, what: str) -> int:
        """How often the process and those before it have said something."""
        return self.log.read_bytes().count(what.encode())

    def children(self) -> list[int]:
        """The processes that it has started."""
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
        ).stdout
        pairs = (line.split() for line in listed.splitlines())
        return [int(pid) for pid, parent in pairs if int(parent) == self.process.pid]

    def end(self) -> None:
        """SIGKILL for all that it ever was, orphans included."""
        for group in self.groups:
            send_signal(-group, signal.SIGKILL)
        self.process.wait()


class WarmProcess(Process):
    """One that is forked from a parent that has imported what it needs.

    Args:
        parent: Forks it.
        name: Of it, of its log, and of the directory of its failpoints.
        command: A module and its arguments.
        env: What is different from the parent's environment.
        directory: For its log.
    """

    def __init__(
        self,
        parent: WarmParent,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str],
        directory: Path,
    ) -> None:
        self._parent = parent
        super().__init__(name, command, env, directory)

    def _launch(self) -> Any:
        module, *arguments = self._command
        return self._parent.start(module, arguments, self._env, self.log)


class ServiceUnderFault:
    """The processes of a service, and a supervisor that starts again what has died.

    Args:
        directory: For logs, the secret, and armed failpoints.
        failpoints: Whether processes look for armed points, each in the directory of its name in `points`.
        elsewhere: Whether the broker is another database, so that messages do not go with the records.
        settings: Of the service, by environment variable.
        server: The Redis, if it is not to be one that syncs each write.
    """

    def __init__(
        self,
        directory: Path,
        *,
        failpoints: bool = False,
        elsewhere: bool = False,
        settings: Mapping[str, str] | None = None,
        server: RedisServer | None = None,
    ) -> None:
        self.points = directory / "failpoints"
        self.redis = server or RedisServer("--appendonly", "yes", "--appendfsync", "always")
        self.broker = f"{self.redis.url[:-1]}1" if elsewhere else self.redis.url
        self.ports = [free_port(), free_port()]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TASKS_")}
        env = {
            **inherited,
            "TASKS_REDIS_URL": self.redis.url,
            "TASKS_BROKER_URL": self.broker,
            "TASKS_DATA_DIR": str(directory / "data"),
            "TASKS_SWEEP_INTERVAL": str(SWEEP_SECONDS),
            **(settings or {}),
            **({VARIABLE: str(self.points)} if failpoints else {}),
        }
        self._failpoints = failpoints
        self._parent = WarmParent(env, directory / "warm-parent.log")
        self._directory = directory
        serve = ["tasks_service", "serve", "--app", f"{APP}:service"]
        celery = ["celery", "-A", APP]
        pool = ["worker", "--pool", "prefork", "--concurrency", "4", "--loglevel", "INFO"]
        quiet = ["--without-mingle", "--without-gossip", "--without-heartbeat"]
        self.front_ends = [
            self._process(f"front-end-{n}", serve, TASKS_PORT=str(port)) for n, port in enumerate(self.ports)
        ]
        self.workers = [
            self._process(f"worker-{n}", [*celery, *pool, *quiet, "--hostname", f"chaos{n}@test"])
            for n in range(2)
        ]
        scheduler = ["beat", "--scheduler", f"{APP}:FailingScheduler", "--loglevel", "INFO"]
        self.beat = self._process("beat", [*celery, *scheduler])
        self.restarts: Counter[str] = Counter()
        self._over = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()

    def _process(self, name: str, command: Sequence[str], **env: str) -> Process:
        if self._failpoints:
            points = self.points / name
            points.mkdir(parents=True)
            env[VARIABLE] = str(points)
        return WarmProcess(self._parent, name, command, env, self._directory)

    @property
    def processes(self) -> list[Process]:
        return [*self.front_ends, *self.workers, self.beat]

    def _supervise(self) -> None:
        while not self._over.wait(0.05):
            for process in self.processes:
                if not process.alive:
                    process.start()
                    self.restarts[process.name] += 1

    def wait_until_ready(self) -> None:
        """Return when everything is up."""
        wait_until(self._ready, "the service is up")

    def _ready(self) -> bool:
        if not all(worker.alive and worker.said(" ready.") for worker in self.workers):
            return False
        for port in self.ports:
            with suppress(OSError, http.client.HTTPException), WireClient(port) as client:
                if client.probe("/readyz").status == 200:
                    continue
            return False
        return self.beat.alive

    def settled(self) -> bool:
        """Whether nothing waits and nothing runs."""
        with self.redis.client() as client:
            indexes = ("pending:*", "leases", "timers", "overdue")
            keys = [key for index in indexes for key in client.scan_iter(f"ts:{{*}}:{index}", count=1000)]
            if any(client.zcard(key) for key in keys):
                return False
        with redis.Redis.from_url(self.broker) as broker:
            return not broker.llen("ts:mq:tasks")

    def kill(self) -> None:
        """End all processes but Redis, for good: now nobody writes any more."""
        self._over.set()
        self._supervisor.join()
        for process in self.processes:
            process.end()

    def close(self) -> None:
        self.kill()
        self._parent.close()
        self.redis.close()


@contextmanager
def service_under_fault(directory: Path, **options: Any) -> Iterator[ServiceUnderFault]:
    """A service that is up; see `ServiceUnderFault`."""
    service = ServiceUnderFault(directory, **options)
    try:
        service.wait_until_ready()
        assert not service.restarts, f"{service.restarts} could not start; their logs are in {directory}"
        yield service
    finally:
        service.close()


def send_signal(pid: int, number: int) -> None:
    """To a process, or with a minus to its group; it may have gone by itself."""
    with suppress(ProcessLookupError):
        os.killpg(-pid, number) if pid < 0 else os.kill(pid, number)
