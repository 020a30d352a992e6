"""A front end that stops: whoever waits gets an answer to act on, and no request is lost on the way."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tasks_service import Form
from tasks_service.authoring.library import Library
from tasks_service.authoring.prompt import build_prompt
from tasks_service.authoring.tool import ToolRegistry, build_tool
from tasks_service.domain.task import TaskStatus
from tasks_service.domain.tools import TaskSupport
from tasks_service.extension import IDEMPOTENCY_META
from tasks_service.frontend.timings import Timings
from tests.kit.balancer import balancing
from tests.kit.hand_worker import Worker
from tests.kit.servers import free_port
from tests.kit.serving import registry, serving, settings
from tests.kit.sessions import SessionClient, is_answer, is_request
from tests.kit.stored import ids_of
from tests.kit.waiting import wait_until
from tests.kit.wire import WITHOUT_TASKS, Reply, WireClient

CALLS = 200
"""Calls that wait when the front end is told to stop."""

SURE = {"type": "object", "properties": {"sure": {"type": "boolean"}}}
LISTEN = "subscriptions/listen"
never = threading.Event()
"""What a prompt waits for."""


def greet(name: str) -> str:
    """Say hello."""
    return f"Hello, {name}!"


def alone(name: str) -> str:
    """Never becomes a task."""
    return f"Hello, {name}!"


def asks(name: str) -> str:
    """Asks before there is a task."""
    return f"Hello, {name}!"


def slow_prompt() -> str:
    """Waits."""
    never.wait(60)
    return "there"


@pytest.fixture
def tools() -> ToolRegistry:
    return registry(
        greet,
        build_tool(alone, support=TaskSupport.FORBIDDEN),
        build_tool(asks, ask={"sure": Form("Sure?", SURE)}),
    )


@pytest.fixture
def library() -> Library:
    library = Library()
    library.prompts.add(build_prompt(slow_prompt))
    return library


class Stoppable:
    """A front end that a test stops; the next one has the same store and secret."""

    def __init__(self, begin: Callable[[], Any]) -> None:
        self._begin, self._stack = begin, ExitStack()
        self.port = 0

    def start(self) -> int:
        self.port = self._stack.enter_context(self._begin())
        return self.port

    def stop(self) -> None:
        self._stack.close()


@pytest.fixture
def front_end(redis_url: str, tools: ToolRegistry, library: Library, tmp_path: Path) -> Iterator[Stoppable]:
    configuration = settings(redis_url, tmp_path, drain_delay=0)
    front_end = Stoppable(
        lambda: serving(tools, configuration, library, timings=Timings(stop=0.2, deferral=0.5))
    )
    front_end.start()
    yield front_end
    never.set()
    front_end.stop()
    never.clear()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(CALLS) as pool:
        yield pool


def called(port: int, tool: str, key: str | None = None) -> Reply:
    """What a client without tasks is answered."""
    meta = None if key is None else {IDEMPOTENCY_META: key}
    with WireClient(port, capabilities=WITHOUT_TASKS) as client:
        return client.call(tool, {"name": "Ada"}, meta=meta)


def message_of(reply: Reply) -> Any:
    """The message of an answer, whether it came alone or as an event."""
    if reply.headers["content-type"] == "application/json":
        return reply.json
    return json.loads(reply.body.decode().rpartition("data: ")[2])


def is_waited_for(worker: Worker, number: int) -> Callable[[], bool]:
    return lambda: len(ids_of(worker.store)) == number


def test_200_calls_that_wait_are_answered_with_the_handle_of_their_task(
    front_end: Stoppable, worker: Worker, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    with SessionClient([front_end.port]) as session:
        session.initialize()
        streams = [
            session.open("tools/call", {"name": "greet", "arguments": {"name": "Ada"}})
            for _ in range(CALLS // 2)
        ]
        replies = [pool.submit(called, front_end.port, "greet") for _ in range(CALLS // 2)]
        wait_until(is_waited_for(worker, CALLS), "all calls are recorded")

        front_end.stop()

        answers = [message_of(reply.result()) for reply in replies]
        answers += [stream.find(is_answer) for stream in streams]
    told = [answer["result"]["content"][0]["text"] for answer in answers]
    assert all("is still running in the background" in text and "task_result" in text for text in told)
    handles = [text.split('"')[1] for text in told]
    assert set(handles) == set(ids_of(worker.store))
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []

    worker.run(handles[0])
    with WireClient(front_end.start(), capabilities=WITHOUT_TASKS) as client:
        result = client.call("task_result", {"task_id": handles[0]}).result
    assert result["content"][0]["text"] == "Hello, Ada!"


def test_a_call_that_cannot_be_handed_over_is_cancelled_and_says_that_it_may_be_made_again(
    front_end: Stoppable, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    with SessionClient([front_end.port], version="2025-06-18") as session:
        session.initialize()
        stream = session.open("tools/call", {"name": "alone", "arguments": {"name": "Ada"}})
        reply = pool.submit(called, front_end.port, "alone")
        wait_until(is_waited_for(worker, 2), "both calls are recorded")

        front_end.stop()

        for answer in (message_of(reply.result()), stream.find(is_answer)):
            assert answer["error"]["code"] == -32603
            assert answer["error"]["data"]["retryAfterMs"] > 0
            assert answer["error"]["data"]["mayHaveBeenRecorded"] is True
            assert "was cancelled" in answer["error"]["message"]
    assert reply.result().status == 200  # of a 503, proxies would make the call again
    for task_id in ids_of(worker.store):
        assert worker.task(task_id).status is TaskStatus.CANCELLED


def test_an_execution_is_kept_for_a_caller_that_comes_back_with_its_idempotency_key(
    front_end: Stoppable, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    reply = pool.submit(called, front_end.port, "alone", "mine")
    wait_until(is_waited_for(worker, 1), "the call is recorded")

    front_end.stop()

    assert "same idempotency key" in message_of(reply.result())["error"]["message"]
    worker.start()
    again = called(front_end.start(), "alone", "mine")
    assert again.result["content"][0]["text"] == "Hello, Ada!"
    assert len(ids_of(worker.store)) == 1


def test_a_stream_that_its_client_can_go_on_with_ends_and_goes_on_elsewhere(
    front_end: Stoppable, worker: Worker
) -> None:
    call = {"jsonrpc": "2.0", "id": 5, "method": "tools/call"}
    call["params"] = {"name": "alone", "arguments": {"name": "Ada"}}
    with SessionClient([front_end.port]) as session, ThreadPoolExecutor(1) as pool:
        session.initialize()
        reply = pool.submit(session.post, call)
        wait_until(is_waited_for(worker, 1), "the call is recorded")

        front_end.stop()

        ended = reply.result().body.decode()
        assert '"id":5' not in ended
        event_id = ended.rpartition("id: ")[2].split()[0]
        worker.run_next()
        session.ports = [front_end.start()]
        rest = session.post(b"", method="GET", accept="text/event-stream", last_event_id=event_id)
    assert message_of(rest)["result"]["content"][0]["text"] == "Hello, Ada!"


def test_what_waits_for_something_else_is_told_to_try_again_or_how_its_task_is(
    front_end: Stoppable, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    with WireClient(front_end.port) as client, SessionClient([front_end.port]) as session:
        session.initialize()
        task_id = client.task("greet", {"name": "Ada"})
        watching = pool.submit(client.request, LISTEN, {"notifications": {"taskIds": [task_id]}})
        prompt = pool.submit(prompted, front_end.port)
        result = session.open("tasks/result", {"taskId": task_id})
        question = session.open("tools/call", {"name": "asks", "arguments": {"name": "Ada"}})
        companion = session.open("tools/call", {"name": "task_result", "arguments": {"task_id": task_id}})
        slow = slow_body(front_end.port)
        question.find(is_request("elicitation/create"))

        front_end.stop()

        assert b'"result"' in watching.result().body  # it was ended in order
        assert (prompt.result().status, prompt.result().headers["retry-after"]) == (503, "1")
        assert prompt.result().error["data"]["mayHaveBeenRecorded"] is False
        for stream in (result, question):
            assert stream.find(is_answer)["error"]["data"]["reason"] == "stopping"
        told = companion.find(is_answer)["result"]["content"][0]["text"]
        assert "is still running in the background" in told
        assert slow.recv(20).split()[1] == b"503"
        slow.close()
    assert ids_of(worker.store) == [task_id]


def prompted(port: int) -> Reply:
    with WireClient(port) as client:
        return client.request("prompts/get", {"name": "slow_prompt"})


def slow_body(port: int) -> socket.socket:
    """A request of which not everything has arrived."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 100"
    connection.sendall(f"{head}\r\n\r\n{{".encode())
    return connection


