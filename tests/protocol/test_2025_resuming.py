"""Calls of 2025-11-25 whose client is let go while the tool sleeps, and comes back for the answer."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

import pytest

from tasks_service.authoring.tool import ToolRegistry, build_tool
from tasks_service.domain.events import Sleep
from tests.kit.hand_worker import Worker
from tests.kit.serving import registry
from tests.kit.sessions import SessionClient
from tests.kit.stored import ids_of
from tests.kit.waiting import wait_until

NAP: dict[str, Any] = {"name": "nap", "arguments": {"name": "Ada"}}


def nap(name: str) -> str:
    """Greet, after a while."""
    return f"Good morning, {name}!"


def doze(name: str) -> str:
    """Greet, after a while."""
    return f"Good morning, {name}!"


@pytest.fixture
def tools() -> ToolRegistry:
    return registry(build_tool(nap, release_client=True), doze)


@dataclass(frozen=True)
class Sent:
    """One event as it stood on the wire."""

    id: str
    retry: int | None
    data: str

    @property
    def message(self) -> Any:
        return json.loads(self.data)


def events(body: bytes) -> list[Sent]:
    found = []
    for block in body.decode().replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split(":", 1) for line in block.splitlines() if line and line[0] != ":")
        if fields:
            retry = fields.get("retry")
            found.append(Sent(fields.get("id", "").strip(), retry and int(retry), fields["data"].strip()))
    return found


def put_to_sleep(worker: Worker, task_id: str, milliseconds: int) -> None:
    task, _ = worker.claim(task_id)
    assert task.lease is not None
    worker.store.commit(task_id, Sleep(lease_id=task.lease.lease_id, delay_ms=milliseconds))


def run_when_awake(worker: Worker) -> None:
    (task_id,) = ids_of(worker.store)
    due_ms = worker.store.inspect(task_id).task.due_ms
    wait_until(lambda: worker.store.now_ms() >= due_ms, "the time has come")
    worker.run(task_id)


def let_go(session: SessionClient, worker: Worker, milliseconds: int = 60_000, **call: Any) -> Sent:
    """What a client is sent that waits for a tool which falls asleep."""
    stream = Raw(
        session, "POST", {"jsonrpc": "2.0", "id": "nap", "method": "tools/call", "params": NAP | call}
    )
    put_to_sleep(worker, worker.recorded(), milliseconds)
    sent = events(stream.rest())
    assert [event.data for event in sent] == [""] * len(sent), "no answer, and no other message"
    return sent[-1]


class Raw:
    """One HTTP exchange, whose body is read as it is."""

    def __init__(
        self, session: SessionClient, method: str, message: Any = None, *, at: int = 0, **headers: str
    ) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", session.ports[at], timeout=30)
        body = None if message is None else json.dumps(message)
        self._connection.request(method, "/mcp", body, session.headers(**headers))

    def rest(self) -> bytes:
        self.response = self._connection.getresponse()
        body = self.response.read()
        self._connection.close()
        return body


def come_back(session: SessionClient, event_id: str, *, at: int = 0) -> Raw:
    return Raw(session, "GET", at=at, accept="text/event-stream", last_event_id=event_id)


def test_a_client_is_let_go_while_the_tool_sleeps_and_told_when_to_come_back(
    session: SessionClient, worker: Worker
) -> None:
    event = let_go(session, worker, 60_000)

    assert event.id
    assert event.retry is not None
    assert 50_000 < event.retry <= 60_000


def test_any_front_end_gives_the_answer_to_who_comes_back(session: SessionClient, worker: Worker) -> None:
    event = let_go(session, worker, 1_200)
    resumed = come_back(session, event.id, at=1)
    run_when_awake(worker)

    *_, answer = events(resumed.rest())

    assert resumed.response.getheader("content-type") == "text/event-stream"
    assert answer.message["id"] == "nap"
    assert answer.message["result"]["content"] == [{"type": "text", "text": "Good morning, Ada!"}]


def test_who_comes_back_after_the_end_gets_the_answer_too(session: SessionClient, worker: Worker) -> None:
    event = let_go(session, worker, 1_200)
    run_when_awake(worker)

    *_, answer = events(come_back(session, event.id).rest())

    assert answer.message["result"]["content"][0]["text"] == "Good morning, Ada!"


def test_a_client_that_came_back_is_kept(session: SessionClient, worker: Worker) -> None:
    event = let_go(session, worker, 3_000)
    resumed = come_back(session, event.id)
    run_when_awake(worker)

    assert events(resumed.rest())[-1].message["id"] == "nap"


def test_a_call_that_came_back_can_be_cancelled(session: SessionClient, worker: Worker) -> None:
    event = let_go(session, worker, 60_000)
    resumed = come_back(session, event.id, at=1)
    (task_id,) = ids_of(worker.store)

    def cancelled() -> bool:
        session.notify("notifications/cancelled", {"requestId": "nap"})
        return str(worker.store.inspect(task_id).task.status) == "cancelled"

    wait_until(cancelled, "the execution is cancelled")
    assert all(sent.data == "" for sent in events(resumed.rest()))


@pytest.mark.parametrize("event_id", ["1", "", "x" * 200])
def test_an_id_that_nobody_sent_is_refused(session: SessionClient, event_id: str) -> None:
    raw = come_back(session, event_id)

    assert "Last-Event-ID" in json.loads(raw.rest())["error"]["message"]
    assert raw.response.status == 400


def test_an_id_is_good_for_its_session_alone(
    session: SessionClient, ports: list[int], worker: Worker
) -> None:
    event = let_go(session, worker)
    with SessionClient(ports) as other:
        other.initialize()
        raw = come_back(other, event.id)
        raw.rest()

    assert raw.response.status == 400


def test_a_short_sleep_lets_nobody_go(session: SessionClient, worker: Worker) -> None:
    stream = session.open("tools/call", NAP)
    put_to_sleep(worker, worker.recorded(), 300)
    run_when_awake(worker)

    answer = stream.next()
    assert answer is not None
    assert answer["result"]["content"][0]["text"] == "Good morning, Ada!"


def test_other_tools_keep_their_client(session: SessionClient, worker: Worker) -> None:
    stream = session.open("tools/call", {**NAP, "name": "doze"})
    put_to_sleep(worker, worker.recorded(), 1_200)
    run_when_awake(worker)

    answer = stream.next()
    assert answer is not None
    assert answer["result"]["content"][0]["text"] == "Good morning, Ada!"


def test_clients_of_earlier_revisions_keep_their_connection(ports: list[int], worker: Worker) -> None:
    with SessionClient(ports, version="2025-06-18") as earlier:
        earlier.initialize()
        stream = earlier.open("tools/call", NAP)
        put_to_sleep(worker, worker.recorded(), 1_200)
        run_when_awake(worker)

        answer = stream.next()
        assert answer is not None
        assert answer["result"]["content"][0]["text"] == "Good morning, Ada!"


def test_a_client_that_names_streams_first_is_given_one(session: SessionClient) -> None:
    stream = session.open("tools/list", accept="text/event-stream, application/json")

    assert stream.next() is not None
    assert stream.headers["content-type"] == "text/event-stream"


@pytest.mark.parametrize(
    "accept", ["application/json, text/event-stream", "text/event-stream;q=0.1, application/json"]
)
def test_a_client_that_would_rather_have_json_is_given_that(session: SessionClient, accept: str) -> None:
    stream = session.open("tools/list", accept=accept)

    assert stream.next() is not None
    assert stream.headers["content-type"] == "application/json"
