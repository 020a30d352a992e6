"""A wire-level client of the revisions with sessions, which talks to any of several front ends."""

from __future__ import annotations

import http.client
import itertools
import json
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from .wire import Reply

VERSION = "2025-11-25"
RELATED = "io.modelcontextprotocol/related-task"
ACCEPT = "application/json, text/event-stream"
EVERYTHING: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}

Message = dict[str, Any]


class Stream:
    """A response that is read as it comes: JSON, or events."""

    def __init__(
        self, port: int, method: str, body: bytes | None, headers: dict[str, str], path: str = "/mcp"
    ) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection.connect()
        self._socket = self._connection.sock
        self._connection.request(method, path, body, headers)
        self._messages: queue.Queue[Message | None] = queue.Queue()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.begun = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            response = self._connection.getresponse()
            self.status, self.headers = response.status, {k.lower(): v for k, v in response.getheaders()}
            if "event-stream" not in self.headers.get("content-type", ""):
                body = response.read()
                self.begun.set()
                if body:
                    self._messages.put(json.loads(body))
            else:
                self.begun.set()
                while line := response.readline():
                    if line.startswith(b"data: "):
                        self._messages.put(json.loads(line[6:]))
        except (OSError, http.client.HTTPException, AttributeError, ValueError):
            """The test has closed it, or the server was killed."""
        finally:
            self.begun.set()
            self._messages.put(None)

    def next(self, seconds: float = 60.0) -> Message | None:
        """The next message; None at the end of the stream."""
        return self._messages.get(timeout=seconds)

    def find(self, wanted: Callable[[Message], Any], seconds: float = 60.0) -> Message:
        """The next message of a kind; others are passed over."""
        while (message := self.next(seconds)) is not None:
            if wanted(message):
                return message
        raise AssertionError("the stream ended without it")

    def arrived(self) -> list[Message]:
        """What has come so far."""
        messages = []
        with suppress(queue.Empty):
            while (message := self._messages.get_nowait()) is not None:
                messages.append(message)
        return messages

    def rest(self) -> list[Message]:
        """All messages until the end."""
        return [message for message in iter(self.next, None) if message is not None]

    def close(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            """It was closed already."""
        self._thread.join(30)
        self._connection.close()


class SessionClient:
    """One session, over several front ends: `at` says which of them gets a message."""

    def __init__(
        self,
        ports: Sequence[int],
        *,
        version: str = VERSION,
        capabilities: Any = EVERYTHING,
        key: str | None = None,
        path: str = "/mcp",
    ) -> None:
        self.path = path
        self.ports, self.version, self.capabilities, self.key = ports, version, capabilities, key
        self.session_id: str | None = None
        self._ids = itertools.count(1)
        self._streams: list[Stream] = []

    def __enter__(self) -> SessionClient:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._streams:
            stream.close()

    def headers(self, **changes: str | None) -> dict[str, str]:
        headers: dict[str, str | None] = {
            "content-type": "application/json",
            "accept": ACCEPT,
            "mcp-protocol-version": None if self.session_id is None else self.version,
            "mcp-session-id": self.session_id,
            "authorization": None if self.key is None else f"Bearer {self.key}",
            **{name.replace("_", "-"): value for name, value in changes.items()},
        }
        return {name: value for name, value in headers.items() if value is not None}

    def initialize(self, at: int = 0) -> Any:
        """Shake hands; the result."""
        params = {
            "protocolVersion": self.version,
            "capabilities": self.capabilities,
            "clientInfo": {"name": "wire", "version": "0"},
        }
        stream = self.open("initialize", params, at=at)
        answer = stream.next()
        assert answer is not None
        assert stream.status == 200, answer
        self.session_id = stream.headers.get("mcp-session-id")
        self.notify("notifications/initialized", at=at)
        return answer["result"]

    def open(
        self, method: str, params: Any = None, *, at: int = 0, identity: Any = None, **headers: str | None
    ) -> Stream:
        """Send a request; its answer as it comes."""
        message = {"jsonrpc": "2.0", "id": identity or next(self._ids), "method": method}
        if params is not None:
            message["params"] = params
        return self._open(at, "POST", json.dumps(message).encode(), self.headers(**headers))

    def listen(self, *, at: int = 0) -> Stream:
        """Open the session's own stream."""
        stream = self._open(at, "GET", None, self.headers(accept="text/event-stream"))
        assert stream.begun.wait(10)
        return stream

    def _open(self, at: int, method: str, body: bytes | None, headers: dict[str, str]) -> Stream:
        stream = Stream(self.ports[at], method, body, headers, self.path)
        self._streams.append(stream)
        return stream

    def request(self, method: str, params: Any = None, *, at: int = 0, **headers: str | None) -> Message:
        """Send a request; the last message of its answer."""
        return self.open(method, params, at=at, **headers).rest()[-1]

    def result(self, method: str, params: Any = None, *, at: int = 0) -> Any:
        message = self.request(method, params, at=at)
        assert "error" not in message, message
        return message["result"]

    def error(self, method: str, params: Any = None, *, at: int = 0) -> Any:
        message = self.request(method, params, at=at)
        assert "error" in message, message
        return message["error"]

    def notify(self, method: str, params: Any = None, *, at: int = 0) -> Reply:
        message = {"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})}
        return self.post(message, at=at)

    def respond(self, identity: Any, result: Any, *, at: int = 0) -> Reply:
        """Answer a request of the server."""
        return self.post({"jsonrpc": "2.0", "id": identity, "result": result}, at=at)

    def post(self, message: Any, *, at: int = 0, method: str = "POST", **headers: str | None) -> Reply:
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[at], timeout=60)
        try:
            connection.request(method, self.path, body, self.headers(**headers))
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def task(
        self, tool: str, arguments: Any = None, *, at: int = 0, ttl: int | None = None, meta: Any = None
    ) -> str:
        """Call a tool as a task; its id."""
        params = {"name": tool, "arguments": arguments or {}, "task": {} if ttl is None else {"ttl": ttl}}
        if meta is not None:
            params["_meta"] = meta
        return str(self.result("tools/call", params, at=at)["task"]["taskId"])

    def get(self, task_id: str, *, at: int = 0) -> Any:
        return self.result("tasks/get", {"taskId": task_id}, at=at)


def is_request(method: str) -> Callable[[Message], bool]:
    return lambda message: message.get("method") == method


def is_answer(message: Message) -> bool:
    return "result" in message or "error" in message
