"""The asyncio store on Redis, for front ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TypeVar

from redis.asyncio import BlockingConnectionPool, Connection
from redis.asyncio.retry import Retry

from ...addresses.redis import Kind, Node, parse_address
from ...crypto.envelope import NO_ENVELOPE, Envelope
from ...crypto.keys import Fingerprints
from ...domain.errors import StoreUnavailable, TaskNotFound
from ...domain.events import AnswerInput, ClientEvent, Create
from ...domain.limits import DEFAULT_LIMITS, Limits
from ...domain.rates import NO_RATES, Counted, Rates
from ...domain.task import Owner, Task
from ..changes import Change, Reported
from ..clients import Created, Page, TaskView
from ..facts import StoreFacts
from ..findings import Finding, Memory
from ..outbox import NoOutbox, Outbox
from .connection import Pools, client_findings, connect_to_master_async, connection_options
from .drivers import AsyncDriver
from .facts import read_facts
from .health import examine, take_writes
from .layout import Layout
from .memory_guard import MemoryGuard
from .permissions import Role, check_permissions
from .programs import Clock
from .rates import RateLimiter
from .reads import Reads
from .registry import RegistryPrograms
from .registry_faces import AsyncRedisRegistry
from .secrets import compare_secrets
from .servers import servers_at
from .sessions import RedisSessions
from .subscription import Subscription
from .sweeps import Sweeps
from .timings import DEFAULT_TIMINGS, Timings
from .transaction import Program
from .transitions import Transitions

T = TypeVar("T")


class AsyncRedisTaskStore:
    """`FrontEndStore` on Redis. One per event loop.

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
        timings: How long to wait for what.
        envelope: Seals what is stored, and opens it; without keys if not given.
        rates: How often callers may do what, counted together with every other front end.
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
        timings: Timings = DEFAULT_TIMINGS,
        envelope: Envelope = NO_ENVELOPE,
        rates: Rates = NO_RATES,
    ) -> None:
        address = parse_address(url)
        self._user = address.user
        self._layout = Layout(prefix, shards or address.shards)
        self._guard = MemoryGuard(timings.memory, deadline=deadline, each_shard=address.kind is Kind.CLUSTER)
        self._rates = RateLimiter(self._layout, rates)
        shared = (self._layout, limits, deadline, clock, envelope)
        self._reads, self._sweeps = Reads(*shared), Sweeps(*shared)
        self._transitions = Transitions(*shared, outbox or NoOutbox(), self._guard, self._reads, timings)
        self._servers = servers_at(address, self._layout.home)

        def connections(node: Node | None) -> BlockingConnectionPool:
            # `run` bounds the whole operation; a timer for each reply would cost a sixth of a create.
            reply = timings.sentinel_reply if node is not None and node.is_sentinel else None
            is_named = address.kind is Kind.SENTINEL and node is not None and not node.is_sentinel
            on_connect = connect_to_master_async if is_named else None
            options = connection_options(Retry, url, timings=timings, reply=reply, on_connect=on_connect)
            return BlockingConnectionPool.from_url(
                address.url_of(node), max_connections=pool, timeout=None, **options
            )

        self._pools = Pools(connections)
        self._driver = AsyncDriver(self._pools, self._servers, url)
        self._sessions = RedisSessions(
            self.run,
            prefix=prefix,
            channel=self._layout.changes,
            deadline=deadline,
            guard=self._guard,
            rates=self._rates,
            counted_in=self._layout.home,
            answers_bytes=limits.answers_bytes,
            envelope=envelope,
        )
        self._registry = AsyncRedisRegistry(self, RegistryPrograms(*shared))
        self._listens_at: Node | None = None
        self._subscription = Subscription(
            self._connect, self._is_current, self._layout, envelope, timings.reconnect
        )

    @property
    def sessions(self) -> RedisSessions:
        """See `FrontEndStore.sessions`; on the same connections."""
        return self._sessions

    @property
    def registry(self) -> AsyncRedisRegistry:
        """See `FrontEndStore.registry`; on the same connections."""
        return self._registry

    async def aclose(self) -> None:
        """See `FrontEndStore.aclose`."""
        for pool in self._pools:
            await pool.disconnect()

    async def run(self, program: Program[T]) -> T:
        """Drive a program to its end on one connection at a time, within the deadline."""
        return await self._driver.run(program, self._reads.deadline)

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
        """See `ChangeSource.changes`; on a connection of its own."""
        return self._subscription.messages()

    def subscribe_reports(self, task_id: str) -> None:
        """See `ChangeSource.subscribe_reports`."""
        self._subscription.subscribe_reports(task_id)

    def unsubscribe_reports(self, task_id: str) -> None:
        """See `ChangeSource.unsubscribe_reports`."""
        self._subscription.unsubscribe_reports(task_id)

    async def catch_up(self) -> None:
        """See `ChangeSource.catch_up`."""
        await self._subscription.catch_up()

    async def check(self, secrets: Fingerprints) -> list[Finding]:
        """See `FrontEndStore.check`."""
        messages = self._transitions.outbox.messages
        rights = check_permissions(self._layout, Role.FRONT_END, messages=messages, user=self._user)
        if lacks := await self.run(rights):
            return lacks  # it may not ask the rest either
        found = await self.run(examine(self._servers, self._layout, self._reads.deadline))
        found += await self.run(
            compare_secrets(self._layout, secrets, self._reads.envelope, self._reads.deadline)
        )
        await self.ping()
        clients = [finding for pool in self._pools for finding in client_findings(pool.connection_kwargs)]
        return [*clients, *found]

    @property
    def memory(self) -> Memory | None:
        """See `FrontEndStore.memory`."""
        return self._guard.memory

    async def facts(self) -> StoreFacts:
        """See `FrontEndStore.facts`."""
        return await self.run(read_facts(self._reads, self._sweeps))

    async def ping(self) -> None:
        """See `FrontEndStore.ping`."""
        await self.run(self._guard.beside(take_writes(self._reads.deadline), self._layout.home))

    async def create(self, event: Create) -> Created:
        """See `ClientStore.create`.

        Raises:
            RateExceeded: The owner calls too often.
            StoreFull: The server's memory is short.
        """
        owner, shard = event.owner, self._layout.shard_of_owner(event.owner)
        self._rates.check(Counted.CALLS, owner)
        program = self._transitions.create(event)
        program = self._rates.beside(program, Counted.CALLS, owner, shard, refuses=True)
        created = await self.run(self._guard.beside(program, shard))
        self._rates.found(owner, created.task.task_id)
        return created

    async def get(self, owner: Owner, task_id: str, *, hidden: bool = False) -> TaskView:
        """See `ClientStore.get`."""
        return await self._find(owner, task_id, self._reads.get(owner, task_id, hidden=hidden), hidden=hidden)

    async def apply(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Task:
        """See `ClientStore.apply`.

        Raises:
            StoreFull: It is an answer, and the server's memory is short.
        """
        program = self._transitions.apply(owner, task_id, event, hidden=hidden)
        if isinstance(event, AnswerInput):
            program = self._guard.beside(program, self._layout.shard_of(task_id))
        return await self._find(owner, task_id, program, hidden=hidden)

    async def _find(self, owner: Owner, task_id: str, program: Program[T], *, hidden: bool) -> T:
        """Run a program that a caller names a task for; if there is none, that is counted.

        Whoever has found a task may go on looking at it, whatever else its owner looks for in vain; so may
        what waits for a task, or follows it.
        """
        if hidden:  # the service itself names it
            return await self.run(program)
        if not self._rates.has_found(owner, task_id):
            self._rates.check(Counted.LOOKUPS, owner)
        try:
            found = await self.run(program)
        except TaskNotFound:
            self._rates.lost(owner, task_id)
            with suppress(StoreUnavailable):
                await self.run(self._rates.count(Counted.LOOKUPS, owner))
            raise
        self._rates.found(owner, task_id)
        return found

    async def page(self, owner: Owner, *, after: str | None = None, limit: int = 50) -> Page:
        """See `ClientStore.page`."""
        return await self.run(self._reads.page(owner, after=after, limit=limit))
