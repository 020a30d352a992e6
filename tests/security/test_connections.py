"""What a connection may cost before anybody knows who sent it: bytes, time, and how many there are."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tasks_service.authoring.library import Library
from tasks_service.authoring.resource import build_resource
from tasks_service.domain.limits import KIB, MIB
from tasks_service.frontend.app import FrontEnd
from tasks_service.frontend.edge.limits import ConnectionLimits
from tests.kit.serving import registry, serving, settings
from tests.kit.waiting import wait_until
from tests.kit.wire import WireClient

from .conftest import KEY, LARGE, LARGE_BYTES, greet, large
from .raw import Answer, RawConnection, ask, connected, request_bytes, with_head

ELSEWHERE = "127.0.0.2"
"""Another address of this machine, which an attacker calls from."""

READY = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n"

Serve = Callable[..., int]


@pytest.fixture
def serve(steady_redis: str, tmp_path: Path) -> Iterator[Serve]:
    """Starts front ends with limits of a test's own, and yields their ports."""
    with ExitStack() as stack:

        def start(limits: ConnectionLimits, **changes: Any) -> int:
            library = Library()
            library.resources.add(build_resource(LARGE, large))
            configuration = settings(steady_redis, tmp_path, **changes)
            return stack.enter_context(serving(registry(greet), configuration, library, limits=limits))

        yield start


@contextmanager
def several(port: int, number: int, source: str = ELSEWHERE, **options: Any) -> Iterator[list[RawConnection]]:
    with ExitStack() as stack:
        yield [stack.enter_context(connected(port, source, **options)) for _ in range(number)]


def probe(*headers: str) -> bytes:
    return "\r\n".join(["GET /healthz HTTP/1.1", "host: localhost", *headers, "", ""]).encode()


def head_of(size: int) -> bytes:
    """A request of so many bytes in all."""
    return probe("x: " + "a" * (size - len(probe("x: "))))


def post_chunked(port: int) -> bytes:
    """The head of a request whose body comes in chunks, and that is refused for want of a body."""
    lines = {"host": f"127.0.0.1:{port}", "content-type": "application/json", "transfer-encoding": "chunked"}
    return with_head("POST /mcp HTTP/1.1", lines)


def half_body(port: int, size: int, sent: int) -> bytes:
    lines = {"host": f"127.0.0.1:{port}", "content-type": "application/json", "content-length": str(size)}
    return with_head("POST /mcp HTTP/1.1", lines, b" " * sent)


def open_stream(port: int, key: str | None = None, **headers: str) -> bytes:
    """A request that is answered by a stream, for as long as its client likes."""
    return request_bytes(
        port, "subscriptions/listen", {"notifications": {"toolsListChanged": True}}, key=key, **headers
    )


# --- bytes ---


def test_a_head_is_counted_in_bytes(steady_port: int) -> None:
    assert ask(steady_port, head_of(16 * KIB)).status == 200

    answer = ask(steady_port, head_of(16 * KIB + 1))
    assert answer.status == 431
    assert answer.headers["connection"] == "close"
    assert f"{16 * KIB} bytes" in answer.message


def test_a_head_is_counted_however_it_comes(steady_port: int) -> None:
    whole, too_long = head_of(2000), head_of(16 * KIB + 1)

    assert ask(steady_port, *(whole[at : at + 1] for at in range(len(whole)))).status == 200
    assert ask(steady_port, *(too_long[at : at + 4000] for at in range(0, len(too_long), 4000))).status == 431


@pytest.mark.parametrize(
    "begun", [b"GET /healthz HTTP/1.1\r\nx: ", b"GET /", b"GET /healthz HTTP/1.1\r\n", b""]
)
def test_a_head_without_end_is_refused_when_it_is_too_large(steady_port: int, begun: bytes) -> None:
    with connected(steady_port) as connection:
        connection.send(begun)
        for _ in range(64):
            connection.send_as_far_as_possible(
                b"a: b\r\n" * 1000 if begun.endswith(b"\n") else b"a" * 64 * KIB
            )
        assert connection.answer("GET").status in (431, 0)


