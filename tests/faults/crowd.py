"""Clients that use a service under fault, write down what was acknowledged, and are judged at the end.

They speak HTTP, and repeat with the same idempotency key what was not acknowledged. Each kind of task has one
true end, so that whatever else a record says is a lie. Where Redis is made to forget what it has
acknowledged, that is declared, and forgiven to the moment (see `Forgotten`).
"""

from __future__ import annotations

import http.client
import json
import math
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tasks_service.domain.errors import TaskNotFound
from tasks_service.domain.task import EntryKind, FailureKind, TaskRecord, TaskStatus
from tasks_service.store.redis import RedisTaskStore
from tests.kit.audit import Violation, audit
from tests.kit.sessions import Message, SessionClient, Stream, is_answer
from tests.kit.wire import WITH_TASKS, Reply, WireClient

from .chaos_app import BRIEF, NOT_YET, reported
from .served import BROKER_KEYS, ServiceUnderFault

IDEMPOTENCY = "io.github.tasks-service/idempotency-key"

UNAVAILABLE = b'"mayHaveBeenRecorded"'
"""Carried by each error that says "not now"; a quota's has it not."""

NOT_FOUND = b"task not found"

CAPABILITIES = {**WITH_TASKS, "elicitation": {"form": {}}}

PATIENCE = 120.0
"""Seconds without a fault and without any progress after which a client says that its tasks are stuck."""

BATCH = 24
"""Tasks that a client has open at a time."""

LOOK_SECONDS = 0.25
"""Between two looks at its open tasks."""

ENDS = {"completed", "failed", "cancelled"}
TAIL = 5
"""Operations of each client that must succeed at the first try after the service has healed."""

TAIL_SECONDS = 5.0
"""In which they must."""

BROKEN = (OSError, http.client.HTTPException)
"""How a request ends whose front end dies, is cut off, or is stopped for too long."""


class Moment(NamedTuple):
    """From when to when an operation took, on the machine's monotonic clock."""

    began: float
    ended: float


NEVER = Moment(math.inf, math.inf)


class Forgotten:
    """What the store was made to forget: whatever it acknowledged between two times."""

    def __init__(self) -> None:
        self._between: list[Moment] = []

    @contextmanager
    def since(self, began: float) -> Iterator[None]:
        """Declare it; when the context ends, the store is back, and what it acknowledges then counts."""
        self._between.append(Moment(began, math.inf))
        yield
        self._between[-1] = Moment(began, time.monotonic())

    def covers(self, moment: Moment) -> bool:
        """Whether what was acknowledged then may be forgotten."""
        return any(moment.began <= to and since <= moment.ended for since, to in self._between)


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
    given: float = 0.0
    """When it was first asked for."""

    @property
    def end(self) -> str:
        return self.seen[-1] if self.seen and self.seen[-1] in {*ENDS, "expired"} else ""

    @property
    def may_have_expired(self) -> bool:
        """Whether it was asked for longer ago than a task of its kind is kept."""
        return self.kind == "brief" and time.monotonic() - self.given > BRIEF.total_seconds()


class Progress:
    """Clients and nemesis in step: so many tasks for each fault, and so many faults for each task.

    Attributes:
        over: Whether no task is to begin any more.
        struck_at: When the last fault happened, on the machine's monotonic clock.
    """

    def __init__(self, tasks: int, faults: int) -> None:
        self.tasks, self.faults = tasks, faults
        self._begun = self._struck = 0
        self.over = False
        self.struck_at = -math.inf
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
            self.struck_at = time.monotonic()
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


