"""How many connections there are, whose they are, and what all of them hold.

Whoever holds most is the first to go: of connections on which no request is there, the oldest makes room for
the next; of bodies that are not complete, the oldest is given up when all together are too large. So it
is of no use to an attacker to hold many.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Protocol

from mcp_types.jsonrpc import INTERNAL_ERROR
from starlette.types import Scope

from ...metrics.series import REFUSED, Refused
from ..access.caller_address import CallerAddress, TrustedProxies, address_of
from ..transport.rejection import Rejection
from .limits import LINGERING, PROBES, ConnectionLimits

logger = logging.getLogger(__name__)

WATCH_SECONDS: Final = 1.0
"""Pause between two looks at what has taken too long."""

STOP_SECONDS: Final = 2.0
"""How long a client may take for what it should do in time, once the server stops."""

LOG_SECONDS: Final = 10.0
"""Pause between two log lines about refusals of one kind."""

AT_ONCE: Final = 16
"""Connections that are ended in one go, so that others need not wait for all of them."""

NO_REQUEST: Final = "no request came"
"""Why a connection ends on which there is nothing to refuse: it is counted, and not worth a log line."""

_LATER: Final = ((b"retry-after", b"1"),)


class Guarded(Protocol):
    """A connection, as the guard sees it."""

    peer: CallerAddress

    def refuse(self, reason: str, rejection: Rejection) -> None:
        """Answer with a refusal, and close."""

    def abort(self, reason: str) -> None:
        """Close without a word, whatever is under way."""

    def leave(self, reason: str, rejection: Rejection) -> None:
        """Close while no request is there; with a refusal if some of one is."""

    def check(self, now: float) -> bool:
        """End what has taken too long; whether it did."""


class ConnectionGuard:
    """Admits connections and requests of one server.

    Args:
        limits: What they may cost.
        proxies: Their connections are those of many callers, who are told apart by what the proxies say.

    Attributes:
        limits: See above.
        refused: How many connections and requests were refused or ended, by reason.
    """

    def __init__(self, limits: ConnectionLimits, proxies: TrustedProxies) -> None:
        self.limits, self._proxies = limits, proxies
        self.refused: Counter[str] = Counter()
        self._log = _RefusalLog()
        self._open: dict[Guarded, None] = {}
        # Those on which no request is there, oldest first: as yet, and since the last answer.
        self._unused: dict[Guarded, None] = {}
        self._idle: dict[Guarded, None] = {}
        # Those beyond the limit: without a request as yet, and with one.
        self._probes: dict[Guarded, None] = {}
        self._probed: dict[Guarded, None] = {}
        self._ending: dict[Guarded, None] = {}
        self._by_network: Counter[str] = Counter()
        self._requests: dict[Guarded, str] = {}
        self._requests_by_network: Counter[str] = Counter()
        self._bodies: dict[Guarded, int] = {}
        self._bodies_bytes = 0
        self._unread: dict[Guarded, int] = {}
        self._unread_bytes = 0

    def hurry(self) -> None:
        """Wait less for slow clients from now on: the server stops, and would stop no sooner than they do."""
        limits = self.limits
        self.limits = replace(
            limits,
            head_seconds=min(limits.head_seconds, STOP_SECONDS),
            body_seconds=min(limits.body_seconds, STOP_SECONDS),
            write_seconds=min(limits.write_seconds, STOP_SECONDS),
        )

    def admit(self, connection: Guarded, peer: str) -> bool:
        """Take a new connection.

        Args:
            connection: Its `peer` is set here.
            peer: The address of its other end, or `unix`.

        Returns:
            Whether every request is answered on it, and not only whether the process is alive and ready.

        Raises:
            Rejection: 503; there are too many. It says of what.
        """
        connection.peer = address = address_of(peer)
        self._ending[connection] = None
        if (
            address.address not in self._proxies
            and self._by_network[address.network] >= self.limits.per_address
        ):
            raise self._too_many_of_one_address()
        if len(self._open) >= self.limits.connections:
            self._make_room(self._unused or self._idle)
        if len(self._open) < self.limits.connections:
            self._open[connection] = self._unused[connection] = None
        else:
            if len(self._probes) + len(self._probed) >= PROBES:
                self._make_room(self._probes)
            if len(self._probes) + len(self._probed) >= PROBES:
                raise self.full()
            self._probes[connection] = None
        del self._ending[connection]
        self._by_network[address.network] += 1
        return connection in self._open

    def _make_room(self, waiting: Mapping[Guarded, None]) -> None:
        """End the connection that has waited longest without a request, if there is one."""
        oldest = next(iter(waiting), None)
        if oldest is not None:
            oldest.leave("waited without a request while there were too many connections", self.full())

    def full(self) -> Rejection:
        """The refusal of a connection when there are too many."""
        message = f"The front end has {self.limits.connections} connections, which is its maximum"
        return Rejection(503, INTERNAL_ERROR, message, headers=_LATER)

    def _too_many_of_one_address(self) -> Rejection:
        message = (
            f"Your address has {self.limits.per_address} connections here, which is the maximum. "
            "If it is that of a proxy, TASKS_TRUSTED_PROXIES should name it"
        )
        return Rejection(503, INTERNAL_ERROR, message, headers=_LATER)

    def has_request(self, connection: Guarded, scope: Scope) -> None:
        """Take a request whose headers are there.

        Raises:
            Rejection: 503; a proxy sent it, whose caller has too many open requests.
        """
        self._unused.pop(connection, None)
        self._idle.pop(connection, None)
        if connection in self._probes:
            self._probed[connection] = self._probes.pop(connection)
        if connection.peer.address not in self._proxies:
            return
        network = self._proxies.caller_address(scope).network
        if self._requests_by_network[network] >= self.limits.per_address:
            message = f"Your address has {self.limits.per_address} open requests, which is the maximum"
            raise Rejection(503, INTERNAL_ERROR, message, headers=_LATER)
        self._requests[connection] = network
        self._requests_by_network[network] += 1

    def has_answer(self, connection: Guarded) -> None:
        """A request was answered."""
        if connection in self._open:
            self._idle[connection] = None
        network = self._requests.pop(connection, None)
        if network is not None:
            _subtract(self._requests_by_network, network)

    def holds(self, connection: Guarded, size: int) -> None:
        """So many more bytes of a body were received.

        Whoever began the oldest body is refused while all together are too large.
        """
        self._bodies[connection] = self._bodies.get(connection, 0) + size
        self._bodies_bytes += size
        while self._bodies_bytes > self.limits.bodies_bytes:
            oldest = next(iter(self._bodies))
            self.has_body(oldest)
            message = "The front end is receiving too many large requests at a time, and gave up the slowest"
            oldest.refuse(
                "too many bytes of incomplete bodies", Rejection(503, INTERNAL_ERROR, message, headers=_LATER)
            )

    def has_body(self, connection: Guarded) -> None:
        """A body is complete, or is not wanted any more."""
        self._bodies_bytes -= self._bodies.pop(connection, 0)

    def is_behind(self, connection: Guarded, size: int) -> None:
        """So many bytes wait to be sent on a connection, and its client does not take them.

        Whoever is behind for longest is given up while all together have too many.
        """
        self.has_caught_up(connection)
        self._unread[connection] = size
        self._unread_bytes += size
        while self._unread_bytes > self.limits.unread_bytes:
            oldest = next(iter(self._unread))
            self.has_caught_up(oldest)
            oldest.abort("too many bytes of unread answers")

    def has_caught_up(self, connection: Guarded) -> None:
        """The client has taken what was sent."""
        self._unread_bytes -= self._unread.pop(connection, 0)

    def may_linger(self) -> bool:
        """Whether a refused connection may be kept until its client has read why."""
        return len(self._ending) <= LINGERING

    def ends(self, connection: Guarded, reason: str) -> None:
        """A connection is being ended because of something that its client did, or did not do."""
        self.refused[reason] += 1
        if reason != NO_REQUEST:
            REFUSED.add(Refused.CONNECTION)
            self._log.note(reason, connection.peer.address)
        self._forget(connection)
        self._ending[connection] = None

    def has_gone(self, connection: Guarded) -> None:
        """A connection is closed."""
        self._forget(connection)
        self._ending.pop(connection, None)

    def _forget(self, connection: Guarded) -> None:
        counted = connection in self._open or connection in self._probes or connection in self._probed
        for connections in (self._open, self._unused, self._idle, self._probes, self._probed):
            connections.pop(connection, None)
        self.has_answer(connection)
        self.has_body(connection)
        self.has_caught_up(connection)
        if counted:
            _subtract(self._by_network, connection.peer.network)

    async def watch(self) -> None:
        """End what takes too long, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            ended = 0
            for connection in [*self._open, *self._probes, *self._probed, *self._ending]:
                ended += connection.check(clock())
                if ended >= AT_ONCE:
                    ended = 0
                    await asyncio.sleep(0)
            self._log.flush()


class _RefusalLog:
    """Tells of refusals, of each kind at once and then every `LOG_SECONDS`, with their number."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}
        self._untold: Counter[str] = Counter()
        self._last: dict[str, str] = {}

    def note(self, reason: str, address: str) -> None:
        self._untold[reason] += 1
        self._last[reason] = address
        self._tell(reason)

    def flush(self) -> None:
        for reason in list(self._untold):
            self._tell(reason)

    def _tell(self, reason: str) -> None:
        now = time.monotonic()
        if now - self._told.get(reason, -LOG_SECONDS) < LOG_SECONDS:
            return
        self._told[reason] = now
        count = self._untold.pop(reason)
        logger.warning(
            "%d connection(s) or request(s) refused: %s; the last from %s", count, reason, self._last[reason]
        )


def _subtract(counts: Counter[str], name: str) -> None:
    """Count one less, and keep no zeros: there are as many addresses as an attacker wants."""
    counts[name] -= 1
    if counts[name] <= 0:
        del counts[name]