@pytest.mark.parametrize(("number", "status"), [(99, 200), (100, 431)])
def test_headers_are_counted(steady_port: int, number: int, status: int) -> None:
    assert ask(steady_port, probe(*(f"x-{each}: a" for each in range(number)))).status == status


def test_what_stands_around_the_chunks_of_a_body_is_counted(steady_port: int) -> None:
    head = post_chunked(steady_port)
    for around in (
        b"1;x=" + b"a" * 70 * KIB + b"\r\n \r\n",
        b"1\r\n \r\n" * (16 * KIB),
        b"1\r\n \r\n0\r\n" + b"x: a\r\n" * (16 * KIB),
    ):
        with connected(steady_port) as connection:
            connection.send(head)
            connection.send_as_far_as_possible(around)
            answer = connection.answer()
        assert answer.status == 400
        assert "around the chunks" in answer.message
    assert ask(steady_port, head, b"5;x=a\r\n     \r\n" * 100, b"0\r\nx: a\r\n\r\n").status == 400


def test_requests_that_come_before_the_answer_are_answered_in_turn(steady_port: int) -> None:
    with connected(steady_port) as connection:
        connection.send(probe("x: a") * 30 + request_bytes(steady_port))

        assert [connection.answer("GET").status for _ in range(30)] == [200] * 30
        assert connection.answer().status == 200
        assert connection.send(probe()).answer("GET").status == 200


def test_of_too_many_requests_before_the_answer_only_the_first_is_answered(steady_port: int) -> None:
    with connected(steady_port) as connection:
        connection.send_as_far_as_possible(probe("x: a") * 20_000)
        answered = connection.rest().count(b"HTTP/1.1 200")

    assert answered <= 16 * MIB // len(probe("x: a")) // 100


def test_what_comes_behind_a_body_in_chunks_is_not_answered(steady_port: int) -> None:
    with connected(steady_port) as connection:
        connection.send(post_chunked(steady_port) + b"1\r\n \r\n0\r\n\r\n" + probe())

        assert connection.answer().status == 400
        assert connection.rest() == b""


def test_a_connection_serves_on_after_a_body_in_chunks(steady_port: int) -> None:
    with connected(steady_port) as connection:
        for _ in range(3):
            connection.send(post_chunked(steady_port), b"1\r\n \r\n0\r\n\r\n\r\n")
            assert connection.answer().status == 400
        assert connection.send(probe()).answer("GET").status == 200


def test_a_refusal_is_read_before_the_rest_of_what_was_sent(steady_port: int) -> None:
    with connected(steady_port) as connection:
        connection.send(half_body(steady_port, 10 * MIB, 0))
        connection.send_as_far_as_possible(b" " * (10 * MIB))
        assert connection.answer().status == 413


