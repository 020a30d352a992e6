"""Pages in browsers: which origins may call, and what a browser must be told before it shows an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks_service.authoring.tool import ToolRegistry
from tests.kit.serving import serving, settings
from tests.kit.sessions import SessionClient
from tests.kit.wire import Reply, WireClient

PAGE = "https://app.example.com"
KEY = "mU3xQ9wzR7kYb2Lc"
INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "page", "version": "0"},
}


@pytest.fixture
def open_port(redis_url: str, tools: ToolRegistry, tmp_path: Path) -> Iterator[int]:
    """A front end with a key, behind a proxy, that pages of one other origin may call."""
    configuration = settings(
        redis_url,
        tmp_path,
        api_keys=f"alice:{KEY}",
        allowed_hosts="tasks.example.com",
        allowed_origins=f"{PAGE}/, https://any.example.com:*",
    )
    with serving(tools, configuration) as port:
        yield port


@pytest.fixture
def page(open_port: int) -> Iterator[WireClient]:
    with WireClient(open_port, key=KEY) as client:
        yield client


def preflight(client: WireClient, origin: str, wanted: str, **headers: str) -> Reply:
    asked = {"origin": origin, "access-control-request-method": "POST", **headers}
    return client.post(
        b"", {**asked, "access-control-request-headers": wanted} if wanted else asked, method="OPTIONS"
    )


@pytest.mark.parametrize(
    "wanted",
    [
        "authorization,content-type,mcp-method,mcp-protocol-version",
        "content-type, mcp-session-id, last-event-id",
        "mcp-name,mcp-param-region,traceparent",
    ],
)
def test_a_preflight_needs_no_key_and_allows_the_headers_that_it_names(open_port: int, wanted: str) -> None:
    with WireClient(open_port) as nobody:
        reply = preflight(nobody, PAGE, wanted)

    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert reply.headers["access-control-allow-headers"] == wanted
    assert {"GET", "POST", "DELETE"} == set(reply.headers["access-control-allow-methods"].split(", "))
    assert reply.headers["vary"] == "Origin"
    assert "access-control-allow-credentials" not in reply.headers


def test_a_preflight_for_something_that_is_no_header_allows_none(page: WireClient) -> None:
    assert "access-control-allow-headers" not in preflight(page, PAGE, "a b: c").headers


def test_a_page_calls_in_the_revision_without_sessions(page: WireClient) -> None:
    reply = page.request("tools/list", origin=PAGE)

    assert reply.result["tools"]
    assert reply.headers["access-control-allow-origin"] == PAGE


def test_a_page_begins_a_session_and_reads_its_id_and_its_stream(open_port: int) -> None:
    with SessionClient([open_port], key=KEY) as client:
        reply = client.post(
            {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE}, origin=PAGE
        )
        assert "Mcp-Session-Id" in reply.headers["access-control-expose-headers"]
        client.session_id = reply.headers["mcp-session-id"]

        listed = client.open("tools/list", origin=PAGE, accept="text/event-stream, application/json")
        assert listed.rest()[-1]["result"]["tools"]
        assert listed.headers["content-type"] == "text/event-stream"
        assert listed.headers["access-control-allow-origin"] == PAGE
        assert client.post(b"", method="DELETE", origin=PAGE).headers["access-control-allow-origin"] == PAGE


def test_a_page_reads_refusals_too(open_port: int, page: WireClient) -> None:
    with WireClient(open_port) as nobody:
        refused = nobody.request("tools/list", origin=PAGE)
    assert refused.status == 401
    assert "WWW-Authenticate" in refused.headers["access-control-expose-headers"]
    for reply in (refused, page.request("no/such", origin=PAGE), page.post(b"{", {"origin": PAGE})):
        assert reply.status >= 400
        assert reply.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://evil.example.com", None),
        ("http://app.example.com", None),
        ("https://app.example.com:8443", None),
        ("https://app.example.com.evil.net", None),
        ("https://user@app.example.com", None),
        ("http://localhost:3000", None),
        ("https://tasks.example.com", None),
        ("https://tasks.example.com:8443", "tasks.example.com"),
        ("null", None),
        ("", None),
    ],
)
def test_a_page_of_another_origin_is_refused_before_anything_and_reads_nothing(
    page: WireClient, origin: str, host: str | None
) -> None:
    headers = {} if host is None else {"host": host}

    for reply in (
        page.request("tools/list", origin=origin, **headers),
        preflight(page, origin, "content-type", **headers),
    ):
        assert reply.status == 403
        assert "TASKS_ALLOWED_ORIGINS" in reply.error["message"]
        assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://app.example.com:443", None),
        ("HTTPS://App.Example.COM", None),
        ("https://any.example.com:8443", None),
        ("https://tasks.example.com", "tasks.example.com"),
        ("https://tasks.example.com", "Tasks.Example.com:443"),
        ("http://localhost:8787", "localhost:8787"),
    ],
)
def test_pages_of_the_list_and_of_the_service_itself_are_let_in(
    page: WireClient, origin: str, host: str | None
) -> None:
    headers = {} if host is None else {"host": host}

    assert page.request("tools/list", origin=origin, **headers).status == 200


def test_by_default_pages_of_this_machine_may_call(client: WireClient) -> None:
    for origin in ("http://localhost:6274", "http://127.0.0.1:3000", "https://[::1]"):
        assert client.request("tools/list", origin=origin).status == 200
    for origin in ("http://localhost.evil.net", "http://localhost:1.evil.net", "http://192.168.0.7"):
        assert client.request("tools/list", origin=origin).status == 403


@pytest.mark.parametrize("host", ["localhost:8787.evil.net", "localhost:x", "localhost:80, evil.net", ""])
def test_what_is_no_host_is_no_proper_request(client: WireClient, host: str) -> None:
    reply = client.request("tools/list", host=host)

    assert reply.status == 400
    assert "Host: expected" in reply.error["message"]


@pytest.mark.parametrize("host", ["localhost.evil.net", "127.0.0.1:", "evil.net", "127.0.0.1.evil.net:8787"])
def test_hosts_are_compared_as_a_whole(client: WireClient, host: str) -> None:
    reply = client.request("tools/list", host=host)

    assert reply.status == 421
    assert "TASKS_ALLOWED_HOSTS" in reply.error["message"]


def test_hosts_are_compared_without_case(client: WireClient) -> None:
    assert client.request("tools/list", host="LocalHost:8787").status == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("allowed_hosts", "https://tasks.example.com"),
        ("allowed_hosts", "tasks.example.com/mcp"),
        ("allowed_hosts", "*"),
        ("allowed_origins", "app.example.com"),
        ("allowed_origins", "https://app.example.com/page"),
        ("allowed_origins", "*"),
        ("allowed_origins", "null"),
    ],
)
def test_an_address_that_could_never_match_is_refused_at_start(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"TASKS_{name.upper()}: .* is not of the form") as refused:
        settings(None, tmp_path, **{name: value})

    assert json.dumps(value)[1:-1] in str(refused.value)
