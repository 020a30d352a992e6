"""The catalogue of tools that workers have announced: of one service, of the only one, or of all together."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from ...authoring.defined_tool import DefinedTool
from ...domain.task import DAY, HOUR, MINUTE, SECOND, Task
from ...domain.tools import OfferedTool, ToolDefinition, Tools, ToolSet
from ...store.registry import RegistryView
from .catalogue import Origin
from .registered_services import RegisteredService, path_name

LIVING_TTL_MS = 5_000
"""How long a client may keep a list that changes with the workers; it is told when it does, if it listens."""


_paths = count(1)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedTool(DefinedTool):
    """A tool as a path offers it.

    Attributes:
        origin: Whose it is.
        announced: Its definition, as it was announced.
    """

    origin: Origin
    announced: ToolDefinition


class RegisteredCatalogue:
    """Tools that workers have announced; see `Catalogue`.

    Args:
        service: The service whose tasks alone are to be seen here, under whatever name it was recorded; None:
            those of all.
        prefixed: Whether the name of its service stands in front of a tool's.
    """

    ttl_ms = LIVING_TTL_MS

    def __init__(self, *, service: str | None = None, prefixed: bool = False) -> None:
        self._service, self._prefixed = service, prefixed
        self._tools: ToolSet[ServedTool] = Tools()
        self._names: Mapping[str, str] = {}
        self._clashes: frozenset[str] = frozenset()
        self.version = 1
        self.changed = f"catalogue:{next(_paths)}"

    @property
    def tools(self) -> ToolSet[OfferedTool]:
        """See `Catalogue.tools`."""
        return self._tools

    @property
    def hides(self) -> bool:
        """See `Catalogue.hides`."""
        return self._service is not None

    def take(self, services: Sequence[RegisteredService]) -> bool:
        """Offer what there is now; whether that is not what was offered before."""
        self._names = {name: service.name for service in services for name in service.names}
        tools = Tools(*self._without_clashes(services))
        if dict(tools) == dict(self._tools):
            return False
        self._tools = tools
        self.version += 1
        return True

    def origin(self, tool: str) -> Origin:
        """See `Catalogue.origin`."""
        found = self._tools.get(tool)
        return Origin("", tool) if found is None else found.origin

    def shown(self, task: Task) -> Task | None:
        """See `Catalogue.shown`; tasks of releases that recorded no service are seen everywhere."""
        if self._service is not None and task.service not in ("", self._service, *self._names):
            return None
        if self._prefixed and task.service:
            return replace(task, tool=_prefixed(self._names.get(task.service, task.service), task.tool))
        return task

    def conflicts(self, others: Iterable[RegistryView]) -> Iterable[str]:
        """See `Catalogue.conflicts`; what cannot be served beside others is left out instead."""
        return ()

    def _without_clashes(self, services: Sequence[RegisteredService]) -> Iterator[ServedTool]:
        """One tool of each name: with prefixes, `a_b` of the service `c` is `b` of the service `c a`."""
        offered: dict[str, ServedTool] = {}
        clashes = set()
        for tool in self._served(services):
            name = tool.definition.name
            first = offered.setdefault(name, tool)
            if first is not tool:
                clashes.add(
                    f"The tool {tool.origin.tool!r} of the service {tool.origin.service!r} is not offered "
                    f"here, since {name!r} is {first.origin.tool!r} of {first.origin.service!r}: give "
                    "one of them another name."
                )
        for clash in sorted(clashes - self._clashes):
            logger.warning(clash)
        self._clashes = frozenset(clashes)
        yield from offered.values()

    def _served(self, services: Iterable[RegisteredService]) -> Iterator[ServedTool]:
        for service in services:
            for registered in service.tools.values():
                announced = registered.definition
                origin = service.origin(registered)
                name = _prefixed(service.name, announced.name) if self._prefixed else announced.name
                before = self._tools.get(name)
                if before is not None and (before.origin, before.announced) == (origin, announced):
                    yield before  # with the validator that it has made
                else:
                    yield _tool(name, origin, announced)


def _tool(name: str, origin: Origin, announced: ToolDefinition) -> ServedTool:
    description = announced.description if origin.has_worker else _lost(announced)
    shown = replace(announced, name=name, description=description)
    return ServedTool(shown, origin=origin, announced=announced)


def _lost(tool: ToolDefinition) -> str:
    longest = _duration(tool.policy.queue_timeout_ms)
    note = f"No worker has this tool at present: a call waits until one has it again, for {longest} at most."
    return f"{tool.description}\n\n{note}" if tool.description else note


def _duration(milliseconds: int) -> str:
    units: Mapping[str, int] = {"day": DAY, "hour": HOUR, "minute": MINUTE}
    for name, unit in units.items():
        if milliseconds >= unit and milliseconds % unit == 0:
            number = milliseconds // unit
            return f"{number} {name}" if number == 1 else f"{number} {name}s"
    return f"{milliseconds / SECOND:g} seconds"


def _prefixed(service: str, tool: str) -> str:
    return f"{path_name(service).replace('-', '_')}_{tool}"
