"""What is wrong is said, nothing of it is recorded, and nothing ends in a 500."""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tasks_service.authoring.tool import ToolRegistry
from tasks_service.domain.limits import MIB
from tasks_service.frontend.timings import Timings
from tests.kit.hand_worker import Worker
from tests.kit.serving import serving, settings
from tests.kit.sessions import SessionClient
from tests.kit.store_adapter import counts
from tests.kit.wire import TASK_METHODS, WITHOUT_TASKS, WireClient

ALICE, BOB = "mU3xQ9wzR7kYb2Lc", "Hn8vT4sJd6pGq1Wf"


def deep(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def raw_call(client: WireClient, tool: str, arguments: str) -> bytes:
    """A call whose arguments are exactly this text."""
    message = json.dumps(client.message("tools/call", {"name": tool, "arguments": "@@"}))
    return message.replace('"@@"', arguments).encode(errors="surrogatepass")


@pytest.fixture(params=["with the extension", "without"])
def caller(request: pytest.FixtureRequest, client: WireClient) -> WireClient:
    if request.param == "without":
        client.capabilities = WITHOUT_TASKS
    return client


# --- arguments ---


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({}, "name"), ({"name": 3}, "name"), ({"name": None}, "name")],
)
def test_arguments_that_do_not_match_are_a_result_that_names_the_field(
    caller: WireClient, worker: Worker, arguments: dict[str, Any], named: str
) -> None:
    result = caller.call("greet", arguments).result

    assert result["isError"] is True
    assert result["resultType"] == "complete"
    assert named in result["content"][0]["text"]
    assert counts(worker.store).total == 0


@pytest.mark.parametrize("arguments", [[], "text", 3])
def test_arguments_that_are_no_object_are_refused(
    caller: WireClient, worker: Worker, arguments: object
) -> None:
    reply = caller.request("tools/call", {"name": "greet", "arguments": arguments})

    assert reply.error["code"] == -32602
    assert counts(worker.store).total == 0


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ('{"value": {"a": NaN}}', -32700, "NaN"),
        ('{"value": {"a": -Infinity}}', -32700, "Infinity"),
        ('{"value": {"a": 1e999}}', -32602, "Infinity"),
        ('{"value": {"a": "\\ud800"}}', -32700, "surrogate"),
        ('{"value": {"\\udfff": 1}}', -32700, "surrogate"),
        ('{"value": ' + json.dumps(deep(65)) + "}", -32602, "64 allowed"),
        ('{"value": ' + "[" * 900 + "]" * 900 + "}", -32700, "nesting"),
        ('{"value": ' + "[" * 150 + "]" * 150 + "}", -32600, "nesting"),
        ('{"value": {"a": ' + "9" * 5000 + "}}", -32700, "number out of range"),
        ('{"value": {"a": "' + "x" * MIB + '"}}', -32602, f"{MIB} allowed"),
    ],
)
def test_arguments_that_cannot_be_recorded_are_refused_with_the_limit(
    caller: WireClient, worker: Worker, text: str, code: int, named: str
) -> None:
    reply = caller.post(raw_call(caller, "echo", text), caller.headers("tools/call", {"name": "echo"}))

    assert reply.status == 400
    assert reply.error["code"] == code
    assert named in reply.error["message"]
    assert counts(worker.store).total == 0


def test_a_body_over_the_limit_is_refused_before_it_is_read(client: WireClient) -> None:
    body = raw_call(client, "echo", '{"value": {"a": "' + "x" * (2 * MIB) + '"}}')

    reply = client.post(body, client.headers("tools/call", {"name": "echo"}))

    assert reply.status == 413
    assert str(2 * MIB) in reply.error["message"]


def test_the_limit_holds_for_bodies_of_undeclared_length(client: WireClient) -> None:
    chunks = (b"x" * 65536 for _ in range(40))

    reply = client.post(chunks, client.headers("tools/call", {}))

    assert reply.status == 413


@pytest.mark.parametrize("timings", [Timings(body=0.5)])
@pytest.mark.parametrize("version", ["2026-07-28", "2025-11-25"])
def test_half_a_request_is_refused_in_time_and_disturbs_nobody(
    client: WireClient, port: int, version: str
) -> None:
    head = (
        f"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        f"accept: application/json, text/event-stream\r\nmcp-protocol-version: {version}\r\n"
        'content-length: 1000\r\n\r\n{"jsonrpc": '
    )
    with ExitStack() as stack:
        halves = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(20)]
        for half in halves:
            half.sendall(head.encode())

        assert client.request("tools/list").status == 200
        for half in halves:
            answer = http.client.HTTPResponse(half)
            answer.begin()
            assert answer.status == 408
            assert "did not arrive" in json.loads(answer.read())["error"]["message"]
    assert client.request("tools/list").status == 200


# --- tools and tasks that are not there ---


def test_an_unknown_tool_is_refused(caller: WireClient) -> None:
    assert caller.call("nothing").error == {"code": -32602, "message": "Unknown tool: nothing"}


