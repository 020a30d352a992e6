"""A real front end on a real HTTP server, a wire-level client, and a worker small enough to see through."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from tasks_service.authoring.library import Library
from tasks_service.authoring.tool import Tool, ToolRegistry, build_tool
from tasks_service.domain.errors import InvalidTransition, ProtocolError, TaskNotFound
from tasks_service.domain.events import Checkpoint, Claim, CompleteWithResult, FailWithError, RequestInput
from tasks_service.domain.events import Question as OpenQuestion
from tasks_service.domain.questions import encode
from tasks_service.domain.task import Failure, FailureKind, Task, new_token
from tasks_service.durable.questions import Question, question_digest
from tasks_service.frontend.app import create_app
from tasks_service.frontend.uvicorn_server import DrainingServer
from tasks_service.settings import Settings
from tasks_service.store.outbox import NoOutbox, Outbox
from tasks_service.store.redis import RedisTaskStore

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


def registry(*tools: Tool | Callable[..., Any]) -> ToolRegistry:
    """Tools by their functions, or ready made."""
    made = ToolRegistry()
    for tool in tools:
        made.add(tool if isinstance(tool, Tool) else build_tool(tool))
    return made


def settings(redis_url: str | None, data_dir: Path, **changes: Any) -> Settings:
    """Settings that no environment of the machine leaks into."""
    values = {"redis_url": redis_url, "data_dir": data_dir, "host": "127.0.0.1", **changes}
    return Settings(_env_file=None, **values)


def asked(question: Question) -> OpenQuestion:
    """A question as a worker commits it."""
    return OpenQuestion(request=encode(question.recorded()), digest=question_digest(question))


@contextmanager
def serving(
    tools: ToolRegistry,
    configuration: Settings,
    library: Library | None = None,
    outbox: Outbox | None = None,
) -> Iterator[int]:
    """Serve the front end on a free port of this machine, in a thread; yields the port."""
    app = create_app(
        name="Test service",
        version="1.2.3",
        instructions="Call the tools.",
        tools=tools,
        settings=configuration,
        outbox=outbox or NoOutbox(),
        library=library,
    )
    config = uvicorn.Config(app, log_level="warning", lifespan="on", ws="none", timeout_graceful_shutdown=3)
    server = DrainingServer(app, config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=_run, args=(server, listener), daemon=True)
    thread.start()
    try:
        until("the server starts", lambda: server.started or not thread.is_alive())
        assert server.started, "the front end refused to start; its log says why"
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


def _run(server: uvicorn.Server, listener: socket.socket) -> None:
    """A refusal to start ends the thread, as it ends a process."""
    with suppress(SystemExit):
        server.run([listener])


def until(what: str, condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait for something to come true; what it was."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds} s in vain until {what}"
        time.sleep(0.005)
    return value


@dataclass(frozen=True)
class Reply:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

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
        self, port: int, *, capabilities: dict[str, Any] = WITH_TASKS, key: str | None = None
    ) -> None:
        self.port, self.capabilities, self.key = port, capabilities, key
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

    def post(self, body: Any, headers: dict[str, str], *, method: str = "POST", path: str = "/mcp") -> Reply:
        self._connection.request(method, path, body, headers)
        response = self._connection.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

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


class Worker:
    """Plays the worker over the store's public face: by hand, or in a thread that runs every tool at once."""

    def __init__(self, redis_url: str, tools: ToolRegistry) -> None:
        self.store = RedisTaskStore(redis_url, pool=2)
        self.tools = tools
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def pending(self) -> list[str]:
        return self.store.pending("tasks", until_ms=self.store.now_ms() + 1_000, limit=100)

    def claim(self, task_id: str) -> tuple[Task, dict[str, Any]]:
        claimed = self.store.claim(task_id, Claim(lease_id=new_token(), worker="test"))
        return claimed.task, json.loads(claimed.arguments)

    def run(self, task_id: str) -> Task:
        """Take a task, run its tool, and write down what it returned or raised."""
        task, arguments = self.claim(task_id)
        assert task.lease is not None
        tool = self.tools.find(task.tool)
        assert tool.fn is not None
        try:
            rendered = tool.render(tool.fn(**tool.bind(arguments)))
        except ProtocolError as error:
            failure = Failure(kind=FailureKind.AUTHOR, message=error.message, code=error.code)
            return self.store.commit(task_id, FailWithError(lease_id=task.lease.lease_id, failure=failure))
        done = CompleteWithResult(
            lease_id=task.lease.lease_id, result=rendered.result, is_error=rendered.is_error
        )
        return self.store.commit(task_id, done)

    def run_next(self) -> Task:
        """Run whatever comes first."""
        return self.run(until("a task is pending", self.pending)[0])

    def ask(self, task_id: str, inputs: Any) -> Task:
        task, _ = self.claim(task_id)
        assert task.lease is not None
        return self.store.commit(task_id, RequestInput(lease_id=task.lease.lease_id, inputs=inputs))

    def note(self, task: Task, **notes: Any) -> Task:
        assert task.lease is not None
        return self.store.commit(task.task_id, Checkpoint(lease_id=task.lease.lease_id, **notes))

    def fail(self, task_id: str, failure: Failure) -> Task:
        task, _ = self.claim(task_id)
        assert task.lease is not None
        return self.store.commit(task_id, FailWithError(lease_id=task.lease.lease_id, failure=failure))

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(30)
        self.store.close()

    def _work(self) -> None:
        while not self._stop.wait(0.005):
            for task_id in self.pending():
                with suppress(InvalidTransition, TaskNotFound):
                    self.run(task_id)
