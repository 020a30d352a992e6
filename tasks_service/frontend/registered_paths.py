"""The paths of a front end that serves what the registry announces: for each service one, and one for all.

`/mcp` serves the only service that has workers; or, if the front end is told so, the tools of all services
together, each with its service's name in front. `/<service>/mcp` serves one service, for as long as its tools
are known; and so does the path of each name that it had before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from weakref import WeakSet

from mcp_types.jsonrpc import INVALID_REQUEST
from starlette.types import ASGIApp, Receive, Scope, Send

from ..authoring.library import Library
from .core.change_feed import ChangeFeed
from .core.offer import Offer
from .core.registered_catalogue import RegisteredCatalogue
from .core.registered_services import Refusal, RegisteredService, path_name, served_services
from .served import Served
from .transport.rejection import Rejection
from .transport.responding import reject

logger = logging.getLogger(__name__)

NAMELESS = "Tasks Service"
"""The name of a server that is of no service: of none yet, or of several."""


_Description = tuple[str, str, str | None]
"""Name, version and instructions of a server."""


class RegisteredPaths:
    """What is served at each path; see `Paths`.

    Args:
        serve: Makes the servers of an offer.
        feed: Wakes those who are to be told of changed tools.
        refusal: Says why messages would not reach the workers of a service.
        together: Whether `/mcp` serves all services together.
    """

    def __init__(
        self,
        serve: Callable[[Offer], Served],
        feed: ChangeFeed,
        refusal: Refusal,
        *,
        together: bool,
    ) -> None:
        self._serve, self._feed, self._refusal = serve, feed, refusal
        self._together = together
        self._made: WeakSet[Served] = WeakSet()
        self._told: frozenset[str] = frozenset()
        self._root = _Path(self._keep, RegisteredCatalogue(prefixed=together))
        self._paths: dict[str, _Path] = {}
        self._several = False
        self._told_root = ""

    @property
    def root(self) -> Served:
        """See `Paths.root`."""
        return self._root.served

    def take(self, services: Sequence[RegisteredService]) -> None:
        """Serve what there is now, and wake those who listen for changes."""
        served, problems = served_services(services, self._refusal)
        for problem in problems:
            if problem not in self._told:
                logger.warning("%s", problem)
        self._told = frozenset(problems)
        self._show(self._root, at_root := self._at_root(served))
        self._tell_root(at_root)
        by_path = {path_name(name): (name, service) for service in served for name in service.former_names}
        by_path |= {path_name(service.name): (service.name, service) for service in served}
        for path in self._paths.keys() - by_path.keys():
            logger.info("The service at /%s/mcp is gone", path)
            self._paths.pop(path).served.drain()
        for path, (name, service) in by_path.items():
            if path not in self._paths:
                logger.info("The service %r is served at /%s/mcp", service.name, path)
                self._paths[path] = _Path(self._keep, RegisteredCatalogue(service=name), name)
            self._show(self._paths[path], [service])

    def find(self, path: str) -> ASGIApp | None:
        """See `Paths.find`."""
        match path.rstrip("/").split("/"):
            case ["", "mcp"]:
                return _refuse_several if self._several else self._root.served
            case ["", name, "mcp"] if name in self._paths:
                return self._paths[name].served
        return None

    def metadata(self, path: str) -> ASGIApp | None:
        """See `Paths.metadata`; the path of several services together is no resource of its own."""
        found = self.find(path)
        return found.metadata if isinstance(found, Served) else None

    def drain(self) -> None:
        """See `Paths.drain`."""
        for served in self._made:
            served.drain()

    def close(self) -> None:
        """See `Paths.close`."""
        for served in self._made:
            served.close()

    def _keep(self, offer: Offer) -> Served:
        served = self._serve(offer)
        self._made.add(served)
        return served

    def _at_root(self, services: Sequence[RegisteredService]) -> Sequence[RegisteredService]:
        if self._together:
            return services
        running = [service for service in services if service.has_workers] or services
        self._several = len(running) > 1
        return () if self._several else running

    def _tell_root(self, services: Sequence[RegisteredService]) -> None:
        """Log what is at `/mcp`, once it is something else."""
        if self._several:
            told = "Several services have workers: /mcp answers 404"
        elif not services:
            return
        elif self._together:
            told = "The tools of all services are served at /mcp"
        else:
            told = f"The service {services[0].name!r} is served at /mcp, while no other has workers"
        if told != self._told_root:
            logger.info("%s", told)
        self._told_root = told

    def _show(self, path: _Path, services: Sequence[RegisteredService]) -> None:
        if path.show(services):
            self._feed.wake(path.catalogue.changed)


class _Path:
    """A path, and what is served there.

    Clients learn name, version and instructions of a server once. When they change, new servers answer what
    is asked from now on; what was begun goes on with those before.
    """

    def __init__(
        self, serve: Callable[[Offer], Served], catalogue: RegisteredCatalogue, service: str = ""
    ) -> None:
        self._serve, self.catalogue, self._service = serve, catalogue, service
        self._described: _Description = (NAMELESS, "", None)
        self.served = self._serving()

    def show(self, services: Sequence[RegisteredService]) -> bool:
        """Serve these services; whether the tools are not those of before."""
        changed = self.catalogue.take(services)
        described = _description(services)
        # A service without workers is described by nobody: it stays what it was.
        is_left = described[0] == self._described[0] and not any(one.has_workers for one in services)
        if described != self._described and not is_left:
            self._described = described
            self.served = self._serving()
        return changed

    def _serving(self) -> Served:
        name, version, instructions = self._described
        return self._serve(
            Offer(
                name=name,
                version=version,
                instructions=instructions,
                catalogue=self.catalogue,
                library=Library(),
                service=self._service,
            )
        )


def _description(services: Sequence[RegisteredService]) -> _Description:
    """The description of a server for these services."""
    if len(services) == 1:
        return services[0].name, services[0].version, services[0].instructions
    told = [f"{service.name}: {service.instructions}" for service in services if service.instructions]
    return NAMELESS, "", "\n\n".join(told) or None


async def _refuse_several(_: Scope, __: Receive, send: Send) -> None:
    message = (
        "Several services run here, each at a path of its own: /<service>/mcp, its name in lower case and "
        "with hyphens between the words"
    )
    await reject(Rejection(404, INVALID_REQUEST, message), send)
