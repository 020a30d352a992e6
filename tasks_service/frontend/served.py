"""What is served at a path, and the paths of a front end."""

from __future__ import annotations

from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from .assembly import Servers
from .router import EraRouter


class Served:
    """The servers of one offer, and the way to them over HTTP.

    Args:
        servers: Answer requests, whatever the transport.
        router: Takes HTTP requests, for both eras.
        metadata: Tells clients where to sign in; None if nobody does.

    Attributes:
        servers: See the argument.
        metadata: See the argument.
    """

    def __init__(self, servers: Servers, router: EraRouter, metadata: ASGIApp | None = None) -> None:
        self.servers, self._router, self.metadata = servers, router, metadata

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        await self._router(scope, receive, send)

    def drain(self) -> None:
        """End what clients can begin again elsewhere."""
        self._router.drain()
        self.servers.subscriptions.end()

    def close(self) -> None:
        """Accept no more work."""
        self.servers.library.close()
        self.servers.services.waiting_calls.close()


class Paths(Protocol):
    """The paths of a front end."""

    @property
    def root(self) -> Served:
        """What is served at `/mcp`, and on stdio."""

    def find(self, path: str) -> ASGIApp | None:
        """What answers HTTP requests at a path; None if nothing does."""

    def metadata(self, path: str) -> ASGIApp | None:
        """What tells clients of a path where to sign in; None if nothing does."""

    def drain(self) -> None:
        """End the streams that would keep a server from stopping."""

    def close(self) -> None:
        """Accept no more work."""


class OnePath:
    """The path of the one service of an app; see `Paths`."""

    def __init__(self, served: Served) -> None:
        self.root = served

    def find(self, path: str) -> ASGIApp | None:
        """See `Paths.find`; clients differ in whether they put a slash behind an address."""
        return self.root if path in ("/mcp", "/mcp/") else None

    def metadata(self, path: str) -> ASGIApp | None:
        """See `Paths.metadata`."""
        return self.root.metadata if path in ("/mcp", "/mcp/") else None

    def drain(self) -> None:
        """See `Paths.drain`."""
        self.root.drain()

    def close(self) -> None:
        """See `Paths.close`."""
        self.root.close()
