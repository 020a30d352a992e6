"""Drivers: they send what a program yields, and give it the replies. One shape twice, once with `await`.

A driver does I/O and decides nothing. Where a round trip goes, whether to try again, and how long to pause
before that, is said by the program.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Generic, TypeVar

import redis
import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from ...addresses.redis import Node
from ...domain.errors import StoreUnavailable
from .connection import FAILURES, Pools, pack, reason
from .redis_py import COMMAND_OF_CHECKOUT, is_connected
from .servers import Servers
from .transaction import Backoff, LostConnection, Program, RoundTrip

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


class BlockingDriver:
    """Drives programs in the calling thread. Thread-safe.

    Args:
        pools: A pool of connections to each server.
        servers: Say where a program's round trips go.
        url: Where Redis is, for advice about lost connections.
    """

    def __init__(self, pools: Pools[redis.BlockingConnectionPool], servers: Servers, url: str) -> None:
        self._pools, self._servers, self._url = pools, servers, url

    def run(self, program: Program[T]) -> T:
        """Drive a program to its end."""
        checkout = _BlockingCheckout(self._pools)
        program = self._servers.routed(program)
        try:
            step = next(program)
            while True:
                if isinstance(step, Backoff):
                    checkout.release(close=step.leave)
                    time.sleep(step.seconds)
                    step = program.send([])
                    continue
                try:
                    replies = exchange(checkout.connection_for(step), step)
                except FAILURES as error:
                    checkout.release()
                    step = program.throw(LostConnection(reason(error, self._url)))
                else:
                    step = program.send(replies)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except StoreUnavailable:
            checkout.release(close=True)
            raise
        finally:
            checkout.release()


class AsyncDriver:
    """Drives programs on an event loop; arguments as of `BlockingDriver`."""

    def __init__(
        self, pools: Pools[redis.asyncio.BlockingConnectionPool], servers: Servers, url: str
    ) -> None:
        self._pools, self._servers, self._url = pools, servers, url

    async def run(self, program: Program[T], deadline: float) -> T:
        """Drive a program to its end.

        Raises:
            StoreUnavailable: It did not end within `deadline` seconds, or says so itself.
        """
        failures: list[str] = []
        try:
            async with asyncio.timeout(deadline):
                return await self._drive(program, failures)
        except TimeoutError:
            self._servers.doubt()
            raise StoreUnavailable(failures[-1] if failures else "no answer in time") from None

    async def _drive(self, program: Program[T], failures: list[str]) -> T:
        checkout = _AsyncCheckout(self._pools)
        program = self._servers.routed(program)
        try:
            step = next(program)
            while True:
                if isinstance(step, Backoff):
                    await checkout.release(close=step.leave)
                    await asyncio.sleep(step.seconds)
                    step = program.send([])
                    continue
                try:
                    replies = await exchange_async(await checkout.connection_for(step), step)
                except FAILURES as error:
                    await checkout.release()
                    failures.append(reason(error, self._url))
                    step = program.throw(LostConnection(failures[-1]))
                else:
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
