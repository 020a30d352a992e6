"""The registry: which workers run now, and which tools they have, by the name of their service.

Each worker announces itself, again and again, for as long as it runs. What it announced counts for
`LIFETIME_MS`; then it counts as lost, whether or not anybody has written that down. Tools are kept apart from
the workers, under a digest of them all, so that a thousand workers of one release store them once, and what a
worker says again and again is small.

A service is a room of its own: workers of two services on one store never see each other's tools. Within a
service, workers of several releases may run at once; `registered_tools` says which definition holds then.

Who reads learns of changes by a wake-up under `registry_name(service)`, which may be lost, and by reading
again with the view that it has, which costs next to nothing while nothing has changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

from ..domain.task import SECOND, new_token
from ..domain.tools import ToolDefinition

LIFETIME_MS = 30 * SECOND
"""How long a worker counts as running after it last said so."""

REFRESH_SECONDS = LIFETIME_MS / SECOND / 3
"""Seconds after which a worker says again that it runs."""

REMEMBERED_SETS = 20
"""Sets of tools of a service that are remembered after their last worker, at most; of more, the newest."""

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnouncedTools:
    """All tools of a worker, which many workers have in common.

    Attributes:
        digest: A hash of the set: equal if, and but for chance only if, the same tools are in it.
        tools: The definitions, by name.
        digests: Their digests, by name, as their worker's release has made them.
    """

    digest: str
    tools: Mapping[str, ToolDefinition]
    digests: Mapping[str, str]

    @classmethod
    def of(cls, tools: Iterable[ToolDefinition]) -> AnnouncedTools:
        """The set of these tools."""
        by_name = {tool.name: tool for tool in sorted(tools, key=lambda tool: tool.name)}
        digests = {name: tool.digest for name, tool in by_name.items()}
        text = "\n".join(f"{name} {digest}" for name, digest in digests.items())
        digest = blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()
        return cls(digest=digest, tools=by_name, digests=digests)

    @property
    def remembered_ms(self) -> int:
        """How long the set is remembered after its last worker: as long as a task may wait for one."""
        return max((tool.policy.queue_timeout_ms for tool in self.tools.values()), default=0)


class Delivery(NamedTuple):
    """Where workers take messages from, as far as whoever sends them cannot know it (see `broker.delivery`).

    Attributes:
        transport: The kind of the broker: `redis`, `amqp`, or kombu's name of another one. Empty: not known.
        virtual_host: The virtual host, or the number of the database.
        key_prefix: What stands in front of the names of queues, where they are keys in Redis.
    """

    transport: str = ""
    virtual_host: str = ""
    key_prefix: str = ""


NOT_TOLD: Final = Delivery()
"""What a worker of a release announces that did not announce this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerAnnouncement:
    """What a worker says of itself.

    Attributes:
        service: The name of its service. A worker that runs several announces each.
        node: Its name in Celery, as `celery@host`.
        tools: The digest of its `AnnouncedTools`.
        queues: The queues that it takes messages from.
        version: The release of the service; empty if the service names none.
        library_version: The release of this library.
        instructions: What the service's tools are good for, for the model; may be empty.
        delivery: Where it takes messages from.
        former_names: Names that the service had before, whose tasks it runs as well.
        pool: The kind of its pool, as `celery worker --pool` has it.
        slots: How many tools it runs at a time.
        since_ms: When it started, by the store's clock; set when it is announced.
        instance: Tells it from another process of the same name, which may follow it or run beside it.
    """

    service: str
    node: str
    tools: str
    queues: frozenset[str] = frozenset()
    version: str = ""
    library_version: str = ""
    instructions: str = ""
    delivery: Delivery = NOT_TOLD
    former_names: frozenset[str] = frozenset()
    pool: str = ""
    slots: int = 0
    since_ms: int = 0
    instance: str = field(default_factory=new_token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """When a set of tools was announced, by the store's clock.

    Attributes:
        first_ms: For the first time; a set that came later is that of a newer release.
        last_ms: For the last time.
        until_ms: Until when it is remembered, if it is not announced again.
        taken_ms: For each queue of these tools, when a worker that has them and takes it last said so.
        former_names: Names that the service had before, as the last worker with these tools said.
    """

    first_ms: int
    last_ms: int
    until_ms: int
    taken_ms: Mapping[str, int] = field(default_factory=dict)
    former_names: frozenset[str] = frozenset()

    @classmethod
    def again(
        cls, before: Remembered | None, worker: WorkerAnnouncement, tools: AnnouncedTools, now_ms: int
    ) -> Remembered:
        """Announced once more by a worker, or for the first time."""
        queues = {tool.queue for tool in tools.tools.values()} & worker.queues
        return cls(
            first_ms=now_ms if before is None else min(before.first_ms, now_ms),
            last_ms=now_ms,
            until_ms=now_ms + LIFETIME_MS + tools.remembered_ms,
            taken_ms={**({} if before is None else before.taken_ms), **dict.fromkeys(queues, now_ms)},
            former_names=worker.former_names,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryView:
    """What the registry knows of a service at a moment.

    Attributes:
        service: Its name.
        now_ms: The moment, by the store's clock.
        mark: Changes when workers or tools do, and only then.
        workers: Those that run, by name.
        sets: The tools of these workers, and those that are remembered, by their digest. One that a worker
            has and that is missing was lost by the store; its workers will announce it again.
        remembered: When each set was announced, by its digest.
    """

    service: str
    now_ms: int
    mark: str = ""
    workers: tuple[WorkerAnnouncement, ...] = ()
    sets: Mapping[str, AnnouncedTools] = field(default_factory=dict)
    remembered: Mapping[str, Remembered] = field(default_factory=dict)

    @property
    def former_names(self) -> frozenset[str]:
        """The names that the service had before: as any of its workers says, or else the last ones said.

        A worker of a release that does not say them takes no name away, and neither does a restart of all.
        """
        said = self.workers or self.remembered.values()
        return frozenset[str]().union(*(one.former_names for one in said)) - {self.service}

    @property
    def names(self) -> frozenset[str]:
        """The names of the service, under any of which its workers run tasks."""
        return self.former_names | {self.service}


def forgettable(
    remembered: Mapping[str, Remembered], workers: Iterable[WorkerAnnouncement], now_ms: int
) -> list[str]:
    """The sets of tools that need not be remembered any more: of no worker, and too old or too many.

    Args:
        remembered: The sets of a service, by their digest.
        workers: Its workers.
        now_ms: The store's clock.
    """
    used = {worker.tools for worker in workers}
    unused = [digest for digest in remembered if digest not in used]
    unused.sort(key=lambda digest: remembered[digest].last_ms, reverse=True)
    return [
        digest
        for place, digest in enumerate(unused)
        if place >= REMEMBERED_SETS or remembered[digest].until_ms <= now_ms
    ]


def registry_name(service: str) -> str:
    """What is woken when the workers or tools of a service have changed; of one length for every service."""
    return f"registry:{blake2b(service.encode(errors='replace'), digest_size=_DIGEST_BYTES).hexdigest()}"


class WorkerRegistry(Protocol):
    """The registry for workers, blocking. Every method may be repeated.

    All raise `StoreUnavailable` if there is no answer in time, `StoreFull` if nothing can be written, and
    `StoreForbidden` if the user may not.
    """

    def announce(self, worker: WorkerAnnouncement, tools: AnnouncedTools) -> WorkerAnnouncement:
        """Say for the first time, or with something changed, that a worker runs, and wake the readers.

        Returns:
            The announcement as it is stored: with `since_ms`, if that was 0.
        """

    def refresh(self, worker: WorkerAnnouncement, tools: AnnouncedTools) -> bool:
        """Say that a worker still runs, as it was announced.

        Returns:
            Whether that counts. If not, the store has lost the announcement, or has another process's under
            this name: it must be announced again.
        """

    def withdraw(self, worker: WorkerAnnouncement) -> None:
        """Say that a worker takes no more messages, and wake the readers; another process's word stands."""

    def forget_lost(self) -> int:
        """Remove the workers that are lost, and tools that need not be remembered; how many there were.

        Readers see no difference, but that they are woken.
        """


class RegistryReader(Protocol):
    """The registry for operators and sweeps, blocking; raises as `WorkerRegistry` does."""

    def services(self) -> list[str]:
        """The names of the services whose workers or tools are known, in order."""

    def read(self, service: str, known: RegistryView | None = None) -> RegistryView:
        """What is known of a service; an empty view if nothing is.

        Args:
            service: Its name.
            known: What was read before, if anything was: one small round trip tells whether it still holds,
                and only tools that it lacks are fetched.

        Returns:
            The view. If its `mark` is that of `known`, nothing has changed but the time.
        """


class Registry(WorkerRegistry, RegistryReader, Protocol):
    """The registry for sweeps, blocking."""


class AsyncRegistryReader(Protocol):
    """`RegistryReader` for an event loop; the same promises, method for method."""

    async def services(self) -> list[str]:
        """See `RegistryReader.services`."""

    async def read(self, service: str, known: RegistryView | None = None) -> RegistryView:
        """See `RegistryReader.read`."""
