"""Whatever class of exception a tool raises, its task ends, in every pool, and its process goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

import pytest
from click.testing import CliRunner

from tasks_service.cli import commands
from tasks_service.domain.names import task_hash
from tasks_service.domain.task import TaskStatus
from tests.kit.audit import audit, told
from tests.kit.raised import AUTHORS, CLASSES, Make
from tests.kit.servers import RedisServer
from tests.kit.workers import client_of, worker_node

from .raising_app import service

TOOLS = ("raise_at_once", "raise_async", "raise_while_read", "raise_in_step", "raise_in_branch")
SLOTS = 2
Measured = Callable[[str, str], None]


@pytest.fixture(scope="module", params=["prefork", "threads", "solo"])
def pool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer()
    yield server
    server.close()


def raised_in_a_worker(server: RedisServer, pool: str, classes: Mapping[str, Make]) -> int:
    """Have a worker's tools raise each of these; how many tasks that took. All must end as failed calls."""
    node = worker_node(server.url, app="tests.faults.raising_app", pool=pool, concurrency=SLOTS)
    try:
        assert node.ready(), node.logs()
        with client_of(service, server.url) as client:
            before = node.container.processes()
            tasks = [(client.call(tool, name=name), tool, name) for name in classes for tool in TOOLS]
            wrong = []
            for task, tool, name in tasks:
                view = client.ended(task)
                ended = (view.task.status, view.task.is_error, view.task.attempts, view.task.claims)
                kept = client.record(task).exception
                if ended != (TaskStatus.COMPLETED, True, 1, 1) or kept is None:
                    wrong.append(f"{tool}({name!r}): {ended}, {kept}"[:500])
            assert not wrong, "\n".join(wrong)
            assert node.container.processes() == before, node.logs()[-3_000:]
            assert node.container.status == "running", node.logs()[-9_000:]
            shown(server, [task_hash(task.task_id) for task, _, _ in tasks])
    finally:
        node.teardown()
    found = audit(server.url, beside=[r"ts:mq:.*"])
    assert not found, told(found)
    return len(tasks)


def shown(server: RedisServer, names: list[str]) -> None:
    """An operator can read why each has failed."""
    for name in names:
        done = CliRunner(env={"TASKS_REDIS_URL": server.url}).invoke(commands, ["inspect", "--json", name])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["exception"]["type"]
    done = CliRunner(env={"TASKS_REDIS_URL": server.url}).invoke(commands, ["inspect", names[-1]])
    assert done.exit_code == 0, done.output


def test_some_of_what_a_tool_may_raise_ends_its_task_alone(server: RedisServer) -> None:
    ends = {name: make for name, make in CLASSES.items() if not isinstance(make(), Exception)}
    few = ("answers nothing", "is nothing", "does not say its class", "a longer chain", "cannot be pickled")
    raised_in_a_worker(server, "prefork", {**ends, **{name: AUTHORS[name] for name in few}})


@pytest.mark.hostile
@pytest.mark.timeout(1_800)
def test_whatever_a_tool_raises_ends_its_task_alone(
    server: RedisServer, pool: str, measured: Measured
) -> None:
    number = raised_in_a_worker(server, pool, {**CLASSES, **AUTHORS})
    what = f"{len(CLASSES) + len(AUTHORS)} classes in {len(TOOLS)} ways"
    measured("B17", f"{pool}: {what}: {number} tasks of {number} ended, 0 processes")
