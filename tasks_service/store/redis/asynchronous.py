"""The asyncio face of the Redis store, for the front end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from redis.asyncio import BlockingConnectionPool, Connection
from redis.asyncio.retry import Retry
from redis.exceptions import ResponseError

from ...domain.errors import StoreUnavailable
from ...domain.events import AnswerInput, Claim, ClientEvent, Create, WorkerEvent
from ...domain.limits import DEFAULT_LIMITS, Limits
from ...domain.task import Owner, Task
from ..base import Change, Claimed, Created, Finding, Memory, NoOutbox, Outbox, Page, Reported, TaskView
from . import health, permissions
from .connection import FAILURES, connection_options, pack, reason, user_of
from .headroom import Headroom
from .layout import Layout
from .operations import Clock, Operations
from .permissions import Role
from .sessions import RedisSessions
from .subscription import Subscription
from .transaction import Exchange, LostConnection, Pause, Program, once

T = TypeVar("T")


class AsyncRedisTaskStore:
    """`AsyncTaskStore` on Redis. One per event loop.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        prefix: In front of every key.
        shards: How many slots tasks are spread over; the same in every process, for ever.
        limits: What is allowed.
        outbox: Makes the message of a task that becomes pending.
        pool: Connections at most; an operation waits for one.
        deadline: Seconds that an operation may take, waiting included, before it raises `StoreUnavailable`.
        clock: From the server's time to the time that decisions use, in ms; for tests.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str = "ts",
        shards: int = 1,
        limits: Limits = DEFAULT_LIMITS,
        outbox: Outbox | None = None,
        pool: int = 16,
        deadline: float = 1.8,
        clock: Clock | None = None,
    ) -> None:
        self._url, self._layout = url, Layout(prefix, shards)
        self._headroom = Headroom()
        self._operations = Operations(
            self._layout, limits, outbox or NoOutbox(), deadline, clock, self._headroom
        )
        self._pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url,
            max_connections=pool,
            timeout=None,
            # `run` bounds the whole operation; a timer for each reply would cost a sixth of a create.
            **{**connection_options(Retry, url), "socket_timeout": None},
        )
        self._sessions = RedisSessions(
            self.run, prefix=prefix, channel=self._layout.changes, deadline=deadline
        )

        self._subscription = Subscription(self._pool.make_connection, self._layout)

    @property
    def sessions(self) -> RedisSessions:
        """Sessions of clients that have them, on the same connections; their wake-ups are changes."""
        return self._sessions

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.disconnect()

    async def run(self, program: Program[T]) -> T:
        """Drive a program to its end on one connection at a time, within the deadline."""
        failures: list[str] = []
        try:
            async with asyncio.timeout(self._operations.deadline):
                return await self._drive(program, failures)
        except TimeoutError:
            raise StoreUnavailable(failures[-1] if failures else "no answer in time") from None

    async def _drive(self, program: Program[T], failures: list[str]) -> T:
        connection: Connection | None = None
        try:
            step = next(program)
            while True:
                if isinstance(step, Pause):
                    await self._give_back(connection)
                    connection = None
                    await asyncio.sleep(step.seconds)
                    step = program.send([])
                    continue
                try:
                    connection = connection or await self._pool.get_connection()
                    replies = await _exchange(connection, step)
                except FAILURES as error:
                    failures.append(reason(error, self._url))
                    step = program.throw(LostConnection(failures[-1]))
                else:
                    step = program.send(replies)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            await self._give_back(connection)

    async def _give_back(self, connection: Connection | None) -> None:
        if connection is not None:
            await self._pool.release(connection)

    def changes(self) -> AsyncIterator[Change | Reported | None]:
        """Every logged transition as it happens; None whenever the subscription is made (again).

        Reports of the tasks that `hear` names come among them, in the order in which they were published.
        Subscribes on a connection of its own. What was published while it was lost is missed, so read what
        you wait for whenever None comes. One at a time.
        """
        return self._subscription.messages()

    def hear(self, task_id: str) -> None:
        """Let the reports of a task's tool come among the changes, from now on."""
        self._subscription.hear(task_id)

    def unhear(self, task_id: str) -> None:
        """Let them come no more."""
        self._subscription.unhear(task_id)

    async def settle(self) -> None:
        """Return when all has come that was published before; at once while there is no subscription."""
        await self._subscription.settle()

    async def check(self) -> list[Finding]:
        """What is wrong with the server, and what its user may not do that a front end does.

        Raises:
            StoreUnavailable: No answer in time.
        """
        program = health.check(self._operations.deadline)
        found = await self.run(self._headroom.beside(program))
        return [*found, *await self.run(self._permissions())]

    def _permissions(self) -> Program[list[Finding]]:
        user = user_of(self._pool.connection_kwargs)
        messages = self._operations.outbox.messages
        return permissions.check(self._layout, Role.FRONT_END, messages=messages, user=user)

    @property
    def memory(self) -> Memory | None:
        """How full the server was when it was last asked: by a check, a ping, a create or an answer.

        None if it has no limit, or does not tell.
        """
        return self._headroom.memory

    async def ping(self) -> None:
        """Return if the store answers.

        Raises:
            StoreUnavailable: It does not, in time.
        """
        await self.run(self._headroom.beside(once([("PING",)], self._operations.deadline)))

    async def create(self, event: Create) -> Created:
        """See `TaskStore.create`.

        Raises:
            StoreFull: The server's memory is short.
        """
        return await self.run(self._headroom.beside(self._operations.create(event)))

    async def get(self, owner: Owner, task_id: str, *, hidden: bool = False) -> TaskView:
        """See `TaskStore.get`."""
        return await self.run(self._operations.get(owner, task_id, hidden=hidden))

    async def act(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Task:
        """See `TaskStore.act`.

        Raises:
            StoreFull: It is an answer, and the server's memory is short.
        """
        program = self._operations.act(owner, task_id, event, hidden=hidden)
        return await self.run(self._headroom.beside(program) if isinstance(event, AnswerInput) else program)

    async def page(self, owner: Owner, *, after: str | None = None, limit: int = 50) -> Page:
        """See `TaskStore.page`."""
        return await self.run(self._operations.page(owner, after=after, limit=limit))

    async def claim(self, task_id: str, event: Claim) -> Claimed:
        """See `TaskStore.claim`."""
        return await self.run(self._operations.claim(task_id, event))

    async def commit(self, task_id: str, event: WorkerEvent) -> Task:
        """See `TaskStore.commit`."""
        return await self.run(self._operations.commit(task_id, event))


async def _exchange(connection: Connection, exchange: Exchange) -> list[Any]:
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
