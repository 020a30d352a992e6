"""A1, A7 and S6: attackers who hold connections beside honest clients of one front end.

The sizes are those of `make security`; within `make test` there are fewer of them.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tasks_service.domain.limits import KIB, MIB
from tests.kit.waiting import wait_until
from tests.kit.wire import WireClient

from .conftest import LARGE
from .front_end import GRACE_SECONDS, FrontEndProcess
from .raw import RawConnection, connected, request_bytes, with_head

HALF_OPEN = int(os.environ.get("TASKS_TEST_HALF_OPEN", "100"))
SLOW_READERS = int(os.environ.get("TASKS_TEST_SLOW_READERS", "20"))
SINGLE_BYTES = int(os.environ.get("TASKS_TEST_SINGLE_BYTES", "5000"))
POLLS = 200
"""How many requests of an honest client are timed."""

CLOSED_SECONDS = 15.0
CONNECTION_BYTES = 64 * MIB
CONNECTION_CPU_SECONDS = 0.25
"""5 % of a core for five seconds; none of the attacks lasts that long."""

SENT_BYTES = 96 * MIB
"""What an attacker sends on one connection, if the server takes it."""


@pytest.fixture(scope="module")
def front_end(steady_redis: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontEndProcess]:
    process = FrontEndProcess(steady_redis, tmp_path_factory.mktemp("front-end"))
    yield process
    process.close()


def p99_ms(port: int) -> float:
    """What an honest client waits for the slowest of a hundred answers."""
    with WireClient(port) as client:
        times = []
        for _ in range(POLLS):
            began = time.perf_counter()
            assert client.request("tools/list").status == 200
            times.append(time.perf_counter() - began)
    return sorted(times)[int(POLLS * 0.99)] * 1000


def holds(calm_ms: float, attacked_ms: float) -> bool:
    return attacked_ms <= max(2 * calm_ms, calm_ms + 20)


@contextmanager
def attackers(port: int) -> Iterator[None]:
    """Connections that begin a request and do not go on, and others that do not read an answer."""
    large = request_bytes(port, "resources/read", {"uri": LARGE})
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, HALF_OPEN + SLOW_READERS + 1000), most))
    with ExitStack() as stack:
        for number in range(HALF_OPEN):
            half = stack.enter_context(connected(port, f"127.0.0.{10 + number % 4}"))
            half.send(b"POST /mcp HTTP/1.1\r\nhost: localhost\r\nx: a")
        for number in range(SLOW_READERS):
            reader = stack.enter_context(
                connected(port, f"127.0.0.{20 + number % 4}", receive_buffer=4 * KIB)
            )
            reader.send(large)
        yield


def test_half_open_connections_and_slow_readers_disturb_nobody_and_are_closed(
    front_end: FrontEndProcess, measured: Callable[[str, str], None]
) -> None:
    port, calm = front_end.port, min(p99_ms(front_end.port) for _ in range(2))
    files, memory = front_end.open_files(), front_end.memory()
    with attackers(port):
        began = time.monotonic()
        attacked = p99_ms(port)
        grown = front_end.memory() - memory
        wait_until(lambda: front_end.open_files() <= files + 2, "all are closed")
        closed = time.monotonic() - began
        while not holds(calm, attacked) and time.monotonic() - began < 60:
            with attackers(port):
                attacked = min(attacked, p99_ms(port))
    measured(
        "S6",
        f"{HALF_OPEN} half-open and {SLOW_READERS} slow readers: p99 {calm:.1f} -> {attacked:.1f} ms, "
        f"closed after {closed:.1f} s, {grown / MIB:.0f} MiB",
    )
    assert holds(calm, attacked)
    assert closed <= CLOSED_SECONDS
    assert "refused: headers did not arrive in time" in front_end.log()


def sent_on_and_on(begin: bytes, part: bytes) -> Callable[[RawConnection], None]:
    """Send something, and then the same thing again and again until the server closes."""

    def attack(connection: RawConnection) -> None:
        parts = part * (-(-256 * KIB // len(part)))
        try:
            connection.send(begin)
            for _ in range(SENT_BYTES // len(parts)):
                connection.send(parts)
        except OSError:
            return

    return attack


CHUNKED = with_head("POST /mcp HTTP/1.1", {"host": "localhost", "transfer-encoding": "chunked"})
ANSWERED = with_head("GET /healthz HTTP/1.1", {"host": "localhost"})


def sent_byte_by_byte(begin: bytes) -> Callable[[RawConnection], None]:
    """Send many packets of one byte each."""

    def attack(connection: RawConnection) -> None:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connection.send(begin)
            for _ in range(SINGLE_BYTES):
                connection.socket.send(b"a")
        except OSError:
            return

    return attack


ATTACKS = {
    "one header without end": sent_on_and_on(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ", b"a"),
    "headers without end": sent_on_and_on(b"GET / HTTP/1.1\r\nhost: localhost\r\n", b"a: b\r\n"),
    "a target without end": sent_on_and_on(b"GET /", b"a"),
    "empty lines": sent_on_and_on(b"", b"\r\n"),
    "requests without end": sent_on_and_on(b"", ANSWERED),
    "refused requests without end": sent_on_and_on(b"", b"GET / HTTP/1.1\r\n\r\n"),
    "an extension of a chunk without end": sent_on_and_on(CHUNKED + b"1;x=", b"a"),
    "chunks without end": sent_on_and_on(CHUNKED, b"1\r\na\r\n"),
    "trailers without end": sent_on_and_on(CHUNKED + b"0\r\n", b"a: b\r\n"),
    "a body without end": sent_on_and_on(
        with_head("POST /mcp HTTP/1.1", {"host": "localhost", "content-length": str(2**40)}), b" "
    ),
    "a body that nobody wants": sent_on_and_on(
        with_head("POST /healthz HTTP/1.1", {"host": "localhost", "content-length": str(2**40)}), b" "
    ),
    "a header byte by byte": sent_byte_by_byte(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: "),
    "a body byte by byte": sent_byte_by_byte(
        with_head(
            "POST /mcp HTTP/1.1",
            {"host": "localhost", "content-type": "application/json", "content-length": str(2**20)},
        )
    ),
    "a body that nobody wants byte by byte": sent_byte_by_byte(
        with_head("POST /healthz HTTP/1.1", {"host": "localhost", "content-length": str(2**40)})
    ),
    "requests behind one that waits": lambda connection: sent_on_and_on(
        request_bytes(
            connection.socket.getpeername()[1],
            "subscriptions/listen",
            {"notifications": {"toolsListChanged": True}},
        ),
        ANSWERED,
    )(connection),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_one_connection_takes_little_whatever_is_sent_on_it(
    front_end: FrontEndProcess, name: str, measured: Callable[[str, str], None]
) -> None:
    with WireClient(front_end.port) as client:
        assert client.request("tools/list").status == 200  # what the first request takes is kept
    memory, spent = front_end.memory(), front_end.cpu_seconds()
    with connected(front_end.port, "127.0.0.30") as connection:
        ATTACKS[name](connection)
        grown = front_end.memory() - memory
        spent = front_end.cpu_seconds_when_quiet() - spent

    measured("A1", f"{name}: {spent:.2f} s CPU, {max(0, grown) / MIB:.1f} MiB")
    assert spent <= CONNECTION_CPU_SECONDS
    assert grown <= CONNECTION_BYTES


def test_it_stops_in_time_whoever_holds_its_connections(
    steady_redis: str, tmp_path: Path, measured: Callable[[str, str], None]
) -> None:
    front_end = FrontEndProcess(steady_redis, tmp_path)
    try:
        with attackers(front_end.port):
            seconds = front_end.stop()
    finally:
        front_end.close()

    measured("S6", f"stops after {seconds:.1f} s")
    assert seconds <= GRACE_SECONDS
