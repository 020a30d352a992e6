"""The guide's proxies, in front of two front ends that are restarted in turn.

They need nginx, HAProxy and Caddy; so this has a target of its own, `make proxies`. What the front ends do
for it is tried without a proxy in `tests/protocol/test_stopping.py`.
"""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.kit.pages import ROOT, blocks
from tests.kit.servers import free_port
from tests.kit.sessions import SessionClient, is_answer
from tests.kit.tls import Authority
from tests.kit.waiting import wait_until
from tests.kit.wire import WITHOUT_TASKS, Reply, WireClient

from .running import HOST, KEY, PROXIES, Deployment, deployed, listens, nginx, proxied

pytestmark = pytest.mark.proxies

CALLS = 1_000
RESTARTS = 4
CLIENTS = 8
PADDING = 6_000
"""Bytes of each of two headers, which are long, and fit in HAProxy's buffer with the rest."""

each_proxy = pytest.mark.parametrize("name", sorted(PROXIES))


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("deployment")) as deployment:
        yield deployment


@pytest.fixture
def port(name: str, deployment: Deployment, tmp_path: Path) -> Iterator[int]:
    with proxied(name, tmp_path, [front_end.port for front_end in deployment.front_ends]) as port:
        yield port


class Caller:
    """A client that makes calls of every kind, and notes what became of them."""

    def __init__(self, port: int, outcomes: Counter[str]) -> None:
        self._port, self._outcomes = port, outcomes

    def run(self, enough: Callable[[], bool]) -> None:
        kinds = (self.plain, self.plain, self.task, self.waiting, self.in_session)
        number = 0
        while not enough():
            kind = kinds[number % len(kinds)]
            number += 1
            try:
                outcome = kind()
            except (OSError, http.client.HTTPException, ValueError, AssertionError, KeyError) as error:
                outcome = f"{kind.__name__}: {error!r}"
            self._outcomes[outcome] += 1

    def plain(self) -> str:
        with WireClient(self._port, capabilities=WITHOUT_TASKS, key=KEY) as client:
            return "ok" if told(call(client, "add")) == "5" else "another result"

    def task(self) -> str:
        with WireClient(self._port, key=KEY) as client:
            task = call(client, "add").result
            while task["status"] == "working":
                time.sleep(0.05)
                task = client.request("tasks/get", {"taskId": task["taskId"]}, host=HOST).result
            return "ok" if task["result"]["content"][0]["text"] == "5" else "another result"

    def waiting(self) -> str:
        with WireClient(self._port, capabilities=WITHOUT_TASKS, key=KEY) as client:
            text = told(call(client, "tell"))
            return "ok" if text == "done" or "task_result" in text else text

    def in_session(self) -> str:
        with Session(self._port) as session:
            session.initialize()
            answer = session.open("tools/call", ADDING).find(is_answer)
            return "ok" if answer["result"]["content"][0]["text"] == "5" else "another result"


class Session(SessionClient):
    """A session under the public name."""

    def __init__(self, port: int) -> None:
        super().__init__([port], key=KEY)

    def headers(self, **changes: str | None) -> dict[str, str]:
        return super().headers(**{"host": HOST, **changes})


ADDING: dict[str, Any] = {"name": "add", "arguments": {"left": 2, "right": 3}}


def call(client: WireClient, tool: str, **headers: str) -> Reply:
    arguments = {"left": 2, "right": 3} if tool == "add" else {}
    return client.request("tools/call", {"name": tool, "arguments": arguments}, host=HOST, **headers)


def told(reply: Reply) -> str:
    assert reply.status == 200, (reply.status, reply.body[:200])
    return str(reply.result["content"][0]["text"])


