"""Tokens that carry their own proof: JSON Web Tokens, signed by their issuer.

What the header of a token says of keys (`jku`, `x5u`, `jwk`, `x5c`) is not looked at: keys are those that the
issuer publishes. PyJWT checks the signature; everything else is checked here, since times are compared with a
clock that tests can move, and the reasons are to be told in the log.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from jwt.api_jws import PyJWS
from jwt.exceptions import PyJWTError
from jwt.utils import base64url_decode
from mcp.server.auth.provider import AccessToken

from .fetching import Fetcher
from .issuer_keys import ALGORITHMS, IssuerKeys
from .refused_tokens import RefusalLog, TokenRefused
from .strict_json import read_object
from .token_claims import access_token

_SEGMENTS: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""The form of a signed token: three segments; one that is encrypted has five."""

_JWS: Final = PyJWS(algorithms=list(ALGORITHMS))


class SignedTokens:
    """Verifies signed tokens; the SDK's `TokenVerifier`.

    Args:
        issuers: Whose tokens are taken.
        jwks_url: Where the keys of the only issuer are; None: where their metadata says.
        types: What `typ` may be, in lower case.
        fetcher: Gets documents.
        clock: Seconds since the epoch.
        elapsed: Seconds that only grow.
    """

    longest: Final = float("inf")
    """How long a verified token may be believed, in seconds: as long as it is good."""

    def __init__(
        self,
        *,
        issuers: Iterable[str],
        jwks_url: str | None,
        types: Iterable[str],
        fetcher: Fetcher,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = {
            issuer: IssuerKeys(issuer, jwks_url, fetcher, self._changed, elapsed) for issuer in issuers
        }
        self._types, self._clock, self._refusals = frozenset(types), clock, RefusalLog()
        self._version = 0

    @property
    def version(self) -> int:
        """Grows when an issuer has other keys; what was verified before must be verified again."""
        for keys in self._keys.values():
            keys.refresh()
        return self._version

    async def verify_token(self, token: str) -> AccessToken | None:
        """What a token says; None if it is not to be taken.

        Raises:
            CannotVerify: The keys of its issuer cannot be had.
        """
        try:
            return await self._verified(token)
        except TokenRefused as reason:
            self._refusals.tell(reason)
            return None

    async def aclose(self) -> None:
        """End what is under way."""
        for keys in self._keys.values():
            await keys.aclose()

    def _changed(self) -> None:
        self._version += 1

    async def _verified(self, token: str) -> AccessToken:
        if _SEGMENTS.fullmatch(token) is None:
            raise TokenRefused("it is no signed token")
        header, claims = (_segment(token, number) for number in (0, 1))
        algorithm, kid = self._checked_header(header)
        issuer = claims.get("iss")
        keys = self._keys.get(issuer) if isinstance(issuer, str) else None
        if keys is None:
            raise TokenRefused("it is of another issuer (iss)", repr(issuer))
        now = self._clock()
        found = access_token(token, claims, now=now)  # before the signature, which takes longer
        key = await keys.find(kid, algorithm)
        if key is None:
            raise TokenRefused("its issuer has no such key (kid)", repr(kid))
        try:
            _JWS.decode_complete(token, key=key.jwk, algorithms=[algorithm])
        except (PyJWTError, ValueError, TypeError) as error:
            raise TokenRefused("its signature is wrong", type(error).__name__) from None
        return found

    def _checked_header(self, header: Mapping[str, Any]) -> tuple[str, str | None]:
        """The algorithm of a token, and the name of its key."""
        algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise TokenRefused("its algorithm is not taken (alg)", repr(algorithm))
        if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in self._types:
            raise TokenRefused("its type is not taken (typ); see TASKS_OAUTH_TOKEN_TYPES", repr(kind))
        if not isinstance(kid, str | None):
            raise TokenRefused("the name of its key is no text (kid)")
        if "crit" in header or "b64" in header:
            raise TokenRefused("it demands what is not understood (crit)")
        return algorithm, kid


def _segment(token: str, number: int) -> dict[str, Any]:
    try:
        return read_object(base64url_decode(token.split(".")[number]))
    except ValueError as error:
        raise TokenRefused("a part of it cannot be read", str(error)) from None
