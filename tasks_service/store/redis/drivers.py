"""Drivers: they send what a program yields, and give it the replies. One shape twice, once with `await`.

A driver does I/O and decides nothing. Where a round trip goes, whether to try again, and how long to pause
before that, is said by the program.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import redis
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from ...addresses.redis import Node
from ...domain.errors import Overloaded, StoreUnavailable
from ...metrics import series
from .connection import FAILURES, Pools, pack, reason
from .redis_py import COMMAND_OF_CHECKOUT, is_connected
from .refusals import refusal_of
from .servers import Servers
from .transaction import Backoff, Failure, LostConnection, Program, RoundTrip

ANSWER_DEADLINES = 3
"""For how many deadlines the answer to a write is waited for, from when it was sent.

Whoever leaves before does not know whether it was recorded, so a process that is only slow had better stay.
"""

BELIEVED_AFTER = 2
"""How often in a row, each time over a fresh connection, a server must refuse for a reason that lasts: the
first answer may have come from one that was replaced just now."""

T = TypeVar("T")
P = TypeVar("P")


C = TypeVar("C")


class _Checkout(Generic[P, C]):
    """The connection that a program has, from one round trip to the next; at most one at a time."""

    def __init__(self, pools: Pools[P]) -> None:
        self._pools = pools
        self._node: Node | None = None
        self._connection: C | None = None

    def _kept_for(self, round_trip: RoundTrip) -> C | None:
        """The connection at hand, if the next round trip goes over it; None: it needs another one."""
        connection = self._connection
        if round_trip.follows:
            if connection is None or not self._is_open(connection):
                raise RedisConnectionError("the connection that watched is gone")
            return connection
        return connection if round_trip.node == self._node else None

    def _is_open(self, connection: C) -> bool:
        """Whether it has not been closed since; redis-py would connect again, without having watched."""
        raise NotImplementedError


class _BlockingCheckout(_Checkout[redis.BlockingConnectionPool, redis.Connection]):
    def _is_open(self, connection: redis.Connection) -> bool:
        return is_connected(connection)

    def connection_for(self, round_trip: RoundTrip) -> redis.Connection:
        if (connection := self._kept_for(round_trip)) is None:
            self.release()
            self._node, self._pool = round_trip.node, self._pools.of(round_trip.node)
            connection = self._connection = self._pool.get_connection(*COMMAND_OF_CHECKOUT)
        return connection

    def release(self, *, close: bool = False) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if close:
                connection.disconnect()
            self._pool.release(connection)


class _AsyncCheckout(_Checkout[redis.asyncio.BlockingConnectionPool, redis.asyncio.Connection]):
    def _is_open(self, connection: redis.asyncio.Connection) -> bool:
        return bool(connection.is_connected)

    async def connection_for(self, round_trip: RoundTrip) -> redis.asyncio.Connection:
        if (connection := self._kept_for(round_trip)) is None:
            await self.release()
            self._node, self._pool = round_trip.node, self._pools.of(round_trip.node)
            connection = self._connection = await self._pool.get_connection(*COMMAND_OF_CHECKOUT)
        return connection

    async def release(self, *, close: bool = False) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if close:
                await connection.disconnect(nowait=True)
            await self._pool.release(connection)


class _Belief:
    """Says when to believe that trying on is in vain.

    Args:
        servers: Whether another may take what one refuses.
    """

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._refused = 0

    def error_after(self, backoff: Backoff) -> StoreUnavailable | None:
        """The error to end with, after a try that has failed; None: try on."""
        failure = backoff.failure
        refusal = None if failure is None else failure.refusal
        if failure is None or refusal is None or refusal.passes:
            self._refused = 0
            return None
        if refusal.is_local and self._servers.may_change:
            return None
        self._refused += 1
        return failure.error() if self._refused >= BELIEVED_AFTER else None


class BlockingDriver:
    """Drives programs in the calling thread. Thread-safe.

    Args:
        pools: A pool of connections to each server.
        servers: Say where a program's round trips go.
        url: Where Redis is, for advice about lost connections.
        patient: Whether to try until the deadline what a server refuses for a reason that lasts. Workers do,
            whose outcomes wait for whoever mends it; others are told the reason at once.
    """

    def __init__(
        self, pools: Pools[redis.BlockingConnectionPool], servers: Servers, url: str, *, patient: bool
    ) -> None:
        self._pools, self._servers, self._url, self._patient = pools, servers, url, patient

    def run(self, program: Program[T]) -> T:
        """Drive a program to its end."""
        checkout, belief = _BlockingCheckout(self._pools), _Belief(self._servers)
        program = self._servers.routed(program)
        try:
            step = next(program)
            while True:
                if isinstance(step, Backoff):
                    checkout.release(close=step.leave)
                    if not self._patient and (refused := belief.error_after(step)) is not None:
                        step = program.throw(refused)
                        continue
                    time.sleep(step.seconds)
                    step = program.send([])
                    continue
                try:
                    connection = checkout.connection_for(step)
                    sent = time.perf_counter()
                    replies = exchange(connection, step)
                except FAILURES as error:
                    series.REDIS_ERRORS.add(series.RedisError.LOST)
                    checkout.release()
                    step = program.throw(LostConnection(reason(error, self._url), refusal_of(error)))
                else:
                    series.ROUND_TRIPS.observe(time.perf_counter() - sent)
                    step = program.send(replies)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except StoreUnavailable:
            checkout.release(close=True)
            raise
        finally:
            checkout.release()


@dataclass(slots=True)
class _Progress:
    """How far a program has come, for the error if its time is over.

    Attributes:
        timeout: Ends it.
        seconds: How long that is.
        failure: Why its last try has failed; None if none has.
        is_unanswered: Whether a write was sent that has not been answered.
        waited: Seconds that it has waited for connections that others had, or that were being made.
        waits_since: When it began to wait for one, on the loop's clock; None while it has one.
    """

    timeout: asyncio.Timeout
    seconds: float
    failure: Failure | None = None
    is_unanswered: bool = False
    waited: float = 0.0
    waits_since: float | None = None

    @property
    def was_delayed(self) -> bool:
        """Whether nothing has failed but for slowness, in making connections or in waiting for one."""
        if self.failure is None:
            return True
        return self.failure.refusal is None and self.waited > self.seconds / 2

    def begin(self, round_trip: RoundTrip, now: float) -> None:
        """Note what is sent; see `ANSWER_DEADLINES`."""
        self.end_wait(now)
        if round_trip.follows:
            self.is_unanswered = True
            self.timeout.reschedule(now + ANSWER_DEADLINES * self.seconds)

    def end_wait(self, now: float) -> None:
        """Note that a connection is at hand, or that there is no more time to wait for one."""
        if self.waits_since is not None:
            self.waited += now - self.waits_since
        self.waits_since = None


class AsyncDriver:
    """Drives programs on an event loop; arguments as of `BlockingDriver`. It is never patient."""

    def __init__(
        self, pools: Pools[redis.asyncio.BlockingConnectionPool], servers: Servers, url: str
    ) -> None:
        self._pools, self._servers, self._url = pools, servers, url
        self._answered = -math.inf

    async def run(self, program: Program[T], deadline: float) -> T:
        """Drive a program to its end.

        A transaction that has been sent gets longer; see `ANSWER_DEADLINES`.

        Raises:
            StoreUnavailable: It did not end within `deadline` seconds, or says so itself.
            Overloaded: Nothing has failed, and others were answered meanwhile: this process is too slow.
        """
        progress = _Progress(asyncio.timeout(deadline), deadline)
        try:
            async with progress.timeout:
                return await self._drive(program, progress)
        except TimeoutError:
            series.REDIS_ERRORS.add(series.RedisError.LOST)
            self._servers.doubt()
            raise self._too_late(progress) from None

    def _too_late(self, progress: _Progress) -> StoreUnavailable:
        now, failure = asyncio.get_running_loop().time(), progress.failure
        progress.end_wait(now)
        others_are_answered = now - self._answered < progress.seconds
        if others_are_answered and progress.was_delayed and not progress.is_unanswered:
            return Overloaded()
        if failure is not None:
            return failure.error(may_have_applied=progress.is_unanswered)
        return StoreUnavailable("no answer in time", may_have_applied=progress.is_unanswered)

    async def _drive(self, program: Program[T], progress: _Progress) -> T:
        checkout, belief = _AsyncCheckout(self._pools), _Belief(self._servers)
        clock = asyncio.get_running_loop().time
        program = self._servers.routed(program)
        try:
            step = next(program)
            while True:
                if isinstance(step, Backoff):
                    await checkout.release(close=step.leave)
                    progress.failure = step.failure or progress.failure
                    if (refused := belief.error_after(step)) is not None:
                        step = program.throw(refused)
                        continue
                    await asyncio.sleep(step.seconds)
                    step = program.send([])
                    continue
                try:
                    progress.waits_since = clock()
                    connection = await checkout.connection_for(step)
                    progress.begin(step, clock())
                    sent = time.perf_counter()
                    replies = await exchange_async(connection, step)
                except FAILURES as error:
                    # What fails while a connection is given up for want of time stands in for the
                    # cancellation; without this, the program would go on with no limit.
                    if progress.timeout.expired():
                        raise TimeoutError from error
                    progress.end_wait(clock())
                    series.REDIS_ERRORS.add(series.RedisError.LOST)
                    await checkout.release()
                    lost = LostConnection(reason(error, self._url), refusal_of(error))
                    progress.failure = lost.failure
                    step = program.throw(lost)
                else:
                    progress.is_unanswered = False
                    series.ROUND_TRIPS.observe(time.perf_counter() - sent)
                    self._answered = clock()
                    step = program.send(replies)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except StoreUnavailable:
            await checkout.release(close=True)
            raise
        finally:
            await checkout.release()


def exchange(connection: redis.Connection, round_trip: RoundTrip) -> list[Any]:
    """Send the commands in one packet, and read all replies; errors are among them."""
    replies: list[Any] = []
    try:
        connection.send_packed_command(pack(round_trip.commands))
        for _ in round_trip.commands:
            try:
                replies.append(connection.read_response())
            except ResponseError as error:
                replies.append(error)
    except BaseException:
        # A signal may have come between sending and reading; nobody else may read what is left.
        connection.disconnect()
        raise
    return replies


async def exchange_async(connection: redis.asyncio.Connection, round_trip: RoundTrip) -> list[Any]:
    """Send the commands in one packet, and read all replies; errors are among them."""
    replies: list[Any] = []
    try:
        await connection.send_packed_command(pack(round_trip.commands))
        for _ in round_trip.commands:
            try:
                replies.append(await connection.read_response())
            except ResponseError as error:
                replies.append(error)
    except BaseException:
        # A caller may be cancelled between sending and reading; nobody else may read what is left.
        await connection.disconnect(nowait=True)
        raise
    return replies
