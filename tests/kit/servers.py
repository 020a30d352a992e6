"""What several kinds of test need: a real redis-server of their own."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import redis

from tasks_service.local.redis_server import find_server

from .audit import Violation, keys_without_end


class RedisServer:
    """A real, private redis-server on a loopback port; in memory unless told otherwise.

    Attributes:
        running: Those that have been started and not closed, for a look at what tests leave behind.
        left: What was found so in those that have been closed.
    """

    running: ClassVar[set[RedisServer]] = set()
    left: ClassVar[list[Violation]] = []

    def __init__(self, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.directory = tempfile.TemporaryDirectory(prefix="redis-")
        self.options: Sequence[str] = options
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> Any:
        return redis.Redis(port=self.port, decode_responses=True)

    def start(self, seconds: float = 30.0) -> None:
        """Start it (again) on the same port and directory; returns when it answers.

        It tries again for so long, while the port is taken: by what has been killed a moment ago, for one.
        """
        defaults = ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"]
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.directory.name]
        command = [str(find_server()), *arguments, *defaults, *self.options]
        give_up = time.monotonic() + seconds
        with self.client() as client:
            while time.monotonic() < give_up:
                self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                while self.process.poll() is None and time.monotonic() < give_up:
                    try:
                        if client.ping():
                            self.running.add(self)
                            return
                    except redis.RedisError:
                        time.sleep(0.01)
                time.sleep(0.1)
        raise RuntimeError(f"redis-server did not start: {' '.join(command)}")

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it at once and remove its directory.

        Not by SIGTERM: a replica that writes its first append-only file refuses to end, and a master waits
        for replicas that may be gone.
        """
        self.left.extend(keys_without_end(self.url))
        self.running.discard(self)
        if self.process is not None:
            self.kill()
        self.directory.cleanup()

    @property
    def path(self) -> Path:
        return Path(self.directory.name)


PORTS = range(20_000, 32_000)
"""Those that tests serve on.

They lie below those from which systems choose for outgoing connections: one of those that is free now may be
the near end of somebody's connection when its server starts.
"""

BLOCK = 400
"""How many of them one process has. Many, so that none is given again while its server is being restarted."""


def _ports() -> Iterator[int]:
    """The ports of a block that no other process has, round and round.

    A process that runs tests, of this run or of another one, has a block as long as it is bound to its first
    port.
    """
    blocks = [PORTS[at : at + BLOCK] for at in range(0, len(PORTS), BLOCK)]
    secrets.SystemRandom().shuffle(blocks)
    for block in blocks:
        with contextlib.suppress(OSError), socket.socket() as owner:
            owner.bind(("127.0.0.1", block[0]))
            yield from itertools.cycle(block[1:])
    raise RuntimeError("each block of ports is in use")


_CANDIDATES = _ports()


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on, nor is given to anybody else for long."""
    for port in itertools.islice(_CANDIDATES, BLOCK):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("not one of the ports of this process is free")
