"""The services that workers have announced, as a front end serves them.

The registry is read when it says that it has changed, and every few seconds in any case. What was read last
stands while the store does not answer.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Protocol
from unicodedata import normalize

from ...domain.errors import StoreUnavailable
from ...store.registered_tools import RegisteredTool, registered_tools, release_order
from ...store.registry import (
    NOT_TOLD,
    AsyncRegistryReader,
    Delivery,
    RegistryView,
    WorkerAnnouncement,
    registry_name,
)
from .catalogue import Origin
from .change_feed import ChangeFeed

logger = logging.getLogger(__name__)

_NOT_IN_PATHS = re.compile(r"[^a-z0-9]+")


_DIGEST_BYTES = 4


def path_name(service: str) -> str:
    """The name of a service in paths: its letters and digits in lower case, with hyphens between words.

    Accents are left out. Where that leaves out letters of other scripts as well, a digest of the whole name
    stands behind: services whose names differ in these alone have different paths.
    """
    folded = normalize("NFKD", service)
    plain = _NOT_IN_PATHS.sub("-", folded.lower()).strip("-")
    if not any(character.isalnum() and not character.isascii() for character in folded):
        return plain or "service"
    digest = blake2b(service.encode(errors="replace"), digest_size=_DIGEST_BYTES).hexdigest()
    return f"{plain or 'service'}-{digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredService:
    """A service, as its workers have announced it.

    Attributes:
        name: Its name.
        version: The newest release that a worker runs; empty if none names one.
        instructions: What its tools are good for, for the model; of that release.
        tools: Its tools that are to be listed, by name.
        has_workers: Whether it has workers now.
        delivery: Where its workers take messages from.
        first_ms: When its tools were first announced, by the store's clock.
        former_names: Names that it had before.
        recorded_as: For tools whose tasks are to be recorded under a former name: that name, by the tool's.
    """

    name: str
    version: str = ""
    instructions: str | None = None
    tools: Mapping[str, RegisteredTool]
    has_workers: bool = True
    delivery: Delivery = NOT_TOLD
    first_ms: int = 0
    former_names: frozenset[str] = frozenset()
    recorded_as: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """Its names, the former ones too."""
        return self.former_names | {self.name}

    def origin(self, tool: RegisteredTool) -> Origin:
        """Whose a tool is: of which name its workers are that have it."""
        name = tool.definition.name
        recorded_as = self.recorded_as.get(name, self.name)
        others = self.names - {recorded_as}
        return Origin(recorded_as, name, has_worker=tool.lost_ms is None, former_names=others)


def service_of(view: RegistryView) -> RegisteredService:
    """The service that a view is of."""
    listed = {name: tool for name, tool in registered_tools(view).items() if tool.is_listed(view.now_ms)}
    newest = max(view.workers, key=_age, default=None)
    return RegisteredService(
        name=view.service,
        version="" if newest is None else newest.version,
        instructions=None if newest is None else newest.instructions or None,
        tools=listed,
        has_workers=bool(view.workers),
        delivery=NOT_TOLD if newest is None else newest.delivery,
        first_ms=min((times.first_ms for times in view.remembered.values()), default=view.now_ms),
        former_names=view.former_names,
    )


def _age(worker: WorkerAnnouncement) -> tuple[tuple[int, ...], int, str]:
    return release_order(worker.version), worker.since_ms, worker.node


class Refusal(Protocol):
    """Says why messages would not reach workers."""

    def __call__(self, theirs: Delivery, *, is_first: bool) -> str | None:
        """Why messages would not reach workers that take them from there; None if they do.

        Args:
            theirs: Where they take messages from.
            is_first: Whether they are those of the first service.
        """


def _renamed(services: Iterable[RegisteredService]) -> list[RegisteredService]:
    """The services, each together with what is still known of those whose names were its own."""
    left = {service.name: service for service in services}
    for service in sorted(left.values(), key=lambda service: service.first_ms, reverse=True):
        if service.name in left:
            for name in sorted(service.former_names & left.keys()):
                left[service.name] = _succeeding(left[service.name], left.pop(name))
    return list(left.values())


def _succeeding(service: RegisteredService, former: RegisteredService) -> RegisteredService:
    """A service with the tools that it had under a former name.

    Workers of the former name do not know the new one. While they take a tool's messages, its tasks are
    recorded under the name that all its workers know.
    """
    tools, recorded_as = dict(former.tools), dict.fromkeys(former.tools, former.name)
    for name, tool in service.tools.items():
        before = former.tools.get(name)
        if before is None or before.lost_ms is not None or before.definition.queue != tool.definition.queue:
            tools[name] = tool
            recorded_as.pop(name, None)
        else:
            tools[name] = replace(tool, lost_ms=None)
    running = service if service.has_workers else former
    return replace(
        service,
        version=running.version,
        instructions=running.instructions,
        tools=dict(sorted(tools.items())),
        has_workers=running.has_workers,
        delivery=running.delivery,
        first_ms=min(service.first_ms, former.first_ms),
        recorded_as={**service.recorded_as, **recorded_as},
    )


def served_services(
    services: Iterable[RegisteredService], refusal: Refusal
) -> tuple[list[RegisteredService], list[str]]:
    """The services that can be served side by side, those that came first first, and why others are not.

    Args:
        services: All that there are.
        refusal: Says why messages would not reach workers.

    Returns:
        The services, and a sentence for each problem.
    """
    served: list[RegisteredService] = []
    problems: list[str] = []
    paths: dict[str, str] = {}
    taken: dict[tuple[str, str], str] = {}
    for service in sorted(_renamed(services), key=lambda service: (service.first_ms, service.name)):
        other = paths.setdefault(path_name(service.name), service.name)
        if other != service.name:
            problems.append(
                f"The service {service.name!r} is not served, since its path is that of {other!r}: give it "
                "another name."
            )
        elif (why := refusal(service.delivery, is_first=not served)) is not None:
            problems.append(f"The service {service.name!r} is not served: {why}.")
        else:
            kept, clashes = _without_clashes(service, taken)
            served.append(kept)
            problems += clashes + _differences(service)
    return served, problems


def _without_clashes(
    service: RegisteredService, taken: dict[tuple[str, str], str]
) -> tuple[RegisteredService, list[str]]:
    """The service without tools that workers of another service would take for their own."""
    tools, problems = dict(service.tools), []
    for name, tool in service.tools.items():
        other = taken.setdefault((tool.definition.queue, name), service.name)
        if other != service.name:
            del tools[name]
            problems.append(
                f"The tool {name!r} of the service {service.name!r} is not offered: workers of {other!r} "
                f"take messages for a tool of that name from the same queue, {tool.definition.queue!r}. Give "
                "one of them another name= or queue=."
            )
    return replace(service, tools=tools), problems


def _differences(service: RegisteredService) -> list[str]:
    return [
        f"Workers of the service {service.name!r} have different definitions of the tool {name!r}; that of "
        f"the newest release is offered, and these have another: {', '.join(_nodes(tool))}."
        for name, tool in service.tools.items()
        if tool.others
    ]


def _nodes(tool: RegisteredTool) -> list[str]:
    return sorted(node for nodes in tool.others.values() for node in nodes)


class RegisteredServices:
    """Follows the registry.

    Args:
        registry: The registry.
        feed: Says when it has changed.
        take: Takes all services, whenever one has been read.
    """

    def __init__(
        self,
        registry: AsyncRegistryReader,
        feed: ChangeFeed,
        take: Callable[[Sequence[RegisteredService]], None],
    ) -> None:
        self._registry, self._feed, self._take = registry, feed, take
        self._views: dict[str, RegistryView] = {}
        self._services: dict[str, RegisteredService] = {}
        self._read_at: dict[str, float] = {}
        self._is_cut_off = False

    async def read(self, woken: Iterable[str] = ()) -> None:
        """Read what is due: services that are new or were woken, and those that were not read for a while.

        Raises:
            StoreUnavailable: No answer in time; what was read before stands.
        """
        clock, heal, woken = asyncio.get_running_loop().time, self._feed.timings.heal, frozenset(woken)
        names = await self._registry.services()
        due = [
            name
            for name in names
            if registry_name(name) in woken or clock() - self._read_at.get(name, -heal) >= heal
        ]
        for name in due:
            await self._read(name)
            self._read_at[name] = clock()
        gone = self._views.keys() - set(names)
        for name in gone:
            del self._views[name], self._services[name], self._read_at[name]
        if due or gone:
            self._take(tuple(self._services.values()))

    async def _read(self, name: str) -> None:
        before = self._views.get(name)
        view = self._views[name] = await self._registry.read(name, before)
        known = self._services.get(name)
        has_lost = known is None or any(tool.lost_ms is not None for tool in known.tools.values())
        # Without a change, only time takes tools away: those that nobody has any more.
        if before is None or view.mark != before.mark or has_lost:
            self._services[name] = service_of(view)

    def _missed(self, error: StoreUnavailable) -> None:
        """Note that the store did not answer; told once for each outage."""
        if not self._is_cut_off:
            logger.warning(
                "The registry of workers cannot be read; what was read last is served: %s",
                error.for_operators,
            )
        self._is_cut_off = True

    async def run(self) -> None:
        """Follow the registry until cancelled; outlives every outage of the store."""
        with self._feed.watch() as waiter:
            woken: frozenset[str] = frozenset()
            while True:
                try:
                    await self.read(woken)
                except StoreUnavailable as error:
                    self._missed(error)
                except Exception:
                    logger.exception("What the registry of workers holds cannot be served")
                else:
                    self._is_cut_off = False
                for name in self._views:
                    self._feed.add(waiter, registry_name(name))
                woken = await waiter.changed(self._feed.timings.registry)
