"""A page in a real browser calls a service: headless Chromium, where there is one."""

from __future__ import annotations

import http.server
import json
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import pytest
from pydantic import Field

from tests.kit.hand_worker import Worker
from tests.kit.serving import registry, serving, settings

BROWSER = shutil.which("chromium")
KEY = "0123456789abcdef"
SECONDS = 100

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium on this machine")


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
                self.wfile.write((Path(__file__).parent / "page.html").read_bytes())

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
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [f"--user-data-dir={profile}", f"http://localhost:{pages.port}/?{query}"]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
