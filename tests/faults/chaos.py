"""A whole service that is killed, stopped and cut off while clients use it, and what they were told.

The service is real: two front ends, two prefork workers of two children, a beat, and a Redis that syncs each
write to its disk. A supervisor starts again what has died, as an operator's would. Clients speak HTTP, write
down what was acknowledged, and repeat with the same idempotency key what was not. Where Redis is made to
forget what it has acknowledged, that is declared, and forgiven to the moment (see `Forgotten`).
"""

from __future__ import annotations

import http.client
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import redis

from tasks_service.domain.errors import TaskNotFound
from tasks_service.domain.task import EntryKind, TaskRecord, TaskStatus
from tasks_service.store.redis import RedisTaskStore
from tests.protocol.support import WITH_TASKS, Reply, WireClient
from tests.support import RedisServer, free_port

from .audit import Violation, audit

APP = "tests.faults.chaos_app"
ROOT = Path(__file__).parents[2]
IDEMPOTENCY = "io.github.tasks-service/idempotency-key"
BESIDE = (r"ts:mq:.*",)
"""What the broker keeps in the same database."""

UNAVAILABLE = b"The task store does not answer"
"""What an honest front end says when it cannot know."""

CAPABILITIES = {**WITH_TASKS, "elicitation": {"form": {}}}

PATIENCE = 120.0
"""Seconds without any progress after which a client says that its tasks are stuck."""

KINDS = ("quick", "quick", "stepped", "asking", "retrying", "lasting", "silent")
ENDS = {"completed", "failed", "cancelled"}
MISSING = b"Task not found"
TAIL = 5
"""Operations of each client that must succeed at the first try after the service has healed."""


# --- the service -------------------------------------------------------------------------------------------


class Process:
    """A process of the service, in a group of its own; its output goes to a file."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], directory: Path) -> None:
        self.name, self._command, self._env = name, command, env
        self.log = directory / f"{name}.log"
        self.groups: list[int] = []
        self.start()

    def start(self) -> None:
        self.began = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._env, stdout=log, stderr=log, start_new_session=True
            )
        self.groups.append(self.process.pid)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def said(self, what: str) -> bool:
        """Whether the process that runs now has said something."""
        with self.log.open("rb") as log:
            log.seek(self.began)
            return what.encode() in log.read()

    def times_said(self, what: str) -> int:
        """How often the process and those before it have said something."""
        return self.log.read_bytes().count(what.encode())

    def children(self) -> list[int]:
        """The processes that it has started."""
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
        ).stdout
        pairs = (line.split() for line in listed.splitlines())
        return [int(pid) for pid, parent in pairs if int(parent) == self.process.pid]

    def end(self) -> None:
        """SIGKILL for all that it ever was, orphans included."""
        for group in self.groups:
            _signal(-group, signal.SIGKILL)
        self.process.wait()


class ServiceUnderFault:
    """The processes of a service, and a supervisor that starts again what has died.

    Args:
        directory: For logs, the secret, and armed failpoints.
        failpoints: Whether processes look for armed failpoints.
        server: The Redis, if it is not to be one that syncs each write.
    """

    def __init__(
        self, directory: Path, *, failpoints: bool = False, server: RedisServer | None = None
    ) -> None:
        self.points = directory / "failpoints"
        self.redis = server or RedisServer("--appendonly", "yes", "--appendfsync", "always")
        self.ports = [free_port(), free_port()]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TASKS_")}
        env = {
            **inherited,
            "TASKS_REDIS_URL": self.redis.url,
            "TASKS_DATA_DIR": str(directory / "data"),
            "TASKS_SWEEP_INTERVAL": "0.3",
        }
        if failpoints:
            env["TASKS_FAILPOINTS"] = str(self.points)
        serve = [sys.executable, "-m", "tasks_service", "serve", "--app", f"{APP}:service"]
        celery = [sys.executable, "-m", "celery", "-A", APP]
        pool = ["worker", "--pool", "prefork", "--concurrency", "2", "--loglevel", "INFO"]
        quiet = ["--without-mingle", "--without-gossip", "--without-heartbeat"]
        self.front_ends = [
            Process(f"front-end-{n}", serve, {**env, "TASKS_PORT": str(port)}, directory)
            for n, port in enumerate(self.ports)
        ]
        self.workers = [
            Process(f"worker-{n}", [*celery, *pool, *quiet, "--hostname", f"chaos{n}@test"], env, directory)
            for n in range(2)
        ]
        scheduler = ["beat", "--scheduler", f"{APP}:FailingScheduler", "--loglevel", "INFO"]
        self.beat = Process("beat", [*celery, *scheduler], env, directory)
        self.restarts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()

    @property
    def processes(self) -> list[Process]:
        return [*self.front_ends, *self.workers, self.beat]

    def _supervise(self) -> None:
        while not self._over.wait(0.2):
            for process in self.processes:
                if not process.alive:
                    process.start()
                    self.restarts[process.name] += 1

    def wait_until_ready(self) -> None:
        """Return when everything is up."""
        until("the service is up", self._ready, 120)

    def _ready(self) -> bool:
        if not all(worker.alive and worker.said(" ready.") for worker in self.workers):
            return False
        for port in self.ports:
            with suppress(OSError, http.client.HTTPException), WireClient(port) as client:
                if client.probe("/readyz").status == 200:
                    continue
            return False
        return self.beat.alive

    def settled(self) -> bool:
        """Whether nothing waits and nothing runs."""
        with self.redis.client() as client:
            indexes = ("pending:*", "leases", "timers", "overdue")
            keys = [key for index in indexes for key in client.scan_iter(f"ts:{{*}}:{index}", count=1000)]
            return not client.llen("ts:mq:tasks") and not any(client.zcard(key) for key in keys)

    def close(self) -> None:
        self._over.set()
        self._supervisor.join()
        for process in self.processes:
            process.end()
        self.redis.close()


@contextmanager
def service_under_fault(
    directory: Path, *, failpoints: bool = False, server: RedisServer | None = None
) -> Iterator[ServiceUnderFault]:
    """A service that is up."""
    service = ServiceUnderFault(directory, failpoints=failpoints, server=server)
    try:
        service.wait_until_ready()
        assert not service.restarts, f"{service.restarts} could not start; their logs are in {directory}"
        yield service
    finally:
        service.close()


def until(what: str, reached: Callable[[], bool], seconds: float) -> None:
    """Wait for something to come true."""
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"waited {seconds} s in vain until {what}"
        time.sleep(0.05)


def _signal(pid: int, number: int) -> None:
    """To a process, or with a minus to its group; it may have gone by itself."""
    with suppress(ProcessLookupError):
        os.killpg(-pid, number) if pid < 0 else os.kill(pid, number)


# --- clients -----------------------------------------------------------------------------------------------


class Moment(NamedTuple):
    """From when to when an operation took, on the machine's monotonic clock."""

    began: float
    ended: float