@each_proxy
def test_no_call_fails_while_front_ends_are_restarted_in_turn(
    name: str, port: int, deployment: Deployment, measured: Callable[[str, str], None]
) -> None:
    outcomes: Counter[str] = Counter()
    before, began = deployment.restarts, time.monotonic()

    def enough() -> bool:
        return outcomes.total() >= CALLS and deployment.restarts >= before + RESTARTS

    with deployment.restarting(), ThreadPoolExecutor(CLIENTS) as pool:
        for caller in [pool.submit(Caller(port, outcomes).run, enough) for _ in range(CLIENTS)]:
            caller.result()

    calls, restarts = outcomes.total(), deployment.restarts - before
    failed = calls - outcomes["ok"]
    measured(
        "C11",
        f"{name}: {failed} of {calls} calls failed in {restarts} restarts, {time.monotonic() - began:.0f} s",
    )
    assert outcomes == {"ok": calls}


@each_proxy
def test_reports_reach_the_client_as_they_are_made(name: str, port: int, deployment: Deployment) -> None:
    with Session(port) as session:
        session.initialize()
        params = {"name": "tell", "arguments": {}, "_meta": {"progressToken": 1}}
        stream = session.open("tools/call", params)
        first = stream.next()
        began = time.monotonic()
        stream.find(is_answer)

    assert first is not None
    assert first["method"] == "notifications/progress"
    assert time.monotonic() - began > 0.5  # of two seconds; buffered, all would come at once


@each_proxy
def test_long_headers_and_large_bodies_get_through(name: str, port: int, deployment: Deployment) -> None:
    with WireClient(port, capabilities=WITHOUT_TASKS, key=KEY) as client:
        assert told(call(client, "add", x_padding="x" * PADDING, x_more="x" * PADDING)) == "5"
        message = json.dumps(client.message("tools/call", ADDING)).encode()
        headers = client.headers("tools/call", ADDING, host=HOST)
        assert told(client.post(message + b" " * 1_900_000, headers)) == "5"


@contextmanager
def overloaded() -> Iterator[int]:
    """A front end that refuses everything for want of resources."""

    class Refusing(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._answer(503, b'{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"too much to do"}}')

        def do_GET(self) -> None:
            self._answer(200, b"{}")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.send_header("retry-after", "1")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("name", ["haproxy", "nginx"])
def test_what_an_overloaded_front_end_refuses_is_sent_to_another(
    name: str, deployment: Deployment, tmp_path: Path
) -> None:
    with overloaded() as refusing, proxied(name, tmp_path, [refusing, deployment.front_ends[1].port]) as port:
        for _ in range(6):
            with WireClient(port, capabilities=WITHOUT_TASKS, key=KEY) as client:
                assert told(call(client, "add")) == "5"


@each_proxy
def test_where_all_are_overloaded_the_client_is_told_so(name: str, tmp_path: Path) -> None:
    with (
        overloaded() as one,
        overloaded() as other,
        proxied(name, tmp_path, [one, other]) as port,
        WireClient(port, capabilities=WITHOUT_TASKS, key=KEY) as client,
    ):
        reply = call(client, "add")

    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert reply.error["message"] == "too much to do"


def test_nginx_speaks_tls_with_the_lines_of_the_page_of_a_deployment(tmp_path: Path) -> None:
    (lines,) = blocks(ROOT / "docs/guide-deployment.md", "nginx")
    authority, port = Authority(tmp_path), free_port()
    certificate = str(authority.issue())
    tls = lines.text.replace("listen 443", f"listen 127.0.0.1:{port}")
    for name in ("/etc/nginx/tools.pem", "/etc/nginx/tools.key"):
        assert name in tls
        tls = tls.replace(name, certificate)
    command = nginx(tmp_path, port, [free_port(), free_port()])
    file = tmp_path / "nginx.conf"
    plain = f"    listen 127.0.0.1:{port};\n"
    assert plain in file.read_text()
    file.write_text(file.read_text().replace(plain, tls))

    with subprocess.Popen(command, cwd=tmp_path) as process:
        try:
            wait_until(lambda: listens(port), "nginx listens")
            trusted = ssl.create_default_context(cafile=str(authority.file))
            with closing(http.client.HTTPSConnection("127.0.0.1", port, context=trusted)) as client:
                client.request("GET", "/mcp")
                assert client.getresponse().status == 502, "no front end is there"
        finally:
            process.terminate()
