"""Starting tools from Python: what is refused before anything is recorded, and what a tool does but once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr

from tasks_service import (
    LOCAL_USER,
    AsyncTaskContext,
    ConfigurationError,
    Form,
    IdempotencyConflict,
    InvalidArguments,
    LimitExceeded,
    NotJson,
    QuotaExceeded,
    Settings,
    StoreUnavailable,
    TaskContext,
    TaskFailed,
    TaskService,
    TaskWasCancelled,
    WorkerStopping,
)
from tasks_service.crypto.keys import Fingerprints, load_keys
from tasks_service.crypto.owners import API_KEY_ISSUER, Principal, owner_of
from tasks_service.domain.errors import HistoryMismatch, Parked, StoreFull
from tasks_service.domain.events import Claim, CompleteWithResult, Create
from tasks_service.domain.limits import OTHER_QUEUES, Limits
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import DAY, HOUR, MINUTE, EntryKind, Phase, Slot, Task, new_token
from tasks_service.durable.context import running_in
from tasks_service.store.changes import Change
from tasks_service.store.clients import Created
from tasks_service.store.findings import Finding
from tasks_service.store.memory import MemoryTaskStore
from tasks_service.submission.change_listener import ChangeListener
from tasks_service.submission.process_store import ProcessStore
from tasks_service.submission.submitter import NOBODY, SubmitOptions, Submitter
from tasks_service.worker.attempt import RunningAttempt
from tests.kit.waiting import wait_until
from tests.unit.replay import OWNER, Life

SECRET = "5ad41c8e0b972f63d8e17ba0946cf325"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Kind(Enum):
    LONG = "long"


class Scene(BaseModel):
    name: str = Field(alias="scene-name")
    kind: Kind = Kind.LONG


@dataclass
class Size:
    wide: int
    high: int


class Answer(BaseModel):
    sure: bool


class Followed(MemoryTaskStore):
    """The store in memory, whose changes nobody hears, and which may be out for a while."""

    out_for = 0
    error: type[StoreUnavailable] = StoreUnavailable

    def create(self, event: Create) -> Created:
        if self.out_for:
            self.out_for -= 1
            raise StoreFull() if self.error is StoreFull else StoreUnavailable("it is out")
        return super().create(event)

    def check_secrets(self, secrets: Fingerprints) -> list[Finding]:
        return []

    def changes(self, *, poll: float = 1.0) -> Iterator[Change | None]:
        while True:
            time.sleep(poll)
            yield None


@pytest.fixture
def service() -> TaskService:
    service = TaskService("Acme", settings=Settings(redis_url=None))

    @service.tool()
    def render(scene: str, frames: int = 2, at: datetime | None = None) -> Size:
        return Size(frames, frames)

    @service.tool()
    def draw(scene: Scene) -> str:
        return scene.name

    @service.tool()
    def order(owner: str, ttl: int = 0) -> str:
        return owner

    @service.tool(task="forbidden")
    def instant() -> str:
        return "now"

    @service.tool(ask={"sure": Form("Sure?", Answer)})
    def asking() -> str:
        return "sure"

    return service


@pytest.fixture
def life() -> Life:
    """A task whose tool submits others, on a store that they share."""
    return Life(store=Followed)


class Program:
    """A program, or a tool, that submits to a store in memory."""

    def __init__(self, service: TaskService, store: Followed, **settings: Any) -> None:
        self.store = store
        chosen = Settings(redis_url=None, **settings)
        self.submitter = Submitter(
            service.name, service.former_names, service.tools, chosen, ProcessStore(lambda: store)
        )

    def submit(self, tool: str, arguments: Any = None, /, **named: Any) -> Task:
        return self.task(self.submitter.submit(tool, arguments, named).task_id)

    def submit_with(self, tool: str, /, options: dict[str, Any], **named: Any) -> Task:
        handle = self.submitter.submit(tool, None, named, SubmitOptions(**options))
        return self.task(handle.task_id)

    def task(self, task_id: str) -> Task:
        return self.store.inspect(task_id).task

    def all(self) -> list[Task]:
        return [self.store.inspect(name).task for name in self.store.task_names()]

    def finish(self, task_id: str, result: str = '{"content":[{"type":"text","text":"done"}]}') -> None:
        lease_id = new_token()
        self.store.claim(task_id, Claim(lease_id=lease_id, worker="there"))
        self.store.commit(task_id, CompleteWithResult(lease_id=lease_id, result=result))  # type: ignore[arg-type]


@pytest.fixture
def program(service: TaskService) -> Program:
    return Program(service, Followed())


# --- what is recorded ---------------------------------------------------------------------------------


def test_a_submitted_task_is_recorded_as_a_call_of_the_tool(program: Program) -> None:
    task = program.submit("render", scene="hall", frames=3)

    assert (task.tool, task.queue, task.service, task.phase) == ("render", "tasks", "Acme", Phase.PENDING)
    assert program.store.inspect(task.task_id).arguments == '{"scene":"hall","frames":3}'
    assert (task.owner, task.visible, task.parent) == (NOBODY, False, "")


def test_values_of_python_become_what_a_client_would_send(program: Program) -> None:
    moment = datetime(2027, 1, 31, 12, tzinfo=UTC)
    task = program.submit("render", scene="hall", at=moment)
    assert program.store.inspect(task.task_id).arguments == '{"scene":"hall","at":"2027-01-31T12:00:00Z"}'

    task = program.submit("draw", scene=Scene(**{"scene-name": "hall"}))
    assert program.store.inspect(task.task_id).arguments == '{"scene":{"scene-name":"hall","kind":"long"}}'


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"scene": 3}, InvalidArguments),
        ({}, InvalidArguments),
        ({"scene": "hall", "frame": 3}, InvalidArguments),
        ({"scene": float("nan")}, NotJson),
        ({"scene": object()}, NotJson),
        ({"scene": "x" * 2_000_000}, LimitExceeded),
    ],
)
def test_arguments_are_refused_as_a_front_end_refuses_them(
    program: Program, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        program.submit("render", **arguments)
    assert program.all() == []


def test_an_argument_that_is_called_like_an_option_goes_into_a_mapping(program: Program) -> None:
    with pytest.raises(
        ConfigurationError, match=r"owner= is an option .* submit\('order', \{'owner': \.\.\.\}\)"
    ):
        program.submit_with("order", {"owner": "alice"})

    task = program.submit("order", {"owner": "carol"})
    assert program.store.inspect(task.task_id).arguments == '{"owner":"carol"}'
    with pytest.raises(ConfigurationError, match="by name, or all of them in one mapping"):
        program.submit("order", {"owner": "carol"}, ttl=3)


def test_a_tool_that_is_not_in_this_process_is_refused_with_the_nearest_and_the_way_out(
    program: Program,
) -> None:
    with pytest.raises(ConfigurationError, match=r"did you mean 'render'\? Otherwise import the module"):
        program.submit("rendr", scene="hall")
    with pytest.raises(ConfigurationError, match="as a client does, through a front end"):
        program.submit("something_else")
    with pytest.raises(ConfigurationError, match="expected the name of a tool"):
        program.submit(test_values_of_python_become_what_a_client_would_send)  # type: ignore[arg-type]


def test_a_tool_that_asks_before_it_runs_is_refused(program: Program) -> None:
    with pytest.raises(ConfigurationError, match=r"asks its client before it runs \(ask=sure\)"):
        program.submit("asking")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ttl": 60}, r"ttl=60: expected a datetime.timedelta, as in timedelta\(seconds=60\)"),
        ({"retention": timedelta(days=30)}, "retention: less than 30 days"),
        ({"idempotency_key": "é" * 65}, "text of 1 to 128 bytes"),
        ({"idempotency_key": ""}, "text of 1 to 128 bytes"),
        ({"idempotency_key": "\ud800"}, "text of 1 to 128 bytes"),
        ({"traceparent": "00-1"}, "expected a W3C trace parent"),
        ({"owner": "\ud800"}, "TASKS_API_KEYS has no key of that name"),
        ({"owner": 3}, "the name of an API key, LOCAL_USER, or a Principal"),
        ({"owner": ""}, "TASKS_API_KEYS has no key of that name"),
    ],
)
def test_options_that_cannot_work_are_refused(program: Program, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        program.submit_with("render", options, scene="hall")
    assert program.all() == []


def test_options_of_one_task_replace_those_of_its_tool(program: Program) -> None:
    options = {"ttl": timedelta(hours=3), "retention": timedelta(days=2), "traceparent": TRACE}
    task = program.submit_with("render", options, scene="hall")

    assert (task.policy.ttl_ms, task.policy.retention_ms, task.trace) == (3 * HOUR, 2 * DAY, TRACE)


@pytest.mark.parametrize("options", [{}, {"owner": LOCAL_USER}, {"owner": LOCAL_USER, "visible": False}])
def test_a_task_is_kept_as_long_as_its_tool_says_whether_or_not_clients_see_it(
    service: TaskService, options: dict[str, Any]
) -> None:
    now_ms = 1_700_000_000_000
    program = Program(service, Followed(clock=lambda: now_ms), secret=SecretStr(SECRET))
    task = program.submit_with("render", {**options, "retention": timedelta(hours=5)}, scene="hall")
    now_ms += 2 * HOUR
    program.finish(task.task_id)

    assert program.task(task.task_id).expires_ms == now_ms + 5 * HOUR
    task = program.submit_with("render", {**options, "ttl": timedelta(days=4)}, scene="hall")
    program.finish(task.task_id)
    assert program.task(task.task_id).expires_ms == now_ms + 4 * DAY


# --- owners ----------------------------------------------------------------------------------------------


def test_whose_owner_is_named_sees_the_task_and_of_a_forbidden_tool_nobody_does(
    service: TaskService, tmp_path: Path
) -> None:
    program = Program(service, Followed(), secret=SecretStr(SECRET))
    secret = load_keys(SecretStr(SECRET), (), None, tmp_path).owner_secret

    task = program.submit_with("render", {"owner": "alice"}, scene="hall")
    assert task.owner == owner_of(Principal(issuer=API_KEY_ISSUER, subject="alice"), secret)
    assert task.visible
    assert program.submit_with("render", {"owner": LOCAL_USER}, scene="x").owner == owner_of(
        LOCAL_USER, secret
    )
    assert not program.submit_with("instant", {"owner": "alice"}).visible
    with pytest.raises(ConfigurationError, match="must not become tasks that clients see"):
        program.submit_with("instant", {"owner": "alice", "visible": True})


def test_an_owner_whom_no_key_names_is_refused_with_the_nearest(service: TaskService) -> None:
    program = Program(service, Followed(), secret=SecretStr(SECRET), api_keys="alice:mU3xQ9wzR7kYb2Lc")
    with pytest.raises(ConfigurationError, match="no key of that name; did you mean 'alice'"):
        program.submit_with("render", {"owner": "alicia"}, scene="hall")


def test_no_owner_is_named_and_no_secret_made_where_the_deployments_is_unknown(
    service: TaskService, tmp_path: Path
) -> None:
    program = Program(service, Followed(), data_dir=tmp_path / "data")
    program.submit("render", scene="hall")

    with pytest.raises(ConfigurationError, match=r"set TASKS_SECRET .*data has none"):
        program.submit_with("render", {"owner": "alice"}, scene="hall")
    Program(service, Followed(), data_dir=tmp_path / "data", owner_secret=SECRET).submit_with(
        "render", {"owner": "alice"}, scene="hall"
    )
    assert not (tmp_path / "data").exists()


def test_the_secret_of_the_data_directory_is_used(service: TaskService, tmp_path: Path) -> None:
    secret = load_keys(None, (), None, tmp_path).owner_secret
    task = Program(service, Followed(), data_dir=tmp_path).submit_with("render", {"owner": "al"}, scene="x")
    assert task.owner == owner_of(Principal(issuer=API_KEY_ISSUER, subject="al"), secret)


def test_quotas_hold(service: TaskService) -> None:
    program = Program(service, Followed(limits=Limits(live_per_owner=1)))
    program.submit("render", scene="hall")
    with pytest.raises(QuotaExceeded, match="TASKS_MAX_LIVE_PER_OWNER"):
        program.submit("render", scene="hall")


def test_a_key_leads_to_one_task_and_to_no_other_request(program: Program) -> None:
    first = program.submit_with("render", {"idempotency_key": "row 7"}, scene="hall")
    again = program.submit_with("render", {"idempotency_key": "row 7"}, scene="hall")

    assert again.task_id == first.task_id
    assert len(program.all()) == 1
    with pytest.raises(IdempotencyConflict):
        program.submit_with("render", {"idempotency_key": "row 7"}, scene="kitchen")


def test_without_redis_it_says_what_to_set(service: TaskService) -> None:
    with pytest.raises(ConfigurationError, match="TASKS_REDIS_URL"):
        service.submit("render", scene="hall")


# --- handles ---------------------------------------------------------------------------------------------


def test_a_handle_names_its_task_and_never_its_id(program: Program) -> None:
    handle = program.submitter.submit("render", None, {"scene": "hall"})
    assert str(handle) == f"<TaskHandle of task {task_hash(handle.task_id)}>"
    with pytest.raises(ConfigurationError, match="expected the task_id of a handle"):
        program.submitter.handle(handle, None)  # type: ignore[arg-type]


def test_a_result_is_what_the_function_returned(program: Program) -> None:
    handle = program.submitter.submit("render", None, {"scene": "hall"})
    structured = '{"wide":3,"high":4}'
    program.finish(handle.task_id, f'{{"content":[],"structuredContent":{structured}}}')

    assert handle.result() == Size(3, 4)
    assert asyncio.run(handle.aresult()) == Size(3, 4)


@pytest.mark.parametrize(
    ("result", "value"),
    [
        ('{"content":[],"structuredContent":{"wide":"?"}}', {"wide": "?"}),
        ('{"content":[{"type":"text","text":"3"}]}', "3"),
        ('{"content":[]}', []),
        (
            '{"content":[{"type":"image","data":"","mimeType":"i/x"}]}',
            [{"type": "image", "data": "", "mimeType": "i/x"}],
        ),
    ],
)
def test_a_result_of_an_older_hint_or_of_none_is_what_clients_get(
    program: Program, result: str, value: Any
) -> None:
    handle = program.submitter.submit("render", None, {"scene": "hall"})
    program.finish(handle.task_id, result)
    assert handle.result(timeout=0) == value


def test_a_task_that_has_not_ended_in_time_goes_on(program: Program) -> None:
    handle = program.submitter.submit("render", None, {"scene": "hall"})
    with pytest.raises(TimeoutError, match="did not end within 0 s; it goes on"):
        handle.result(timeout=0)
    with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
        asyncio.run(handle.aresult(timeout=0.05))
    assert handle.status() == "working"


def test_a_cancelled_task_says_so_and_an_ended_one_stays_as_it_is(program: Program) -> None:
    handle = program.submitter.submit("render", None, {"scene": "hall"})
    assert handle.cancel("The shop is closed.")
    assert handle.cancel()
    with pytest.raises(TaskWasCancelled, match="The shop is closed"):
        handle.result()
    other = program.submitter.submit("render", None, {"scene": "hall"})
    program.finish(other.task_id)
    assert not asyncio.run(other.acancel())
    state = asyncio.run(other.aread())
    assert (state.status, state.progress) == ("completed", None)
    assert asyncio.run(other.astatus()) == "completed"


def test_a_result_that_reports_an_error_is_raised(program: Program) -> None:
    handle = program.submitter.submit("render", None, {"scene": "hall"})
    lease_id = new_token()
    program.store.claim(handle.task_id, Claim(lease_id=lease_id, worker="there"))
    result: Any = '{"content":[{"type":"text","text":"There is no such scene."}],"isError":true}'
    program.store.commit(handle.task_id, CompleteWithResult(lease_id=lease_id, result=result, is_error=True))
    with pytest.raises(TaskFailed, match="There is no such scene") as raised:
        handle.result()
    assert raised.value.kind is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_listener_that_has_broken_begins_anew_for_whoever_waits_next() -> None:
    begun: list[threading.Thread] = []
    broken = threading.Event()

    def changes() -> Iterator[Change | None]:
        begun.append(threading.current_thread())
        if len(begun) == 1:
            broken.set()
            raise RuntimeError
        yield Change("task", 1)
        time.sleep(60)

    listener, woken = ChangeListener(changes), threading.Event()
    with listener.listening("task", lambda: None):
        assert broken.wait(60)
    wait_until(lambda: not begun[0].is_alive(), "the first has ended")
    with listener.listening("task", woken.set):
        assert woken.wait(60)


# --- inside a tool ---------------------------------------------------------------------------------------


class Tool:
    """A tool that submits, run attempt by attempt."""

    def __init__(self, service: TaskService, life: Life) -> None:
        self.life = life
        self.program = Program(service, life.store)  # type: ignore[arg-type]
        self.submitter = self.program.submitter

    def children(self) -> list[Task]:
        return [task for task in self.program.all() if task.task_id != self.life.task_id]

    def sync(self, *scenes: str, attempt: RunningAttempt | None = None, **options: Any) -> list[str]:
        with running_in(TaskContext(attempt or self.life.attempt())):
            return [
                self.submitter.submit("render", None, {"scene": scene}, SubmitOptions(**options)).task_id
                for scene in scenes
            ]


@pytest.fixture
def tool(service: TaskService, life: Life) -> Tool:
    return Tool(service, life)


def test_a_child_has_its_parents_owner_and_names_it(tool: Tool) -> None:
    (task_id,) = tool.sync("hall")
    child = tool.program.task(task_id)

    assert (child.owner, child.parent, child.visible) == (OWNER, task_hash(tool.life.task_id), False)
    assert child.capabilities == frozenset()
    (entry,) = tool.life.journal
    assert (entry.kind, entry.name) == (EntryKind.STEP, "submit render")


def test_a_tool_that_runs_again_submits_nothing_again(tool: Tool) -> None:
    attempt = tool.life.attempt()
    first = tool.sync("hall", "hall", attempt=attempt)
    tool.life.lose(attempt)

    assert tool.sync("hall", "hall") == first
    assert len(set(first)) == len(tool.children()) == 2
    assert [entry.name for entry in tool.life.journal] == ["submit render", "submit render#2"]


@pytest.mark.parametrize("key", [None, "row 7"])
def test_a_crash_before_the_step_is_recorded_does_not_submit_twice(tool: Tool, key: str | None) -> None:
    attempt = tool.life.attempt()

    def crash(*_: Any) -> None:
        raise SystemExit

    attempt.record = crash  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        tool.sync("hall", attempt=attempt, idempotency_key=key)
    tool.life.lose(attempt)
    assert (len(tool.children()), tool.life.journal) == (1, ())

    (task_id,) = tool.sync("hall", idempotency_key=key)
    assert [child.task_id for child in tool.children()] == [task_id]


def test_other_arguments_after_a_crash_are_a_changed_tool(tool: Tool) -> None:
    attempt = tool.life.attempt()
    attempt.record = lambda _: (_ for _ in ()).throw(SystemExit)  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        tool.sync("hall", attempt=attempt)
    tool.life.lose(attempt)

    with pytest.raises(HistoryMismatch, match="step 'submit render' with other arguments"):
        tool.sync("kitchen")
    assert len(tool.children()) == 1


def test_other_arguments_after_a_recorded_step_are_a_changed_tool(tool: Tool) -> None:
    attempt = tool.life.attempt()
    tool.sync("hall", attempt=attempt)
    tool.life.lose(attempt)
    with pytest.raises(HistoryMismatch):
        tool.sync("kitchen")
    assert len(tool.children()) == 1


def test_a_conflict_of_a_key_that_the_author_chose_is_the_authors(tool: Tool) -> None:
    attempt = tool.life.attempt()
    tool.sync("hall", idempotency_key="k", attempt=attempt)
    with pytest.raises(IdempotencyConflict):
        tool.sync("kitchen", idempotency_key="k", attempt=attempt)


def test_an_outage_is_waited_for_and_a_full_store_is_not(tool: Tool) -> None:
    store: Any = tool.life.store
    attempt = tool.life.attempt()
    store.out_for = 3
    assert len(tool.sync("hall", attempt=attempt)) == 1

    store.out_for, store.error = 1, StoreFull
    tool.life.lose(attempt)
    with pytest.raises(StoreFull):
        tool.sync("hall", "kitchen")


def test_an_outage_is_not_waited_for_by_an_attempt_that_must_stop(tool: Tool) -> None:
    store: Any = tool.life.store
    attempt = tool.life.attempt()
    store.out_for = 10**9
    threading.Timer(0.1, attempt.request_stop, [WorkerStopping]).start()

    with pytest.raises(StoreUnavailable):
        tool.sync("hall", attempt=attempt)
    assert tool.children() == []


def test_a_step_may_not_submit_or_wait(tool: Tool) -> None:
    context = TaskContext(tool.life.attempt())
    with running_in(context):
        with pytest.raises(RuntimeError, match="Step 'work' may not submit a task"):
            context.step("work", lambda: tool.submitter.submit("render", None, {"scene": "hall"}))
        handle = tool.submitter.submit("render", None, {"scene": "hall"})
        with pytest.raises(RuntimeError, match="Step 'wait' may not wait for a task"):
            context.step("wait", handle.result)


def test_each_kind_of_tool_has_its_own_way(tool: Tool) -> None:
    async def coroutine(context: AsyncTaskContext) -> None:
        with running_in(context):
            with pytest.raises(ConfigurationError, match=r"write await service\.asubmit\('render'\)"):
                tool.submitter.submit("render", None, {"scene": "hall"})
            handle = await tool.submitter.asubmit("render", None, {"scene": "hall"})
            with pytest.raises(ConfigurationError, match=r"write await handle\.aresult\(\)"):
                handle.result()

    attempt = tool.life.attempt(is_async=True)
    asyncio.run(coroutine(AsyncTaskContext(attempt)))
    tool.life.lose(attempt)
    with running_in(TaskContext(tool.life.attempt())):
        with pytest.raises(ConfigurationError, match=r"write service\.submit\('render'\), or make the tool"):
            asyncio.run(tool.submitter.asubmit("render", None, {"scene": "hall"}))
        handle = tool.submitter.submit("render", None, {"scene": "hall"})
        with pytest.raises(ConfigurationError, match=r"write handle\.result\(\)"):
            asyncio.run(handle.aresult())


def test_branches_of_an_async_tool_submit_and_are_matched_by_the_names_of_their_steps(tool: Tool) -> None:
    async def drawn(scene: str, delay: float) -> str:
        await asyncio.sleep(delay)
        options = SubmitOptions(step=f"draw {scene}")
        return (await tool.submitter.asubmit("render", None, {"scene": scene}, options)).task_id

    async def body(attempt: RunningAttempt, *delays: float) -> list[str]:
        with running_in(AsyncTaskContext(attempt)):
            return await asyncio.gather(drawn("hall", delays[0]), drawn("kitchen", delays[1]))

    attempt = tool.life.attempt(is_async=True)
    first = asyncio.run(body(attempt, 0, 0.01))
    tool.life.lose(attempt)
    assert asyncio.run(body(tool.life.attempt(is_async=True), 0.01, 0)) == first
    assert len(tool.children()) == 2


def wait_for_child(tool: Tool, timeout: float | None = None) -> Any:
    """One run of a tool that waits for its child."""
    with running_in(TaskContext(tool.life.attempt())):
        return tool.submitter.submit("render", None, {"scene": "hall"}).result(timeout)


def test_a_tool_that_waits_gives_its_worker_back_and_reads_the_end_but_once(tool: Tool) -> None:
    with pytest.raises(Parked):
        wait_for_child(tool)
    assert tool.life.task.lease is None
    assert 0 < tool.life.task.due_ms - tool.life.now_ms <= MINUTE
    assert [entry.name for entry in tool.life.journal] == ["submit render"]

    (child,) = tool.children()
    tool.program.finish(child.task_id)
    tool.life.now_ms += MINUTE
    with running_in(TaskContext(tool.life.attempt())) as _:
        handle = tool.submitter.submit("render", None, {"scene": "hall"})
        assert handle.result() == "done"
    assert [entry.name for entry in tool.life.journal][1:] == [f"result of {task_hash(child.task_id)}"]


def test_the_end_of_a_child_is_known_after_the_child_is_gone(tool: Tool) -> None:
    attempt = tool.life.attempt()
    with running_in(TaskContext(attempt)):
        handle = tool.submitter.submit("render", None, {"scene": "hall"})
        tool.program.finish(handle.task_id)
        assert handle.result() == "done"
    tool.life.lose(attempt)
    tool.life.now_ms += 5 * HOUR  # the child has expired

    assert wait_for_child(tool) == "done"


def test_a_wait_that_was_too_long_stays_so_in_every_run(tool: Tool) -> None:
    with pytest.raises(Parked):
        wait_for_child(tool, timeout=60)
    tool.life.now_ms += MINUTE
    attempt = tool.life.attempt()
    with running_in(TaskContext(attempt)):
        handle = tool.submitter.submit("render", None, {"scene": "hall"})
        with pytest.raises(TimeoutError, match="within 60 s"):
            handle.result(timeout=60)
    tool.life.lose(attempt)
    tool.program.finish(tool.children()[0].task_id)

    with pytest.raises(TimeoutError, match="within 60 s"):
        wait_for_child(tool, timeout=60)


def test_a_longer_wait_is_looked_after_less_often(tool: Tool) -> None:
    pauses = []
    for _ in range(3):
        with pytest.raises(Parked):
            wait_for_child(tool)
        pauses.append(tool.life.task.due_ms - tool.life.now_ms)
        tool.life.now_ms += 40_000
    assert pauses[0] < 1_500
    assert 9_000 < pauses[1] < pauses[2] < 31_000


def test_a_tool_that_waits_leaves_its_slot_to_the_one_that_it_waits_for(service: TaskService) -> None:
    limits = Limits(running_per_owner={OTHER_QUEUES: 1})
    tool = Tool(service, Life(store=partial(Followed, limits=limits)))
    with running_in(TaskContext(tool.life.attempt())), pytest.raises(Parked):
        handle = tool.submitter.submit("render", None, {"scene": "hall"})
        (child,) = tool.children()
        assert child.slot is Slot.WAITING
        handle.result()

    assert tool.children()[0].slot is Slot.HELD
    tool.program.finish(child.task_id)


def test_an_async_tool_waits_for_its_children_all_at_once(tool: Tool) -> None:
    async def drawn(scene: str) -> str:
        handle = await tool.submitter.asubmit("render", None, {"scene": scene}, SubmitOptions(step=scene))
        said: str = await handle.aresult()
        return f"{scene} {said}"

    async def body(attempt: RunningAttempt) -> list[str]:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        attempt.on_stop(lambda: loop.call_soon_threadsafe(task.cancel))
        with running_in(AsyncTaskContext(attempt)):
            return await asyncio.gather(drawn("hall"), drawn("kitchen"))

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(body(tool.life.attempt(is_async=True)))
    assert (tool.life.phase, tool.life.task.lease) == (Phase.PENDING, None)
    for child in tool.children():
        tool.program.finish(child.task_id)
    tool.life.now_ms += MINUTE

    assert asyncio.run(body(tool.life.attempt(is_async=True))) == ["hall done", "kitchen done"]
