"""A page in a real browser calls a service of another origin, in both revisions; so does the Inspector."""

from __future__ import annotations

import http.server
import json
import os
import queue
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import pytest
from pydantic import Field

from tests.kit.environments import NotInstallable, npm_directory
from tests.kit.hand_worker import Worker
from tests.kit.serving import registry, serving, settings

from .chromium import FLAGS, chromium, command, missing, node

KEY = "mU3xQ9wzR7kYb2Lc"
HERE = Path(__file__).parent
SECONDS = 100

pytestmark = [pytest.mark.browsers, pytest.mark.timeout(600)]


def greet(name: str) -> str:
    """Say hello."""
    return f"Hello, {name}!"


def tell(message: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Message"})]) -> str:
    """Pass a message on."""
    return message


class PageServer:
    """Serves the page, and takes what it reports."""

    def __init__(self) -> None:
        self.reports: queue.Queue[Any] = queue.Queue()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("content-type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write((HERE / "page.html").read_bytes())

            def do_POST(self) -> None:
                server.reports.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def pages() -> Iterator[PageServer]:
    server = PageServer()
    yield server
    server.close()


def visit(pages: PageServer, service: str, profile: Path) -> Any:
    """Open the page in a browser; what it reports."""
    query = urlencode({"service": service, "key": KEY})
    browser = subprocess.Popen(
        command(f"http://localhost:{pages.port}/?{query}", profile),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return pages.reports.get(timeout=SECONDS)
    finally:
        browser.terminate()
        browser.wait(30)


def test_a_page_of_an_allowed_origin_uses_the_service_and_one_of_another_reads_nothing(
    redis_url: str, tmp_path: Path, pages: PageServer
) -> None:
    tools = registry(greet, tell)
    worker = Worker(redis_url, tools)
    worker.start()
    allowed = {"api_keys": f"page:{KEY}", "allowed_origins": f"http://localhost:{pages.port}"}
    try:
        with serving(tools, settings(redis_url, tmp_path / "a", **allowed)) as port:
            said = visit(pages, f"http://127.0.0.1:{port}/mcp", tmp_path / "profile")
    finally:
        worker.close()

    assert set(said.pop("tools")) >= {"greet", "tell"}
    assert said == {
        "told": "hello",
        "session": True,
        "initialized": 202,
        "stream": "text/event-stream",
        "streamed": True,
        "greeted": "Hello, page!",
        "deleted": 200,
        "refused": [401, 'Bearer realm="tasks-service"'],
    }

    allowed["allowed_origins"] = "https://elsewhere.example.com"
    with serving(tools, settings(redis_url, tmp_path / "b", **allowed)) as port:
        said = visit(pages, f"http://127.0.0.1:{port}/mcp", tmp_path / "profile")

    assert set(said) == {"callWithoutSession failed", "callInSession failed", "readRefusals failed"}
    assert {failure.partition(":")[0] for failure in said.values()} == {"TypeError"}


@contextmanager
def inspector() -> Iterator[tuple[Path, int]]:
    """The pages of the Inspector on a port of their own; yields where its packages are, and the port."""
    try:
        home = npm_directory(HERE / "locks" / "inspector")
    except NotInstallable as reason:
        missing(str(reason))
        raise
    pages = home / "node_modules" / "@modelcontextprotocol" / "inspector-client" / "dist"

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing."""

    handler = partial(Handler, directory=str(pages))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield home, server.server_port
    finally:
        server.shutdown()
        server.server_close()


def test_the_inspectors_direct_mode_lists_and_runs_a_tool_from_the_browser(
    redis_url: str, tmp_path: Path
) -> None:
    tools = registry(greet, tell)
    worker = Worker(redis_url, tools)
    worker.start()
    picture = Path(os.environ.get("TASKS_TEST_PICTURES") or tmp_path) / "inspector.png"
    try:
        with inspector() as (home, page_port):
            allowed = {"api_keys": f"page:{KEY}", "allowed_origins": f"http://localhost:{page_port}"}
            with serving(tools, settings(redis_url, tmp_path, **allowed)) as port:
                told = {
                    "packages": str(home / "node_modules"),
                    "chromium": chromium(),
                    "flags": FLAGS,
                    "page": f"http://localhost:{page_port}/",
                    "service": f"http://127.0.0.1:{port}/mcp",
                    "key": KEY,
                    "picture": str(picture),
                }
                program = [node(), str(HERE / "programs" / "inspector.mjs"), json.dumps(told)]
                ran = subprocess.run(program, capture_output=True, text=True, timeout=SECONDS, check=False)
    finally:
        worker.close()

    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    said = json.loads(ran.stdout)
    assert {"greet", "tell"} <= set(said["tools"])
    assert "Hello, browser!" in said["result"]
    # By the browser itself, across origins: no proxy was between.
    assert {"POST", "GET"} <= set(said["methods"])
    assert said["proxied"] == []
    assert picture.stat().st_size > 10_000
