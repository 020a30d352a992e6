"""S12: requests that a proxy, a browser and this server could each understand differently.

Each variant is one change of a request that is served. What is refused is refused with the status that says
why, on the bytes as they came; what is a harmless spelling is served.
"""

from __future__ import annotations

import json

import pytest

from tests.kit.wire import WireClient

from .conftest import KEY
from .raw import Answer, ask, connected, request_bytes

REQUEST_LINE = "POST /mcp HTTP/1.1"
PORT = "@PORT@"
"""Stands for the port of the server."""

Change = tuple[str, str]

HOSTS = [
    ("localhost", 200),
    ("LOCALHOST", 200),
    (f"localhost:{PORT}", 200),
    ("127.0.0.1", 200),
    ("127.0.0.1:1", 200),
    ("[::1]", 200),
    (f"[::1]:{PORT}", 200),
    (" \t127.0.0.1 \t", 200),
    ("evil.example", 421),
    (f"evil.example:{PORT}", 421),
    ("127.0.0.1.evil.example", 421),
    ("localhost.evil.example", 421),
    ("evil-localhost", 421),
    ("127.0.0.2", 421),
    ("127.1", 421),
    ("2130706433", 421),
    ("0.0.0.0", 421),
    ("[::ffff:127.0.0.1]", 421),
    ("127.0.0.1:", 421),
    ("localhost:evil.example", 400),
    ("127.0.0.1:80:evil", 400),
    (f"localhost:{PORT}, evil", 400),
    ("localhost, localhost", 400),
    ("evil@localhost", 400),
    ("localhost@evil", 400),
    ("localhost/evil", 400),
    ("localhost?evil", 400),
    ("local host", 400),
    ("localhost#", 400),
    ("http://localhost", 400),
    ("localhost.", 400),
    ("::1", 400),
    ("[::1", 400),
    ("*", 400),
    ("", 400),
    ("l\u00f6calhost", 400),
]

ORIGINS = [
    ("http://localhost:3000", 200),
    ("http://127.0.0.1", 200),
    ("https://[::1]:5173", 200),
    (f"http://localhost:{PORT}", 200),
    ("http://evil.example", 403),
    ("http://localhost.evil.example", 403),
    ("http://localhost:evil.example", 403),
    ("http://localhost:80:evil", 403),
    ("http://localhost@evil.example", 403),
    ("http://evil@localhost", 403),
    ("http://localhost/path", 403),
    ("http://localhost http://evil.example", 403),
    ("http://localhost, http://evil.example", 403),
    ("http://localhost,http://localhost", 403),
    ("file://localhost", 403),
    ("chrome-extension://abcdef", 403),
    ("//localhost", 403),
    ("localhost", 403),
    ("null", 403),
    ("*", 403),
    ("", 403),
]

FRAMING = [
    ("another version", (REQUEST_LINE, "POST /mcp HTTP/2.0"), 505),
    ("a version that never was", (REQUEST_LINE, "POST /mcp HTTP/1.2"), 505),
    ("HTTP/0.9", (REQUEST_LINE, "POST /mcp"), 400),
    ("HTTP/1.0", (REQUEST_LINE, "POST /mcp HTTP/1.0"), 200),
    ("no Host", (f"host: 127.0.0.1:{PORT}\r\n", ""), 400),
    ("no Host in HTTP/1.0", (f"HTTP/1.1\r\nhost: 127.0.0.1:{PORT}\r\n", "HTTP/1.0\r\n"), 400),
    ("Host twice", ("host:", "host: localhost\r\nhost:"), 400),
    ("Host twice, the other foreign", ("host:", "Host: evil.example\r\nhost:"), 400),
    ("Origin twice", ("host:", "origin: http://localhost\r\norigin: http://localhost\r\nhost:"), 400),
    ("Content-Type twice", ("host:", "content-type: text/plain\r\nhost:"), 400),
    ("Content-Encoding twice", ("host:", "content-encoding: identity\r\n" * 2 + "host:"), 400),
    ("Content-Length twice", ("host:", "content-length: 0\r\nhost:"), 400),
    ("another transfer encoding", ("host:", "transfer-encoding: gzip, chunked\r\nhost:"), 400),
    ("a transfer encoding beside a length", ("host:", "transfer-encoding: chunked\r\nhost:"), 400),
    ("a foreign host in the target", (REQUEST_LINE, "POST http://evil.example/mcp HTTP/1.1"), 400),
    ("the same host in the target", (REQUEST_LINE, f"POST http://127.0.0.1:{PORT}/mcp HTTP/1.1"), 200),
    ("a user in the target", (REQUEST_LINE, f"POST http://a@127.0.0.1:{PORT}/mcp HTTP/1.1"), 400),
    ("a target that is no path", (REQUEST_LINE, "POST mcp HTTP/1.1"), 400),
    ("a target for proxies", (REQUEST_LINE, "CONNECT evil.example:80 HTTP/1.1"), 501),
    ("a method that never was", (REQUEST_LINE, "PUSH /mcp HTTP/1.1"), 400),
    ("two spaces in the first line", (REQUEST_LINE, "POST  /mcp HTTP/1.1"), 400),
    ("a folded header", ("host:", "x: a\r\n b\r\nhost:"), 400),
    ("a space before the colon", ("host:", "x : a\r\nhost:"), 400),
    ("a header without a name", ("host:", ": a\r\nhost:"), 400),
    ("NUL in a header", ("host:", "x: a\0b\r\nhost:"), 400),
    ("LF alone", ("host:", "x: a\nhost:"), 400),
    ("CR alone", ("host:", "x: a\rb\r\nhost:"), 400),
    ("a patch", ("application/json\r\n", "application/json-patch\r\n"), 415),
    ("a patch with its suffix", ("application/json\r\n", "application/json-patch+json\r\n"), 415),
    ("a compressed body", ("host:", "content-encoding: gzip\r\nhost:"), 415),
    ("an upgrade that is not made", ("host:", "connection: upgrade\r\nupgrade: h2c\r\nhost:"), 200),
    ("an empty line before", (REQUEST_LINE, f"\r\n{REQUEST_LINE}"), 200),
    ("nothing changed", ("host:", "host:"), 200),
]


