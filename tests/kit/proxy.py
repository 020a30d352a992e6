"""TCP proxies: one cuts connections to Redis at chosen moments, the other dies as a process does."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

Judge = Callable[[bytes], "Verdict | Answer | Torn"]


class Verdict(Enum):
    """What happens to a packet from the client."""

    PASS = auto()
    CUT_BEFORE = auto()
    """The server never sees it; the client loses its connection."""
    CUT_AFTER = auto()
    """The server runs it; its answer is swallowed and the client loses its connection."""
    SILENT_BEFORE = auto()
    """The server never sees it, nor anything after it; the connection stays open and no answer comes."""
    SILENT_AFTER = auto()
    """The server runs it; the connection stays open and no answer ever comes."""


@dataclass(frozen=True)
class Answer:
    """The server never sees the packet; the client hears this."""

    reply: bytes


@dataclass(frozen=True)
class Torn:
    """The server runs a beginning of the packet; the client loses its connection."""

    beginning: bytes


def commands(packet: bytes) -> list[bytes]:
    """The commands of a packet, each as it was sent."""
    found, at = [], 0

    def number() -> int:
        nonlocal at
        end = packet.index(b"\r\n", at)
        value, at = int(packet[at + 1 : end]), end + 2
        return value

    while at < len(packet):
        begin = at
        for _ in range(number()):
            length = number()
            at += length + 2
        found.append(packet[begin:at])
    return found


class CuttingProxy:
    """Forwards to a port of this machine; `judge` sees each packet that a client sends.

    Packets are what one `recv` returns, which for the small exchanges of the store is one exchange.
    """

    def __init__(self, target_port: int) -> None:
        self.judge: Judge = lambda packet: Verdict.PASS
        self.target = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut_exec(self, verdict: Verdict, times: int = 1) -> None:
        """Let `verdict` happen to the next packets that carry an EXEC."""
        left = [times]

        def judge(packet: bytes) -> Verdict:
            if b"\r\nEXEC\r\n" in packet and left[0] > 0:
                left[0] -= 1
                return verdict
            return Verdict.PASS

        self.judge = judge

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                _close(client)
                continue
            swallow = threading.Event()
            mute = threading.Event()
            ends = (client, server, swallow, mute)
            threading.Thread(target=self._upstream, args=ends, daemon=True).start()
            threading.Thread(target=self._downstream, args=ends, daemon=True).start()

    def _upstream(
        self, client: socket.socket, server: socket.socket, swallow: threading.Event, mute: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            silent = False
            while packet := client.recv(1 << 20):
                verdict = self.judge(packet)
                if isinstance(verdict, Answer):
                    client.sendall(verdict.reply)
                    continue
                if isinstance(verdict, Torn):
                    verdict, packet = Verdict.CUT_AFTER, verdict.beginning
                if verdict is Verdict.CUT_BEFORE:
                    break
                silent = silent or verdict in (Verdict.SILENT_BEFORE, Verdict.SILENT_AFTER)
                if verdict is Verdict.CUT_AFTER:
                    swallow.set()
                if verdict is Verdict.SILENT_AFTER:
                    mute.set()
                if not silent or verdict is Verdict.SILENT_AFTER:
                    server.sendall(packet)
        _close(server if not swallow.is_set() else None)
        if not swallow.is_set():
            _close(client)

    def _downstream(
        self, client: socket.socket, server: socket.socket, swallow: threading.Event, mute: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while packet := server.recv(1 << 20):
                if swallow.is_set():
                    break
                if not mute.is_set():
                    client.sendall(packet)
        _close(client)
        _close(server)


class MortalProxy:
    """Forwards to a port of this machine until it is killed; then all is closed, as with a process.

    Args:
        target: The port.
        port: Where it listens; 0: anywhere.
        seen: Called with what clients send; whether it is passed on.
    """

    def __init__(
        self, target: int, port: int = 0, seen: Callable[[bytes], bool] = lambda packet: True
    ) -> None:
        self._target, self._seen = target, seen
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def kill(self) -> None:
        """Close everything; nobody listens at its port afterwards."""
        _close(self._listener)
        for connection in self._open:
            _close(connection)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open += [client, server]
                for source, sink, seen in ((client, server, self._seen), (server, client, None)):
                    threading.Thread(target=self._pass_on, args=(source, sink, seen), daemon=True).start()

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, seen: Callable[[bytes], bool] | None
    ) -> None:
        with contextlib.suppress(OSError):
            while packet := source.recv(1 << 16):
                if seen is None or seen(packet):
                    sink.sendall(packet)
        _close(source)
        _close(sink)


def _close(connection: socket.socket | None) -> None:
    if connection is None:
        return
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
