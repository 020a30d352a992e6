"""A client of 2026-07-28 that sends exactly what a test says."""

from __future__ import annotations

import http.client
import json
import select
import socket
from dataclasses import dataclass
from typing import Any

VERSION = "2026-07-28"
TASKS = "io.modelcontextprotocol/tasks"
WITH_TASKS: dict[str, Any] = {"extensions": {TASKS: {}}}
WITHOUT_TASKS: dict[str, Any] = {}
TASK_METHODS = ("tasks/get", "tasks/update", "tasks/cancel")
NAMED = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}


@dataclass(frozen=True)
class Reply:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The message; of a stream, which an answer that takes long may be, the last one."""
        body = self.body
        if self.headers.get("content-type") == "text/event-stream":
            *_, body = (line[5:] for line in body.splitlines() if line.startswith(b"data:"))
        return json.loads(body)

    @property
    def result(self) -> Any:
        message = self.json
        assert "error" not in message, message
        return message["result"]

    @property
    def error(self) -> Any:
        message = self.json
        assert "result" not in message, message
        return message["error"]


class WireClient:
    """Sends exactly what a test says, over one connection at a time."""

    def __init__(
        self,
        port: int,
        *,
        capabilities: dict[str, Any] = WITH_TASKS,
        key: str | None = None,
        path: str = "/mcp",
    ) -> None:
        self.port, self.capabilities, self.key, self.path = port, capabilities, key, path
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def __enter__(self) -> WireClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def wait_for_disconnect(self) -> None:
        """End the connection, whoever waits for an answer on it."""
        if self._connection.sock is not None:
            self._connection.sock.shutdown(socket.SHUT_RDWR)

    def message(self, method: str, params: dict[str, Any], **meta: Any) -> dict[str, Any]:
        """A request of this revision; `meta` replaces or adds keys of the envelope, None removes them."""
        envelope = {
            "io.modelcontextprotocol/protocolVersion": VERSION,
            "io.modelcontextprotocol/clientInfo": {"name": "wire", "version": "0"},
            "io.modelcontextprotocol/clientCapabilities": self.capabilities,
            **{name: value for name, value in meta.items() if value is not None},
        }
        return {"jsonrpc": "2.0", "id": 7, "method": method, "params": {**params, "_meta": envelope}}

    def headers(self, method: str, params: dict[str, Any], **changes: str | None) -> dict[str, str]:
        """The headers that go with a request; `changes` use underscores for hyphens, None leaves one out."""
        headers: dict[str, str | None] = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": VERSION,
            "mcp-method": method,
            "authorization": None if self.key is None else f"Bearer {self.key}",
        }
        if method in NAMED and isinstance(params.get(NAMED[method]), str):
            headers["mcp-name"] = params[NAMED[method]]
        headers.update({name.replace("_", "-"): value for name, value in changes.items()})
        return {name: value for name, value in headers.items() if value is not None}

    def request(
        self, method: str, params: dict[str, Any] | None = None, *, meta: Any = None, **headers: str | None
    ) -> Reply:
        """Send a well-formed request, but for what is changed."""
        params = params or {}
        body = json.dumps(self.message(method, params, **(meta or {}))).encode()
        return self.post(body, self.headers(method, params, **headers))

    def post(
        self, body: Any, headers: dict[str, str], *, method: str = "POST", path: str | None = None
    ) -> Reply:
        self._leave_if_left()
        self._connection.request(method, path or self.path, body, headers)
        response = self._connection.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def _leave_if_left(self) -> None:
        """A server ends a connection on which nothing comes for some seconds; then another is opened."""
        if self._connection.sock is not None:
            poll = select.poll()  # a test may have more files open than `select` takes
            poll.register(self._connection.sock, select.POLLIN)
            if poll.poll(0):
                self._connection.close()

    def call(self, tool: str, arguments: Any = None, *, meta: Any = None) -> Reply:
        return self.request("tools/call", {"name": tool, "arguments": arguments or {}}, meta=meta)

    def task(self, tool: str, arguments: Any = None, *, meta: Any = None) -> str:
        """Call a tool, be given a task; its id."""
        result = self.call(tool, arguments, meta=meta).result
        assert result["resultType"] == "task", result
        return str(result["taskId"])

    def get(self, task_id: str) -> Any:
        return self.request("tasks/get", {"taskId": task_id}).result

    def update(self, task_id: str, answers: Any) -> Reply:
        return self.request("tasks/update", {"taskId": task_id, "inputResponses": answers})

    def probe(self, path: str) -> Reply:
        return self.post(b"", {}, method="GET", path=path)
