"""The catalogue of a path: the tools that it offers, by name.

That of an app is fixed. That of a registry lives: tools come, change and go with the workers that announce
them. Whoever keeps something that is made of a catalogue (a rendered list, say) keeps it for one version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, Protocol, TypeVar

from ...domain.task import Task
from ...domain.tools import OfferedTool, Tools, ToolSet
from ...store.announcements import Listed, list_name
from ...store.neighbours import conflicts
from ...store.registry import NOT_TOLD, RegistryView

T = TypeVar("T")


class Origin(NamedTuple):
    """Whose a tool is.

    Attributes:
        service: The service that has it.
        tool: The name by which that service, its workers and the records of its tasks know it.
        has_worker: Whether a worker can run it now, as far as is known.
        former_names: Names that the service had before.
    """

    service: str
    tool: str
    has_worker: bool = True
    former_names: frozenset[str] = frozenset()


class Catalogue(Protocol):
    """The tools that a path offers."""

    @property
    def version(self) -> int:
        """A number that grows whenever a tool comes, changes or goes."""

    @property
    def changed(self) -> str:
        """The name that is woken when the version has grown (see `ChangeFeed`)."""

    @property
    def ttl_ms(self) -> int:
        """How long a client may keep the list."""

    @property
    def tools(self) -> ToolSet[OfferedTool]:
        """The tools, under the names that clients call them by."""

    def origin(self, tool: str) -> Origin:
        """Whose the tool of that name is; of a name that no tool has, anything."""

    def shown(self, task: Task) -> Task | None:
        """A task, with its tool under the name that clients know; None if it is not to be seen here."""

    @property
    def hides(self) -> bool:
        """Whether any task is not to be seen here."""

    def conflicts(self, others: Iterable[RegistryView]) -> Iterable[str]:
        """Why these tools cannot be served on this store, a sentence for each reason.

        Args:
            others: What the registry knows of every service.
        """


FIXED_TTL_MS = 60_000
"""How long a client may keep a list that changes only with a deployment."""


class FixedCatalogue:
    """The tools of one app, as they are registered now; see `Catalogue`.

    Args:
        service: The name of their service.
        tools: The tools.
        former_names: Names that the service had before.
    """

    version = 1
    changed = list_name(Listed.TOOLS)
    ttl_ms = FIXED_TTL_MS
    hides = False

    def __init__(self, service: str, tools: ToolSet[OfferedTool], former_names: Iterable[str] = ()) -> None:
        self._service, self._former_names = service, frozenset(former_names)
        self.tools: ToolSet[OfferedTool] = Tools(*tools.values())

    def origin(self, tool: str) -> Origin:
        """See `Catalogue.origin`."""
        return Origin(self._service, tool, former_names=self._former_names)

    def shown(self, task: Task) -> Task | None:
        """See `Catalogue.shown`; with an app, a front end serves all that its store has."""
        return task

    def conflicts(self, others: Iterable[RegistryView]) -> Iterable[str]:
        """See `Catalogue.conflicts`; where workers take messages from is looked at by them."""
        definitions = {name: tool.definition for name, tool in self.tools.items()}
        return conflicts(self._service, self._former_names, definitions, NOT_TOLD, others)


class OfVersion(Generic[T]):
    """Something that is made of a catalogue's tools, and made again when they have changed.

    Args:
        catalogue: The catalogue.
        make: Makes it.
    """

    def __init__(self, catalogue: Catalogue, make: Callable[[ToolSet[OfferedTool]], T]) -> None:
        self._catalogue, self._make = catalogue, make
        self._version: int | None = None
        self._made: T

    def __call__(self) -> T:
        """The latest."""
        version = self._catalogue.version
        if version != self._version:
            self._made = self._make(self._catalogue.tools)
            self._version = version
        return self._made
