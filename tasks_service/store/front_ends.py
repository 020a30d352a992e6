"""What front ends need of a store, beyond what every client does."""

from __future__ import annotations

from typing import Protocol

from ..crypto.keys import Fingerprints
from .changes import ChangeSource
from .clients import AsyncClientStore
from .facts import StoreFacts
from .findings import Finding, Memory
from .registry import AsyncRegistryReader
from .sessions import SessionStore


class FrontEndStore(AsyncClientStore, ChangeSource, Protocol):
    """Tasks and their changes, sessions, and how the store is, for an event loop."""

    @property
    def sessions(self) -> SessionStore:
        """Sessions of clients that have them; what they wake comes as changes."""

    @property
    def registry(self) -> AsyncRegistryReader:
        """The workers that run and the tools that they have; what changes there comes as changes too."""

    async def ping(self) -> None:
        """Return if the store answers.

        Raises:
            StoreUnavailable: It does not, in time.
        """

    @property
    def memory(self) -> Memory | None:
        """Memory use of the fullest server, as of the last check, ping, create or answer.

        None if no server has a limit, or tells.
        """

    async def facts(self) -> StoreFacts:
        """How much work there is, whoever's.

        Raises:
            StoreUnavailable: No answer in time.
        """

    async def check(self, secrets: Fingerprints) -> list[Finding]:
        """What is wrong with the servers, with this client, and with what its user may do as a front end.

        Also whether its secrets are those of the store's other front ends.

        Args:
            secrets: Of this front end; the first of all to ask has them noted.

        Raises:
            StoreUnavailable: No answer in time.
        """

    async def aclose(self) -> None:
        """Close all connections."""
