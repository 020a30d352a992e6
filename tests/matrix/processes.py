"""The processes of a service, each in an environment of its own, and what a client sees of them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcp_types import ElicitResult

from tasks_service.client.messages import DetailedTask, NewTask
from tasks_service.client.service_client import Asked, ServiceClient, connect
from tasks_service.local.ports import http_status
from tests.kit.servers import free_port
from tests.kit.waiting import wait_until

from .environments import Installed

HERE = Path(__file__).parent
STOP_SECONDS = 40.0
"""Seconds that a process may take to end."""


class Process:
    """One process, in a directory of its own."""

    def __init__(
        self, installed: Installed, arguments: list[str], directory: Path, env: Mapping[str, str]
    ) -> None:
        self._command, self._directory = [installed.python, "-m", *arguments], directory
        self._env = {**os.environ, "PYTHONPATH": "", "PYTHONWARNINGS": "", **env}
        self._log = directory / "log"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=self._env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def logs(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self._process.terminate()
        return self._process.wait(STOP_SECONDS)

    def close(self) -> None:
        if self.runs:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Worker(Process):
    """A Celery worker, started as a shop starts it."""

    def __init__(
        self,
        installed: Installed,
        directory: Path,
        env: Mapping[str, str],
        options: Sequence[str] = (),
        module: str = "shop",
    ) -> None:
        copy_shops(directory)
        celery = ["celery", "-A", module, "worker", "--loglevel", "INFO", "-Q", "shop,celery,maintenance"]
        super().__init__(
            installed, [*celery, "--concurrency", "2", "--without-mingle", *options], directory, env
        )

    def start(self) -> None:
        before = self._log.read_text().count(" ready.") if self._log.exists() else 0
        super().start()
        wait_until(lambda: self.logs().count(" ready.") > before or not self.runs, self.logs)
        assert self.runs, self.logs()


class Beat(Process):
    """A beat, started as a shop starts it, with a scheduler that others wrote."""

    def __init__(
        self, installed: Installed, directory: Path, env: Mapping[str, str], module: str, scheduler: str
    ) -> None:
        copy_shops(directory)
        celery = ["celery", "-A", module, "beat", "--loglevel", "INFO", "--scheduler", scheduler]
        super().__init__(installed, celery, directory, env)


def copy_shops(directory: Path) -> None:
    """Put the modules of shops into a directory, from which a process imports one."""
    for module in HERE.glob("*shop.py"):
        shutil.copy(module, directory)


class FrontEnd(Process):
    """A front end over HTTP: of the shop's module, or without code, of what workers announce."""

    def __init__(
        self, installed: Installed, directory: Path, env: Mapping[str, str], *, codeless: bool
    ) -> None:
        self.port, self._path = free_port(), "/shop/mcp" if codeless else "/mcp"
        listens = {"TASKS_HOST": "127.0.0.1", "TASKS_PORT": str(self.port)}
        if not codeless:
            copy_shops(directory)
        serve = ["tasks_service", "serve", *([] if codeless else ["--app", "shop:service"])]
        super().__init__(installed, serve, directory, {**env, **listens})
        wait_until(lambda: http_status("127.0.0.1", self.port, "/readyz") == 200 or not self.runs, self.logs)
        assert self.runs, self.logs()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self._path}"


def environment_of(redis_url: str) -> dict[str, str]:
    """What all processes of a service are told."""
    return {
        "TASKS_REDIS_URL": redis_url,
        "TASKS_SECRET": "the-secret-of-this-deployment",
        "TASKS_SWEEP_INTERVAL": "0.3",
    }


@contextmanager
def running(
    front: Installed,
    behind: Installed,
    redis_url: str,
    home: Path,
    *,
    codeless: bool,
    options: Sequence[str] = (),
    module: str = "shop",
    **settings: str,
) -> Iterator[tuple[FrontEnd, Worker]]:
    """A front end and a worker on one store, each in its environment; the worker with options of its own."""
    env = {**environment_of(redis_url), **settings}
    places = [home / "front", home / "worker"]
    for place in places:
        place.mkdir()
    worker = Worker(behind, places[1], env, options, module)
    try:
        front_end = FrontEnd(front, places[0], env, codeless=codeless)
        try:
            yield front_end, worker
        finally:
            front_end.close()
    finally:
        worker.close()


async def agree(asked: Asked) -> dict[str, ElicitResult]:
    """Agree to everything."""
    return {key: ElicitResult(action="accept", content={"agreed": True}) for key in asked.requests}


class Driver:
    """A client that calls one tool after the other, blocking."""

    def __init__(self, url: str) -> None:
        self._url = url

    def call(self, tool: str, **arguments: Any) -> Any:
        """The structured result of a tool, or the text of its error behind `error: `."""

        async def run(client: ServiceClient) -> Any:
            result = await client.call(tool, arguments)
            text = "".join(getattr(block, "text", "") for block in result.content)
            if result.is_error:
                return f"error: {text}"
            return json.loads(text) if result.structured_content is None else result.structured_content

        return self._connected(run)

    def start(self, tool: str, **arguments: Any) -> str:
        """The id of a new task."""

        async def run(client: ServiceClient) -> str:
            task = await client.start(tool, arguments)
            assert isinstance(task, NewTask), task
            return task.task_id

        return str(self._connected(run))

    def get(self, task_id: str) -> DetailedTask:
        """The state of a task."""

        async def run(client: ServiceClient) -> DetailedTask:
            return await client.get(task_id)

        state: DetailedTask = self._connected(run)
        return state

    def cancel(self, task_id: str) -> None:
        """Request a task's cancellation."""

        async def run(client: ServiceClient) -> None:
            await client.cancel(task_id)

        self._connected(run)

    def _connected(self, run: Any) -> Any:
        async def connected() -> Any:
            async with connect(self._url, answer=agree) as client:
                return await run(client)

        return asyncio.run(asyncio.wait_for(connected(), 60))