def test_unknown_foreign_malformed_and_hidden_ids_get_the_same_bytes(
    redis_url: str, tools: ToolRegistry, tmp_path: Path
) -> None:
    keys = f"alice:{ALICE},bob:{BOB}"
    with serving(tools, settings(redis_url, tmp_path, api_keys=keys)) as port, ExitStack() as clients:
        alice, bob = (clients.enter_context(WireClient(port, key=key)) for key in (ALICE, BOB))
        foreign = alice.task("greet", {"name": "Ada"})
        unknown = foreign[:-8] + "AAAAAAAA"
        odd = [
            "",
            "x",
            "00",
            "*",
            "../../etc",
            "ü",
            "\x00",
            "zz" * 100,
            f"{foreign} ",
            foreign[2:],
        ]

        for method in TASK_METHODS:
            replies = [
                bob.request(method, {"taskId": task_id, "inputResponses": {"a": {}}}, mcp_name=None)
                for task_id in [foreign, unknown, *odd]
            ]
            assert {(reply.status, reply.body) for reply in replies} == {(400, replies[0].body)}
            assert replies[0].error == {"code": -32602, "message": "Task not found"}
        assert alice.get(foreign)["status"] == "working"


# --- envelopes ---


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'{"a":"\xed\xa0\x80"}',
        b"[]",
        b"3",
        b"null",
        b'"text"',
        b"[" * 100_000,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b'{"jsonrpc":"2.0","id":1,"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":7}',
        b'{"jsonrpc":"1.0","id":1,"method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":true,"method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":1.5,"method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":null,"method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":{},"method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[]}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":3}}',
        b'[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]',
    ],
)
def test_what_is_not_one_request_is_refused(client: WireClient, body: bytes) -> None:
    reply = client.post(body, client.headers("tools/list", {}))

    assert reply.status == 400
    assert reply.error["code"] in {-32700, -32600, -32602}


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {}),
        ("tools/list", {"cursor": 3}),
        ("tools/list", {"cursor": "next"}),
        ("tasks/get", {}),
        ("tasks/update", {"taskId": "00x"}),
        ("tasks/update", {"taskId": "00x", "inputResponses": []}),
        ("tasks/update", {"taskId": "00x", "inputResponses": {"a": 3}}),
    ],
)
def test_params_of_the_wrong_shape_are_refused(
    client: WireClient, method: str, params: dict[str, Any]
) -> None:
    reply = client.request(method, params)

    assert (reply.status, reply.error["code"]) == (400, -32602)


@pytest.mark.parametrize("capabilities", [3, "x", [], None, {"extensions": 3}, {"extensions": {"a": 3}}])
def test_odd_capabilities_are_no_reason_to_fail(client: WireClient, capabilities: object) -> None:
    client.capabilities = capabilities  # type: ignore[assignment]

    assert client.request("tasks/get", {"taskId": "x"}).error["code"] in {-32021, -32602}


def test_deep_metadata_is_refused(client: WireClient) -> None:
    assert client.call("greet", {"name": "A"}, meta={"x": deep(100)}).error["code"] == -32600


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {"name": "echo", "arguments": {"value": deep(900)}}),
        ("tools/call", {"name": "greet", "arguments": {"name": "A"}, "inputResponses": {"a": deep(900)}}),
        ("tasks/update", {"taskId": "t", "inputResponses": {"a": deep(900)}}),
        ("nothing/known", {"x": deep(900)}),
    ],
)
def test_a_message_900_levels_deep_is_refused_in_both_eras(
    client: WireClient, session: SessionClient, method: str, params: dict[str, Any]
) -> None:
    for reply in (
        client.request(method, params),
        session.post({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}),
        session.post({"jsonrpc": "2.0", "id": "x", "result": deep(900)}),
    ):
        assert reply.status == 400
        assert reply.error["code"] in (-32600, -32700)

    assert client.request("tools/list").status == 200
    assert session.result("ping") == {}


def test_ten_megabytes_are_refused_in_a_session_and_other_clients_go_on(
    client: WireClient, session: SessionClient
) -> None:
    params = {"name": "echo", "arguments": {"value": {"a": "x" * (10 * MIB)}}}

    reply = session.post({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})

    assert reply.status == 413
    assert client.request("tools/list").status == 200
    assert session.result("ping") == {}


@pytest.mark.parametrize("key", ["", "x" * 200, 3, {}, "ü" * 65])
def test_an_idempotency_key_must_be_a_sensible_text(client: WireClient, worker: Worker, key: object) -> None:
    reply = client.call("greet", {"name": "A"}, meta={"io.github.tasks-service/idempotency-key": key})

    assert reply.error["code"] == -32602
    assert "idempotency-key" in reply.error["message"]
    assert counts(worker.store).total == 0


def test_the_quota_is_a_refusal_that_says_when_to_come_back(
    redis_url: str, tools: ToolRegistry, tmp_path: Path
) -> None:
    with (
        serving(tools, settings(redis_url, tmp_path, max_live_per_owner=2)) as port,
        WireClient(port) as client,
    ):
        for _ in range(2):
            client.task("greet", {"name": "Ada"})

        error = client.call("greet", {"name": "Ada"}).error

    assert error["code"] == -32603
    assert "at most 2 allowed" in error["message"]
    assert error["data"]["retryAfterMs"] > 0


# --- HTTP ---


def test_notifications_are_acknowledged_and_dropped(client: WireClient) -> None:
    body = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}'

    reply = client.post(body, client.headers("notifications/cancelled", {}))

    assert (reply.status, reply.body) == (202, b"")


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
def test_other_http_methods_are_not_allowed(client: WireClient, method: str) -> None:
    reply = client.post(b"", client.headers("tools/list", {}), method=method)

    assert reply.status == 405
    assert reply.headers["allow"] == "POST"