def test_a_body_that_is_refused_before_anybody_asked_for_it_leaves_no_trace(
    steady_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    head = request_bytes(steady_port).partition(b"\r\n\r\n")[0].replace(b"content-length: ", b"x: ")
    asked = b"\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n"
    with caplog.at_level(logging.ERROR, "uvicorn.error"):
        assert ask(steady_port, head + asked + b"zz\r\n").status == 400
        assert ask(steady_port, probe()).status == 200

    assert not caplog.records


def test_of_incomplete_bodies_that_are_too_large_together_the_oldest_is_given_up(serve: Serve) -> None:
    port = serve(ConnectionLimits(bodies_bytes=MIB))
    with several(port, 3) as connections:
        for connection in connections[:2]:
            connection.send(half_body(port, MIB, 600 * KIB))
        answer = connections[0].answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert ask(port, request_bytes(port)).status == 200
        assert not connections[1].is_closed()
        connections[1].send(b" " * (MIB - 600 * KIB))
        assert connections[1].answer().status == 400


# --- time ---


def test_headers_must_come_in_time(serve: Serve) -> None:
    port = serve(ConnectionLimits(head_seconds=0.3))
    with connected(port) as silent, connected(port) as half, connected(port) as kept:
        assert kept.send(probe()).answer("GET").status == 200
        half.send(b"GET /healthz HTTP/1.1\r\nho")
        kept.send(b"GET /healthz HTTP/1.1\r\nho")

        for connection in (half, kept):
            answer = connection.answer("GET")
            assert answer.status == 408
            assert "headers did not arrive" in answer.message
        assert silent.rest() == b""


def test_headers_that_drip_are_no_better_than_none(serve: Serve) -> None:
    port = serve(ConnectionLimits(head_seconds=0.5))
    with connected(port) as connection:
        connection.send(b"GET /healthz HTTP/1.1\r\nx: ")
        wait_until(lambda: connection.send_as_far_as_possible(b"a") or connection.is_closed(), "it is closed")


def test_a_body_must_come_at_a_rate(serve: Serve) -> None:
    port = serve(ConnectionLimits(body_seconds=0.3, body_rate=MIB))
    with connected(port) as stalled, connected(port) as dripping:
        for connection in (stalled, dripping):
            connection.send(half_body(port, MIB, 1000))
        answer = stalled.answer()
        assert answer.status == 408
        assert "body did not arrive" in answer.message
        assert "within 30 s" not in answer.message  # that is how long the front end itself would wait
        wait_until(lambda: dripping.send_as_far_as_possible(b" ") or dripping.is_closed(), "it is closed")


def test_what_waits_for_an_answer_or_listens_is_not_ended_by_any_of_this(serve: Serve) -> None:
    short = ConnectionLimits(head_seconds=0.2, body_seconds=0.2, write_seconds=0.2, most_body_seconds=0.2)
    port = serve(short)
    with connected(port) as stream, connected(port) as kept:
        stream.send(open_stream(port))
        assert kept.send(probe()).answer("GET").status == 200
        time.sleep(2.5)  # more than two looks of the guard
        assert not stream.is_closed()
        assert kept.send(probe()).answer("GET").status == 200


def test_a_reader_that_does_not_read_is_ended_and_one_that_does_is_not(serve: Serve) -> None:
    port = serve(ConnectionLimits(write_seconds=1.0))
    large = request_bytes(port, "resources/read", {"uri": LARGE})
    with several(port, 2, receive_buffer=4 * KIB) as (slow, steady):
        for connection in (slow, steady):
            connection.send(large)
        received = 0
        for _ in range(30):
            received += len(steady.socket.recv(16 * KIB))
            time.sleep(0.1)
        assert len(slow.rest()) < LARGE_BYTES
        assert received + len(steady_rest(steady, received)) > LARGE_BYTES


def steady_rest(connection: RawConnection, received: int) -> bytes:
    parts = []
    while received + sum(map(len, parts)) <= LARGE_BYTES and (part := connection.socket.recv(64 * KIB)):
        parts.append(part)
    return b"".join(parts)


def test_of_answers_that_nobody_reads_the_oldest_are_given_up_when_they_are_too_many(serve: Serve) -> None:
    port = serve(ConnectionLimits(unread_bytes=2 * MIB))
    large = request_bytes(port, "resources/read", {"uri": LARGE})
    with several(port, 4, receive_buffer=4 * KIB) as readers:
        for reader in readers:
            reader.send(large)
        assert len(readers[0].rest()) < LARGE_BYTES
        assert len(steady_rest(readers[-1], 0)) > LARGE_BYTES


# --- how many ---


def test_an_address_has_so_many_connections_and_others_notice_nothing(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    port = serve(ConnectionLimits(per_address=4))
    with several(port, 4) as connections, caplog.at_level(logging.WARNING, "tasks_service"):
        wait_until(lambda: ask(port, READY, source=ELSEWHERE).status == 503, "all four are counted")
        for _ in range(20):
            answer = ask(port, READY, source=ELSEWHERE)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "TASKS_TRUSTED_PROXIES" in answer.message
        assert ask(port, READY).status == 200
        told = [record for record in caplog.records if "too many connections" in record.getMessage()]
        assert len(told) == 1
        assert ELSEWHERE in told[0].getMessage()

        connections[0].close()
        wait_until(lambda: ask(port, READY, source=ELSEWHERE).status == 200, "there is room again")


def test_a_trusted_proxy_has_as_many_as_it_likes_and_each_of_its_callers_so_many_requests(
    serve: Serve,
) -> None:
    port = serve(ConnectionLimits(per_address=2), trusted_proxies=(ELSEWHERE,), api_keys=f"alice:{KEY}")
    with several(port, 8) as connections:
        for connection in connections[:2]:
            connection.send(open_stream(port, KEY, x_forwarded_for="203.0.113.9"))
        wait_until(lambda: answered(port, "203.0.113.9").status == 503, "both streams are counted")
        assert "open requests" in answered(port, "203.0.113.9").message
        assert answered(port, "203.0.113.10").status == 200
        assert ask(port, request_bytes(port, key=KEY, x_forwarded_for="203.0.113.9")).status == 200

        connections[0].close()
        wait_until(lambda: answered(port, "203.0.113.9").status == 200, "there is room again")


def test_the_server_believes_no_header_by_itself(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    served, seen = FrontEnd.__call__, []

    async def spied(self: FrontEnd, scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope.get("client"))
        await served(self, scope, receive, send)

    monkeypatch.setattr(FrontEnd, "__call__", spied)
    port = serve(ConnectionLimits())
    assert ask(port, probe("x-forwarded-for: 203.0.113.9", "forwarded: for=203.0.113.9")).status == 200

    assert seen[-1][0] == "127.0.0.1"


def answered(port: int, caller: str) -> Answer:
    return ask(port, request_bytes(port, key=KEY, x_forwarded_for=caller), source=ELSEWHERE)


def test_connections_without_a_request_make_room_for_others(serve: Serve) -> None:
    port = serve(ConnectionLimits(connections=8))
    with several(port, 20) as idle:
        for _ in range(20):
            assert ask(port, request_bytes(port)).status == 200
        wait_until(idle[0].is_closed, "the oldest has made room")


def test_where_all_connections_are_in_use_it_says_so_and_is_still_ready(serve: Serve) -> None:
    port = serve(ConnectionLimits(connections=8, head_seconds=1000))
    with several(port, 8) as streams:
        for stream in streams:
            stream.send(open_stream(port))
            assert stream.socket.recv(15) == b"HTTP/1.1 200 OK"
        answer = ask(port, request_bytes(port))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert "8 connections, which is its maximum" in answer.message
        with several(port, 40):  # nobody can keep the places of the probes
            assert [ask(port, READY).status for _ in range(20)] == [200] * 20

        streams[0].close()
        wait_until(lambda: ask(port, request_bytes(port)).status == 200, "there is room again")


def test_a_process_that_may_open_few_files_says_how_many_connections_it_serves() -> None:
    program = (
        "import logging, resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))\n"
        "logging.basicConfig()\n"
        "from tasks_service.frontend.edge.limits import limits_of\n"
        "from tasks_service.settings import Settings\n"
        "limits = limits_of(Settings(_env_file=None))\n"
        "print(limits.connections, limits.per_address, resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        "print(limits_of(Settings(_env_file=None, max_connections=100)).connections)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )

    allowed = 512 - 196
    assert ran.stdout.splitlines() == [f"{allowed} {allowed} (512, 512)", "100"]
    assert ran.stderr.count("ulimit -n") == 1
    assert f"at most {allowed} connections" in ran.stderr


def test_after_all_of_this_others_are_served(steady_port: int) -> None:
    with WireClient(steady_port) as client:
        assert json.loads(client.probe("/readyz").body)["status"] == "ready"
