"""What follows from the registry: which tools a service has, who runs them, and whose definition holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..domain.tools import ToolDefinition
from .registry import RegistryView, WorkerAnnouncement

_VERSION = re.compile(r"v?(\d+(?:\.\d+)+)(?:[^\d.].*)?")
"""A version with an order: numbers with dots between them. What follows them, as in `2.0rc1`, has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredTool:
    """A tool, as the workers of a service have announced it.

    Attributes:
        definition: The one that holds: of the newest release that has the tool.
        workers: The workers that have the tool, whatever their definition is.
        takers: Those of them that take messages from the tool's queue, so that they can run it.
        others: The workers that have another definition than the one that holds, by its digest.
        lost_ms: When the last of those was last heard of, or, if there never was one, when the tool was first
            announced; None while there is one.
    """

    definition: ToolDefinition
    workers: tuple[str, ...] = ()
    takers: tuple[str, ...] = ()
    others: Mapping[str, tuple[str, ...]]
    lost_ms: int | None = None

    def is_listed(self, now_ms: int) -> bool:
        """Whether a worker can run the tool, or could so lately that a call may still find another one.

        Args:
            now_ms: The store's clock.
        """
        return self.lost_ms is None or now_ms < self.lost_ms + self.definition.policy.queue_timeout_ms


def registered_tools(view: RegistryView) -> dict[str, RegisteredTool]:
    """The tools that a service has or has lately had, by name.

    Where workers have different definitions of a tool, that of the newest release holds: of the highest
    version, if the services name versions; among equal ones, that which was announced for the first time
    last. So a worker of an older release that starts again takes nothing back.
    """
    tools = {name: _running(view, name, having) for name, having in _by_tool(view).items()}
    for digest, times in sorted(view.remembered.items(), key=lambda item: (-item[1].last_ms, item[0])):
        for tool in view.sets[digest].tools.values() if digest in view.sets else ():
            found = tools.setdefault(tool.name, RegisteredTool(definition=tool, others={}))
            if not found.takers:
                lost_ms = max(found.lost_ms or 0, times.taken_ms.get(tool.queue, times.first_ms))
                tools[tool.name] = replace(found, lost_ms=lost_ms)
    return dict(sorted(tools.items()))


def _by_tool(view: RegistryView) -> dict[str, list[WorkerAnnouncement]]:
    """The workers that have a tool, by its name; those of the newest release first."""
    found: dict[str, list[WorkerAnnouncement]] = {}
    for worker in sorted(view.workers, key=lambda worker: _age(view, worker), reverse=True):
        for name in view.sets[worker.tools].tools if worker.tools in view.sets else ():
            found.setdefault(name, []).append(worker)
    return found


def _age(view: RegistryView, worker: WorkerAnnouncement) -> tuple[tuple[int, ...], int, str]:
    """Greater for a newer release; the digest decides between two that nothing else tells apart."""
    times = view.remembered.get(worker.tools)
    return release_order(worker.version), 0 if times is None else times.first_ms, worker.tools


def release_order(version: str) -> tuple[int, ...]:
    """The numbers of a version, which order releases; none, if it is no version with dots."""
    found = _VERSION.fullmatch(version)
    return tuple(map(int, found[1].split("."))) if found else ()


def _running(view: RegistryView, name: str, having: list[WorkerAnnouncement]) -> RegisteredTool:
    newest = view.sets[having[0].tools]
    definition, digest = newest.tools[name], newest.digests[name]
    others: dict[str, list[str]] = {}
    for worker in having:
        if (other := view.sets[worker.tools].digests[name]) != digest:
            others.setdefault(other, []).append(worker.node)
    return RegisteredTool(
        definition=definition,
        workers=tuple(sorted(worker.node for worker in having)),
        takers=tuple(sorted(worker.node for worker in having if definition.queue in worker.queues)),
        others={digest: tuple(sorted(nodes)) for digest, nodes in others.items()},
    )
