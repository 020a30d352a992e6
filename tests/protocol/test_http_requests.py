"""What HTTP itself lets a client vary: paths, media types, encodings, headers that come along."""

from __future__ import annotations

import gzip
import json

import pytest

from tasks_service.frontend.transport.http_headers import accepted
from tests.kit.hand_worker import Worker
from tests.kit.sessions import SessionClient
from tests.kit.wire import WITHOUT_TASKS, WireClient

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
LINE_ENDS = "\u0085\u2028\u2029"


def test_a_slash_behind_the_path_makes_no_difference(client: WireClient, session: SessionClient) -> None:
    body = json.dumps(client.message("tools/list", {})).encode()

    assert client.post(body, client.headers("tools/list", {}), path="/mcp/").result["tools"]
    assert client.post(json.dumps(PING).encode(), session.headers(), path="/mcp/").result == {}
    assert client.post(body, client.headers("tools/list", {}), path="/mcp//").status == 404


# --- which revision answers ---


@pytest.mark.parametrize("session_id", ["made-up", ""])
def test_a_stray_session_header_does_not_matter_in_the_revision_without_sessions(
    client: WireClient, session_id: str
) -> None:
    assert client.request("tools/list", mcp_session_id=session_id).result["tools"]


def test_a_message_that_names_its_revision_is_answered_in_it_whatever_else_its_headers_say(
    client: WireClient, session: SessionClient
) -> None:
    for version in ("2025-11-25", None, "2031-01-01"):
        reply = client.request("tools/list", mcp_protocol_version=version, mcp_session_id=session.session_id)
        assert (reply.status, reply.error["code"]) == (400, -32020)


def test_a_version_that_nobody_speaks_is_refused_in_a_session(session: SessionClient) -> None:
    reply = session.post(PING, mcp_protocol_version="2031-01-01")

    assert reply.status == 400
    assert "2025-11-25" in reply.error["message"]


def test_a_get_of_the_revision_without_sessions_is_not_taken_for_a_sessions(
    client: WireClient, session: SessionClient
) -> None:
    headers = session.headers(mcp_protocol_version="2026-07-28")

    assert client.post(b"", headers, method="GET").status == 405


def test_initialize_begins_a_session_even_if_it_names_another_revision_in_its_metadata(
    client: WireClient, ports: list[int]
) -> None:
    message = client.message(
        "initialize",
        {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a", "version": "0"}},
    )
    with SessionClient(ports) as session:
        assert session.post(message).result["protocolVersion"] == "2025-11-25"


# --- bodies ---


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", None, "", "application/jsonx", "text/json", "application/json; charset=utf-16"],
)
def test_a_body_that_is_not_declared_as_json_is_an_unsupported_media_type(
    client: WireClient, session: SessionClient, content_type: str | None
) -> None:
    for reply in (
        client.request("tools/list", content_type=content_type),
        session.post(PING, content_type=content_type),
    ):
        assert (reply.status, reply.error["code"]) == (415, -32600)
        assert "Content-Type: expected application/json" in reply.error["message"]


@pytest.mark.parametrize(
    "content_type",
    ["application/json; charset=UTF-8", "Application/JSON", 'application/json;charset="utf-8"'],
)
def test_a_media_type_is_compared_without_case_and_may_name_its_charset(
    client: WireClient, session: SessionClient, content_type: str
) -> None:
    assert client.request("tools/list", content_type=content_type).status == 200
    assert session.post(PING, content_type=content_type).status == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
def test_a_compressed_body_is_an_unsupported_encoding(
    client: WireClient, session: SessionClient, encoding: str
) -> None:
    body = gzip.compress(json.dumps(client.message("tools/list", {})).encode())

    for reply in (
        client.post(body, client.headers("tools/list", {}, content_encoding=encoding)),
        session.post(body, content_encoding=encoding),
    ):
        assert reply.status == 415
        assert "Content-Encoding" in reply.error["message"]
        assert reply.headers["accept-encoding"] == "identity"
    assert client.request("tools/list", content_encoding="Identity").status == 200


