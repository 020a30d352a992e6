"""The service as in production: Redis, a worker, two front ends behind a balancer, and their deaths."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.kit.balancer import balancing
from tests.kit.servers import RedisServer, free_port

MODULE = "tests.clients.service"
REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 60
BREATH = 2.0
"""Seconds that both front ends live between two kills, so that no client ever meets none."""


class FrontEnd:
    """A front-end process."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.port = free_port()
        self._environment = {**environment, "TASKS_PORT": str(self.port)}
        self._log = log
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tasks_service", "serve", "--app", f"{MODULE}:service"]
        self._process = _start(command, self._environment, self._log)

    def ready(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as response:
                return bool(response.status == 200)
        except (URLError, OSError):
            return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@dataclass
class Deployment:
    """What is running."""

    url: str
    front_ends: list[FrontEnd]
    log: Path
    kills: int = 0

    def await_ready(self) -> None:
        give_up = time.monotonic() + START_SECONDS
        while not (
            all(front_end.ready() for front_end in self.front_ends)
            and " ready." in self.log.read_text(errors="replace")
        ):
            assert time.monotonic() < give_up, f"it did not start:\n{self.log.read_text(errors='replace')}"
            time.sleep(0.1)

    @contextmanager
    def dying(self) -> Iterator[None]:
        """Kill one front end after the other, and start it again, for as long as this lasts."""
        stop = threading.Event()
        thread = threading.Thread(target=self._kill_in_turn, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(START_SECONDS)
            self.await_ready()

    def _kill_in_turn(self, stop: threading.Event) -> None:
        while not stop.wait(BREATH):
            front_end = self.front_ends[self.kills % len(self.front_ends)]
            front_end.kill()
            self.kills += 1
            front_end.start()
            give_up = time.monotonic() + START_SECONDS
            while not front_end.ready() and time.monotonic() < give_up:
                time.sleep(0.05)


@contextmanager
def deployed(directory: Path) -> Iterator[Deployment]:
    """Start everything; it ends with the block."""
    log = directory / "log"
    log.touch()
    redis = RedisServer()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TASKS_")},
        "TASKS_REDIS_URL": redis.url,
        "TASKS_DATA_DIR": str(directory),
        "TASKS_SWEEP_INTERVAL": "0.5",
        "TASKS_HANDLE_AFTER_BY_CLIENT": "mcp:45",  # these programs want results, however slow the machine
    }
    worker = _start(
        [
            *(sys.executable, "-m", "celery", "-A", MODULE, "worker", "--pool", "threads"),
            *("--concurrency", "8", "--without-mingle", "--without-gossip", "--loglevel", "INFO"),
        ],
        environment,
        log,
    )
    front_ends = [FrontEnd(environment, log) for _ in range(2)]
    try:
        with balancing([front_end.port for front_end in front_ends]) as port:
            deployment = Deployment(f"http://127.0.0.1:{port}/mcp", front_ends, log)
            deployment.await_ready()
            yield deployment
    finally:
        for front_end in front_ends:
            front_end.kill()
        worker.kill()
        worker.wait()
        redis.close()


def _start(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=output, stderr=subprocess.STDOUT
        )


def not_tried(reason: str, pytestconfig: pytest.Config) -> NoReturn:
    """Say so aloud; a failure where clients are required."""
    if os.environ.get("TASKS_TEST_CLIENTS") == "required":
        pytest.fail(reason)
    reporter = pytestconfig.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"\n{reason}", red=True, bold=True)
    pytest.skip(reason)