class Caller:
    """A client with a thread of its own.

    Args:
        ports: Of the front ends.
        seed: Names it, and decides what it does.
        progress: Says when it may begin a task.
    """

    def __init__(self, ports: Sequence[int], seed: str, progress: Progress) -> None:
        self.stories: list[Story] = []
        self.complaints: list[str] = []
        self.repeated = 0
        self._moment = NEVER
        self._ports, self._seed, self._progress = ports, seed, progress
        self._random = random.Random(seed)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            self.complaints.append(f"client {self._seed} is stuck")

    def _run(self) -> None:
        try:
            self._live()
        except Exception as error:
            self.complaints.append(f"client {self._seed}: {error!r}")
            self._progress.stop()

    def _live(self) -> None:
        raise NotImplementedError

    def _is_out_of_patience(self, since: float) -> bool:
        """Whether nothing has gone on since then though no fault held it up; faults come to an end."""
        return time.monotonic() - max(since, self._progress.struck_at) > PATIENCE

    def _again(self, what: str, attempt: Callable[[], Any]) -> Any:
        """Try until there is an answer: `attempt` returns it, or None, or breaks."""
        first = time.monotonic()
        while True:
            with suppress(*BROKEN):
                began = time.monotonic()
                if (answer := attempt()) is not None:
                    self._moment = Moment(began, time.monotonic())
                    return answer
            self.wait_for_disconnect()
            self.repeated += 1
            if self._is_out_of_patience(first):
                raise AssertionError(f"I16 {what}: no answer within {PATIENCE} s")
            time.sleep(self._random.uniform(0.02, 0.2))

    def wait_for_disconnect(self) -> None:
        """Leave whatever connection there is."""

    def review(self) -> None:
        """Look at everything again: it must be as it was seen, or have been forgotten and come to an end."""

    def tail(self) -> None:
        """The last operations, after the service has healed: each must succeed at the first try."""


