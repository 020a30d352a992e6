"""A load balancer without sticky sessions: each new connection goes to the next front end."""

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
    turns = itertools.cycle(ports)
    threading.Thread(target=_accept, args=(listener, turns), daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        # Closing alone would not wake the thread that accepts.
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _accept(listener: socket.socket, turns: Iterator[int]) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = socket.create_connection(("127.0.0.1", next(turns)))
        for source, target in ((client, server), (server, client)):
            threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
