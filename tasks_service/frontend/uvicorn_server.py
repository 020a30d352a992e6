"""Running a front end so that it stops without losing a request, and soon.

A front end that is told to stop serves on for the drain delay, not ready, until its proxies send requests
elsewhere. Then what waits is ended (`FrontEnd.drain`), nothing new is accepted, and what has reached this
machine is answered before its connection is closed.
"""

from __future__ import annotations

import asyncio
import ctypes
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, Final, cast

import uvicorn

from ..domain.limits import KIB
from .access.caller_address import TrustedProxies
from .app import FrontEnd
from .edge.guard import ConnectionGuard
from .edge.limits import ConnectionLimits, limits_of
from .edge.protocol import GuardedProtocol

EXIT_NOT_STARTED = 3
"""The exit status of a server that could not start, as uvicorn's own command has it."""

_LATE_SECONDS: Final = 1.0
"""How long the first request of a connection may take to arrive once nothing more is accepted."""

_HANDSHAKE_SECONDS: Final = 0.05
"""How long a connection that is being opened may take until it can be accepted."""

_ACCEPT_SECONDS: Final = 1.0
"""How long connections are accepted, at most, that come one upon the other."""

_UNSENT_BYTES: Final = 128 * KIB
"""How much the kernel takes of what a client does not read; the rest waits here, where it is counted."""

_SO_ATTACH_FILTER: Final = 26
_NO_SYN: Final = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # load the flags of the TCP header
        (0x54, 0, 0, 0x12),  # keep SYN and ACK
        (0x15, 0, 1, 0x02),  # SYN alone?
        (0x06, 0, 0, 0),  # then drop the packet
        (0x06, 0, 0, 0xFFFFFFFF),  # else take it
    )
)
"""A socket filter of Linux that drops the packets with which connections begin."""


class DrainingServer(uvicorn.Server):
    """A server that lets the front end answer who waits, and closes no connection on which a request comes.

    What its connections may cost is limited (see `ConnectionGuard`). Whom a proxy names as its caller is for
    the front end to read; uvicorn would believe everybody on this machine.

    Args:
        front_end: What is served.
        limits: What connections may cost; by default what the front end's settings say.
        options: Of `uvicorn.Config`; one process, no reloading.

    Attributes:
        guard: Counts connections, and what was refused.
    """

    def __init__(self, front_end: FrontEnd, limits: ConnectionLimits | None = None, **options: Any) -> None:
        self.guard = ConnectionGuard(
            limits or limits_of(front_end.settings), TrustedProxies(front_end.settings.trusted_proxies)
        )
        protocol = cast("type[asyncio.Protocol]", partial(GuardedProtocol, self.guard))
        super().__init__(uvicorn.Config(front_end, http=protocol, proxy_headers=False, ws="none", **options))
        self._front_end = front_end
        self._interrupted = False
        self._watching: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; a person at a terminal does not wait for proxies."""
        self._interrupted = self._interrupted or sig == signal.SIGINT
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve."""
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                _hand_little_to_the_kernel(listener)
        self._watching = asyncio.create_task(self.guard.watch(), name="connection guard")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve on for the drain delay, answer who waits, and stop."""
        self._front_end.begin_to_stop()
        await self._serve_on(self._front_end.drain_delay, lambda: self._interrupted, pause=0.05)
        self._front_end.drain()
        self.guard.hurry()
        await self._accept_the_last()
        for server in self.servers:
            server.close()
        await self._serve_on(_LATE_SECONDS, lambda: not self._awaits_requests(), pause=0.005)
        # Uvicorn closes idle connections before anything else can come, and then waits for open responses.
        await super().shutdown(sockets)
        if self._watching is not None:
            self._watching.cancel()

    async def _accept_the_last(self) -> None:
        """Take all connections that the kernel has for this process: closing its socket would reset them.

        What begins to connect meanwhile gets no answer, tries again a second later, and is refused.
        """
        listeners = [listener for server in self.servers for listener in server.sockets]
        for listener in listeners:
            _begin_no_connection(listener)
        await self._serve_on(_HANDSHAKE_SECONDS, lambda: False, pause=_HANDSHAKE_SECONDS)
        descriptors = [listener.fileno() for listener in listeners]
        await self._serve_on(_ACCEPT_SECONDS, lambda: not _readable(descriptors), pause=0)

    def _awaits_requests(self) -> bool:
        """Whether a request may be on its way by a connection that looks idle."""
        idle = []
        for connection in self.server_state.connections:
            request = getattr(connection, "cycle", None)
            if request is None:
                return True
            if request.response_complete:
                idle.append(connection.transport.get_extra_info("socket").fileno())
        return _readable(idle)

    async def _serve_on(self, seconds: float, enough: Callable[[], bool], *, pause: float) -> None:
        """Serve on for so long, or until it is enough; both are things that no event tells of."""
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        while not (enough() or self.force_exit or clock() >= until):  # noqa: ASYNC110
            await asyncio.sleep(pause)


def _hand_little_to_the_kernel(listener: Any) -> None:
    """Let connections of a listener buffer little that was not sent; other systems buffer as they do."""
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        with suppress(OSError):  # a Unix socket
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)


def _begin_no_connection(listener: Any) -> None:
    """Let no other connection begin at a socket that still accepts; elsewhere than on Linux nothing can."""
    program = ctypes.create_string_buffer(_NO_SYN)
    described = struct.pack("@HP", len(_NO_SYN) // 8, ctypes.addressof(program))
    if sys.platform == "linux":
        with suppress(OSError):  # a kernel without it: a request may be lost in the moment of closing
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, described)


def _readable(descriptors: list[int]) -> bool:
    """Whether there is something to read, or to accept, from one of these."""
    poll = select.poll()
    for descriptor in descriptors:
        if descriptor >= 0:
            poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def run(front_end: FrontEnd, **options: Any) -> None:
    """Serve until a signal says stop, like `uvicorn.run`.

    Args:
        front_end: What is served.
        options: Of `uvicorn.Config`; one process, no reloading.

    Raises:
        ConfigurationError: The front end refused to start.
        SystemExit: The server could not start.
    """
    server = DrainingServer(front_end, **options)
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    except SystemExit:
        if front_end.refusal is None:
            raise
    if front_end.refusal is not None:
        raise front_end.refusal
    if not server.started:
        sys.exit(EXIT_NOT_STARTED)