class Client(Caller):
    """Makes tasks of every kind, follows them to their ends, and complains about what must not be.

    Args:
        ports: Of the front ends.
        seed: Names it, and decides what it does.
        progress: Says when it may begin a task.
        kinds: The tools that it chooses among.
        forgotten: What the store is made to forget.
        batch: Tasks that it has open at a time.

    Attributes:
        forgot: How many handles and ends it has met that were forgotten.
    """

    def __init__(
        self,
        ports: Sequence[int],
        seed: str,
        progress: Progress,
        kinds: Sequence[str],
        forgotten: Forgotten | None = None,
        batch: int = BATCH,
    ) -> None:
        super().__init__(ports, seed, progress)
        self.forgot: Counter[str] = Counter()
        self._kinds, self._batch_size = kinds, batch
        self._forgotten = forgotten or Forgotten()
        self._wire: WireClient | None = None

    def _live(self) -> None:
        while batch := self._batch(self._batch_size):
            self._follow(batch)

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
        story.given = story.given or time.monotonic()
        meta = {IDEMPOTENCY: story.key}
        result = self._ask("tools/call", {"name": story.kind, "arguments": {"number": story.number}}, meta)
        if "taskId" not in result:  # it ended within its grace, and there is no handle
            story.seen.append("completed")
            if result.get("structuredContent") != {"number": story.number}:
                self.complaints.append(f"I5 {story.key} was answered {result}")
            return
        task_id = result["taskId"]
        if task_id == story.task_id:
            return
        if story.task_id and not (story.may_have_expired or self._may_forget("handles", story.made)):
            self.complaints.append(f"I11 {story.key}: first {story.task_id}, then {task_id}")
        story.task_id, story.made = task_id, self._moment

    def _may_forget(self, what: str, moment: Moment) -> bool:
        """Whether the store may have forgotten something; counts it."""
        forgiven = self._forgotten.covers(moment)
        self.forgot[what] += forgiven
        return forgiven

    def review(self) -> None:
        try:
            for story in self.stories:
                if story.task_id and not story.may_have_expired:
                    self._look(story)
            self._follow([story for story in self.stories if not story.end])
        except Exception as error:
            self.complaints.append(f"client {self._seed}, looking back: {error!r}")

    def _follow(self, stories: list[Story]) -> None:
        seen, since = 0, time.monotonic()
        while open_ := [story for story in stories if not story.end]:
            for story in open_:
                self._look(story)
            if (sees := sum(len(story.seen) for story in stories)) != seen:
                seen, since = sees, time.monotonic()
            if self._is_out_of_patience(since):
                self.complaints.append(f"I6 stuck: {[(s.kind, s.task_id, s.seen[-1:]) for s in open_]}")
                return
            time.sleep(LOOK_SECONDS)
        for story in self._random.sample(stories, len(stories) // 8):
            if story.kind != "brief":
                self.create(story)

    def _look(self, story: Story) -> None:
        shown = self._ask("tasks/get", {"taskId": story.task_id})
        if shown is GONE:
            if self._may_forget("handles", story.made):
                story.task_id = ""
                story.seen.clear()
                self.create(story)
                return
            if not story.may_have_expired:
                self.complaints.append(f"I1 {story.kind} {story.task_id} is unknown, it was {story.seen}")
            story.seen.append("expired")
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
        """Ask one front end or the other until one answers."""
        return self._again(method, lambda: _told(self._once(method, params, meta), method))

    def _once(self, method: str, params: dict[str, Any], meta: dict[str, Any] | None) -> Reply:
        self._wire = self._wire or WireClient(self._random.choice(self._ports), capabilities=CAPABILITIES)
        return self._wire.request(method, params, meta=meta)

    def wait_for_disconnect(self) -> None:
        if self._wire is not None:
            self._wire.close()
        self._wire = None

    def tail(self) -> None:
        began = time.monotonic()
        for number in range(TAIL):
            self.wait_for_disconnect()
            story = Story("quick", -1, f"{self._seed}.tail.{number}")
            call = {"name": "quick", "arguments": {"number": -1}}
            try:
                story.task_id = self._once("tools/call", call, {IDEMPOTENCY: story.key}).result["taskId"]
            except (*BROKEN, AssertionError, KeyError) as error:
                self.complaints.append(f"R18 tail {number} of client {self._seed}: {error!r}")
                continue
            self.stories.append(story)
        if (took := time.monotonic() - began) > TAIL_SECONDS:
            self.complaints.append(f"R18 the tail of client {self._seed} took {took:.1f} s")
        self._follow([story for story in self.stories if not story.end])


GONE: dict[str, Any] = {}
"""A task that is not known (any more)."""


def _told(reply: Reply, method: str) -> Any:
    """What a reply says; None if it is an honest "not now"."""
    if reply.status == 200 and "result" in reply.json:
        return reply.result
    if UNAVAILABLE in reply.body:
        return None
    if method.startswith("tasks/") and NOT_FOUND in reply.body.lower():
        return GONE
    raise AssertionError(f"I16 {method} was answered {reply.status}: {reply.body!r}")


class PlainCaller(Caller):
    """Knows no tasks: waits for results, with progress on a stream; leaves, and comes back with its key."""

    def _live(self) -> None:
        while (number := self._progress.take()) is not None:
            self._call(number)
            time.sleep(0.05)

    def _call(self, number: int) -> None:
        seconds = iter((0.3, 0.3))

        def attempt() -> Any:
            stream = self._open(number)
            try:
                message = stream.find(is_answer, next(seconds, 10.0))
            except (AssertionError, queue.Empty):
                return None  # it broke off, or we have waited long enough for this time
            finally:
                stream.close()
            if UNAVAILABLE.decode() in json.dumps(message):
                return None
            return message

        message = self._again("a plain call", attempt)
        if message.get("result", {}).get("structuredContent") != reported(number):
            self.complaints.append(f"I5 plain call {number}: {message}")

    def _open(self, number: int) -> Stream:
        wire = WireClient(self._random.choice(self._ports), capabilities={})
        params = {"name": "reporting", "arguments": {"number": number}}
        meta = {IDEMPOTENCY: f"{self._seed}.{number}", "progressToken": number}
        body = json.dumps(wire.message("tools/call", params, **meta)).encode()
        return Stream(wire.port, "POST", body, wire.headers("tools/call", params))


class SessionCaller(Caller):
    """A client of 2025-11-25: one session for all its life, whichever front end is alive."""

    def _live(self) -> None:
        with SessionClient(self._ports, capabilities={"elicitation": {"form": {}}}) as client:
            self._again("initialize", lambda: self._initialized(client))
            while (number := self._progress.take()) is not None:
                self._task(client, number)
                time.sleep(0.05)

    def _initialized(self, client: SessionClient) -> Any:
        client.session_id = None
        try:
            return client.initialize(at=self._random.randrange(len(self._ports)))
        except AssertionError:
            return None

    def _task(self, client: SessionClient, number: int) -> None:
        story = Story("quick", number, f"{self._seed}.{number}")
        self.stories.append(story)
        call = {"name": "quick", "arguments": {"number": number}, "task": {}}
        made = self._request(client, "tools/call", {**call, "_meta": {IDEMPOTENCY: story.key}})
        story.task_id = made["task"]["taskId"]
        named = {"taskId": story.task_id}
        story.result = self._request(client, "tasks/result", named)
        story.seen.append(self._request(client, "tasks/get", named)["status"])

    def _request(self, client: SessionClient, method: str, params: Any) -> Any:
        def attempt() -> Any:
            at = self._random.randrange(len(self._ports))
            stream = client.open(method, params, at=at)
            try:
                message: Message = stream.find(is_answer, 10)
            except (AssertionError, queue.Empty):
                return None
            finally:
                stream.close()
            if UNAVAILABLE.decode() in json.dumps(message):
                return None
            if "result" not in message:
                raise AssertionError(f"I16 {method} was answered {message}")
            return message["result"]

        return self._again(method, attempt)


def judge(service: ServiceUnderFault, clients: Sequence[Caller]) -> list[Violation]:
    """The audit of the store, and the clients' logs against it."""
    found = [Violation("", "", complaint) for client in clients for complaint in client.complaints]
    found += audit(service.redis.url, beside=BROKER_KEYS)
    store = RedisTaskStore(service.redis.url)
    try:
        for story in (story for client in clients for story in client.stories):
            if not story.task_id:
                continue
            try:
                record = store.inspect(story.task_id)
            except TaskNotFound:
                if not story.may_have_expired:
                    found.append(Violation("I1", story.task_id, f"acknowledged and gone: {story}"))
                continue
            found += [Violation(kind, story.task_id, what) for kind, what in _judged(story, record)]
    finally:
        store.close()
    return found


TRUE_ENDS = {"lasting": TaskStatus.CANCELLED, "failing": TaskStatus.FAILED}
"""How tasks end that do not complete, by their kind."""

LATE = (FailureKind.QUEUE_TIMEOUT, FailureKind.TIMEOUT)
"""Why a brief task may fail: all others have a day."""


def _judged(story: Story, record: TaskRecord) -> Iterator[tuple[str, str]]:
    task = record.task
    late = story.kind == "brief" and task.failure is not None and task.failure.kind in LATE
    if task.status is not TRUE_ENDS.get(story.kind, TaskStatus.COMPLETED) and not late:
        yield "I3", f"{story.kind} is {task.status} ({task.failure}), the client saw {story.seen}"
        return
    if story.end != task.status or sum(status in ENDS for status in story.seen) != 1:
        yield "I5", f"it is {task.status}, the client saw {story.seen}"
    if task.failure is not None and task.failure.message != NOT_YET and not late:
        yield "I3", f"it failed for {task.failure}"
    if task.status is not TaskStatus.COMPLETED:
        return
    shown = json.loads(record.result or "{}").get("structuredContent")
    if shown != (story.result or {}).get("structuredContent"):
        yield "I5", f"its result is {shown}, the client saw {story.result}"
    if shown != (expected := _expected(story, record)):
        yield "I3", f"its result is {shown}, true is {expected}"


def _expected(story: Story, record: TaskRecord) -> dict[str, Any]:
    if story.kind == "reporting":
        return reported(story.number)
    values = [json.loads(entry.value) for entry in record.journal if entry.kind is EntryKind.STEP]
    expected: dict[str, Any] = {"number": story.number}
    if story.kind in ("stepped", "asking", "lengthy"):
        expected["drawn"] = values
    if story.kind in ("asking", "silent"):
        expected["word"] = story.answered or "nobody"
    return expected
