"""Processes that start in a moment: forks of one that has imported what they need.

A campaign kills hundreds of processes, and an import of Celery or of the MCP SDK costs seconds of a core each
time. So one process imports the libraries, and nothing of the service under test runs in it: no thread, no
connection. Told what to run, it forks, and the fork goes on as `python -m` would, in a session of its own,
with its own environment, arguments and log. The author's module (the tools) is imported after the fork.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

LIBRARIES = (
    "billiard.popen_fork",
    "billiard.synchronize",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer.delayed_delivery",
    "hiredis",
    "httptools",
    "kombu.transport.redis",
    "mcp.server.lowlevel",
    "tasks_service.cli.serve",
    "uvicorn.lifespan.on",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
)
"""What the processes of a service import before anything else."""


class Fork:
    """A process that was started warm; has of `subprocess.Popen` what a supervisor needs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        """None while it runs."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return -1
        return None

    def wait(self, timeout: float = 30.0) -> None:
        """Return when it has gone."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < end, f"process {self.pid} does not end"
            time.sleep(0.01)


class WarmParent:
    """The process that forks.

    Args:
        env: Its environment, and that of what it starts, but for what is changed then. It decides by itself
            what libraries read when they are imported.
        log: Where its own output goes.
    """

    def __init__(self, env: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                cwd=ROOT,
                env=dict(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                bufsize=1,
            )

    def start(self, module: str, arguments: Sequence[str], env: Mapping[str, str], log: Path) -> Fork:
        """Run a module, as `python -m` does.

        Args:
            module: Its name.
            arguments: What follows it on a command line.
            env: What is different from this parent's environment.
            log: What its output is appended to.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"module": module, "arguments": list(arguments), "env": dict(env), "log": str(log)}
        self._process.stdin.write(json.dumps(order) + "\n")
        answer = self._process.stdout.readline()
        assert answer, "the parent that forks has died; its log says why"
        return Fork(int(answer))

    def close(self) -> None:
        """End it; what it has started goes on."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()


def _serve() -> None:
    """Fork for each line of the standard input, until it ends."""
    for name in LIBRARIES:
        __import__(name)
    # Celery collects garbage before each fork of a child, and need not look at all that was imported.
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever is dead is gone; nobody asks how it went
    while line := sys.stdin.readline():
        order = json.loads(line)
        if (pid := os.fork()) == 0:
            _become(order)
            return
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _become(order: Mapping[str, Any]) -> None:
    """Be what was asked for; returns, or raises, when that is over."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for target, source in ((0, nothing), (1, log), (2, log)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(log)
    os.environ.update(order["env"])
    sys.argv[1:] = order["arguments"]
    with suppress(KeyboardInterrupt):
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve()
