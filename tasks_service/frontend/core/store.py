"""The protocol of the store that a front end needs."""

from __future__ import annotations

from typing import Protocol

from ...store.clients import AsyncTaskStore
from ...store.findings import Finding, Memory
from ...store.sessions import SessionStore
from .change_feed import ChangeSource


class FrontEndStore(AsyncTaskStore, ChangeSource, Protocol):
    """A store of tasks, with what a front end needs beyond them."""

    @property
    def sessions(self) -> SessionStore:
        """Sessions of clients that have them; what they wake comes as changes."""

    async def ping(self) -> None:
        """Return if the store answers, else raise `StoreUnavailable`."""

    @property
    def memory(self) -> Memory | None:
        """The memory in use, as of the last ping or check; None if it has no limit."""

    async def check(self) -> list[Finding]:
        """List what is wrong with the store's set-up; raises `StoreUnavailable` if it does not answer."""

    async def aclose(self) -> None:
        """Close all connections."""
