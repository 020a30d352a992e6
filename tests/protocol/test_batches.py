"""Several messages at once: 2025-03-26 has that, and no other revision."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks_service.authoring.tool import ToolRegistry
from tests.kit.hand_worker import Worker
from tests.kit.pipes import piped
from tests.kit.serving import settings
from tests.kit.sessions import SessionClient, Stream
from tests.kit.waiting import wait_until
from tests.kit.wire import WireClient


def request(identity: int, method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": identity, "method": method, "params": params}


def call(identity: int, name: str) -> dict[str, Any]:
    return request(identity, "tools/call", name="greet", arguments={"name": name})


CANCELLED = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}}


@pytest.fixture
def batching(ports: list[int]) -> Iterator[SessionClient]:
    with SessionClient(ports, version="2025-03-26") as client:
        client.initialize()
        yield client


def by_id(answers: Any) -> dict[int, Any]:
    return {answer["id"]: answer for answer in answers}


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream, application/json"])
def test_a_batch_is_answered_in_one_piece(batching: SessionClient, busy_worker: Worker, accept: str) -> None:
    batch = [
        call(1, "Ada"),
        CANCELLED,
        request(2, "ping"),
        request(3, "no/such"),
        call(4, "Grace"),
        request(5, "tools/call", name=3),
    ]

    reply = batching.post(batch, accept=accept)

    assert reply.status == 200
    text = reply.body.split(b"data: ")[-1] if b"data: " in reply.body else reply.body
    answers = by_id(json.loads(text))
    assert answers[1]["result"]["content"][0]["text"] == "Hello, Ada!"
    assert answers[2]["result"] == {}
    assert answers[3]["error"]["code"] == -32601
    assert answers[4]["result"]["content"][0]["text"] == "Hello, Grace!"
    assert answers[5]["error"]["message"] == "name: expected text"
    assert len(answers) == 5


def test_a_request_of_a_batch_can_be_cancelled_by_itself(batching: SessionClient, worker: Worker) -> None:
    batch = json.dumps([call(1, "Ada"), request(2, "ping")]).encode()
    stream = Stream(batching.ports[0], "POST", batch, batching.headers())
    wait_until(worker.pending, "the call is recorded")

    batching.notify("notifications/cancelled", {"requestId": 1}, at=1)

    answers: Any = stream.next()
    assert [answer["id"] for answer in answers] == [2]
    stream.close()


def test_a_batch_without_requests_is_acknowledged(batching: SessionClient) -> None:
    reply = batching.post([CANCELLED, {"jsonrpc": "2.0", "id": "x", "result": {}}])

    assert (reply.status, reply.body) == (202, b"")


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ([], "A batch of 0 messages: expected 1 to 64"),
        ([request(n, "ping") for n in range(65)], "A batch of 65 messages"),
        ([request(1, "ping"), {"jsonrpc": "2.0", "id": 2, "method": 3}], "method: expected text"),
        ([request(1, "ping"), [request(2, "ping")]], "A batch: expected one"),
        ([request(1, "initialize")], "initialize: expected alone"),
    ],
)
def test_a_batch_that_is_none_is_refused_as_a_whole(batching: SessionClient, batch: Any, said: str) -> None:
    reply = batching.post(batch)

    assert (reply.status, reply.error["code"]) == (400, -32600)
    assert said in reply.error["message"]


def test_other_revisions_have_no_batches(session: SessionClient, client: WireClient) -> None:
    modern = client.post(
        json.dumps([client.message("tools/list", {})]).encode(), client.headers("tools/list", {})
    )
    for reply in (session.post([request(1, "ping")]), modern):
        assert reply.status == 400
        assert "A batch: expected one JSON-RPC message for each request" in reply.error["message"]


def test_on_a_pipe_the_messages_of_a_batch_are_answered_one_by_one(
    redis_url: str, tools: ToolRegistry, tmp_path: Path, busy_worker: Worker
) -> None:
    with piped(tools, settings(redis_url, tmp_path)) as front_end:
        pipe = front_end.client
        pipe.initialize("2025-03-26")
        pipe.send(
            [call(1, "Ada"), CANCELLED, request(2, "ping"), request(3, "initialize"), request(4, "no/such")]
        )
        assert pipe.result(1)["content"][0]["text"] == "Hello, Ada!"
        assert pipe.result(2) == {}
        assert "initialized already" in pipe.error(3)["message"]
        assert pipe.error(4)["code"] == -32601
    with piped(tools, settings(redis_url, tmp_path)) as front_end:
        front_end.client.initialize()
        front_end.client.send([request(1, "ping")])
        assert "A batch" in front_end.client.error(None)["message"]