class Forgotten:
    """What the store was made to forget: whatever it acknowledged between two times."""

    def __init__(self) -> None:
        self._between: list[Moment] = []

    @contextmanager
    def since(self, began: float) -> Iterator[None]:
        """Declare it; the store must answer no more when the context ends, or already be back."""
        self._between.append(Moment(began, math.inf))
        yield
        self._between[-1] = Moment(began, time.monotonic())

    def covers(self, moment: Moment) -> bool:
        """Whether what was acknowledged then may be forgotten."""
        return any(moment.began <= to and since <= moment.ended for since, to in self._between)


NEVER = Moment(math.inf, math.inf)


@dataclass
class Story:
    """What a client knows of one task: what it asked for, and what was acknowledged, and when first."""

    kind: str
    number: int
    key: str
    task_id: str = ""
    made: Moment = NEVER
    answered: str = ""
    cancelled: Moment | None = None
    seen: list[str] = field(default_factory=list)
    result: Any = None
    ended: Moment = NEVER

    @property
    def end(self) -> str:
        return self.seen[-1] if self.seen and self.seen[-1] in ENDS else ""


class Progress:
    """Clients and nemesis in step: so many tasks for each fault, and so many faults for each task."""

    def __init__(self, tasks: int, faults: int) -> None:
        self.tasks, self.faults = tasks, faults
        self._begun = self._struck = 0
        self.over = False
        self._changed = threading.Condition()

    def take(self) -> int | None:
        """The number of the next task, when its time has come; None when there are enough."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.over or self._begun * self.faults <= self.tasks * (self._struck + 1)
            )
            if self.over or self._begun >= self.tasks:
                return None
            self._begun += 1
            self._changed.notify_all()
            return self._begun

    def struck(self) -> None:
        """A fault has happened."""
        with self._changed:
            self._struck += 1
            self._changed.notify_all()

    def wait_for_tasks(self) -> bool:
        """Wait until there are enough tasks for the next fault; whether there is to be one."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.over or self._begun * self.faults >= self.tasks * self._struck
            )
            return not self.over

    def stop(self) -> None:
        """No task any more."""
        with self._changed:
            self.over = True
            self._changed.notify_all()


