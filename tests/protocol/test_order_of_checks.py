"""Headers, version, `_meta`, tool, capability, task id, arguments: in this order (docs/protocol.md)."""

from __future__ import annotations

import base64
import http.client
import json

import pytest

from tests.kit.hand_worker import Worker
from tests.kit.store_adapter import counts
from tests.kit.wire import WITHOUT_TASKS, WireClient

HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION, INVALID_PARAMS = -32020, -32021, -32022, -32602
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"


@pytest.mark.parametrize("version", ["2025-03-26-x", "v999.0.0"])
def test_a_version_header_that_differs_from_the_body_is_a_mismatch(client: WireClient, version: str) -> None:
    reply = client.request("tools/list", mcp_protocol_version=version)

    assert (reply.status, reply.error["code"]) == (400, HEADER_MISMATCH)


def test_a_missing_version_header_is_a_mismatch(client: WireClient) -> None:
    assert client.request("tools/list", mcp_protocol_version=None).error["code"] == HEADER_MISMATCH


def test_an_unknown_version_is_refused_with_the_list(client: WireClient) -> None:
    reply = client.request("tools/list", meta={VERSION_KEY: "v999.0.0"}, mcp_protocol_version="v999.0.0")

    assert (reply.status, reply.error["code"]) == (400, UNSUPPORTED_VERSION)
    assert reply.error["data"]["requested"] == "v999.0.0"
    assert "2026-07-28" in reply.error["data"]["supported"]


@pytest.mark.parametrize("method", ["tools/list", "tools/call", "tasks/get"])
def test_a_wrong_or_missing_method_header_is_a_mismatch(client: WireClient, method: str) -> None:
    params = {"name": "greet", "taskId": "x"}

    for header in ("TOOLS/LIST", "tasks/other", None):
        reply = client.request(method, params, mcp_method=header)
        assert (reply.status, reply.error["code"]) == (400, HEADER_MISMATCH)


@pytest.mark.parametrize("header", ["other", None, "=?base64?!!?="])
def test_a_tool_call_must_repeat_the_tools_name(client: WireClient, header: str | None) -> None:
    reply = client.request("tools/call", {"name": "greet", "arguments": {}}, mcp_name=header)

    assert (reply.status, reply.error["code"]) == (400, HEADER_MISMATCH)


@pytest.mark.parametrize("header", [None, "other", "=?base64?!!?="])
def test_an_argument_that_is_mirrored_in_a_header_must_match_it(
    client: WireClient, worker: Worker, header: str | None
) -> None:
    params = {"name": "tell", "arguments": {"message": "hello"}}

    reply = client.request("tools/call", params, mcp_param_message=header)

    assert (reply.status, reply.error["code"]) == (400, HEADER_MISMATCH)
    assert counts(worker.store).total == 0
    assert client.request("tools/call", params, mcp_param_message="hello").result["resultType"] == "task"


def test_white_space_around_a_header_is_no_part_of_it(client: WireClient) -> None:
    reply = client.request("tools/call", {"name": "heavy", "arguments": {}}, mcp_name=" heavy \t ")

    assert reply.result["resultType"] == "task"


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
def test_a_wrong_task_name_is_a_mismatch_before_anything_else(client: WireClient, method: str) -> None:
    client.capabilities = WITHOUT_TASKS

    for header in ("other", "=?base64?b3RoZXI=?=", "=?base64?!!?="):
        reply = client.request(method, {"taskId": "some-task"}, mcp_name=header)
        assert (reply.status, reply.error["code"]) == (400, HEADER_MISMATCH)


def test_a_task_name_may_be_encoded_or_missing(client: WireClient) -> None:
    task_id = client.task("greet", {"name": "Ada"})
    encoded = f"=?base64?{base64.b64encode(task_id.encode()).decode()}?="

    assert client.request("tasks/get", {"taskId": task_id}, mcp_name=encoded).result["taskId"] == task_id
    assert client.request("tasks/get", {"taskId": task_id}, mcp_name=None).result["taskId"] == task_id


def test_a_header_given_twice_is_a_mismatch(client: WireClient) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", client.port)
    body = json.dumps(client.message("tools/list", {})).encode()
    connection.putrequest("POST", "/mcp")
    for name, value in client.headers("tools/list", {}).items():
        connection.putheader(name, value)
    connection.putheader("mcp-method", "tools/list")
    connection.putheader("content-length", str(len(body)))
    connection.endheaders(body)
    reply = json.loads(connection.getresponse().read())
    connection.close()

    assert reply["error"]["code"] == HEADER_MISMATCH


@pytest.mark.parametrize("method", ["tools/list", "server/discover", "tasks/get"])
def test_an_envelope_without_capabilities_is_refused(client: WireClient, method: str) -> None:
    message = client.message(method, {"taskId": "x"})
    del message["params"]["_meta"][CAPABILITIES_KEY]

    reply = client.post(json.dumps(message).encode(), client.headers(method, {}))

    assert (reply.status, reply.error["code"]) == (400, INVALID_PARAMS)
    assert CAPABILITIES_KEY in reply.error["message"]


def test_an_unknown_tool_comes_before_the_capability(plain: WireClient) -> None:
    assert plain.call("nothing").error["code"] == INVALID_PARAMS


def test_the_capability_comes_before_the_arguments(plain: WireClient, worker: Worker) -> None:
    reply = plain.call("heavy", {"unknown": 1})

    assert (reply.status, reply.error["code"]) == (400, MISSING_CAPABILITY)
    assert reply.error["data"] == {
        "requiredCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}
    }
    assert counts(worker.store).total == 0


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
def test_the_capability_comes_before_the_task_id(plain: WireClient, method: str) -> None:
    reply = plain.request(method, {"taskId": "gate-test"})

    assert (reply.status, reply.error["code"]) == (400, MISSING_CAPABILITY)
    assert reply.error["data"]["requiredCapabilities"]["extensions"] == {"io.modelcontextprotocol/tasks": {}}


@pytest.mark.parametrize(
    "method",
    [
        "tasks/result",
        "tasks/list",
        "initialize",
        "ping",
        "logging/setLevel",
        "resources/subscribe",
        "no/such",
    ],
)
def test_methods_that_this_revision_does_not_have_are_not_found(client: WireClient, method: str) -> None:
    reply = client.request(method, {"taskId": "x"})

    assert (reply.status, reply.error["code"]) == (404, -32601)
    assert reply.json["id"] == 7
