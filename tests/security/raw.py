"""Connections that send exactly these bytes, from an address of their own."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.kit.wire import WireClient

PATIENCE = 30.0
"""Seconds after which a server that says nothing has hung."""


class Answer(NamedTuple):
    """One HTTP answer; a status of 0 if the connection was closed without one."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["error"]["message"])

    @property
    def code(self) -> int | None:
        found = json.loads(self.body).get("error", {}).get("code")
        return None if found is None else int(found)


class _Received:
    """What comes on a socket, of which each answer takes no more than its own."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rb")
        self.readline, self.read, self.read1, self.readinto, self.peek = (
            self._file.readline,
            self._file.read,
            self._file.read1,
            self._file.readinto,
            self._file.peek,
        )

    def makefile(self, *_: Any) -> _Received:
        return self

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def end(self) -> None:
        self._file.close()


class RawConnection:
    """A connection to a front end of this machine."""

    def __init__(self, port: int, source: str = "127.0.0.1", receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.bind((source, 0))
        self.socket.connect(("127.0.0.1", port))
        self._received = _Received(self.socket)

    def send(self, *parts: bytes) -> RawConnection:
        for part in parts:
            self.socket.sendall(part)
        return self

    def send_as_far_as_possible(self, part: bytes) -> None:
        """Send to a server that may close meanwhile."""
        try:
            self.socket.sendall(part)
        except OSError:
            return

    def answer(self, method: str = "POST") -> Answer:
        """The next answer."""
        response = http.client.HTTPResponse(self._received, method=method)  # type: ignore[arg-type]
        try:
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())
        except (http.client.BadStatusLine, ConnectionError):
            return Answer(0, {}, b"")

    def rest(self) -> bytes:
        """All that comes until the server closes."""
        parts = []
        try:
            while part := self._received.makefile("rb").read1(65536):
                parts.append(part)
        except ConnectionError:
            pass
        return b"".join(parts)

    def is_closed(self) -> bool:
        """Whether the server has closed the connection, without waiting for it."""
        self.socket.setblocking(False)
        try:
            while self.socket.recv(65536):
                pass
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        finally:
            self.socket.settimeout(PATIENCE)
        return True

    def close(self) -> None:
        self._received.end()
        self.socket.close()


@contextmanager
def connected(port: int, source: str = "127.0.0.1", **options: Any) -> Iterator[RawConnection]:
    connection = RawConnection(port, source, **options)
    try:
        yield connection
    finally:
        connection.close()


def ask(port: int, *parts: bytes, source: str = "127.0.0.1") -> Answer:
    """The answer to these bytes."""
    with connected(port, source) as connection:
        return connection.send(*parts).answer()


def request_bytes(
    port: int,
    method: str = "tools/list",
    params: dict[str, Any] | None = None,
    *,
    key: str | None = None,
    **headers: str | None,
) -> bytes:
    """A whole request, as `WireClient` would send it."""
    with WireClient(port, key=key) as client:
        body = json.dumps(client.message(method, params or {})).encode()
        sent = client.headers(method, params or {}, **headers)
    return with_head(
        "POST /mcp HTTP/1.1", {"host": f"127.0.0.1:{port}", **sent, "content-length": str(len(body))}, body
    )


def with_head(line: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    lines = [line, *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
