"""A front end at the other end of two real pipes, and a client that writes exactly what a test says."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tasks_service.authoring.library import Library
from tasks_service.authoring.tool import ToolRegistry
from tasks_service.frontend.app import create_app
from tasks_service.frontend.core.catalogue import FixedCatalogue
from tasks_service.frontend.stdio import opened
from tasks_service.settings import Settings
from tasks_service.store.outbox import NoOutbox

from .wire import VERSION, WITHOUT_TASKS

Message = dict[str, Any]
SECONDS = 100.0


class PipeClient:
    """Reads all that comes, in a thread, and finds messages in it.

    Args:
        sink: The descriptor that the server reads.
        source: The descriptor that the server writes to.
    """

    def __init__(self, sink: int, source: int) -> None:
        self._sink, self._source = sink, source
        self._arrived: queue.Queue[Message | None] = queue.Queue()
        self._unclaimed: list[Message] = []
        self.lines: list[bytes] = []
        self.capabilities: dict[str, Any] = WITHOUT_TASKS
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def write(self, text: bytes) -> None:
        while text:
            text = text[os.write(self._sink, text) :]

    def send(self, message: Any) -> None:
        self.write(json.dumps(message).encode() + b"\n")

    def request(self, identity: Any, method: str, **params: Any) -> None:
        """A request of a session."""
        self.send({"jsonrpc": "2.0", "id": identity, "method": method, "params": params})

    def notify(self, method: str, **params: Any) -> None:
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def modern(self, identity: Any, method: str, **params: Any) -> None:
        """A request of 2026-07-28."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": VERSION,
            "io.modelcontextprotocol/clientInfo": {"name": "pipe", "version": "0"},
            "io.modelcontextprotocol/clientCapabilities": self.capabilities,
            **params.pop("_meta", {}),
        }
        self.request(identity, method, **params, _meta=meta)

    def find(self, wanted: Callable[[Message], bool]) -> Message:
        """The first message of a kind that nobody has taken yet; others stay."""
        for message in self._unclaimed:
            if wanted(message):
                self._unclaimed.remove(message)
                return message
        while True:
            arrived = self._arrived.get(timeout=SECONDS)
            assert arrived is not None, f"the server has closed its end; unclaimed: {self._unclaimed}"
            if wanted(arrived):
                return arrived
            self._unclaimed.append(arrived)

    def answer(self, identity: Any) -> Message:
        """The answer to a request."""
        return self.find(lambda message: "method" not in message and message["id"] == identity)

    def result(self, identity: Any) -> Any:
        message = self.answer(identity)
        assert "error" not in message, message
        return message["result"]

    def error(self, identity: Any) -> Any:
        message = self.answer(identity)
        assert "result" not in message, message
        return message["error"]

    def initialize(self, version: str = "2025-11-25", **capabilities: Any) -> Any:
        self.request(
            "init",
            "initialize",
            protocolVersion=version,
            capabilities=capabilities,
            clientInfo={"name": "pipe", "version": "0"},
        )
        result = self.result("init")
        self.notify("notifications/initialized")
        return result

    def wait_for_disconnect(self) -> None:
        """End the server's input."""
        with suppress(OSError):
            os.close(self._sink)

    def rest(self) -> list[Message]:
        """All that nobody has taken, once the server has closed its end."""
        while (message := self._arrived.get(timeout=SECONDS)) is not None:
            self._unclaimed.append(message)
        return self._unclaimed

    def _read(self) -> None:
        with os.fdopen(self._source, "rb") as stream:
            for line in stream:
                self.lines.append(line)
                self._arrived.put(json.loads(line))
        self._arrived.put(None)


class PipedFrontEnd:
    """A front end in a thread of this process, and its client."""

    def __init__(self, tools: ToolRegistry, configuration: Settings, library: Library | None) -> None:
        self._app = create_app(
            name="Test service",
            version="1.2.3",
            instructions=None,
            catalogue=FixedCatalogue("Test service", tools),
            settings=configuration,
            outbox=NoOutbox(),
            library=library,
        )
        self._limits = configuration.limits
        self._source, sink = os.pipe()
        source, self._sink = os.pipe()
        self.client = PipeClient(sink, source)
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self.thread.start()

    async def _serve(self) -> None:
        try:
            async with opened(
                self._app, source=self._source, sink=self._sink, limits=self._limits, store_timeout=10.0
            ) as front:
                await front.run(asyncio.Event())
        finally:
            os.close(self._sink)

    def ended(self, seconds: float = 10.0) -> bool:
        self.thread.join(seconds)
        return not self.thread.is_alive()


@contextmanager
def piped(
    tools: ToolRegistry, configuration: Settings, library: Library | None = None
) -> Iterator[PipedFrontEnd]:
    front_end = PipedFrontEnd(tools, configuration, library)
    yield front_end
    front_end.client.wait_for_disconnect()
    assert front_end.ended()
