"""A real RabbitMQ of a test's own: a child process with its own node, directories, ports and epmd.

Nothing of the machine's own RabbitMQ is touched: no service, no cookie, no log. Where there is none, tests
say `NOT RUN`; with `TASKS_TEST_RABBITMQ=required` that is a failure.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from kombu import Connection

from .servers import free_port

REQUIRED = "TASKS_TEST_RABBITMQ"
"""Set to `required`, it makes a RabbitMQ that cannot be had a failure."""

# The wrapper on PATH changes to the system's user and directories; this is what it calls.
PROGRAMS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/opt/homebrew/sbin/rabbitmq-server")

START_SECONDS = 90.0


def require_rabbitmq() -> None:
    """Go on if there is a RabbitMQ; else skip, or fail where it is required."""
    missing = [name for name, found in (("rabbitmq-server", _program()), ("epmd", _epmd())) if found is None]
    if not missing:
        return
    reason = f"NOT RUN: no {' and no '.join(missing)} on this machine"
    if os.environ.get(REQUIRED) == "required":
        pytest.fail(reason)
    pytest.skip(reason)


def _program() -> str | None:
    return next((path for path in PROGRAMS if os.access(path, os.X_OK)), None)


def _epmd() -> str | None:
    return shutil.which("epmd")


class RabbitServer:
    """A broker on a loopback port.

    Args:
        settings: Lines of its `rabbitmq.conf`.
        advanced: Its `advanced.config`, an Erlang term; what `rabbitmq.conf` cannot say.
    """

    def __init__(self, settings: Mapping[str, str] | None = None, advanced: str = "[].") -> None:
        self.port, self._epmd_port, self._peer_port = free_port(), free_port(), free_port()
        self._directory = tempfile.TemporaryDirectory(prefix="rabbitmq-", ignore_cleanup_errors=True)
        home = Path(self._directory.name)
        lines = {
            "listeners.tcp.local": f"127.0.0.1:{self.port}",
            "disk_free_limit.absolute": "1MB",
            **(settings or {}),
        }
        (home / "rabbitmq.conf").write_text("".join(f"{name} = {value}\n" for name, value in lines.items()))
        (home / "advanced.config").write_text(advanced)
        (home / "plugins").write_text("[].")
        self._env = {
            **os.environ,
            "HOME": str(home),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._peer_port),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # One scheduler that does not spin: it shares the machine with the test.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }
        # Started by RabbitMQ it would be a daemon that outlives the test.
        self._names = self._child([str(_epmd())])
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def connection(self) -> Connection:
        return Connection(self.url, connect_timeout=5)

    def start(self) -> None:
        """Start it (again) on the same port and data; returns when it takes connections."""
        program = _program()
        assert program is not None
        self._process = self._child([program])
        give_up = time.monotonic() + START_SECONDS
        while self._process.poll() is None and time.monotonic() < give_up:
            with suppress(OSError), self.connection() as connection:
                connection.connect()
                return
            time.sleep(0.1)
        raise RuntimeError(f"rabbitmq-server did not start:\n{self.log()}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the broker and whatever it has started."""
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """SIGKILL, as a crash would; returns when its port is free."""
        self.send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        with suppress(OSError):
            while True:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                time.sleep(0.05)

    def close(self) -> None:
        """End it, its epmd, and its directory."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self._names.kill()
        self._names.wait()
        self._directory.cleanup()

    def log(self) -> str:
        """What it has written."""
        return (Path(self._directory.name) / "output").read_text(errors="replace")

    def _child(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (Path(self._directory.name) / "output").open("ab") as output:
            return subprocess.Popen(
                command, env=self._env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