def test_it_serves_on_not_ready_until_its_proxies_have_noticed(
    redis_url: str, tools: ToolRegistry, tmp_path: Path, busy_worker: Worker
) -> None:
    front_end = Stoppable(lambda: serving(tools, settings(redis_url, tmp_path, drain_delay=1.5)))
    with WireClient(front_end.start()) as kept, ThreadPoolExecutor(1) as pool:
        assert kept.probe("/readyz").status == 200
        began = time.monotonic()
        stopping = pool.submit(front_end.stop)

        def unready() -> bool:
            with WireClient(front_end.port) as client:
                return client.probe("/readyz").json == {"status": "stopping"}

        wait_until(unready, "it is not ready")
        assert kept.probe("/healthz").status == 200
        reply = called(front_end.port, "greet")
        if not stopping.done():  # a busy machine may have taken all that time
            assert reply.result["content"][0]["text"] == "Hello, Ada!"
            assert reply.headers["connection"] == "close"
        stopping.result()
    assert time.monotonic() - began >= 1.5


def test_no_request_is_lost_that_is_sent_while_it_stops(front_end: Stoppable) -> None:
    outcomes: list[str] = []
    over = threading.Event()

    def storm() -> None:
        while not over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", front_end.port, timeout=30)
            try:
                connection.connect()
            except ConnectionRefusedError:
                time.sleep(0.01)
                continue
            try:
                connection.request("GET", "/healthz")
                outcomes.append(str(connection.getresponse().status))
            except OSError as error:
                outcomes.append(repr(error))
            finally:
                connection.close()

    with ThreadPoolExecutor(8) as pool:
        storms = [pool.submit(storm) for _ in range(8)]
        for _ in range(3):
            served = len(outcomes)
            wait_until(lambda served=served: len(outcomes) > served + 30, "requests are answered")  # type: ignore[misc]
            front_end.stop()
            front_end.start()
        over.set()
        for one in storms:
            one.result()
    assert Counter(outcomes) == {"200": len(outcomes)}