@pytest.mark.parametrize(
    "body",
    [
        '{"jsonrpc":"2.0","id":7,"method":"tools/list","method":"tools/call"%s}',
        '{"jsonrpc":"2.0","id":7,"method":"tools/list"%s,"id":8}',
        '{"jsonrpc":"2.0","id":7,"method":"tools/call","x":[{"a":{"b":1,"\\u0062":": "}}]%s}',
    ],
)
def test_two_members_of_one_name_are_refused(client: WireClient, session: SessionClient, body: str) -> None:
    params = ',"params":' + json.dumps(client.message("tools/list", {})["params"])

    for reply in (
        client.post((body % params).encode(), client.headers("tools/list", {})),
        session.post((body % "").encode()),
    ):
        assert (reply.status, reply.error["code"]) == (400, -32700)
        assert "two members of the name" in reply.error["message"]


def test_colons_in_text_are_no_second_members(plain: WireClient, busy_worker: Worker) -> None:
    result = plain.call("greet", {"name": ': "name": {"name": 1, "name": 2}'}).result

    assert ': "name": {' in result["content"][0]["text"]


# --- answers ---


@pytest.mark.parametrize(
    "accept", [None, "Application/JSON, Text/Event-Stream", "*/*", "application/*;q=0.5", "APPLICATION/JSON"]
)
def test_a_client_that_takes_json_is_served_however_it_says_so(
    client: WireClient, session: SessionClient, accept: str | None
) -> None:
    assert client.request("tools/list", accept=accept).status == 200
    assert session.post(PING, accept=accept).status == 200


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "application/jsonp", "text/*"])
def test_a_client_that_takes_no_json_is_told_what_there_is(
    client: WireClient, session: SessionClient, accept: str
) -> None:
    for reply in (client.request("tools/list", accept=accept), session.post(PING, accept=accept)):
        assert reply.status == 406
        assert "application/json and text/event-stream" in reply.error["message"]


@pytest.mark.parametrize(
    ("accept", "prefers"),
    [
        ("text/event-stream, application/json", True),
        ("application/json;q=0.5, Text/Event-Stream", True),
        ("application/json, text/event-stream", False),
        ("text/event-stream;q=0.5, application/json", False),
        ("text/event-stream, */*", False),
        ("", False),
    ],
)
def test_a_stream_is_preferred_by_its_weight_or_its_place(accept: str, prefers: bool) -> None:
    assert accepted(accept).prefers_stream is prefers


def test_what_some_readers_take_for_the_end_of_a_line_is_escaped_in_documents_and_events(
    client: WireClient, session: SessionClient, busy_worker: Worker
) -> None:
    client.capabilities = WITHOUT_TASKS
    document = client.call("greet", {"name": LINE_ENDS})
    assert document.body.isascii()
    assert LINE_ENDS in document.result["content"][0]["text"]

    params = {"name": "greet", "arguments": {"name": LINE_ENDS}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    stream = session.post(message, accept="text/event-stream, application/json")
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.body.isascii()
    assert len(stream.body.decode().splitlines()) == len(stream.body.split(b"\r\n")) - 1


# --- notifications ---


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"mcp_protocol_version": "2031-01-01"}, -32022),
        ({"mcp_method": "notifications/other"}, -32020),
    ],
)
def test_a_notification_that_cannot_be_accepted_is_refused(
    client: WireClient, headers: dict[str, str], code: int
) -> None:
    body = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}'

    reply = client.post(body, client.headers("notifications/cancelled", {}, **headers))

    assert (reply.status, reply.error["code"]) == (400, code)


def test_a_refused_version_is_answered_with_those_of_both_eras(client: WireClient) -> None:
    meta = {"io.modelcontextprotocol/protocolVersion": "2031-01-01"}

    error = client.request("tools/list", meta=meta, mcp_protocol_version="2031-01-01").error

    assert error["data"]["supported"] == client.request("server/discover").result["supportedVersions"]
    assert {"2025-03-26", "2025-11-25", "2026-07-28"} <= set(error["data"]["supported"])
