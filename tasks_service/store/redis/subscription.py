"""A front end's subscription: all changes, and the reports of the tasks that somebody waits for.

Both come over one connection, so a process gets them in the order in which they were published. Reports are
many, so each task has a channel for them: a process in which nobody waits for a task never gets them, and
PUBLISH tells a worker when nobody listens.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from redis.asyncio import Connection
from redis.exceptions import RedisError

from ...crypto.envelope import Envelope
from ...domain.errors import StoreUnavailable
from ..changes import Change, Reported
from .connection import pack
from .layout import Command, Layout
from .publications import parse_change, parse_reported

logger = logging.getLogger(__name__)


class Subscription:
    """Follows changes, and the reports of chosen tasks; connects again whenever it must.

    Args:
        connect: Opens a connection to a server that is the right one now.
        is_current: Whether the server of the last connection still is.
        layout: Names the channels.
        envelope: Opens reports.
        reconnect: See `Timings.reconnect`.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        is_current: Callable[[], bool],
        layout: Layout,
        envelope: Envelope,
        reconnect: float,
    ) -> None:
        self._envelope = envelope
        self._connect, self._is_current, self._layout = connect, is_current, layout
        self._reconnect = reconnect
        self._wanted: set[str] = set()
        self._altered = asyncio.Event()
        self._catching_up: deque[asyncio.Future[None]] = deque()
        self._pings_sent = 0
        self._connected = False

    def subscribe_reports(self, task_id: str) -> None:
        """See `ChangeSource.subscribe_reports`; the channel is asked for in a moment."""
        self._wanted.add(self._layout.reports(task_id))
        self._altered.set()

    def unsubscribe_reports(self, task_id: str) -> None:
        """See `ChangeSource.unsubscribe_reports`."""
        self._wanted.discard(self._layout.reports(task_id))
        self._altered.set()

    async def catch_up(self) -> None:
        """See `ChangeSource.catch_up`."""
        if not self._connected:
            return
        caught_up = asyncio.get_running_loop().create_future()
        self._catching_up.append(caught_up)
        self._altered.set()
        await caught_up

    async def messages(self) -> AsyncIterator[Change | Reported | None]:
        """See `ChangeSource.changes`."""
        while True:
            try:
                async for message in self._until_lost():
                    yield message
            except (RedisError, OSError, StoreUnavailable):
                await asyncio.sleep(self._reconnect)

    async def _until_lost(self) -> AsyncIterator[Change | Reported | None]:
        """Messages until the connection is lost."""
        connection = await self._connect()
        beside: list[asyncio.Task[None]] = []
        try:
            chosen = set(self._wanted)
            await _send(connection, [("SUBSCRIBE", self._layout.changes, *chosen)])
            await connection.read_response(timeout=None)
            self._connected = True
            beside = [
                asyncio.create_task(self._choose(connection, chosen)),
                asyncio.create_task(self._leave_when_moved(connection)),
            ]
            yield None
            while True:
                match await connection.read_response(timeout=None):
                    case ["message", channel, text]:
                        if (name := self._layout.reported_by(channel)) is None:
                            yield parse_change(text)
                        elif (reported := parse_reported(self._envelope, name, text)) is not None:
                            yield reported
                    case ["pong", number]:
                        self._caught_up(int(number))
        finally:
            self._connected = False
            self._caught_up(len(self._catching_up))
            self._pings_sent = 0
            for task in beside:
                task.cancel()
            await connection.disconnect(nowait=True)

    async def _leave_when_moved(self, connection: Connection) -> None:
        """Close a connection to a server that has been replaced: it may be silent for ever."""
        while True:
            await asyncio.sleep(self._reconnect)
            if not self._is_current():
                await connection.disconnect(nowait=True)
                return

    def _caught_up(self, number: int) -> None:
        for _ in range(number):
            caught_up = self._catching_up.popleft()
            self._pings_sent -= 1
            if not caught_up.done():
                caught_up.set_result(None)

    async def _choose(self, connection: Connection, chosen: set[str]) -> None:
        """Keep the connection's channels to those that are wanted; all that changes at once is one packet.

        It only writes, while `messages` reads: a channel that is asked for is answered among the messages. So
        is a PING, after all that was published before it.
        """
        try:
            while True:
                await self._altered.wait()
                self._altered.clear()
                added, dropped = self._wanted - chosen, chosen - self._wanted
                commands: list[Command] = []
                if added:
                    commands.append(("SUBSCRIBE", *added))
                if dropped:
                    commands.append(("UNSUBSCRIBE", *dropped))
                chosen |= added
                chosen -= dropped
                if unasked := len(self._catching_up) - self._pings_sent:
                    commands.append(("PING", unasked))
                    self._pings_sent += unasked
                if commands:
                    await _send(connection, commands)
        except (RedisError, OSError) as error:
            logger.warning("The subscription was lost: %s", error)
            # Whoever reads from it must notice.
            await connection.disconnect(nowait=True)


async def _send(connection: Connection, commands: Sequence[Command]) -> None:
    await connection.send_packed_command(pack(commands), check_health=False)
