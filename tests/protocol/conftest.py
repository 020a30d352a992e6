"""A front end with tools of every kind, its client, and its worker."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from tasks_service import ToolAnnotations
from tasks_service.authoring.library import Library
from tasks_service.authoring.tool import ToolRegistry, build_tool
from tasks_service.domain.errors import ProtocolError
from tasks_service.domain.tools import TaskSupport
from tasks_service.frontend.timings import Timings
from tests.kit.hand_worker import Worker
from tests.kit.servers import RedisServer
from tests.kit.serving import registry, serving, settings
from tests.kit.sessions import SessionClient
from tests.kit.wire import WITHOUT_TASKS, WireClient


class Report(BaseModel):
    title: str
    pages: int


def greet(name: str) -> str:
    """Say hello."""
    return f"Hello, {name}!"


def add(left: int, right: int = 1) -> int:
    """Add two numbers."""
    return left + right


def report(title: str) -> Report:
    """Write a report."""
    return Report(title=title, pages=3)


def names() -> list[str]:
    """List names."""
    return ["ada", "grace"]


def perhaps() -> int | None:
    """Find nothing."""
    return None


def soon(name: str) -> str:
    """Say hello, usually at once."""
    return f"Hello, {name}!"


def late(name: str) -> str:
    """Say hello, usually later."""
    return f"Hello, {name}!"


def echo(value: dict[str, object]) -> str:
    """Take anything."""
    return str(len(value))


def broken() -> str:
    """Refuse."""
    raise ProtocolError(4050, "the author says no")


def tell(message: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Message"})]) -> str:
    """Pass a message on; gateways may route by it."""
    return message


def alone() -> str:
    """Never becomes a task."""
    return "alone"


def heavy() -> str:
    """Always becomes a task."""
    return "heavy"


@pytest.fixture
def tools() -> ToolRegistry:
    return registry(
        greet,
        build_tool(add, title="Addition", annotations=ToolAnnotations(read_only_hint=True)),
        report,
        names,
        perhaps,
        echo,
        tell,
        broken,
        build_tool(soon, grace_ms=20_000),
        build_tool(late, grace_ms=300),
        build_tool(alone, support=TaskSupport.FORBIDDEN),
        build_tool(heavy, support=TaskSupport.REQUIRED),
    )


@pytest.fixture
def library() -> Library:
    """What is offered beside the tools: nothing, unless a test says otherwise."""
    return Library()


@pytest.fixture
def timings() -> Timings:
    """How long front ends wait; `@pytest.mark.parametrize("timings", ...)` says otherwise."""
    return Timings()


@pytest.fixture
def port(
    redis_url: str, tools: ToolRegistry, library: Library, tmp_path: Path, timings: Timings
) -> Iterator[int]:
    """The port of a front end in single-user mode."""
    with serving(tools, settings(redis_url, tmp_path), library, timings=timings) as port:
        yield port


@pytest.fixture
def client(port: int) -> Iterator[WireClient]:
    """A client that takes tasks."""
    with WireClient(port) as client:
        yield client


@pytest.fixture
def plain(port: int) -> Iterator[WireClient]:
    """A client that knows nothing of tasks."""
    with WireClient(port, capabilities=WITHOUT_TASKS) as client:
        yield client


@pytest.fixture
def worker(redis_url: str, tools: ToolRegistry) -> Iterator[Worker]:
    """A worker that runs what it is told to."""
    worker = Worker(redis_url, tools)
    yield worker
    worker.close()


@pytest.fixture
def busy_worker(worker: Worker) -> Worker:
    """A worker that runs everything at once."""
    worker.start()
    return worker


@pytest.fixture
def ports(
    redis_url: str, tools: ToolRegistry, library: Library, tmp_path: Path, timings: Timings
) -> Iterator[list[int]]:
    """Two front ends that share nothing but Redis and the secret."""
    configuration = settings(redis_url, tmp_path)
    with (
        serving(tools, configuration, library, timings=timings) as first,
        serving(tools, configuration, library, timings=timings) as second,
    ):
        yield [first, second]


@pytest.fixture
def session(ports: list[int]) -> Iterator[SessionClient]:
    """A session of 2025-11-25 that can be asked everything."""
    with SessionClient(ports) as client:
        client.initialize()
        yield client


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for requests that wait."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A redis-server that may be killed, and keeps what it has acknowledged."""
    server = RedisServer("--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.close()
