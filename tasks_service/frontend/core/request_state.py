"""States that travel with a client: what the service must know when a call is made again.

A call that is answered with questions is made again with the answers. Nothing remembers it meanwhile: what is
to be known then is in a `state` that the client sends back, and any front end of the deployment can open it.
It is sealed, so that nobody can read or change it; bound to an owner and to the whole request, so that it is
good for nothing else; new in each round, and good for a time (2026-07-28, multi round-trip requests: servers
MUST verify it).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ...crypto.keys import KeyRing
from ...crypto.sealing import SealBroken, Sealer
from ...domain.digests import request_digest
from ...domain.task import SECOND, Owner
from .requests import StateRefused

logger = logging.getLogger(__name__)

TOOL_CALL: Final = "call of a tool"
"""The kind of request that states are made for; others bring a word of their own."""


class Binding(NamedTuple):
    """For what a state is good.

    Attributes:
        owner: Who must send it.
        request: The kind of request, such as `TOOL_CALL`.
        name: What is called.
        digest: Stands for name and arguments.
    """

    owner: Owner
    request: str
    name: str
    digest: str


def binding_of(owner: Owner, name: str, arguments: Mapping[str, Any], *, request: str = TOOL_CALL) -> Binding:
    """For what a state of this request is good."""
    return Binding(owner, request, name, request_digest(name, arguments))


class Opened(NamedTuple):
    """What a state says.

    Attributes:
        purpose: Who made it.
        content: What its maker put in, as JSON.
    """

    purpose: str
    content: Mapping[str, Any]


class RequestStates:
    """Seals states and opens them.

    Args:
        ring: The deployment's.
        life_seconds: How long a state is good: how long a client may take to answer a round.
    """

    def __init__(self, ring: KeyRing, life_seconds: float) -> None:
        self._sealer, self._life_seconds = Sealer(ring, "request state"), life_seconds

    @property
    def life_ms(self) -> int:
        """How long a state is good."""
        return round(self._life_seconds * SECOND)

    def seal(self, binding: Binding, purpose: str, content: Mapping[str, Any]) -> str:
        """A new state, good from now on for `life_seconds`."""
        return self._sealer.seal([purpose, content], *binding, seconds=self._life_seconds)

    def open(self, binding: Binding, state: str) -> Opened:
        """What a state says that came with a request.

        Raises:
            StateRefused: It was changed, has expired, or is not of this caller and request.
        """
        try:
            return Opened(*self._sealer.open(state, *binding))
        except SealBroken as error:
            raise refused(str(error)) from error


def refused(reason: str) -> StateRefused:
    """One answer for every reason, so that a forger learns nothing; the log has the reason."""
    logger.warning("A requestState was refused: %s", reason)
    return StateRefused()
