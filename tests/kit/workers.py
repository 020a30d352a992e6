"""Real worker processes as pytest-celery's nodes, and a client that records tasks for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pytest_celery import CeleryTestContainer, CeleryTestWorker

from tasks_service import TaskService
from tasks_service.addresses.redis import parse_address
from tasks_service.broker.dispatcher import Dispatcher
from tasks_service.broker.signature import MessageSigner
from tasks_service.domain.events import Cancel, Create
from tasks_service.domain.limits import DEFAULT_LIMITS, Limits
from tasks_service.domain.names import new_task_id
from tasks_service.domain.task import Owner, Phase, Task, TaskRecord
from tasks_service.store.clients import TaskView
from tasks_service.store.redis import RedisTaskStore

from .waiting import PATIENCE, wait_until

READY = " ready."
OWNER = Owner("tester")


class ProcessContainer(CeleryTestContainer):  # type: ignore[misc]
    """A worker process with the face of one of pytest-celery's containers: no engine is needed."""

    def __init__(self, name: str, command: list[str], env: dict[str, str]) -> None:
        self._name, self._command, self._env = name, command, env
        self._directory = tempfile.TemporaryDirectory(prefix="worker-")
        self._log = Path(self._directory.name) / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, **self._env},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def name(self) -> str:
        return self._name

    @property
    def id(self) -> str:
        return str(self.process.pid)

    @property
    def status(self) -> str:
        return "running" if self.process.poll() is None else "exited"

    @property
    def celeryconfig(self) -> dict[str, Any]:
        return {}

    def logs(self) -> str:
        return self._log.read_text(errors="replace")

    def processes(self) -> set[int]:
        """Itself and the children that it has now, whichever of its threads started them; on Linux alone."""
        found = {self.process.pid}
        for thread in Path(f"/proc/{self.process.pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
                found.update(map(int, (thread / "children").read_text().split()))
        return found

    def ready(self) -> bool:
        wait_until(lambda: READY in self.logs() or self.status == "exited", self.logs)
        return self.status == "running"

    def kill(self, signal: str | int = "SIGKILL") -> None:
        self.process.send_signal(_number(signal))

    def reload(self) -> None:
        """Nothing: the process is asked directly."""

    def restart(self, timeout: float = PATIENCE) -> None:
        self.stop(timeout)
        self.start()

    def stop(self, timeout: float = PATIENCE) -> int:
        """SIGTERM, then SIGKILL for the whole process group; the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def teardown(self) -> None:
        """At once: a test that cares how a worker ends has ended it."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._directory.cleanup()


def worker_node(
    redis_url: str | None,
    *,
    app: str = "tests.kit.worker_app",
    pool: str = "prefork",
    concurrency: int = 2,
    name: str = "worker",
    options: tuple[str, ...] = (),
    hears_others: bool = False,
    **env: str,
) -> CeleryTestWorker:
    """Start a worker; it may not be ready yet. It listens to other workers only if `hears_others`."""
    alone = () if hears_others else ("--without-mingle", "--without-gossip", "--without-heartbeat")
    command = [
        *(sys.executable, "-m", "celery", "-A", app, "worker"),
        *("--pool", pool, "--concurrency", str(concurrency), "--hostname", f"{name}@test"),
        *("--loglevel", "INFO", *alone, *options),
    ]
    quick = {"TASKS_SWEEP_INTERVAL": "0.3"}
    where = {"TASKS_REDIS_URL": redis_url} if redis_url else {}
    return CeleryTestWorker(ProcessContainer(name, command, {**quick, **where, **env}), app=None)


class Client:
    """Records tasks for a service, and reads what became of them.

    Attributes:
        take_turns: Whether owners take turns, as at front ends that know several.
    """

    take_turns = False

    def __init__(
        self,
        service: TaskService,
        redis_url: str,
        broker_url: str,
        limits: Limits,
        signer: MessageSigner | None = None,
    ) -> None:
        self.service = service
        self.outbox = Dispatcher(service.celery, redis_url=redis_url, broker_url=broker_url, signer=signer)
        self._shards = parse_address(redis_url).shards
        self.store = RedisTaskStore(redis_url, limits=limits, outbox=self.outbox, deadline=PATIENCE)

    def call(self, tool_name: str, **arguments: Any) -> Task:
        """Record a call."""
        return self.call_of(OWNER, tool_name, **arguments)

    def call_of(self, owner: Owner, tool_name: str, **arguments: Any) -> Task:
        """Record a call of somebody."""
        tool = self.service.tools[tool_name]
        return self.store.create(
            Create(
                task_id=new_task_id(owner, self._shards),
                owner=owner,
                tool=tool.name,
                queue=tool.definition.queue,
                arguments=tool.check_arguments(arguments),
                policy=tool.definition.policy,
                takes_turns=self.take_turns,
            )
        ).task

    def run(self, tool_name: str, timeout: float = PATIENCE, **arguments: Any) -> TaskView:
        """Record a call and wait for its end."""
        return self.ended(self.call(tool_name, **arguments), timeout)

    def view(self, task: Task) -> TaskView:
        return self.store.get(task.owner, task.task_id)

    def record(self, task: Task) -> TaskRecord:
        return self.store.inspect(task.task_id)

    def ended(self, task: Task, timeout: float = PATIENCE) -> TaskView:
        wait_until(
            lambda: self.view(task).task.status.is_final, lambda: repr(self.view(task)), seconds=timeout
        )
        return self.view(task)

    def running(self, task: Task, timeout: float = PATIENCE) -> Task:
        """Wait until it runs."""
        wait_until(lambda: self.view(task).task.phase is Phase.RUNNING, seconds=timeout)
        return self.view(task).task

    def cancel(self, task: Task) -> None:
        self.store.apply(task.owner, task.task_id, Cancel())

    def close(self) -> None:
        self.outbox.close()
        self.store.close()


@contextmanager
def client_of(
    service: TaskService,
    redis_url: str,
    broker_url: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    signer: MessageSigner | None = None,
) -> Iterator[Client]:
    client = Client(service, redis_url, broker_url or redis_url, limits, signer)
    try:
        yield client
    finally:
        client.close()


def memory_kib(process: int) -> int:
    """The most that a process has held."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def _number(name: str | int) -> int:
    return name if isinstance(name, int) else signal.Signals[name]
