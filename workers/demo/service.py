"""A running service for the demo: two workers, on a free port, in a temporary directory."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType

from celery import Celery

from tasks_service.addresses.broker import broker_of
from tasks_service.cli.application import load_service
from tasks_service.domain.errors import ConfigurationError, TasksServiceError
from tasks_service.domain.task import TaskRecord
from tasks_service.local.ports import free_port
from tasks_service.local.procfile import parse_procfile
from tasks_service.local.redis_server import find_running
from tasks_service.local.stack import Stack
from tasks_service.settings import Settings
from tasks_service.store.redis import RedisTaskStore

#: The wheel that contains the dataset, and the name of the CSV file in it.
DATASET_WHEEL, DATASET = "airportsdata", "airports.csv"
#: Seconds until everything must be ready.
READY_SECONDS = 60.0
WORKERS = ("worker-1", "worker-2")

_PROCFILE = """\
web: tasks-service serve --app workers.app
worker-1: celery -A workers.app worker -n worker-1@%h -c 1 --without-mingle
worker-2: celery -A workers.app worker -n worker-2@%h -c 1 --without-mingle
beat: celery -A workers.app beat --scheduler celery.beat:Scheduler --enable-remote-control
"""


class DemoService:
    """A running service for the demo; only its log remains.

    Args:
        log: The file for the output of its processes.
    """

    def __init__(self, log: Path) -> None:
        self._dataset = find_dataset()
        self._cleanup = ExitStack()
        self._log_path, self._log_lock = log, threading.Lock()
        self._data_dir, self._reports = Path(), Path()
        self.stack: Stack
        self.app: Celery
        self.store: RedisTaskStore

    def __enter__(self) -> DemoService:
        with ExitStack() as cleanup:
            self._start(cleanup)
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    @property
    def mcp_url(self) -> str:
        """The URL of its MCP server."""
        return self.stack.mcp_url

    def wait_until_ready(self) -> None:
        """Wait for the front end and both workers.

        Raises:
            TasksServiceError: They do not become ready; the log says why.
        """
        deadline = time.monotonic() + READY_SECONDS
        while not (self.stack.is_ready() and len(self.app.control.ping(timeout=0.5)) > len(WORKERS)):
            self.stack.processes.require_running()
            if time.monotonic() > deadline:
                raise TasksServiceError(f"The service is not up after {READY_SECONDS:.0f} s.")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop everything, Redis last; its data stays in a file.

        Raises:
            TasksServiceError: Something still answers.
        """
        self.store.close()
        for pool in (self.app.amqp.producer_pool, self.app.pool):
            pool.resize(pool.limit, reset=True)  # close their connections to the Redis that stops
        self.stack.stop()
        if self.stack.is_ready() or find_running(self._data_dir) is not None:
            raise TasksServiceError("The service was stopped, and still answers.")

    def start_again(self) -> None:
        """Start everything again after `stop`; return when it is ready."""
        self.stack.start()
        self.store = RedisTaskStore(self.stack.redis_url)
        self.wait_until_ready()

    def report(self, name: str) -> str:
        """The text of a published report."""
        return (self._reports / name).read_text(encoding="utf-8")

    def record(self, task_id: str) -> TaskRecord:
        """The record of a task, as an operator sees it."""
        return self.store.inspect(task_id)

    def worker_of(self, task_id: str) -> str | None:
        """The Celery node that runs a task now."""
        lease = self.record(task_id).task.lease
        return lease.worker.partition("/")[0] if lease else None

    def is_idle(self, node: str) -> bool:
        """Whether a worker says that it runs no task."""
        active = self.app.control.inspect(destination=[node], timeout=2.0, limit=1).active() or {}
        return active.get(node) == []

    def kill(self, node: str) -> None:
        """End a worker and all its children with SIGKILL."""
        self.stack.processes.send(process_of(node), signal.SIGKILL)

    def is_dead(self, node: str) -> bool:
        """Whether a worker's process has ended."""
        return self.stack.processes.returncode(process_of(node)) is not None

    def _start(self, cleanup: ExitStack) -> None:
        scratch = Path(mkdtemp(prefix="tasks-service-demo-"))
        cleanup.callback(shutil.rmtree, scratch, ignore_errors=True)
        log = cleanup.enter_context(self._log_path.open("w"))
        self._data_dir, self._reports = scratch / "data", scratch / "reports"
        files = scratch / "files"
        files.mkdir()
        shutil.copy(self._dataset, files / DATASET)
        settings = Settings(redis_url=None, data_dir=self._data_dir, host="127.0.0.1", port=free_port())
        changes = {
            "TASKS_HOST": settings.host,
            "TASKS_DATA_DIR": str(settings.data_dir),
            "TASKS_TOOLS_ROOT": str(files),
            "TASKS_REPORTS_DIR": str(self._reports),
            "TASKS_API_KEYS": "",
        }
        self.stack = Stack(
            settings, parse_procfile(_PROCFILE), self._writer(log.write), changes=changes, restart=False
        )
        cleanup.callback(self.stack.stop)
        self.stack.start()
        self.store = RedisTaskStore(self.stack.redis_url)
        cleanup.callback(lambda: self.store.close())
        os.environ.update(changes, TASKS_REDIS_URL=self.stack.redis_url)
        os.environ["TASKS_BROKER_URL"] = broker_of(self.stack.redis_url).url
        self.app = load_service("workers.app").celery

    def _writer(self, write: Callable[[str], int]) -> Callable[[str, str], None]:
        def emit(name: str, line: str) -> None:
            with self._log_lock:
                write(f"{name:8} | {line}\n")

        return emit


def process_of(node: str) -> str:
    """The name of a Celery node's process."""
    return node.partition("@")[0]


def find_dataset() -> Path:
    """Find the CSV file in its wheel.

    Raises:
        ConfigurationError: The wheel is not installed.
    """
    spec = importlib.util.find_spec(DATASET_WHEEL)
    for location in (spec and spec.submodule_search_locations) or ():
        if (path := Path(location) / DATASET).is_file():
            return path
    raise ConfigurationError(
        f"The demo profiles a public dataset of the package {DATASET_WHEEL}, which is not installed. "
        "Run: make setup"
    )
