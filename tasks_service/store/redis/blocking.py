"""The blocking store on Redis, for workers, sweeps and operators."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from redis import BlockingConnectionPool
from redis.exceptions import RedisError
from redis.retry import Retry

from ...addresses.redis import Kind, Node, parse_address
from ...crypto.envelope import NO_ENVELOPE, Envelope
from ...crypto.keys import Fingerprints
from ...domain.errors import StoreUnavailable
from ...domain.events import Claim, ClientEvent, Create, OperatorEvent, SweepEvent, WorkerEvent
from ...domain.indexes import Due
from ...domain.limits import DEFAULT_LIMITS, Limits
from ...domain.task import Owner, Task, TaskRecord
from ..changes import Change, Reported
from ..clients import Created, Page, TaskView
from ..findings import Finding, Memory
from ..maintenance import DroppedMessages, Reencrypted, Repair, SweepMark
from ..outbox import NoOutbox, Outbox
from ..workers import Claimed
from .connection import Pools, client_findings, connect_to_master, connection_options
from .drivers import BlockingDriver, exchange
from .health import examine
from .layout import Layout
from .memory_guard import MemoryGuard, fullest
from .permissions import Role, check_permissions
from .programs import Clock
from .publications import announce, parse_change, report
from .reads import Reads
from .reencryption import walk
from .registry import RegistryPrograms
from .registry_faces import RedisRegistry
from .repair import Repairs
from .repair_walk import RepairWalk
from .secrets import compare_secrets
from .servers import servers_at
from .sweeps import Sweeps
from .timings import DEFAULT_TIMINGS, Timings
from .transaction import Program, RoundTrip
from .transitions import Transitions

T = TypeVar("T")


class RedisTaskStore:
    """`ClientStore`, `WorkerStore` and `MaintenanceStore` on Redis, blocking.

    Thread-safe; make a new one after a fork.

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
        timings: How long to wait for what.
        envelope: Seals what is stored, and opens it; without keys if not given.
        patient: See `BlockingDriver`.
        guarded: Whether new tasks are refused while the server's memory is short (see `memory_guard`).
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
        timings: Timings = DEFAULT_TIMINGS,
        envelope: Envelope = NO_ENVELOPE,
        patient: bool = True,
        guarded: bool = False,
    ) -> None:
        address = parse_address(url)
        self._user, self._timings = address.user, timings
        self._database = address.database
        self._layout = Layout(prefix, shards or address.shards)
        shared = (self._layout, limits, deadline, clock, envelope)
        self._reads, self._sweeps = Reads(*shared), Sweeps(*shared)
        each_shard = address.kind is Kind.CLUSTER
        self._guard = (
            MemoryGuard(timings.memory, deadline=deadline, each_shard=each_shard) if guarded else None
        )
        self._transitions = Transitions(*shared, outbox or NoOutbox(), self._guard, self._reads, timings)
        self._repairs = Repairs(self._transitions)
        self._registry = RedisRegistry(self, RegistryPrograms(*shared))
        self._servers = servers_at(address, self._layout.home)

        def connections(node: Node | None) -> BlockingConnectionPool:
            reply = timings.sentinel_reply if node is not None and node.is_sentinel else timings.reply
            is_named = address.kind is Kind.SENTINEL and node is not None and not node.is_sentinel
            on_connect = connect_to_master if is_named else None
            options = connection_options(Retry, url, timings=timings, reply=reply, on_connect=on_connect)
            return BlockingConnectionPool.from_url(
                address.url_of(node), max_connections=pool, timeout=deadline, **options
            )

        self._pools = Pools(connections)
        self._driver = BlockingDriver(self._pools, self._servers, url, patient=patient)

    def close(self) -> None:
        """Close all connections."""
        for pool in self._pools:
            pool.disconnect()

    def run(self, program: Program[T]) -> T:
        """Drive a program to its end on one connection at a time."""
        return self._driver.run(program)

    @property
    def registry(self) -> RedisRegistry:
        """See `MaintenanceStore.registry`; on the same connections."""
        return self._registry

    def changes(self, *, poll: float = 1.0) -> Iterator[Change | None]:
        """Every logged transition as it happens; None at least every `poll` seconds, and after a reconnect.

        Subscribes on a connection of its own, and again whenever that is lost or its server is replaced; what
        was published meanwhile is missed, so read what you wait for whenever None comes.
        """
        while True:
            try:
                yield from self._changes_until_lost(poll)
            except (RedisError, OSError, StoreUnavailable):
                time.sleep(self._timings.reconnect)
                yield None

    def _changes_until_lost(self, poll: float) -> Iterator[Change | None]:
        node = self.run(self._servers.locate())[0]
        connection = self._pools.of(node).make_connection()
        try:
            exchange(connection, RoundTrip([("SUBSCRIBE", self._layout.changes)]))
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
        self.run(announce(self._layout, name, self._reads.deadline))

    def check(self) -> list[Finding]:
        """Look at the servers: version, persistence, eviction, who takes over; and at this client itself.

        Raises:
            StoreUnavailable: No answer in time.
        """
        found = self.run(examine(self._servers, self._layout, self._reads.deadline))
        clients = [finding for pool in self._pools for finding in client_findings(pool.connection_kwargs)]
        return [*clients, *found]

    def check_secrets(self, secrets: Fingerprints, *, notes: bool = False) -> list[Finding]:
        """Whether secrets are those of the store's other processes.

        Args:
            secrets: Of this process.
            notes: Whether they are noted, for later ones to compare.

        Raises:
            StoreUnavailable: No answer in time.
        """
        return self.run(
            compare_secrets(self._layout, secrets, self._reads.envelope, self._reads.deadline, notes=notes)
        )

    def check_permissions(self, role: Role) -> list[Finding]:
        """Ask the servers whether this store's user may do what a role does.

        Raises:
            StoreUnavailable: No answer in time.
        """
        messages = self._transitions.outbox.messages
        return self.run(
            check_permissions(self._layout, role, messages=messages, user=self._user, database=self._database)
        )

    def memory(self) -> Memory | None:
        """How full the fullest server is; None if none has a limit, or tells.

        Raises:
            StoreUnavailable: No answer in time.
        """
        return self.run(fullest(self._servers, self._reads.deadline))

    # --- ClientStore -------------------------------------------------------------------------------------

    def create(self, event: Create) -> Created:
        """See `ClientStore.create`.

        Raises:
            StoreFull: The server's memory is short, and this store is `guarded`.
        """
        program = self._transitions.create(event)
        if self._guard is not None:
            program = self._guard.beside(program, self._layout.shard_of_owner(event.owner))
        return self.run(program)

    def get(self, owner: Owner, task_id: str, *, hidden: bool = False) -> TaskView:
        """See `ClientStore.get`."""
        return self.run(self._reads.get(owner, task_id, hidden=hidden))

    def apply(self, owner: Owner, task_id: str, event: ClientEvent, *, hidden: bool = False) -> Task:
        """See `ClientStore.apply`."""
        return self.run(self._transitions.apply(owner, task_id, event, hidden=hidden))

    def page(self, owner: Owner, *, after: str | None = None, limit: int = 50) -> Page:
        """See `ClientStore.page`."""
        return self.run(self._reads.page(owner, after=after, limit=limit))

    # --- WorkerStore -----------------------------------------------------------------------------------

    def claim(self, reference: str, event: Claim) -> Claimed:
        """See `WorkerStore.claim`."""
        return self.run(self._transitions.claim(reference, event))

    def commit(self, reference: str, event: WorkerEvent) -> Task:
        """See `WorkerStore.commit`."""
        return self.run(self._transitions.commit(reference, event))

    def report(self, reported: Sequence[Reported]) -> list[int]:
        """See `WorkerStore.report`."""
        return self.run(report(self._layout, self._reads.envelope, reported))

    # --- MaintenanceStore ----------------------------------------------------------------------------

    def now_ms(self) -> int:
        """See `MaintenanceStore.now_ms`."""
        return self.run(self._reads.now_ms())

    def due(self, index: Due, *, limit: int, skip: int = 0) -> list[str]:
        """See `MaintenanceStore.due`."""
        return self.run(self._sweeps.due(index, limit=limit, skip=skip))

    def apply_sweep(self, reference: str, event: SweepEvent) -> Task | None:
        """See `MaintenanceStore.apply_sweep`."""
        return self.run(self._transitions.apply_sweep(reference, event))

    def apply_order(self, reference: str, event: OperatorEvent) -> Task:
        """See `MaintenanceStore.apply_order`."""
        return self.run(self._transitions.apply_order(reference, event))

    def queues(self) -> list[str]:
        """See `MaintenanceStore.queues`."""
        return self.run(self._sweeps.queues())

    def pending(self, queue: str, *, since_ms: int = 0, until_ms: int, limit: int) -> list[str]:
        """See `MaintenanceStore.pending`."""
        return self.run(self._sweeps.pending(queue, since_ms=since_ms, until_ms=until_ms, limit=limit))

    def tasks(self, names: Sequence[str]) -> list[Task]:
        """See `MaintenanceStore.tasks`."""
        return self.run(self._reads.tasks(names))

    def waiting_for_slots(self, *, limit: int) -> list[str]:
        """See `MaintenanceStore.waiting_for_slots`."""
        return self.run(self._sweeps.waiting_for_slots(limit=limit))

    def overtaken_ms(self, queue: str) -> int:
        """See `MaintenanceStore.overtaken_ms`."""
        return self.run(self._sweeps.overtaken_ms(queue))

    def mark_suspected(self, references: Sequence[str], *, not_before_ms: int) -> list[int]:
        """See `MaintenanceStore.mark_suspected`."""
        return self.run(self._sweeps.mark_suspected(references, not_before_ms=not_before_ms))

    def try_lock(self, name: str, *, for_ms: int) -> bool:
        """See `MaintenanceStore.try_lock`."""
        return self.run(self._sweeps.try_lock(name, for_ms=for_ms))

    def mark_sweep(self, *, lease_ms: int) -> SweepMark:
        """See `MaintenanceStore.mark_sweep`."""
        return self.run(self._sweeps.mark_sweep(self._servers, lease_ms=lease_ms))

    def has_due_suspects(self) -> bool:
        """See `MaintenanceStore.has_due_suspects`."""
        return self.run(self._sweeps.has_due_suspects())

    def mark_beat(self, kind: str) -> None:
        """See `MaintenanceStore.mark_beat`."""
        self.run(self._sweeps.mark_beat(kind))

    def beat_ages_ms(self) -> dict[str, int]:
        """See `MaintenanceStore.beat_ages_ms`."""
        return self.run(self._sweeps.beat_ages_ms())

    def last_sweep_ms(self) -> int | None:
        """See `MaintenanceStore.last_sweep_ms`."""
        return self.run(self._sweeps.last_sweep_ms())

    def count_dropped(self, queue: str, number: int) -> None:
        """See `MaintenanceStore.count_dropped`."""
        self.run(self._sweeps.count_dropped(queue, number))

    def dropped_messages(self) -> dict[str, DroppedMessages]:
        """See `MaintenanceStore.dropped_messages`."""
        return self.run(self._sweeps.dropped_messages())

    def inspect(self, reference: str) -> TaskRecord:
        """See `MaintenanceStore.inspect`."""
        return self.run(self._reads.inspect(reference))

    def task_names(self) -> Iterator[str]:
        """See `MaintenanceStore.task_names`."""
        queues = self.queues()
        for shard in self._layout.shards:
            indexes = (Due.OVERDUE, Due.LEASES, Due.TIMERS)
            live: set[str] = set()
            # One that is missing from the first index, and alive, may be in the others.
            for key in (*(shard.index(index.value) for index in indexes), *map(shard.pending, queues)):
                found = set(self._members(key)) - live
                live |= found
                yield from found
            # Those that have ended come last: who ends meanwhile is not missed.
            yield from (name for name in self._members(shard.index(Due.EXPIRED.value)) if name not in live)

    def _members(self, key: str) -> Iterator[str]:
        cursor, names = self.run(self._reads.scan(key, "0"))
        yield from names
        while cursor != "0":
            cursor, names = self.run(self._reads.scan(key, cursor))
            yield from names

    def index_problems(self, reference: str) -> list[str]:
        """See `MaintenanceStore.index_problems`."""
        return self.run(self._reads.index_problems(reference))

    def repair(self, *, dry_run: bool = False, quarantine: bool = False) -> Iterator[Repair]:
        """See `MaintenanceStore.repair`."""
        repair_walk = RepairWalk(self._repairs, self.run, dry_run=dry_run, quarantine=quarantine)
        return repair_walk.through(self._layout.shards)

    @property
    def envelope(self) -> Envelope:
        """What encrypts what is stored here."""
        return self._reads.envelope

    def reencrypt(
        self, names: Iterable[str] | None = None, *, dry_run: bool = False
    ) -> Iterator[Reencrypted]:
        """Encrypt anew what is under an older key, or not encrypted, task after task; see `reencryption`.

        Args:
            names: Of the tasks to look at; all if not given.
            dry_run: Only look.

        Raises:
            StoreUnavailable: No answer in time.
        """
        return walk(self._reads, self.run, iter(names or self.task_names()), dry_run=dry_run)