def test_no_call_fails_behind_a_balancer_while_front_ends_are_restarted_in_turn(
    redis_url: str, tools: ToolRegistry, tmp_path: Path, busy_worker: Worker
) -> None:
    """What the guide's proxies do in earnest (tests/proxies), with the simplest that there is."""
    made = [
        Stoppable(
            partial(
                serving,
                tools,
                settings(redis_url, tmp_path, drain_delay=0),
                timings=Timings(stop=0.2),
                port=port,
            )
        )
        for port in (free_port(), free_port())
    ]
    outcomes: Counter[str] = Counter()
    over = threading.Event()

    def calls(port: int) -> None:
        while not over.is_set():
            try:
                text = called(port, "greet").result["content"][0]["text"]
                outcomes["ok" if text == "Hello, Ada!" or "task_result" in text else text] += 1
            except (OSError, http.client.HTTPException, ValueError) as error:
                outcomes[repr(error)] += 1

    with balancing([front_end.start() for front_end in made]) as port, ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(calls, port) for _ in range(4)]
        for front_end in made:
            served = outcomes.total()
            wait_until(lambda served=served: outcomes.total() > served + 20, "calls are answered")  # type: ignore[misc]
            front_end.stop()
            front_end.start()
        over.set()
        for client in clients:
            client.result()
    for front_end in made:
        front_end.stop()
    assert outcomes == {"ok": outcomes.total()}
