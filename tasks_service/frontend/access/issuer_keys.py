"""The keys of an issuer: what it signs tokens with, as it publishes them (RFC 7517).

Keys are read when they are first needed, and kept. Older than `FRESH_SECONDS`, they are read again in the
background, while the known ones go on to be used: no caller waits for that, and an issuer that does not
answer locks nobody out. A token that names an unknown key makes them be read at once, but once in a minute at
most, whatever callers send.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from ...addresses.web import check_secure_url
from .fetching import CannotFetch, Fetcher
from .refused_tokens import CannotVerify

logger = logging.getLogger(__name__)

FRESH_SECONDS: Final = 600.0
"""How long keys are used before they are read again."""

MOST_STALE_SECONDS: Final = 24 * 3600.0
"""How long they are used while the issuer does not answer."""

PAUSE_SECONDS: Final = 60.0
"""The shortest time between two readings for the sake of unknown keys, and of old ones."""

RETRY_SECONDS: Final = 2.0
"""The shortest time between two readings, while there are none."""

KEYS: Final = 100
"""Most keys of an issuer."""

RSA_BITS: Final = range(2048, 4096 + 1)
"""The sizes of RSA keys: what is smaller is weak, and what is larger takes long."""

ALGORITHMS: Final[Mapping[str, str]] = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}
"""The algorithms that tokens may be signed with, and the type of key of each."""


@dataclass(frozen=True, slots=True)
class Key:
    """A public key.

    Attributes:
        kid: Its name; None if it has none.
        algorithm: The one algorithm that it is used with.
        jwk: The key.
    """

    kid: str | None
    algorithm: str
    jwk: PyJWK


class IssuerKeys:
    """The keys of one issuer.

    Args:
        issuer: The issuer.
        url: Where its keys are; None: where its metadata says.
        fetcher: Gets documents.
        changed: Called when other keys than before were read.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        issuer: str,
        url: str | None,
        fetcher: Fetcher,
        changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer, self._configured, self._fetcher = issuer, url, fetcher
        self._changed, self._clock = changed, clock
        self._published: list[Any] = []
        self._keys: tuple[Key, ...] = ()
        self._read_at = self._tried_at = self._looked_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, algorithm: str) -> Key | None:
        """The key that a token was signed with; of one that names none, the only key that there is.

        Raises:
            CannotVerify: There are no keys, because the issuer does not answer.
        """
        self.refresh()
        found = self._among_known(kid, algorithm)
        if found is None and (reading := self._unless_lately()) is not None:
            await asyncio.shield(reading)
            found = self._among_known(kid, algorithm)
        if found is None and not self._keys:
            raise CannotVerify(f"the keys of {self._issuer} are not known")
        return found

    def refresh(self) -> None:
        """Have the keys be read again if they are old; returns at once."""
        age = self._clock() - self._read_at
        if self._keys and age > MOST_STALE_SECONDS:
            logger.error("%s has not answered for a day; its keys are trusted no longer", self._issuer)
            self._take(())
        if self._keys and age > FRESH_SECONDS and self._clock() - self._tried_at >= PAUSE_SECONDS:
            self._soon()

    async def aclose(self) -> None:
        """End what is being read."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})

    def _among_known(self, kid: str | None, algorithm: str) -> Key | None:
        if kid is None:
            return self._keys[0] if len(self._keys) == 1 and self._keys[0].algorithm == algorithm else None
        named = [key for key in self._keys if key.kid == kid and key.algorithm == algorithm]
        return named[0] if len(named) == 1 else None

    def _unless_lately(self) -> asyncio.Task[None] | None:
        """The reading of the keys for a token whose key is not known; None if it is too soon for another."""
        if self._reading is not None and not self._reading.done():
            return self._reading
        if not self._keys:
            return self._soon() if self._clock() - self._tried_at >= RETRY_SECONDS else None
        if self._clock() - self._looked_at < PAUSE_SECONDS:
            return None
        self._looked_at = self._clock()
        return self._soon()

    def _soon(self) -> asyncio.Task[None]:
        """The reading of the keys, which is under way or begins now."""
        if self._reading is None or self._reading.done():
            self._tried_at = self._clock()
            self._reading = asyncio.create_task(self._read(), name=f"keys of {self._issuer}")
        return self._reading

    async def _read(self) -> None:
        try:
            url = self._configured or await self._discovered()
            published, keys = _usable_keys(url, await self._fetcher.get(url))
        except CannotFetch as error:
            known = "those that are known are used on" if self._keys else "its tokens cannot be taken"
            logger.warning("The keys of %s were not read, %s: %s", self._issuer, known, error)
            return
        self._read_at = self._clock()
        if published != self._published or not self._keys:
            self._published = published
            self._take(keys)

    def _take(self, keys: tuple[Key, ...]) -> None:
        self._keys = keys
        self._changed()

    async def _discovered(self) -> str:
        """Where the issuer's keys are, as its metadata says (RFC 8414; OpenID Connect Discovery 1.0)."""
        for url in metadata_urls(self._issuer):
            try:
                metadata = await self._fetcher.get(url)
            except CannotFetch as error:
                logger.debug("No metadata: %s", error)
                continue
            if metadata.get("issuer") != self._issuer:
                raise CannotFetch(f"{url} is the metadata of another issuer")
            place = metadata.get("jwks_uri")
            if not isinstance(place, str):
                raise CannotFetch(f"{url} names no jwks_uri")
            try:
                scheme = check_secure_url(place).scheme
            except ValueError as error:
                raise CannotFetch(f"{url}: jwks_uri: {error}") from None
            if scheme != urlsplit(self._issuer).scheme:
                raise CannotFetch(f"{url}: jwks_uri: expected {urlsplit(self._issuer).scheme}")
            return place
        raise CannotFetch("its metadata is at none of the places where it should be")


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Where the metadata of an issuer may be, in the order in which it is looked for.

    RFC 8414, section 3.1, puts its well-known path in front of the issuer's own; OpenID Connect behind it.
    """
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    return (
        f"{origin}/.well-known/oauth-authorization-server{path}",
        *((f"{origin}/.well-known/openid-configuration{path}",) if path else ()),
        f"{origin}{path}/.well-known/openid-configuration",
    )


def _usable_keys(url: str, document: Mapping[str, Any]) -> tuple[list[Any], tuple[Key, ...]]:
    """What an issuer publishes, and the keys among it that tokens may be signed with.

    Raises:
        CannotFetch: There are none.
    """
    published = document.get("keys")
    if not isinstance(published, list) or not published:
        raise CannotFetch(f"{url} has no keys")
    keys = tuple(key for jwk in published[:KEYS] if (key := usable_key(jwk)) is not None)
    if not keys:
        raise CannotFetch(f"{url} has no key for {', '.join(ALGORITHMS)}")
    return published, keys


def usable_key(published: Any) -> Key | None:
    """A published key, if tokens may be signed with it."""
    if not isinstance(published, dict) or published.get("use", "sig") != "sig":
        return None
    operations, kid = published.get("key_ops", ["verify"]), published.get("kid")
    if not isinstance(operations, list) or "verify" not in operations or not isinstance(kid, str | None):
        return None
    kind = published.get("kty")
    (algorithm,) = [name for name, type_ in ALGORITHMS.items() if type_ == kind] or [""]
    if not algorithm or published.get("alg", algorithm) != algorithm:
        return None
    try:
        jwk = PyJWK(published, algorithm)
    except (PyJWTError, TypeError, ValueError, LookupError, AttributeError):
        return None
    match jwk.key:
        case RSAPublicKey(key_size=bits) if bits in RSA_BITS:
            return Key(kid, algorithm, jwk)
        case EllipticCurvePublicKey(curve=SECP256R1()) | Ed25519PublicKey():
            return Key(kid, algorithm, jwk)
    return None
