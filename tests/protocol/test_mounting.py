"""The front end in an application that exists already."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from tasks_service import ConfigurationError
from tasks_service.authoring.tool import ToolRegistry, build_tool
from tasks_service.frontend.app import FrontEnd, create_app
from tasks_service.frontend.core.catalogue import FixedCatalogue
from tasks_service.store.outbox import NoOutbox
from tests.kit.hand_worker import Worker
from tests.kit.serving import registry, settings
from tests.kit.sessions import VERSION as HANDSHAKE
from tests.kit.waiting import wait_until
from tests.kit.wire import WITHOUT_TASKS, WireClient

KEY = "mU3xQ9wzR7kYb2Lc"


def greet(name: str) -> str:
    """Say hello."""
    return f"Hello, {name}!"


@pytest.fixture
def tools() -> ToolRegistry:
    return registry(build_tool(greet))


@pytest.fixture
def front_end(redis_url: str, tools: ToolRegistry, tmp_path: Path) -> FrontEnd:
    return front_end_of(redis_url, tools, tmp_path)


def front_end_of(redis_url: str, tools: ToolRegistry, data_dir: Path, **changes: Any) -> FrontEnd:
    return create_app(
        name="Mounted",
        version="1",
        instructions=None,
        catalogue=FixedCatalogue("Test service", tools),
        settings=settings(redis_url, data_dir, **changes),
        outbox=NoOutbox(),
    )


async def home(_: Request) -> PlainTextResponse:
    return PlainTextResponse("home")


def shop(front_end: FrontEnd, *, starts_it: bool = True) -> Starlette:
    """An application with pages and a lifespan of its own."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        if not starts_it:
            yield
            return
        async with front_end.lifespan():
            yield

    return Starlette(routes=[Route("/", home), Mount("/tasks", front_end)], lifespan=lifespan)


@contextmanager
def served(app: ASGIApp, host: str = "127.0.0.1", **options: Any) -> Iterator[int]:
    config = uvicorn.Config(app, log_level="warning", lifespan="on", ws="none", **options)
    server = uvicorn.Server(config)
    listener = socket.create_server((host, 0))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), "the server starts")
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


class MountedClient(WireClient):
    """Finds the endpoint below a prefix."""

    def __init__(self, port: int, prefix: str = "/tasks", **options: Any) -> None:
        super().__init__(port, **options)
        self.prefix = prefix

    def post(self, body: Any, headers: dict[str, str], *, method: str = "POST", path: str = "/mcp") -> Any:
        return super().post(body, headers, method=method, path=f"{self.prefix}{path}")


def test_tools_are_called_below_the_prefix(front_end: FrontEnd, busy_worker: Worker) -> None:
    with served(shop(front_end)) as port, MountedClient(port, capabilities=WITHOUT_TASKS) as client:
        result = client.call("greet", {"name": "Ada"}).result
        ready = client.probe("/readyz")
        elsewhere = client.probe("/nothing")
    assert result["content"][0]["text"] == "Hello, Ada!"
    assert (ready.status, ready.json["status"]) == (200, "ready")
    assert elsewhere.status == 404


def test_the_outer_applications_own_pages_stay(front_end: FrontEnd) -> None:
    with served(shop(front_end)) as port, WireClient(port) as client:
        assert client.probe("/").body == b"home"
        assert client.probe("/mcp").status == 404


def test_sessions_work_below_the_prefix(front_end: FrontEnd) -> None:
    params = {
        "protocolVersion": HANDSHAKE,
        "capabilities": {},
        "clientInfo": {"name": "wire", "version": "0"},
    }
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    with served(shop(front_end)) as port, MountedClient(port) as client:
        reply = client.post(json.dumps(message).encode(), headers)
    assert reply.result["protocolVersion"] == HANDSHAKE
    assert reply.headers["mcp-session-id"]


def test_an_application_without_a_lifespan_of_its_own_takes_the_front_ends(front_end: FrontEnd) -> None:
    app = Starlette(routes=[Mount("/agents/tasks", front_end)], lifespan=front_end.lifespan)
    with served(app) as port, MountedClient(port, "/agents/tasks") as client:
        assert client.request("tools/list").result["tools"][0]["name"] == "greet"


def test_a_prefix_that_a_proxy_has_taken_off_does_no_harm(front_end: FrontEnd) -> None:
    with served(shop(front_end), root_path="/public") as port, MountedClient(port) as client:
        assert client.request("tools/list").status == 200
    with served(front_end, root_path="/public") as port, WireClient(port) as alone:
        assert alone.request("tools/list").status == 200


def test_a_front_end_that_nobody_starts_says_how_to(
    front_end: FrontEnd, caplog: pytest.LogCaptureFixture
) -> None:
    with served(shop(front_end, starts_it=False)) as port, MountedClient(port) as client:
        reply = client.request("tools/list")
        ready = client.probe("/readyz")
    assert reply.status == 503
    assert "enter its lifespan" in reply.json["error"]
    assert ready.status == 503
    assert any("enter its lifespan" in record.getMessage() for record in caplog.records)


def test_a_lifespan_is_entered_once(front_end: FrontEnd) -> None:
    problems: list[ConfigurationError] = []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with front_end.lifespan():
            try:
                async with front_end.lifespan():
                    yield
            except ConfigurationError as error:
                problems.append(error)
                yield

    with served(Starlette(lifespan=lifespan)):
        assert "once" in str(problems[0])


def test_a_front_end_can_be_started_again(front_end: FrontEnd) -> None:
    for _ in range(2):
        with served(shop(front_end)) as port, MountedClient(port) as client:
            assert client.request("tools/list").status == 200


def own_address() -> str:
    """An address of this machine that is not a loopback one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address that others could reach")
        return str(probe.getsockname()[0])


def status_at(address: str, port: int, **headers: str) -> int:
    """What a client that lies about the host gets."""
    connection = http.client.HTTPConnection(address, port, timeout=60)
    try:
        with WireClient(port) as client:
            body = json.dumps(client.message("tools/list", {})).encode()
            sent = client.headers("tools/list", {}, host="localhost", **headers)
        connection.request("POST", "/tasks/mcp", body, sent)
        return connection.getresponse().status
    finally:
        connection.close()


def test_without_keys_only_this_machine_is_served_whatever_the_outer_server_listens_on(
    front_end: FrontEnd, redis_url: str, tools: ToolRegistry, tmp_path: Path
) -> None:
    address = own_address()
    with served(shop(front_end), host="0.0.0.0") as port:
        assert status_at(address, port) == 403
        assert status_at("127.0.0.1", port) == 200

    with_keys = front_end_of(redis_url, tools, tmp_path, api_keys={"ada": KEY})
    with served(shop(with_keys), host="0.0.0.0") as port:
        assert status_at(address, port, authorization=f"Bearer {KEY}") == 200
