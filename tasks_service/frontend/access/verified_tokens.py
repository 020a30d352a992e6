"""Tokens that were verified: each is verified once, and remembered by its hash until it ends.

A signature costs more than a poll, and a question to an issuer far more. What was refused is remembered too,
for a short while, and apart from the others: whoever sends many bad tokens displaces no good one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, Final, Protocol

from mcp.server.auth.provider import AccessToken, TokenVerifier

from ...crypto.owners import Principal
from ...domain.errors import LimitExceeded, NotJson
from ...domain.limits import to_json
from ...domain.task import Identity, Owner
from .refused_tokens import RefusalLog, TokenRefused
from .token_claims import audiences

TOKEN_BYTES: Final = 8 * 1024
"""Longest token."""

REMEMBERED: Final = 10_000
"""How many good tokens are remembered; of more, those that came first are verified again."""

REMEMBERED_BAD: Final = 1_000
"""And how many bad ones."""

BAD_SECONDS: Final = 10.0
"""How long a bad token is remembered."""

CLAIMS_BYTES: Final = 4 * 1024
"""Size of all claims together that tools are shown; they are recorded with each task."""

CLAIMS_DEPTH: Final = 8
"""How deep they may be nested."""


class Verifier(TokenVerifier, Protocol):
    """The SDK's `TokenVerifier`, and how long its word may be believed."""

    @property
    def longest(self) -> float:
        """Seconds after which a token is to be verified again."""

    @property
    def version(self) -> int:
        """What was verified under another version is to be verified again."""

    async def aclose(self) -> None:
        """End what is under way."""


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token that is good.

    Attributes:
        owner: Whose tasks are made with it.
        identity: Who it says that its bearer is.
        audiences: For whom it was issued, as `same_resource` has them.
        expires_at: When it ends, in seconds since the epoch.
    """

    owner: Owner
    identity: Identity
    audiences: frozenset[str]
    expires_at: float


@dataclass(frozen=True, slots=True)
class _Remembered:
    token: VerifiedToken | None
    version: int
    until: float


class VerifiedTokens:
    """Verifies tokens, and remembers which are good.

    Args:
        verifier: Verifies one.
        owner_of: The owner of a principal.
        binds_client: Whether the client is part of the principal.
        claims: Further claims that tools are shown.
        scope_prefix: What scopes may have in front of the names that they have here.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        verifier: Verifier,
        *,
        owner_of: Callable[[Principal], Owner],
        binds_client: bool,
        claims: tuple[str, ...] = (),
        scope_prefix: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._verifier, self._owner_of, self._binds_client = verifier, owner_of, binds_client
        self._claims, self._prefix, self._clock = claims, scope_prefix, clock
        self._refusals = RefusalLog()
        self._good: dict[bytes, _Remembered] = {}
        self._bad: dict[bytes, _Remembered] = {}
        self._under_way: dict[bytes, asyncio.Task[VerifiedToken | None]] = {}

    async def verify(self, token: bytes) -> VerifiedToken | None:
        """What a token stands for; None if it is not to be taken.

        Args:
            token: As it came.

        Raises:
            CannotVerify: That cannot be said for now.
        """
        if not 0 < len(token) <= TOKEN_BYTES:
            return None
        name, now = sha256(token).digest(), self._clock()
        known = self._good.get(name) or self._bad.get(name)
        if known is not None and known.version == self._verifier.version and now < known.until:
            return known.token
        return await self._once(name, token)

    async def _once(self, name: bytes, token: bytes) -> VerifiedToken | None:
        """Verify a token once, whoever else waits for it; a caller that leaves ends it for nobody else."""
        work = self._under_way.get(name)
        if work is None:
            work = self._under_way[name] = asyncio.create_task(self._verify(name, token))
            work.add_done_callback(partial(self._done, name))
        return await asyncio.shield(work)

    def _done(self, name: bytes, work: asyncio.Task[VerifiedToken | None]) -> None:
        del self._under_way[name]
        if not work.cancelled():
            work.exception()  # whoever waits for it is told; if nobody does any more, it is no news

    async def _verify(self, name: bytes, token: bytes) -> VerifiedToken | None:
        version = self._verifier.version
        found = await self._verifier.verify_token(token.decode("latin-1"))
        verified = None if found is None else self._taken(found)
        now = self._clock()
        self._good.pop(name, None)
        self._bad.pop(name, None)
        if verified is None:
            seconds = min(BAD_SECONDS, self._verifier.longest)
            _remember(self._bad, name, _Remembered(None, version, now + seconds), REMEMBERED_BAD)
        else:
            until = min(verified.expires_at, now + self._verifier.longest)
            _remember(self._good, name, _Remembered(verified, version, until), REMEMBERED)
        return verified

    def _taken(self, found: AccessToken) -> VerifiedToken | None:
        try:
            return self._verified(found)
        except TokenRefused as reason:
            self._refusals.tell(reason)
            return None

    def _verified(self, found: AccessToken) -> VerifiedToken:
        claims, subject = found.claims or {}, found.subject
        issuer = claims.get("iss")
        if not isinstance(issuer, str) or not subject or found.expires_at is None:
            raise TokenRefused("its verifier does not say of whom it is, or when it ends")
        if self._binds_client and not found.client_id:
            raise TokenRefused("it names no client, see TASKS_OAUTH_OWNER_BINDING")
        principal = Principal(
            issuer=issuer, subject=subject, client_id=found.client_id if self._binds_client else ""
        )
        identity = Identity(
            issuer=issuer,
            subject=subject,
            client_id=found.client_id,
            scopes=tuple(sorted({scope.removeprefix(self._prefix) for scope in found.scopes})),
            claims={name: claims[name] for name in self._claims if name in claims},
        )
        _refuse_large(identity.claims)
        return VerifiedToken(
            owner=self._owner_of(principal),
            identity=identity,
            audiences=frozenset(map(same_resource, audiences(claims))),
            expires_at=float(found.expires_at),
        )


def _refuse_large(claims: Mapping[str, Any]) -> None:
    """Refuse claims that cannot be recorded with a task."""
    try:
        to_json("claims", claims, maximum=CLAIMS_BYTES, depth=CLAIMS_DEPTH)
    except (NotJson, LimitExceeded) as error:
        raise TokenRefused("the claims that tools are shown cannot be recorded", str(error)) from None


def same_resource(audience: str) -> str:
    """An audience, so that two that mean the same resource are equal texts.

    Scheme and host of a URL are compared without case, and a slash at its end does not count (2026-07-28,
    basic/authorization, canonical server URI).
    """
    scheme, separator, rest = audience.partition("://")
    if not separator:
        return audience
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}://{host.lower()}{slash}{path}".removesuffix("/")


def _remember(remembered: dict[bytes, _Remembered], name: bytes, one: _Remembered, most: int) -> None:
    while len(remembered) >= most:
        del remembered[next(iter(remembered))]
    remembered[name] = one
