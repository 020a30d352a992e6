"""A redis-server that forgets its last writes, as a restored backup, a torn disk or a failover leaves it.

What is forgotten is always a suffix of the writes, cut between two transactions: an append-only file is
loaded, and a replica applies, whole transactions only.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks_service.local.redis_server import find_server

from .servers import RedisServer
from .waiting import wait_until

KEPT = ("--appendonly", "yes", "--auto-aof-rewrite-percentage", "0", "--aof-timestamp-enabled", "yes")
"""An append-only file that only grows, and says when."""

AT_ONCE = ("--repl-diskless-sync-delay", "0")
"""A replica need not wait for others that may come."""


class ForgetfulServer(RedisServer):
    """A redis-server with an append-only file that can be cut, and a replica that can take its place.

    Args:
        options: More of redis-server's.
        appendfsync: When its writes reach the disk; the file has them at once with `always`.
    """

    def __init__(self, *options: str, appendfsync: str = "always") -> None:
        self._replica: RedisServer | None = None
        super().__init__(*KEPT, *AT_ONCE, "--appendfsync", appendfsync, *options)

    @property
    def file(self) -> Path:
        """The append-only file that it writes to now."""
        files = (self.path / "appendonlydir").glob("*.incr.aof")
        return max(files, key=lambda file: int(file.name.split(".")[-3]))

    def position(self) -> int:
        """How far it has written."""
        return self.file.stat().st_size

    def forget_since(self, position: int) -> None:
        """Kill it and start it again without what it has written since; a transaction in the middle goes."""
        self.kill()
        self.cut(position)
        self.start()

    def forget_back_to(self, second: int) -> None:
        """Kill it and start it again as it was at a time, in seconds since the epoch."""
        self.kill()
        check_append_only_file(self.file, "--truncate-to-timestamp", str(second))
        self.start()

    def cut(self, position: int) -> None:
        """Let its file, while it is dead, end at a position, and fix the end as an operator would."""
        with self.file.open("r+b") as file:
            file.truncate(position)
        check_append_only_file(self.file, "--fix")

    @contextmanager
    def copy(self) -> Iterator[RedisServer]:
        """Another server with what is in the file by now."""
        server = RedisServer("--appendonly", "yes", "--aof-timestamp-enabled", "yes")
        try:
            server.kill()
            shutil.rmtree(server.path / "appendonlydir")
            shutil.copytree(self.path / "appendonlydir", server.path / "appendonlydir")
            server.start()
            yield server
        finally:
            server.close()

    def replicate(self) -> None:
        """Start a replica; returns when it has everything and follows."""
        self._replica = RedisServer(*self.options, "--replicaof", f"127.0.0.1 {self.port}")
        self._wait_for_replica()

    def cut_off(self) -> None:
        """What was written before is on the replica; soon it hears nothing of what is written."""
        assert self._replica is not None
        self._wait_for_replica()
        with self._replica.client() as client:
            client.replicaof("NO", "ONE")

    def fail_over(self) -> None:
        """Kill the master, and let the replica answer at its address with what it has heard."""
        assert self._replica is not None
        successor, self._replica = self._replica, None
        self.kill()
        with successor.client() as client:
            wait_until(lambda: client.config_set("port", self.port), "the replica takes the address")
        old, self.directory = self.directory, successor.directory
        self.process, successor.process = successor.process, None
        old.cleanup()
        self.running.discard(successor)

    def _wait_for_replica(self) -> None:
        assert self._replica is not None
        with self.client() as master, self._replica.client() as client:
            written = master.info("replication")["master_repl_offset"]

            def has_all() -> bool:
                found = client.info("replication")
                return found["master_link_status"] == "up" and found["slave_repl_offset"] >= written

            wait_until(has_all, "the replica has everything")

    def close(self) -> None:
        if self._replica is not None:
            self._replica.close()
        super().close()


def check_append_only_file(file: Path, *what: str) -> None:
    """What redis-check-aof does; redis-server does it under that name.

    The increment alone is checked, not all that the manifest names: Valkey 9.1 takes a base that it has
    written itself for damaged.
    """
    server = find_server()
    with tempfile.TemporaryDirectory() as elsewhere:
        tool = Path(elsewhere) / server.name.replace("-server", "-check-aof")
        tool.symlink_to(server)
        done = subprocess.run([tool, *what, file], input="y\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
