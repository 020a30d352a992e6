"""What several kinds of test need: a real redis-server of their own."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis

from tasks_service.embedded import find_server


class RedisServer:
    """A real, private redis-server on a loopback port; in memory unless told otherwise."""

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

    def start(self) -> None:
        """Start it (again) on the same port and directory; returns when it answers."""
        defaults = ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"]
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.directory.name]
        self.process = subprocess.Popen(
            [str(find_server()), *arguments, *defaults, *self.options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with self.client() as client:
            for _ in range(500):
                try:
                    if client.ping():
                        return
                except redis.RedisError:
                    time.sleep(0.01)
        raise RuntimeError("redis-server did not start")

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Stop it and remove its directory."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)
        self.directory.cleanup()

    @property
    def path(self) -> Path:
        return Path(self.directory.name)


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
