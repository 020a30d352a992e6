"""Whether the store can be used now."""

from __future__ import annotations

import logging

from ..crypto.keys import Fingerprints
from ..domain.errors import ConfigurationError, StoreUnavailable
from ..store.findings import errors_among
from ..store.front_ends import FrontEndStore
from ..store.redis import refused_work
from .core.catalogue import Catalogue

logger = logging.getLogger(__name__)


class Readiness:
    """Whether the store can be used now.

    Its set-up is checked once it is first reached; after an outage too, since it may be another server.

    Args:
        store: The store.
        secrets: The fingerprints of this front end's secrets.
        catalogue: What it serves.
    """

    def __init__(self, store: FrontEndStore, secrets: Fingerprints, catalogue: Catalogue) -> None:
        self._store, self._secrets, self._catalogue = store, secrets, catalogue
        self._checked = False

    async def problem(self) -> str | None:
        """What is wrong, as a sentence; None if all is well."""
        try:
            if self._checked:
                await self._store.ping()
                return None
            errors = errors_among(await self._store.check(self._secrets))
        except StoreUnavailable as error:
            self._checked = False
            return error.for_operators
        self._checked = not errors
        return " ".join(errors) or None

    def shortage(self) -> str | None:
        """What a store that answers refuses for want of memory; None: nothing.

        No reason not to be ready: clients still read their tasks here, and no other front end has more.
        """
        return refused_work(self._store.memory)

    async def refuse_unworkable(self) -> None:
        """Check the store at start; one that is down may come up later.

        Raises:
            ConfigurationError: It answers, and its set-up would lose tasks.
        """
        try:
            errors = errors_among(await self._store.check(self._secrets)) or await self._conflicts()
        except StoreUnavailable as error:
            logger.warning("Starting without a store, not ready until it answers: %s", error.for_operators)
            return
        if errors:
            raise ConfigurationError(" ".join(errors))
        self._checked = True

    async def _conflicts(self) -> list[str]:
        registry = self._store.registry
        views = [await registry.read(service) for service in await registry.services()]
        return list(self._catalogue.conflicts(views))
