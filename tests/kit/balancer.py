"""A load balancer without sticky sessions: each new connection goes to the next front end that takes it."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress


@contextmanager
def balancing(ports: Sequence[int]) -> Iterator[int]:
    """Balance over ports of this machine; yields the port to connect to."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    threading.Thread(target=_accept, args=(listener, ports), daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        # Closing alone would not wake the thread that accepts.
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _accept(listener: socket.socket, ports: Sequence[int]) -> None:
    for turn in itertools.count():
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = _connect([ports[(turn + step) % len(ports)] for step in range(len(ports))])
        if server is None:
            client.close()
            continue
        for source, target in ((client, server), (server, client)):
            threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _connect(ports: Sequence[int]) -> socket.socket | None:
    """The first that does not refuse; one that breaks later breaks for the client."""
    for port in ports:
        with suppress(OSError):
            return socket.create_connection(("127.0.0.1", port))
    return None


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
