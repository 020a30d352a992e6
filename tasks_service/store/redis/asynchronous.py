"""The asyncio face of the Redis store, for the front end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Connection
from redis.asyncio.retry import Retry
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from ...addresses.redis import Kind, Node, parse_address
from ...domain.errors import StoreUnavailable
from ...domain.events import AnswerInput, Claim, ClientEvent, Create, WorkerEvent
from ...domain.limits import DEFAULT_LIMITS, Limits
from ...domain.task import Owner, Task
from ..changes import Change, Reported
from ..clients import Created, Page, TaskView
from ..findings import Finding, Memory
from ..outbox import NoOutbox, Outbox
from ..workers import Claimed
from .connection import FAILURES, SENTINEL_SECONDS, Pools, client_findings, connection_options, pack, reason
from .health import examine
from .layout import Layout
from .memory_guard import MemoryGuard
from .operations import Clock, Operations
from .permissions import Role, check_permissions
from .servers import servers_at
from .sessions import RedisSessions
from .subscription import Subscription
from .transaction import Backoff, LostConnection, Program, RoundTrip, once

T = TypeVar("T")


class _Hold:
    """The connection of a program, held from one exchange to the next; at most one at a time."""

    __slots__ = ("_connection", "_node", "_pool", "_pools")

    def __init__(self, pools: Pools[BlockingConnectionPool]) -> None:
        self._pools = pools
        self._node: Node | None = None
        self._connection: Connection | None = None

    async def exchange(self, exchange: RoundTrip) -> list[Any]:
        node = exchange.node
        connection = self._connection
        if exchange.follows:
            if connection is None or not connection.is_connected:
                raise RedisConnectionError("the connection that watched is gone")
        elif connection is None or node != self._node:
            if connection is not None:
                await self.give_back()
            self._node, self._pool = node, self._pools.of(node)
            connection = self._connection = await self._pool.get_connection()
        return await _exchange(connection, exchange)

    async def give_back(self, *, close: bool = False) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if close:
                await connection.disconnect(nowait=True)
            await self._pool.release(connection)


class AsyncRedisTaskStore:
    """`AsyncTaskStore` on Redis. One per event loop.

    Args:
        url: Of one server, of sentinels, or of a cluster (see `address`).
        prefix: In front of every key.
        shards: How many slots tasks are spread over; the same in every process, for ever. None: what is usual
            for such servers.
        limits: What is allowed.
        outbox: Makes the message of a task that becomes pending.
        pool: Connections at most, to each server; an operation waits for one.
        deadline: Seconds that an operation may take, waiting included, before it raises `StoreUnavailable`.
        clock: From the server's time to the time that decisions use, in ms; for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "ts",
        shards: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
        outbox: Outbox | None = None,
        pool: int = 16,
        deadline: float = 1.8,
        clock: Clock | None = None,
    ) -> None:
        address = parse_address(url)
        self._url, self._user = url, address.user
        self._layout = Layout(prefix, shards or address.shards)
        self._headroom = MemoryGuard(each_shard=address.kind is Kind.CLUSTER)
        self._operations = Operations(
            self._layout, limits, outbox or NoOutbox(), deadline, clock, self._headroom
        )
        self._servers = servers_at(address, self._layout.home)

        def connections(node: Node | None) -> BlockingConnectionPool:
            # `run` bounds the whole operation; a timer for each reply would cost a sixth of a create.
            silence = SENTINEL_SECONDS if node is not None and node.is_sentinel else None
            options = connection_options(Retry, url, silence)
            return BlockingConnectionPool.from_url(
                address.url_of(node), max_connections=pool, timeout=None, **options
            )

        self._pools = Pools(connections)
        self._sessions = RedisSessions(
            self.run, prefix=prefix, channel=self._layout.changes, deadline=deadline
        )
        self._listens_at: Node | None = None
        self._subscription = Subscription(self._connect, self._is_current, self._layout)

    @property
    def sessions(self) -> RedisSessions:
        """Sessions of clients that have them, on the same connections; their wake-ups are changes."""
        return self._sessions

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools:
            await pool.disconnect()

    async def run(self, program: Program[T]) -> T:
        """Drive a program to its end on one connection at a time, within the deadline."""
        failures: list[str] = []
        try:
            async with asyncio.timeout(self._operations.deadline):
                return await self._drive(program, failures)
        except TimeoutError:
            self._servers.doubt()
            raise StoreUnavailable(failures[-1] if failures else "no answer in time") from None

    async def _drive(self, program: Program[T], failures: list[str]) -> T:
        hold = _Hold(self._pools)
        program = self._servers.routed(program)
        try:
            step = next(program)
            while True:
                if isinstance(step, Backoff):
                    await hold.give_back(close=step.leave)
                    await asyncio.sleep(step.seconds)
                    step = program.send([])
                    continue
                try:
                    replies = await hold.exchange(step)
                except FAILURES as error:
                    await hold.give_back()
                    failures.append(reason(error, self._url))
                    step = program.throw(LostConnection(failures[-1]))
                else:
                    step = program.send(replies)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except StoreUnavailable:
            self._servers.doubt()
            await hold.give_back(close=True)
            raise
        finally:
            await hold.give_back()

    async def _connect(self) -> Connection:
        """A connection to listen on, to a server that is right now."""
        node = self._listens_at = (await self.run(self._servers.locate()))[0]
        connection: Connection = self._pools.of(node).make_connection()
        try:
            await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def _is_current(self) -> bool:
        return self._listens_at is None or self._servers.is_current(self._listens_at)

    def changes(self) -> AsyncIterator[Change | Reported | None]:
        """Every logged transition as it happens; None whenever the subscription is made (again).

        Reports of the tasks that `hear` names come among them, in the order in which they were published.
        Subscribes on a connection of its own. What was published while it was lost is missed, so read what
        you wait for whenever None comes. One at a time.
        """
        return self._subscription.messages()

    def subscribe_reports(self, task_id: str) -> None:
        """Let the reports of a task's tool come among the changes, from now on."""
        self._subscription.subscribe_reports(task_id)

    def unsubscribe_reports(self, task_id: str) -> None:
        """Let them come no more."""
        self._subscription.unsubscribe_reports(task_id)

    async def caught_up(self) -> None:
        """Return when all has come that was published before; at once while there is no subscription."""
        await self._subscription.caught_up()

    async def check(self) -> list[Finding]:
        """What is wrong with the servers, with this client, and with what its user may do as a front end.

        Raises:
            StoreUnavailable: No answer in time.
        """
        messages = self._operations.outbox.messages
        rights = check_permissions(self._layout, Role.FRONT_END, messages=messages, user=self._user)
        if lacks := await self.run(rights):
            return lacks  # it may not ask the rest either
        found = await self.run(examine(self._servers, self._layout, self._operations.deadline))
        await self.ping()
        clients = [finding for pool in self._pools for finding in client_findings(pool.connection_kwargs)]
        return [*clients, *found]

    @property
    def memory(self) -> Memory | None:
        """How full the fullest server was when it was last asked: by a check, a ping, a create or an answer.

        None if none has a limit, or tells.
        """
        return self._headroom.memory

    async def ping(self) -> None:
        """Return if the store answers.

        Raises:
            StoreUnavailable: It does not, in time.
        """
        program = once([("PING",)], self._operations.deadline)
        await self.run(self._headroom.beside(program, self._layout.home))

    async def create(self, event: Create) -> Created:
        """See `TaskStore.create`.

        Raises:
            StoreFull: The server's memory is short.
        """
        shard = self._layout.shard_of_owner(event.owner)
        return await self.run(self._headroom.beside(self._operations.create(event), shard))

    async def get(self, owner: Owner, task_id: str, *, hidden: bool = False) -> TaskView:
        """See `TaskStore.get`."""
        return await self.run(self._operations.get(owner, task_id, hidden=hidden))

    async def apply(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Task:
        """See `TaskStore.apply`.

        Raises:
            StoreFull: It is an answer, and the server's memory is short.
        """
        program = self._operations.apply(owner, task_id, event, hidden=hidden)
        if isinstance(event, AnswerInput):
            program = self._headroom.beside(program, self._layout.shard_of(task_id))
        return await self.run(program)

    async def page(self, owner: Owner, *, after: str | None = None, limit: int = 50) -> Page:
        """See `TaskStore.page`."""
        return await self.run(self._operations.page(owner, after=after, limit=limit))

    async def claim(self, task_id: str, event: Claim) -> Claimed:
        """See `TaskStore.claim`."""
        return await self.run(self._operations.claim(task_id, event))

    async def commit(self, task_id: str, event: WorkerEvent) -> Task:
        """See `TaskStore.commit`."""
        return await self.run(self._operations.commit(task_id, event))


async def _exchange(connection: Connection, exchange: RoundTrip) -> list[Any]:
    replies: list[Any] = []
    try:
        await connection.send_packed_command(pack(exchange.commands))
        for _ in exchange.commands:
            try:
                replies.append(await connection.read_response())
            except ResponseError as error:
                replies.append(error)
    except BaseException:
        # A caller may be cancelled between sending and reading; nobody else may read what is left.
        await connection.disconnect(nowait=True)
        raise
    return replies