class Client:
    """Makes tasks of every kind, follows them to their ends, and complains about what must not be."""

    def __init__(
        self,
        ports: Sequence[int],
        seed: str,
        progress: Progress,
        kinds: Sequence[str],
        forgotten: Forgotten | None = None,
    ) -> None:
        self.stories: list[Story] = []
        self.complaints: list[str] = []
        self.repeated = 0
        self.forgot: Counter[str] = Counter()
        self._forgotten = forgotten or Forgotten()
        self._moment = NEVER
        self._ports, self._kinds = ports, kinds
        self._seed, self._random, self._progress = seed, random.Random(seed), progress
        self._wire: WireClient | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            self.complaints.append(f"client {self._seed} is stuck")

    def _run(self) -> None:
        try:
            while batch := self._batch(8):
                self._follow(batch)
        except Exception as error:
            self.complaints.append(f"client {self._seed}: {error!r}")
            self._progress.stop()

    def _batch(self, size: int) -> list[Story]:
        batch = []
        for _ in range(size):
            if (number := self._progress.take()) is None:
                break
            story = Story(self._random.choice(self._kinds), number, f"{self._seed}.{number}")
            self.stories.append(story)
            batch.append(story)
            self.create(story)
        return batch

    def create(self, story: Story) -> None:
        """Ask for a task, until its handle is given out; the same key must always give the same."""
        result = self._ask(
            "tools/call",
            {"name": story.kind, "arguments": {"number": story.number}},
            {IDEMPOTENCY: story.key},
        )
        task_id = result["taskId"]
        if task_id == story.task_id:
            return
        if story.task_id and not self._may_forget("handles", story.made):
            self.complaints.append(f"I11 {story.key}: first {story.task_id}, then {task_id}")
        story.task_id, story.made = task_id, self._moment
        story.seen.clear()

    def _may_forget(self, what: str, moment: Moment) -> bool:
        """Whether the store may have forgotten something; counts it."""
        forgiven = self._forgotten.covers(moment)
        self.forgot[what] += forgiven
        return forgiven

    def _follow(self, stories: list[Story]) -> None:
        end = time.monotonic() + PATIENCE
        while open_ := [story for story in stories if not story.end]:
            for story in open_:
                self._look(story)
            if time.monotonic() > end:
                self.complaints.append(f"I6 stuck: {[(s.kind, s.task_id, s.seen[-1:]) for s in open_]}")
                return
            time.sleep(0.1)
        for story in self._random.sample(stories, len(stories) // 4):
            self.create(story)

    def review(self) -> None:
        """Look at everything again: it must be as it was seen, or have been forgotten and come to an end."""
        try:
            for story in self.stories:
                self._look(story)
            self._follow(self.stories)
        except Exception as error:
            self.complaints.append(f"client {self._seed}, looking back: {error!r}")

    def _look(self, story: Story) -> None:
        shown = self._ask("tasks/get", {"taskId": story.task_id})
        if shown is None:
            if not self._may_forget("handles", story.made):
                raise AssertionError(f"I1 {story} was acknowledged, and is not found")
            story.task_id = ""
            self.create(story)
            return
        status, result = shown["status"], shown.get("result")
        if story.end and (status, result) != (story.end, story.result):
            if not self._may_forget("ends", story.ended):
                self.complaints.append(f"I5 {story}: now it is {status} with {result}")
            story.seen.clear()
        if not story.seen or story.seen[-1] != status:
            story.seen.append(status)
            story.ended = self._moment
        story.result = result
        self._act_on(story, shown)

    def _act_on(self, story: Story, shown: dict[str, Any]) -> None:
        cancelled = story.cancelled is not None and not self._forgotten.covers(story.cancelled)
        if story.kind == "lasting" and not story.end and not cancelled:
            self._ask("tasks/cancel", {"taskId": story.task_id})
            story.cancelled = self._moment
        if shown["status"] == "input_required" and story.kind == "asking":
            word = story.answered or f"word {story.number}"
            answers = {key: {"action": "accept", "content": {"word": word}} for key in shown["inputRequests"]}
            self._ask("tasks/update", {"taskId": story.task_id, "inputResponses": answers})
            story.answered = word

    def _ask(self, method: str, params: dict[str, Any], meta: dict[str, Any] | None = None) -> Any:
        """Ask one front end or the other until one answers; None if there is no such task."""
        end = time.monotonic() + PATIENCE
        while True:
            with suppress(OSError, http.client.HTTPException):
                began = time.monotonic()
                reply = self._once(method, params, meta)
                self._moment = Moment(began, time.monotonic())
                if reply.status == 200 and "result" in reply.json:
                    return reply.result
                if MISSING in reply.body:
                    return None
                if UNAVAILABLE not in reply.body:
                    raise AssertionError(f"I16 {method} was answered {reply.status}: {reply.body!r}")
            self.hang_up()
            self.repeated += 1
            if time.monotonic() > end:
                raise AssertionError(f"I16 {method}: no answer within {PATIENCE} s")
            time.sleep(self._random.uniform(0.02, 0.2))

    def _once(self, method: str, params: dict[str, Any], meta: dict[str, Any] | None) -> Reply:
        self._wire = self._wire or WireClient(self._random.choice(self._ports), capabilities=CAPABILITIES)
        return self._wire.request(method, params, meta=meta)

    def hang_up(self) -> None:
        if self._wire is not None:
            self._wire.close()
        self._wire = None

    def tail(self) -> None:
        """The last operations, after the service has healed: each must succeed at the first try."""
        for number in range(TAIL):
            self.hang_up()
            story = Story("quick", -1, f"{self._seed}.tail.{number}")
            try:
                reply = self._once(
                    "tools/call", {"name": "quick", "arguments": {"number": -1}}, {IDEMPOTENCY: story.key}
                )
                story.task_id = reply.result["taskId"]
            except (OSError, http.client.HTTPException, AssertionError, KeyError) as error:
                self.complaints.append(f"tail {number} of client {self._seed}: {error!r}")
                continue
            self.stories.append(story)
            self._follow([story])


def judge(service: ServiceUnderFault, clients: Sequence[Client]) -> list[Violation]:
    """The audit of the store, and the clients' logs against it."""
    found = [Violation("", "", complaint) for client in clients for complaint in client.complaints]
    found += audit(service.redis.url, beside=BESIDE)
    store = RedisTaskStore(service.redis.url)
    try:
        for story in (story for client in clients for story in client.stories):
            if not story.task_id:
                continue
            try:
                record = store.inspect(story.task_id)
            except TaskNotFound:
                found.append(Violation("I1", story.task_id, f"acknowledged and gone: {story}"))
                continue
            found += [Violation(kind, story.task_id, what) for kind, what in _judged(story, record)]
    finally:
        store.close()
    return found


def _judged(story: Story, record: TaskRecord) -> Iterator[tuple[str, str]]:
    task = record.task
    wanted = TaskStatus.CANCELLED if story.kind == "lasting" else TaskStatus.COMPLETED
    if task.status is not wanted:
        yield "I3", f"{story.kind} is {task.status} ({task.failure}), the client saw {story.seen}"
        return
    if story.end != task.status or sum(status in ENDS for status in story.seen) != 1:
        yield "I5", f"it is {task.status}, the client saw {story.seen}"
    if task.status is not TaskStatus.COMPLETED:
        return
    shown = json.loads(record.result or "{}").get("structuredContent")
    if shown != (story.result or {}).get("structuredContent"):
        yield "I5", f"its result is {shown}, the client saw {story.result}"
    values = [json.loads(entry.value) for entry in record.journal if entry.kind is EntryKind.STEP]
    expected: dict[str, Any] = {"number": story.number}
    if story.kind in ("stepped", "asking", "lengthy"):
        expected["drawn"] = values
    if story.kind in ("asking", "silent"):
        expected["word"] = story.answered or "nobody"
    if shown != expected:
        yield "I3", f"its result is {shown}, true is {expected}"


# --- faults ------------------------------------------------------------------------------------------------


class Nemesis:
    """Does harm, one fault after the other, as a seed has it."""

    def __init__(self, service: ServiceUnderFault, seed: str) -> None:
        self._service, self._random = service, random.Random(seed)
        self.done: Counter[str] = Counter()
        self._faults: tuple[Callable[[], None], ...] = (
            self.kill_child,
            self.kill_child,
            self.kill_worker,
            self.kill_parent,
            self.kill_front_end,
            self.kill_beat,
            self.kill_redis,
            self.stop_child,
            self.stop_worker,
            self.stop_front_end,
            self.stop_redis,
            self.cut_connections,
        )

    def strike(self, progress: Progress) -> None:
        """All faults of a campaign, in step with its tasks; each kind about as often as any other."""
        left: list[Callable[[], None]] = []
        for _ in range(progress.faults):
            if not progress.wait_for_tasks():
                return
            if not left:
                left = self._random.sample(self._faults, len(self._faults))
            fault = left.pop()
            time.sleep(self._random.uniform(0.3, 1.2))
            fault()
            self.done[fault.__name__] += 1
            progress.struck()

    def kill_child(self) -> None:
        if children := self._worker().children():
            _signal(self._random.choice(children), signal.SIGKILL)

    def kill_worker(self) -> None:
        _signal(-self._worker().process.pid, signal.SIGKILL)

    def kill_parent(self) -> None:
        _signal(self._worker().process.pid, signal.SIGKILL)

    def kill_front_end(self) -> None:
        _signal(self._random.choice(self._service.front_ends).process.pid, signal.SIGKILL)

    def kill_beat(self) -> None:
        _signal(self._service.beat.process.pid, signal.SIGKILL)

    def kill_redis(self) -> None:
        self._service.redis.kill()
        time.sleep(self._random.uniform(0.1, 1.5))
        self._service.redis.start()

    def stop_child(self) -> None:
        if children := self._worker().children():
            self._pause(self._random.choice(children))

    def stop_worker(self) -> None:
        self._pause(-self._worker().process.pid)

    def stop_front_end(self) -> None:
        self._pause(self._random.choice(self._service.front_ends).process.pid)

    def stop_redis(self) -> None:
        assert self._service.redis.process is not None
        self._pause(self._service.redis.process.pid)

    def cut_connections(self) -> None:
        """All of them, of every process, two times."""
        with self._service.redis.client() as client, suppress(redis.RedisError):
            for _ in range(2):
                for kind in ("normal", "pubsub"):
                    client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
                time.sleep(0.05)

    def _worker(self) -> Process:
        return self._random.choice(self._service.workers)

    def _pause(self, pid: int) -> None:
        _signal(pid, signal.SIGSTOP)
        try:
            time.sleep(self._random.uniform(1, 3))
        finally:
            _signal(pid, signal.SIGCONT)


@dataclass
class Campaign:
    """What became of it."""

    violations: list[Violation]
    stories: list[Story]
    faults: Counter[str]
    repeated: int
    restarts: int
    seconds: float

    def summary(self, seed: object) -> str:
        kinds = Counter(story.kind for story in self.stories)
        return (
            f"seed {seed}: {len(self.stories)} tasks {dict(kinds)}, {self.faults.total()} faults "
            f"{dict(self.faults)}, {self.restarts} restarts, {self.repeated} requests repeated, "
            f"{self.seconds:.0f} s, {len(self.violations)} violations"
        )


def finish(
    service: ServiceUnderFault, clients: Sequence[Client], faults: Counter[str], began: float
) -> Campaign:
    """Heal, apply the tail rule, wait until nothing waits, and judge."""
    service.wait_until_ready()
    for client in clients:
        client.join(2 * PATIENCE)
    for client in clients:
        client.review()
        client.tail()
        client.hang_up()
    if not any(client.complaints for client in clients):  # else there may be tasks that nobody ends
        until("nothing waits and nothing runs", service.settled, PATIENCE)
    return Campaign(
        violations=judge(service, clients),
        stories=[story for client in clients for story in client.stories],
        faults=faults,
        repeated=sum(client.repeated for client in clients),
        restarts=service.restarts.total(),
        seconds=time.monotonic() - began,
    )


def chaos(directory: Path, *, tasks: int, faults: int, seed: int, clients: int = 6) -> Campaign:
    """One campaign of random faults."""
    began = time.monotonic()
    with service_under_fault(directory) as service:
        progress = Progress(tasks, faults)
        crowd = [Client(service.ports, f"{seed}.{n}", progress, KINDS) for n in range(clients)]
        for client in crowd:
            client.start()
        nemesis = Nemesis(service, f"{seed}")
        nemesis.strike(progress)
        return finish(service, crowd, nemesis.done, began)
