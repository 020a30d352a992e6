"""The blocking face of the Redis store, for workers, sweeps and operators."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from redis import BlockingConnectionPool, Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from ...addresses.redis import Node, parse_address
from ...domain.errors import CorruptRecord, StoreUnavailable
from ...domain.events import Claim, ClientEvent, Create, SweepEvent, WorkerEvent
from ...domain.limits import DEFAULT_LIMITS, Limits
from ...domain.task import Owner, Task, TaskRecord
from ..changes import Change, Reported
from ..clients import Created, Page, TaskView
from ..findings import Finding, Memory
from ..maintenance import Counts, Due, Repair, SweepMark
from ..outbox import NoOutbox, Outbox
from ..workers import Claimed
from .connection import (
    FAILURES,
    RECONNECT_SECONDS,
    SENTINEL_SECONDS,
    SOCKET_SECONDS,
    Pools,
    client_findings,
    connection_options,
    pack,
    reason,
)
from .health import examine
from .layout import Layout, Shard
from .memory_guard import fullest
from .operations import Clock, Operations, parse_change
from .permissions import Role, check_permissions
from .repair import Places, Repairs
from .servers import servers_at
from .transaction import Backoff, LostConnection, Program, RoundTrip

T = TypeVar("T")


class _Hold:
    """The connection of a program, held from one exchange to the next; at most one at a time."""

    __slots__ = ("_connection", "_node", "_pool", "_pools")

    def __init__(self, pools: Pools[BlockingConnectionPool]) -> None:
        self._pools = pools
        self._node: Node | None = None
        self._connection: Connection | None = None

    def exchange(self, exchange: RoundTrip) -> list[Any]:
        node = exchange.node
        connection = self._connection
        if exchange.follows:
            if connection is None or not connection.is_connected:
                raise RedisConnectionError("the connection that watched is gone")
        elif connection is None or node != self._node:
            if connection is not None:
                self.give_back()
            self._node, self._pool = node, self._pools.of(node)
            connection = self._connection = self._pool.get_connection()
        return _exchange(connection, exchange)

    def give_back(self, *, close: bool = False) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            if close:
                connection.disconnect()
            self._pool.release(connection)


class RedisTaskStore:
    """`TaskStore` and `TaskStoreMaintenance` on Redis, blocking. Thread-safe; make a new one after a fork.

    Args:
        url: Of one server, of sentinels, or of a cluster (see `address`).
        prefix: In front of every key.
        shards: How many slots tasks are spread over; the same in every process, for ever. None: what is usual
            for such servers.
        limits: What is allowed.
        outbox: Makes the message of a task that becomes pending.
        pool: Connections at most, to each server; an operation waits for one.
        deadline: Seconds that an operation may try before it raises `StoreUnavailable`.
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
        deadline: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        address = parse_address(url)
        self._url, self._user = url, address.user
        self._layout = Layout(prefix, shards or address.shards)
        self._operations = Operations(self._layout, limits, outbox or NoOutbox(), deadline, clock)
        self._repairs = Repairs(self._operations)
        self._servers = servers_at(address, self._layout.home)

        def connections(node: Node | None) -> BlockingConnectionPool:
            silence = SENTINEL_SECONDS if node is not None and node.is_sentinel else SOCKET_SECONDS
            options = connection_options(Retry, url, silence)
            return BlockingConnectionPool.from_url(
                address.url_of(node), max_connections=pool, timeout=deadline, **options
            )

        self._pools = Pools(connections)

    def close(self) -> None:
        """Close all connections."""
        for pool in self._pools:
            pool.disconnect()

    def run(self, program: Program[T]) -> T:
        """Drive a program to its end on one connection at a time."""
        hold = _Hold(self._pools)
        program = self._servers.routed(program)
        try:
            step = next(program)
            while True:
                if isinstance(step, Backoff):
                    hold.give_back(close=step.leave)
                    time.sleep(step.seconds)
                    step = program.send([])
                    continue
                try:
                    replies = hold.exchange(step)
                except FAILURES as error:
                    hold.give_back()
                    step = program.throw(LostConnection(reason(error, self._url)))
                else:
                    step = program.send(replies)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except StoreUnavailable:
            self._servers.doubt()
            hold.give_back(close=True)
            raise
        finally:
            hold.give_back()

    def changes(self, *, poll: float = 1.0) -> Iterator[Change | None]:
        """Every logged transition as it happens; None at least every `poll` seconds, and after a reconnect.

        Subscribes on a connection of its own, and again whenever that is lost or its server is replaced; what
        was published meanwhile is missed, so read what you wait for whenever None comes.
        """
        while True:
            try:
                yield from self._changes_until_lost(poll)
            except (RedisError, OSError, StoreUnavailable):
                time.sleep(RECONNECT_SECONDS)
                yield None

    def _changes_until_lost(self, poll: float) -> Iterator[Change | None]:
        node = self.run(self._servers.locate())[0]
        connection = self._pools.of(node).make_connection()
        try:
            _exchange(connection, RoundTrip([("SUBSCRIBE", self._layout.changes)]))
            yield None
            while node is None or self._servers.is_current(node):
                if not connection.can_read(timeout=poll):
                    yield None
                elif (message := connection.read_response(disable_decoding=False))[0] == "message":
                    yield parse_change(message[2])
        finally:
            connection.disconnect()

    def announce(self, name: str) -> None:
        """Wake whoever watches a name, in every front end (see `store.announcements`).

        Raises:
            StoreUnavailable: No answer in time; it may have been announced.
        """
        self.run(self._operations.announce(name))

    def report(self, reported: Sequence[Reported]) -> list[int]:
        """Publish what running tools say to whoever waits for them; once, without another try.

        Returns:
            For each, how many front ends have heard it.

        Raises:
            StoreUnavailable: No answer in time; some may have been heard.
        """
        return self.run(self._operations.report(reported))

    def check(self) -> list[Finding]:
        """Look at the servers: version, persistence, eviction, who takes over; and at this client itself.

        Raises:
            StoreUnavailable: No answer in time.
        """
        found = self.run(examine(self._servers, self._layout, self._operations.deadline))
        clients = [finding for pool in self._pools for finding in client_findings(pool.connection_kwargs)]
        return [*clients, *found]

    def check_permissions(self, role: Role) -> list[Finding]:
        """Ask the servers whether this store's user may do what a role does.

        Raises:
            StoreUnavailable: No answer in time.
        """
        messages = self._operations.outbox.messages
        return self.run(check_permissions(self._layout, role, messages=messages, user=self._user))

    def memory(self) -> Memory | None:
        """How full the fullest server is; None if none has a limit, or tells.

        Raises:
            StoreUnavailable: No answer in time.
        """
        return self.run(fullest(self._servers, self._operations.deadline))

    # --- TaskStore -------------------------------------------------------------------------------------

    def create(self, event: Create) -> Created:
        """See `TaskStore.create`."""
        return self.run(self._operations.create(event))

    def get(self, owner: Owner, task_id: str, *, hidden: bool = False) -> TaskView:
        """See `TaskStore.get`."""
        return self.run(self._operations.get(owner, task_id, hidden=hidden))

    def apply(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Task:
        """See `TaskStore.apply`."""
        return self.run(self._operations.apply(owner, task_id, event, hidden=hidden))

    def page(self, owner: Owner, *, after: str | None = None, limit: int = 50) -> Page:
        """See `TaskStore.page`."""
        return self.run(self._operations.page(owner, after=after, limit=limit))

    def claim(self, task_id: str, event: Claim) -> Claimed:
        """See `TaskStore.claim`."""
        return self.run(self._operations.claim(task_id, event))

    def commit(self, task_id: str, event: WorkerEvent) -> Task:
        """See `TaskStore.commit`."""
        return self.run(self._operations.commit(task_id, event))

    # --- TaskStoreMaintenance ----------------------------------------------------------------------------

    def now_ms(self) -> int:
        """See `TaskStoreMaintenance.now_ms`."""
        return self.run(self._operations.now_ms())

    def due(self, index: Due, *, limit: int) -> list[str]:
        """See `TaskStoreMaintenance.due`."""
        return self.run(self._operations.due(index, limit=limit))

    def apply_sweep(self, task_id: str, event: SweepEvent) -> Task | None:
        """See `TaskStoreMaintenance.apply_sweep`."""
        return self.run(self._operations.apply_sweep(task_id, event))

    def queues(self) -> list[str]:
        """See `TaskStoreMaintenance.queues`."""
        return self.run(self._operations.queues())

    def pending(self, queue: str, *, until_ms: int, limit: int) -> list[str]:
        """See `TaskStoreMaintenance.pending`."""
        return self.run(self._operations.pending(queue, until_ms=until_ms, limit=limit))

    def waiting_for_slots(self, *, limit: int) -> list[str]:
        """See `TaskStoreMaintenance.waiting_for_slots`."""
        return self.run(self._operations.waiting_for_slots(limit=limit))

    def overtaken_ms(self, queue: str) -> int:
        """See `TaskStoreMaintenance.overtaken_ms`."""
        return self.run(self._operations.overtaken_ms(queue))

    def mark_suspected(self, task_ids: Sequence[str], *, not_before_ms: int) -> list[int]:
        """See `TaskStoreMaintenance.mark_suspected`."""
        return self.run(self._operations.mark_suspected(task_ids, not_before_ms=not_before_ms))

    def try_lock(self, name: str, *, for_ms: int) -> bool:
        """See `TaskStoreMaintenance.try_lock`."""
        return self.run(self._operations.try_lock(name, for_ms=for_ms))

    def mark_sweep(self, *, lease_ms: int) -> SweepMark:
        """See `TaskStoreMaintenance.mark_sweep`."""
        return self.run(self._operations.mark_sweep(self._servers, lease_ms=lease_ms))

    def has_due_suspects(self) -> bool:
        """See `TaskStoreMaintenance.has_due_suspects`."""
        return self.run(self._operations.has_due_suspects())

    def mark_beat(self, kind: str) -> None:
        """See `TaskStoreMaintenance.mark_beat`."""
        self.run(self._operations.mark_beat(kind))

    def beat_ages_ms(self) -> dict[str, int]:
        """See `TaskStoreMaintenance.beat_ages_ms`."""
        return self.run(self._operations.beat_ages_ms())

    def last_sweep_ms(self) -> int | None:
        """See `TaskStoreMaintenance.last_sweep_ms`."""
        return self.run(self._operations.last_sweep_ms())

    def inspect(self, task_id: str) -> TaskRecord:
        """See `TaskStoreMaintenance.inspect`."""
        return self.run(self._operations.inspect(task_id))

    def task_ids(self) -> Iterator[str]:
        """See `TaskStoreMaintenance.task_ids`."""
        queues = self.queues()
        for shard in self._layout.shards:
            names = (Due.OVERDUE, Due.LEASES, Due.TIMERS)
            live: set[str] = set()
            # One that is missing from the first index, and alive, may be in the others.
            for key in (*(shard.index(name.value) for name in names), *map(shard.pending, queues)):
                found = set(self._members(key)) - live
                live |= found
                yield from found
            # Those that have ended come last: who ends meanwhile is not missed.
            yield from (
                task_id for task_id in self._members(shard.index(Due.EXPIRED.value)) if task_id not in live
            )

    def _members(self, key: str) -> Iterator[str]:
        cursor, ids = self.run(self._operations.scan(key, "0"))
        yield from ids
        while cursor != "0":
            cursor, ids = self.run(self._operations.scan(key, cursor))
            yield from ids

    def index_problems(self, task_id: str) -> list[str]:
        """See `TaskStoreMaintenance.index_problems`."""
        return self.run(self._operations.index_problems(task_id))

    def repair(self, *, dry_run: bool = False, quarantine: bool = False) -> Iterator[Repair]:
        """See `TaskStoreMaintenance.repair`."""
        told: set[Repair] = set()
        for shard in self._layout.shards:
            for repair in self._repair_shard(shard, dry_run=dry_run, quarantine=quarantine):
                if repair not in told:  # what is not fixed in the first walk is met again in the second
                    told.add(repair)
                    yield repair

    def _repair_shard(self, shard: Shard, *, dry_run: bool, quarantine: bool) -> Iterator[Repair]:
        def task(task_id: str, found_in: str | None = None) -> list[Repair]:
            program = self._repairs.task(task_id, found_in, dry_run=dry_run, quarantine=quarantine)
            return self.run(program)

        # Records first: what is moved aside then is missing from the places that the second walk meets.
        for places in self._places(shard):
            orphans = self.run(self._repairs.without_record(shard, places.logs))
            for task_id in (*places.records, *orphans):
                yield from task(task_id)
        for places in self._places(shard):
            for key in places.sets:
                yield from self._strays(shard, key, task)
            for key in places.keys:
                yield from task(self.run(self._repairs.led_to(key)), key)

    def _strays(
        self, shard: Shard, key: str, fix: Callable[[str, str | None], list[Repair]]
    ) -> Iterator[Repair]:
        cursor = "0"
        while True:
            try:
                cursor, ids = self.run(self._repairs.members(shard, key, cursor))
            except CorruptRecord as error:
                yield Repair(task_id="", what=f"{key}: {error.reason}", fixed=False)
                return
            for task_id in ids:
                yield from fix(task_id, key)
            if cursor == "0":
                return

    def _places(self, shard: Shard) -> Iterator[Places]:
        cursor, places = self.run(self._repairs.keys(shard, "0"))
        yield places
        while cursor != "0":
            cursor, places = self.run(self._repairs.keys(shard, cursor))
            yield places

    def counts(self) -> Counts:
        """See `TaskStoreMaintenance.counts`."""
        return self.run(self._operations.counts())


def _exchange(connection: Connection, exchange: RoundTrip) -> list[Any]:
    replies: list[Any] = []
    try:
        connection.send_packed_command(pack(exchange.commands))
        for _ in exchange.commands:
            try:
                replies.append(connection.read_response())
            except ResponseError as error:
                replies.append(error)
    except BaseException:
        # A signal may have come between sending and reading; nobody else may read what is left.
        connection.disconnect()
        raise
    return replies
