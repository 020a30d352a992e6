"""A service that `tasks-service up` runs, as an operator starts it, and commands against it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tasks_service import cli
from tasks_service.domain.task import Phase, Task
from tasks_service.local.redis_server import find_running
from tasks_service.store.redis import RedisTaskStore
from tests.kit.servers import free_port
from tests.kit.stored import ids_of
from tests.kit.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
FOREIGN = ("TASKS_", "FLOWER_")
TABLE = "name,height\nann,1.70\nbob,1.82\ncleo,\n"


class RunningUp:
    """`tasks-service up` in a directory of its own; its output goes to a file."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory, self.log = directory, directory / "up.log"
        files = directory / "files"
        files.mkdir(parents=True, exist_ok=True)
        (files / "people.csv").write_text(TABLE)
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)},
            "TASKS_DATA_DIR": str(directory / "data"),
            "TASKS_APP": "workers.app",
            "TASKS_TOOLS_ROOT": str(files),
            "TASKS_PORT": str(free_port()),
            "FLOWER_PORT": str(free_port()),
            "PYTHONPATH": str(REPOSITORY),
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> RunningUp:
        """Start it; returns when both the front end and Flower are said to be ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command("up"), cwd=REPOSITORY, env=self.env, stdout=log, stderr=log
            )
        wait_until(lambda: self.text().count("ready: ") == 2 or self.ended, self.text)
        assert not self.ended, self.text()
        return self

    @property
    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def text(self) -> str:
        """All that it has said."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send it a signal; returns its exit status once it has ended."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(300)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "tasks_service", *arguments]

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run a command against it, in its directory."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.directory,
            env={**self.env, **settings},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `call` against it, as `run` does but in this process.

        It is a client, and loads no app. What it imports takes a second of a core each time, and is here.
        """
        command, status = ["tasks-service", "call", *arguments], 0
        output, errors = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            mock.patch.dict(os.environ, self.env, clear=True),
            redirect_stdout(output),
            redirect_stderr(errors),
            Path(os.devnull).open() as nothing,
        ):
            patch.chdir(self.directory)
            patch.setattr(sys, "argv", command)
            patch.setattr(sys, "stdin", nothing)
            patch.setattr(cli, "forbid_core_dumps", lambda: None)  # which would be for the rest of the run
            try:
                cli.main()
            except SystemExit as end:
                status = int(end.code or 0)
        return subprocess.CompletedProcess(command, status, output.getvalue(), errors.getvalue())

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command against it."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.directory,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def listed(self, *options: str) -> list[dict[str, Any]]:
        """What `list --json` says."""
        rows: list[dict[str, Any]] = json.loads(self.run("list", "--json", *options).stdout)
        return rows

    def tasks(self, *phases: Phase) -> list[Task]:
        """The tasks in its store, those in some phases only if phases are given; quicker than a command."""
        url = find_running(Path(self.env["TASKS_DATA_DIR"]))
        assert url is not None
        store = RedisTaskStore(url)
        try:
            tasks = [store.inspect(task_id).task for task_id in ids_of(store)]
        finally:
            store.close()
        return [task for task in tasks if not phases or task.phase in phases]

    def processes(self) -> set[int]:
        """Every process that carries this service's data directory in its environment."""
        mark = f"TASKS_DATA_DIR={self.env['TASKS_DATA_DIR']}".encode()
        return {pid for pid in running_pids() if mark in environment_of(pid)}


def running_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
