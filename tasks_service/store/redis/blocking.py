"""The blocking face of the Redis store, for workers, sweeps and operators."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from redis import BlockingConnectionPool, Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from ...domain.errors import CorruptRecord
from ...domain.events import Claim, ClientEvent, Create, SweepEvent, WorkerEvent
from ...domain.limits import DEFAULT_LIMITS, Limits
from ...domain.task import Owner, Task, TaskRecord
from ..base import (
    Change,
    Claimed,
    Counts,
    Created,
    Due,
    Finding,
    Memory,
    NoOutbox,
    Outbox,
    Page,
    Repair,
    Reported,
    TaskView,
)
from .connection import RECONNECT_SECONDS, connection_options, pack
from .headroom import MEMORY, parse_memory
from .health import findings, health_reads
from .layout import Layout, Shard
from .operations import Clock, Operations, parse_change
from .repair import Places, Repairs
from .transaction import Exchange, LostConnection, Pause, Program, once

T = TypeVar("T")


class RedisTaskStore:
    """`TaskStore` and `TaskStoreMaintenance` on Redis, blocking. Thread-safe; make a new one after a fork.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        prefix: In front of every key.
        shards: How many slots tasks are spread over; the same in every process, for ever.
        limits: What is allowed.
        outbox: Makes the message of a task that becomes pending.
        pool: Connections at most; an operation waits for one.
        deadline: Seconds that an operation may try before it raises `StoreUnavailable`.
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
        deadline: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        self._layout = Layout(prefix, shards)
        self._operations = Operations(self._layout, limits, outbox or NoOutbox(), deadline, clock)
        self._repairs = Repairs(self._operations)
        self._pool = BlockingConnectionPool.from_url(
            url, max_connections=pool, timeout=deadline, **connection_options(Retry, url)
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.disconnect()

    def run(self, program: Program[T]) -> T:
        """Drive a program to its end on one connection at a time."""
        connection: Connection | None = None
        try:
            step = next(program)
            while True:
                if isinstance(step, Pause):
                    self._give_back(connection)
                    connection = None
                    time.sleep(step.seconds)
                    step = program.send([])
                    continue
                try:
                    connection = connection or self._pool.get_connection()
                    replies = _exchange(connection, step)
                except (RedisConnectionError, RedisTimeoutError, OSError) as error:
                    step = program.throw(LostConnection(str(error)))
                else:
                    step = program.send(replies)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        finally:
            self._give_back(connection)

    def _give_back(self, connection: Connection | None) -> None:
        if connection is not None:
            self._pool.release(connection)

    def changes(self, *, poll: float = 1.0) -> Iterator[Change | None]:
        """Every logged transition as it happens; None at least every `poll` seconds, and after a reconnect.

        Subscribes on a connection of its own, and again whenever that is lost; what was published meanwhile
        is missed, so read what you wait for whenever None comes.
        """
        while True:
            connection = self._pool.make_connection()
            try:
                _exchange(connection, Exchange([("SUBSCRIBE", self._layout.changes)]))
                yield None
                while True:
                    if not connection.can_read(timeout=poll):
                        yield None
                    elif (message := connection.read_response(disable_decoding=False))[0] == "message":
                        yield parse_change(message[2])
            except (RedisError, OSError):
                time.sleep(RECONNECT_SECONDS)
                yield None
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
        """Look at the server's version, persistence and eviction policy.

        Raises:
            StoreUnavailable: No answer in time.
        """
        return findings(self.run(once(health_reads(), self._operations.deadline)))

    def memory(self) -> Memory | None:
        """How full the server is; None if it has no limit, or does not tell.

        Raises:
            StoreUnavailable: No answer in time.
        """
        (reply,) = self.run(once([MEMORY], self._operations.deadline))
        return parse_memory(reply)

    # --- TaskStore -------------------------------------------------------------------------------------

    def create(self, event: Create) -> Created:
        """See `TaskStore.create`."""
        return self.run(self._operations.create(event))

    def get(self, owner: Owner, task_id: str, *, hidden: bool = False) -> TaskView:
        """See `TaskStore.get`."""
        return self.run(self._operations.get(owner, task_id, hidden=hidden))

    def act(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Task:
        """See `TaskStore.act`."""
        return self.run(self._operations.act(owner, task_id, event, hidden=hidden))

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

    def settle(self, task_id: str, event: SweepEvent) -> Task | None:
        """See `TaskStoreMaintenance.settle`."""
        return self.run(self._operations.settle(task_id, event))

    def queues(self) -> list[str]:
        """See `TaskStoreMaintenance.queues`."""
        return self.run(self._operations.queues())

    def pending(self, queue: str, *, until_ms: int, limit: int) -> list[str]:
        """See `TaskStoreMaintenance.pending`."""
        return self.run(self._operations.pending(queue, until_ms=until_ms, limit=limit))

    def turns(self, *, limit: int) -> list[str]:
        """See `TaskStoreMaintenance.turns`."""
        return self.run(self._operations.turns(limit=limit))

    def overtaken_ms(self, queue: str) -> int:
        """See `TaskStoreMaintenance.overtaken_ms`."""
        return self.run(self._operations.overtaken_ms(queue))

    def suspect(self, task_ids: Sequence[str], *, not_before_ms: int) -> list[int]:
        """See `TaskStoreMaintenance.suspect`."""
        return self.run(self._operations.suspect(task_ids, not_before_ms=not_before_ms))

    def hold(self, name: str, *, for_ms: int) -> bool:
        """See `TaskStoreMaintenance.hold`."""
        return self.run(self._operations.hold(name, for_ms=for_ms))

    def mark_sweep(self) -> int:
        """See `TaskStoreMaintenance.mark_sweep`."""
        return self.run(self._operations.mark_sweep())

    def last_sweep_ms(self) -> int | None:
        """See `TaskStoreMaintenance.last_sweep_ms`."""
        return self.run(self._operations.last_sweep_ms())

    def inspect(self, task_id: str) -> TaskRecord:
        """See `TaskStoreMaintenance.inspect`."""
        return self.run(self._operations.inspect(task_id))

    def task_ids(self) -> Iterator[str]:
        """See `TaskStoreMaintenance.task_ids`."""
        for shard in self._layout.shards:
            cursor, ids = self.run(self._operations.scan(shard, "0"))
            yield from ids
            while cursor != "0":
                cursor, ids = self.run(self._operations.scan(shard, cursor))
                yield from ids

    def index_problems(self, task_id: str) -> list[str]:
        """See `TaskStoreMaintenance.index_problems`."""
        return self.run(self._operations.index_problems(task_id))

    def repair(self, *, dry_run: bool = False, quarantine: bool = False) -> Iterator[Repair]:
        """See `TaskStoreMaintenance.repair`."""
        told: set[Repair] = set()
        for shard in self._layout.shards:
            for repair in self._repair_shard(shard, dry_run=dry_run, quarantine=quarantine):
                if repair not in told:  # what is not mended in the first walk is met again in the second
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
        self, shard: Shard, key: str, mend: Callable[[str, str | None], list[Repair]]
    ) -> Iterator[Repair]:
        cursor = "0"
        while True:
            try:
                cursor, ids = self.run(self._repairs.members(shard, key, cursor))
            except CorruptRecord as error:
                yield Repair(task_id="", what=f"{key}: {error.reason}", mended=False)
                return
            for task_id in ids:
                yield from mend(task_id, key)
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


def _exchange(connection: Connection, exchange: Exchange) -> list[Any]:
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
