"""A request with something of the wrong type is refused with the field's name and what was expected there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks_service.authoring.tool import ToolRegistry
from tests.kit.pipes import piped
from tests.kit.serving import settings
from tests.kit.sessions import SessionClient
from tests.kit.wire import WITH_TASKS, WireClient

LOG_LEVEL = "io.modelcontextprotocol/logLevel"
CLIENT_INFO = "io.modelcontextprotocol/clientInfo"
KEY = "io.github.tasks-service/idempotency-key"
LEVELS = "'alert', 'critical', 'debug', 'emergency', 'error', 'info', 'notice' or 'warning'"
HELLO = {"name": "a", "version": "0"}

Case = tuple[str, dict[str, Any], str]

BOTH: list[Case] = [
    *[
        (method, {"cursor": 3}, "cursor: expected text")
        for method in ("tools/list", "prompts/list", "resources/list", "resources/templates/list")
    ],
    ("tools/list", {"_meta": {"progressToken": 1.5}}, "_meta.progressToken: expected text or an integer"),
    (
        "tools/call",
        {"name": "greet", "_meta": {"progressToken": []}},
        "_meta.progressToken: expected text or",
    ),
    (
        "tools/call",
        {"name": "greet", "_meta": {"progressToken": True}},
        "_meta.progressToken: expected text or",
    ),
    ("tasks/get", {"taskId": "x", "_meta": {"progressToken": {}}}, "_meta.progressToken: expected text or"),
    ("tools/call", {}, "name: missing"),
    ("tools/call", {"name": 3}, "name: expected text"),
    ("tools/call", {"name": "greet", "arguments": []}, "arguments: expected an object"),
    ("tools/call", {"name": "greet", "arguments": {}, "_meta": {KEY: 3}}, f"_meta.{KEY}: expected text"),
    ("prompts/get", {"name": "p", "arguments": {"a": 3}}, "arguments.a: expected text"),
    ("prompts/get", {"name": None}, "name: expected text"),
    ("resources/read", {"uri": 3}, "uri: expected text"),
    ("resources/read", {}, "uri: missing"),
    ("completion/complete", {"ref": 3, "argument": {"name": "a", "value": "b"}}, "ref: expected an object"),
    (
        "completion/complete",
        {"ref": {"type": "x"}, "argument": {"name": "a", "value": "b"}},
        "ref.name: missing; ref.type: expected 'ref/prompt' or 'ref/resource'; ref.uri: missing",
    ),
    (
        "completion/complete",
        {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {"name": "a", "value": 3}},
        "argument.value: expected text",
    ),
    *[
        (f"tasks/{name}", {"taskId": value}, "taskId: expected text")
        for name in ("get", "cancel")
        for value in (7, {})
    ],
    ("tasks/get", {}, "taskId: expected text"),
]

MODERN: list[Case] = [
    ("tools/list", {"_meta": {LOG_LEVEL: "loud"}}, f"_meta.{LOG_LEVEL}: expected {LEVELS}"),
    ("tools/list", {"_meta": {LOG_LEVEL: 3}}, f"_meta.{LOG_LEVEL}: expected {LEVELS}"),
    ("tools/list", {"_meta": {CLIENT_INFO: 3}}, f"_meta.{CLIENT_INFO}: expected an object"),
    ("tools/list", {"_meta": {CLIENT_INFO: {"name": "a"}}}, f"_meta.{CLIENT_INFO}.version: missing"),
    ("tools/call", {"name": "greet", "requestState": 4}, "requestState: expected text"),
    ("tools/call", {"name": "greet", "inputResponses": 4}, "inputResponses: expected an object"),
    ("tools/call", {"name": "greet", "inputResponses": {"a": 3}}, "inputResponses.a: expected an object"),
    ("tasks/update", {"taskId": "x", "inputResponses": []}, "inputResponses: expected an object"),
    ("tasks/update", {"taskId": None, "inputResponses": {}}, "taskId: expected text"),
    ("subscriptions/listen", {}, "notifications: missing"),
    ("subscriptions/listen", {"notifications": []}, "notifications: expected an object"),
    (
        "subscriptions/listen",
        {"notifications": {"toolsListChanged": "x"}},
        "notifications.toolsListChanged: expected true or false",
    ),
    (
        "subscriptions/listen",
        {"notifications": {"resourceSubscriptions": ["x", 3]}},
        "notifications.resourceSubscriptions.1: expected text",
    ),
    ("subscriptions/listen", {"notifications": {"taskIds": 3}}, "notifications.taskIds: expected a list"),
]

SESSION: list[Case] = [
    *[
        (
            "tools/call",
            {"name": "greet", "arguments": {"name": "A"}, "task": task},
            "task: expected an object",
        )
        for task in (3, "now", [], True, False)
    ],
    *[
        (
            "tools/call",
            {"name": "greet", "arguments": {"name": "A"}, "task": {"ttl": ttl}},
            "task.ttl: expected",
        )
        for ttl in ("60000", -1, 0, True, [])
    ],
    ("tools/list", {"_meta": 3}, "_meta: expected an object"),
    ("ping", {"_meta": []}, "_meta: expected an object"),
    ("tasks/list", {"cursor": 3}, "cursor: expected text"),
    ("tasks/result", {"taskId": []}, "taskId: expected text"),
    ("logging/setLevel", {"level": "loud"}, f"level: expected {LEVELS}"),
    ("logging/setLevel", {}, "level: missing"),
    ("resources/subscribe", {"uri": 3}, "uri: expected text"),
]

HANDSHAKES: list[tuple[dict[str, Any], str]] = [
    ({"protocolVersion": 3}, "protocolVersion: expected text"),
    ({"capabilities": []}, "capabilities: expected an object"),
    ({"capabilities": {"sampling": 3}}, "capabilities.sampling: expected an object"),
    ({"clientInfo": 3}, "clientInfo: expected an object"),
    ({"clientInfo": {"name": "a", "version": 3}}, "clientInfo.version: expected text"),
    ({"clientInfo": {}}, "clientInfo.name: missing; clientInfo.version: missing"),
]


def handshake(changes: dict[str, Any]) -> dict[str, Any]:
    return {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": HELLO, **changes}


def unnamed(case: Case, error: Any) -> Any:
    """A case whose refusal says something else; None for one that is as it should be."""
    method, params, expected = case
    named = error["code"] == -32602 and error["message"].startswith(expected)
    return None if named else (method, params, error)


def test_requests_without_a_session_are_refused_by_the_name_of_the_field(client: WireClient) -> None:
    said = []
    for case in BOTH + MODERN:
        method, params, _ = case
        body = {name: value for name, value in params.items() if name != "_meta"}
        named = str(body.get("name") or body.get("uri")) if "taskId" not in body else None
        reply = client.request(method, body, meta=params.get("_meta"), mcp_name=named)
        assert reply.status == 400
        if reply.error["code"] == -32020:  # the header cannot repeat what is no text: named by that check
            assert f"'{case[2].partition(':')[0]}' parameter" in reply.error["message"]
        else:
            said.append(unnamed(case, reply.error))
    assert not list(filter(None, said))


def test_requests_in_a_session_are_refused_by_the_name_of_the_field(session: SessionClient) -> None:
    said = [unnamed(case, session.error(case[0], case[1])) for case in BOTH + SESSION]
    assert not list(filter(None, said))
    for changes, expected in HANDSHAKES:
        with SessionClient(session.ports) as other:
            error = other.error("initialize", handshake(changes))
            assert unnamed(("initialize", changes, expected), error) is None


def test_requests_on_a_pipe_are_refused_by_the_name_of_the_field(
    redis_url: str, tools: ToolRegistry, tmp_path: Path
) -> None:
    configuration, said = settings(redis_url, tmp_path), []
    with piped(tools, configuration) as modern:
        modern.client.capabilities = WITH_TASKS
        for number, case in enumerate(BOTH + MODERN):
            modern.client.modern(number, case[0], **case[1])
            said.append(unnamed(case, modern.client.error(number)))
    with piped(tools, configuration) as legacy:
        for number, (changes, expected) in enumerate(HANDSHAKES):
            legacy.client.request(number, "initialize", **handshake(changes))
            said.append(unnamed(("initialize", changes, expected), legacy.client.error(number)))
        legacy.client.initialize()
        for number, case in enumerate(BOTH + SESSION):
            legacy.client.request(number, case[0], **case[1])
            said.append(unnamed(case, legacy.client.error(number)))
    assert not list(filter(None, said))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ([{"jsonrpc": "2.0", "id": 1, "method": "ping"}], "A batch: expected one"),
        ("text", "which is an object"),
        ({"id": 1, "method": "ping"}, 'jsonrpc: expected "2.0"'),
        ({"jsonrpc": "2.0", "id": 1, "method": 3}, "method: expected text"),
        ({"jsonrpc": "2.0", "id": 1.5, "method": "ping"}, "id: expected text or an integer"),
        ({"jsonrpc": "2.0", "id": None, "method": "ping"}, "id: expected text or an integer"),
        ({"jsonrpc": "2.0", "id": 1}, "Expected a method"),
        ({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}, "params: expected an object"),
    ],
)
def test_what_is_no_message_is_told_why(session: SessionClient, message: object, expected: str) -> None:
    reply = session.post(message)

    assert (reply.status, reply.error["code"]) == (400, -32600)
    assert expected in reply.error["message"]