def changed(port: int, *changes: Change, key: str | None = None) -> bytes:
    """A request that would be served, but for these changes."""
    sent = request_bytes(port, key=key)
    for old, new in changes:
        before, after = (text.replace(PORT, str(port)).encode("latin-1") for text in (old, new))
        assert before in sent, old
        sent = sent.replace(before, after, 1)
    return sent


def asked(port: int, *changes: Change) -> Answer:
    return ask(port, changed(port, *changes))


@pytest.mark.parametrize(("host", "status"), HOSTS)
def test_a_host_is_served_foreign_or_none_as_a_whole(steady_port: int, host: str, status: int) -> None:
    answer = asked(steady_port, (f"host: 127.0.0.1:{PORT}", f"host: {host}"))

    assert answer.status == status
    assert status == 200 or "Host: " in answer.message


@pytest.mark.parametrize(("origin", "status"), ORIGINS)
def test_a_page_is_one_that_may_call_or_none_at_all(steady_port: int, origin: str, status: int) -> None:
    answer = asked(steady_port, ("host:", f"origin: {origin}\r\nhost:"))

    assert answer.status == status
    assert ("access-control-allow-origin" in answer.headers) is (status == 200)


@pytest.mark.parametrize(("change", "status"), [row[1:] for row in FRAMING], ids=[row[0] for row in FRAMING])
def test_what_two_readers_could_understand_differently_is_refused(
    steady_port: int, change: Change, status: int
) -> None:
    answer = asked(steady_port, change)

    assert answer.status == status
    assert status == 200 or answer.message


def test_there_are_as_many_variants_as_were_tried_before() -> None:
    assert len(HOSTS) + len(ORIGINS) + len(FRAMING) >= 63


@pytest.mark.parametrize(
    ("encoding", "status"),
    [
        ("chunked", 200),
        (" Chunked ", 200),
        ("gzip, chunked", 501),
        ("identity, chunked", 501),
        ("chunked, gzip", 400),
        ("chunked, chunked", 400),
        ("identity", 400),
        ('"chunked"', 400),
        ("x", 400),
        ("", 400),
    ],
)
def test_a_transfer_encoding_is_chunked_or_none(steady_port: int, encoding: str, status: int) -> None:
    head, _, body = request_bytes(steady_port).partition(b"\r\n\r\n")
    head = head.replace(f"content-length: {len(body)}".encode(), f"transfer-encoding: {encoding}".encode())

    answer = ask(steady_port, head + b"\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    assert answer.status == status


@pytest.mark.parametrize(
    "lines",
    [
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n",
        b"GET http://evil.example/healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\nhost: localhost\n\n",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\n\n",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\n",
        b"GET /healthz\r\n",
    ],
)
def test_whatever_path_it_is_for_what_is_no_http_is_refused_at_once(steady_port: int, lines: bytes) -> None:
    with connected(steady_port) as connection:
        connection.socket.settimeout(5)  # sooner than the time for headers is over
        assert connection.send(lines).answer("GET").status == 400


def test_two_keys_are_no_key(steady_port_with_key: int) -> None:
    port = steady_port_with_key
    for other in (KEY, "another-key-of-somebody"):
        sent = changed(port, ("host:", f"authorization: Bearer {other}\r\nhost:"), key=KEY)
        answer = ask(port, sent)
        assert answer.status == 400
        assert "Authorization: expected once" in answer.message
    assert ask(port, changed(port, key=KEY)).status == 200


def test_what_comes_behind_the_chunks_of_a_body_is_no_header(steady_port_with_key: int) -> None:
    port = steady_port_with_key
    head, _, body = request_bytes(port, key=None).partition(b"\r\n\r\n")
    head = head.replace(f"content-length: {len(body)}".encode(), b"transfer-encoding: chunked")
    chunk = b"%x\r\n%b\r\n0\r\n" % (len(body), body)

    for trailer in (b"", f"authorization: Bearer {KEY}\r\n".encode()):
        assert ask(port, head + b"\r\n\r\n" + chunk + trailer + b"\r\n").status == 401


def test_a_probe_of_http_1_0_needs_no_host(steady_port: int) -> None:
    assert ask(steady_port, b"GET /healthz HTTP/1.0\r\n\r\n").status == 200


@pytest.mark.parametrize(
    "headers", ["host: evil.example", "host: localhost\r\norigin: http://evil.example", "host: a b"]
)
def test_why_it_is_not_ready_is_told_to_those_who_may_call(steady_port: int, headers: str) -> None:
    stranger = ask(steady_port, f"GET /readyz HTTP/1.1\r\n{headers}\r\n\r\n".encode())
    friend = ask(steady_port, b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n")

    assert (stranger.status, json.loads(stranger.body)) == (200, {"status": "ready"})
    assert json.loads(friend.body) == {"status": "ready", "store": "ok"}


def test_after_every_variant_others_are_served(steady_port: int) -> None:
    with WireClient(steady_port) as client:
        assert client.request("tools/list").status == 200
