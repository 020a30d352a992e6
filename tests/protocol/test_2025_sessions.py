"""Sessions of 2025-11-25 and before: rows that every front end reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks_service.authoring.tool import ToolRegistry
from tests.kit.hand_worker import Worker
from tests.kit.servers import RedisServer
from tests.kit.serving import serving, settings
from tests.kit.sessions import EVERYTHING, SessionClient, is_request
from tests.kit.waiting import wait_until
from tests.kit.wire import WireClient

KEYS = {"ada": "mU3xQ9wzR7kYb2Lc", "grace": "Hn8vT4sJd6pGq1Wf"}
EARLIER = ["2025-06-18", "2025-03-26", "2024-11-05"]


def test_the_handshake_agrees_on_the_version_and_offers_tasks(ports: list[int]) -> None:
    with SessionClient(ports) as client:
        result = client.initialize()

        assert result["protocolVersion"] == "2025-11-25"
        assert result["serverInfo"]["name"] == "Test service"
        assert result["instructions"] == "Call the tools."
        assert result["capabilities"]["tasks"] == {
            "list": {},
            "cancel": {},
            "requests": {"tools": {"call": {}}},
        }
        assert "extensions" not in result["capabilities"]
        assert client.session_id is not None
        assert all(33 <= ord(character) <= 126 for character in client.session_id)


@pytest.mark.parametrize("version", EARLIER)
def test_earlier_revisions_know_nothing_of_tasks(ports: list[int], busy_worker: Worker, version: str) -> None:
    with SessionClient(ports, version=version) as client:
        result = client.initialize()
        tools = client.result("tools/list")["tools"]
        plain = client.result("tools/call", {"name": "greet", "arguments": {"name": "Ada"}, "task": {}})

        assert result["protocolVersion"] == version
        assert "tasks" not in result["capabilities"]
        assert not [tool for tool in tools if "execution" in tool]
        assert plain["content"] == [{"type": "text", "text": "Hello, Ada!"}]
        assert client.error("tasks/list")["code"] == -32601


def test_an_unknown_version_is_answered_with_the_latest_that_begins_with_a_handshake(
    ports: list[int],
) -> None:
    with SessionClient(ports, version="1999-01-01") as client:
        assert client.initialize()["protocolVersion"] == "2025-11-25"


def test_tools_are_listed_with_their_task_support_and_wrapped_schemas(session: SessionClient) -> None:
    tools = {tool["name"]: tool for tool in session.result("tools/list")["tools"]}

    assert tools["heavy"]["execution"] == {"taskSupport": "required"}
    assert tools["alone"]["execution"] == {"taskSupport": "forbidden"}
    assert tools["greet"]["execution"] == {"taskSupport": "optional"}
    assert tools["names"]["outputSchema"]["properties"]["result"]["type"] == "array"
    assert tools["add"]["annotations"]["readOnlyHint"] is True


def test_ping_and_logging_level_answer_with_nothing(session: SessionClient) -> None:
    assert session.request("ping") == {"jsonrpc": "2.0", "id": 2, "result": {}}
    assert session.result("logging/setLevel", {"level": "debug"}) == {}


def test_a_session_that_began_on_one_front_end_goes_on_on_another(
    session: SessionClient, busy_worker: Worker
) -> None:
    for at in (1, 0, 1):
        result = session.result("tools/call", {"name": "add", "arguments": {"left": at}}, at=at)
        assert result["structuredContent"] == {"result": at + 1}


@pytest.mark.parametrize("session_id", ["no-such-session-at-all", "x", "*", "a" * 200])
def test_an_unknown_session_is_not_found(session: SessionClient, session_id: str) -> None:
    session.session_id = session_id
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}

    assert session.post(ping).status == 404
    assert session.post(b"", method="GET").status == 404
    assert session.post(b"", method="DELETE").status == 404


def test_a_request_without_a_session_is_told_how_to_begin(ports: list[int]) -> None:
    with SessionClient(ports) as client:
        reply = client.post({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})

    assert reply.status == 400
    assert "initialize" in reply.error["message"]


@pytest.mark.parametrize("version", ["v999.0.0", "2026-07-28"])
def test_a_bad_version_header_in_a_session_is_refused(session: SessionClient, version: str) -> None:
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}

    assert session.post(ping, mcp_protocol_version=version).status == 400


def test_a_session_without_a_version_header_goes_on(session: SessionClient) -> None:
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}

    assert session.post(ping, mcp_protocol_version=None).result == {}


def test_a_session_that_its_client_has_ended_is_gone_everywhere(session: SessionClient) -> None:
    stream = session.listen(at=1)

    assert session.post(b"", method="DELETE").status == 200

    assert stream.next() is None
    assert session.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}, at=1).status == 404


def test_a_session_is_bound_to_its_owner(redis_url: str, tools: ToolRegistry, tmp_path: Path) -> None:
    with (
        serving(tools, settings(redis_url, tmp_path, api_keys=KEYS)) as port,
        SessionClient([port], key=KEYS["ada"]) as ada,
        SessionClient([port], key=KEYS["grace"]) as grace,
    ):
        ada.initialize()
        grace.session_id = ada.session_id
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}

        assert grace.post(ping).status == 404
        assert grace.post(b"", method="DELETE").status == 404
        grace.key = None
        assert grace.post(ping).status == 401
        assert ada.result("ping") == {}


def test_a_response_that_nobody_asked_for_is_dropped(session: SessionClient) -> None:
    for identity in (1, "x", "v1.abcdef", None):
        assert session.respond(identity, {"action": "accept"}).status == 202


@pytest.mark.parametrize("body", [b"[]", b"{}", b'"x"', b'{"jsonrpc":"2.0","id":true,"method":"ping"}'])
def test_what_is_no_message_is_refused(session: SessionClient, body: bytes) -> None:
    assert session.post(body).status == 400


def test_unknown_methods_are_not_found(session: SessionClient) -> None:
    for method in ("no/such", "tools/call, as a task", "server/discover", "tasks/update"):
        assert session.error(method, {"name": "greet"})["code"] == -32601


def test_other_http_methods_are_not_allowed_in_a_session(session: SessionClient) -> None:
    reply = session.post(b"", method="PUT")

    assert (reply.status, reply.headers["allow"]) == (405, "GET, POST, DELETE")


def test_a_client_that_takes_no_events_cannot_listen(session: SessionClient) -> None:
    assert session.post(b"", method="GET", accept="application/json").status == 406


def test_the_newest_stream_holds_the_session(session: SessionClient, redis_server: RedisServer) -> None:
    older = session.listen(at=0)
    with redis_server.client() as client:
        # Its headers come first: only then it takes the session.
        wait_until(lambda: client.keys("*:stream"), "the first stream holds the session")

    newer = session.listen(at=1)

    assert older.next() is None
    task_id = session.task("greet", {"name": "Ada"})
    session.result("tasks/cancel", {"taskId": task_id})
    assert newer.find(is_request("notifications/tasks/status"))["params"]["taskId"] == task_id


def test_both_eras_are_served_on_one_address(
    session: SessionClient, ports: list[int], busy_worker: Worker
) -> None:
    task_id = session.task("greet", {"name": "Ada"})

    with WireClient(ports[1]) as modern:
        wait_until(lambda: modern.get(task_id)["status"] == "completed", "completed")
        later = modern.task("greet", {"name": "Grace"})

    wait_until(lambda: session.get(later)["status"] == "completed", "completed")
    listed = [task["taskId"] for task in session.result("tasks/list")["tasks"]]
    assert listed == [later, task_id]


def test_sessions_end_by_themselves_in_redis(session: SessionClient, redis_server: RedisServer) -> None:
    session.listen()
    session.task("greet", {"name": "Ada"})

    with redis_server.client() as client:
        lives = {name: client.pttl(name) for name in client.scan_iter("ts:session:*")}

    assert len(lives) >= 3
    assert all(0 < life <= 24 * 3600 * 1000 for life in lives.values())


def test_capabilities_of_the_handshake_are_recorded_with_each_task(
    session: SessionClient, worker: Worker
) -> None:
    task = worker.store.inspect(session.task("greet", {"name": "Ada"})).task

    assert session.capabilities == EVERYTHING
    assert task.capabilities == {"form", "url", "sampling", "roots"}
    assert task.era == "2025-11-25"
