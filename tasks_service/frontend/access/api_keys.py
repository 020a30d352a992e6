"""API keys, or the one local user of a service that only this machine can reach.

A key travels in the `Authorization` header of every request, never in the URL (2026-07-28, basic/
authorization). Each key's name is an owner of its own. A missing and a wrong key get the same refusal.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ...crypto.key_file import hash_key, read_key_file
from ...crypto.owners import API_KEY_ISSUER, LOCAL_USER, Principal, owner_of
from ...domain.errors import ConfigurationError
from ...domain.task import Identity
from ...settings import Settings
from ...unsafe_settings import refuse_strangers
from ..core.requests import Caller

logger = logging.getLogger(__name__)

CHALLENGE = b'Bearer realm="tasks-service"'
"""What a 401 asks for (RFC 6750, section 3)."""

LOOK_SECONDS: Final = 1.0
"""How often it is looked, at most, whether the file of keys has changed."""

_SCHEME = b"bearer "


class Authenticator:
    """Finds the caller of a request by its API key; see `Authentication` for all that a caller may have.

    Keys are looked up by a hash that is keyed with what nobody outside this process knows, so that the time
    that it takes tells nothing of them.

    Args:
        settings: Its API keys, and where it listens.
        owner_secret: See `DeploymentKeys.owner_secret`.
        clock: Seconds since the epoch.
        timer: Seconds that only grow.

    Raises:
        ConfigurationError: Others than this machine could reach the service, and it knows no callers; or the
            file of keys cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        owner_secret: bytes,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        refuse_strangers(settings)
        self._owner_secret, self._clock, self._timer = owner_secret, clock, timer
        self._pepper = secrets.token_bytes()
        self._local = None if settings.knows_callers else caller_of(LOCAL_USER, owner_secret)
        self._configured = {
            self._name(hash_key(key.key.get_secret_value().encode())): self._caller(
                name, None if key.until is None else key.until.timestamp()
            )
            for name, keys in settings.api_keys.items()
            for key in keys
        }
        self._file = None if settings.api_keys_file is None else _WatchedFile(settings.api_keys_file)
        self._next_look = float("-inf")
        self._keys = self._configured
        if self._file is not None:
            self._look(self._file.read())
            self._next_look = timer() + LOOK_SECONDS

    @property
    def are_configured(self) -> bool:
        """Whether there are keys that somebody could guess."""
        return bool(self._keys) or self._file is not None

    @property
    def serves_local_user(self) -> bool:
        """Whether whoever reaches the service is its one user."""
        return self._local is not None

    def caller(self, authorization: bytes | None) -> Caller | None:
        """The caller that an `Authorization` header proves, or None.

        A key that has run out proves nothing, nor does one that is no longer in the file. Takes the same time
        whichever key it is, and whether it is one at all.
        """
        if self._local is not None:
            return self._local
        if not self.are_configured or authorization is None:
            return None
        if authorization[: len(_SCHEME)].lower() != _SCHEME:
            return None
        if self._file is not None and self._timer() >= self._next_look:
            self._look_again(self._file)
        return self._find(self._name(hash_key(authorization[len(_SCHEME) :].strip())))

    def _find(self, name: bytes) -> Caller | None:
        found = self._keys.get(name)
        if found is not None and found.expires_at is not None and self._clock() >= found.expires_at:
            return None
        return found

    def _look_again(self, file: _WatchedFile) -> None:
        self._next_look = self._timer() + LOOK_SECONDS
        if (read := file.read_if_changed()) is not None:
            self._look(read)

    def _look(self, read: tuple[_FileKey, ...]) -> None:
        """Take what is in the file, beside what is configured, which a line of the file does not change."""
        keys = {}
        for key in read:
            name = self._name(key.digest)

            async def still_holds(name: bytes = name) -> bool:
                if self._file is not None:
                    self._look_again(self._file)
                return self._find(name) is not None

            keys[name] = replace(self._caller(key.name, key.until), still_holds=still_holds)
        self._keys = {**keys, **self._configured}

    def _caller(self, name: str, until: float | None) -> Caller:
        return caller_of(Principal(issuer=API_KEY_ISSUER, subject=name), self._owner_secret, until)

    def _name(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._pepper, digest_size=32).digest()


@dataclass(frozen=True, slots=True)
class _FileKey:
    name: str
    digest: bytes
    until: float | None


class _WatchedFile:
    """The file of keys, read again when it has changed; while it cannot be used, nothing changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version: object = None

    def read(self) -> tuple[_FileKey, ...]:
        """Its keys.

        Raises:
            ConfigurationError: See `read_key_file`.
        """
        self._version = self._version_now()
        return tuple(
            _FileKey(key.name, key.digest, None if key.until is None else key.until.timestamp())
            for key in read_key_file(self._path)
        )

    def read_if_changed(self) -> tuple[_FileKey, ...] | None:
        """Its keys, if it is another than before; None if not, or if it cannot be used, which is logged."""
        if self._version_now() == self._version:
            return None
        try:
            keys = self.read()
        except ConfigurationError as error:
            logger.warning("The API keys stay those that were read before. %s", error)
            return None
        logger.info("%s has changed: it has %d keys now", self._path, len(keys))
        return keys

    def _version_now(self) -> object:
        try:
            status = self._path.stat()
        except OSError as error:
            return error.errno
        return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def caller_of(principal: Principal, owner_secret: bytes, expires_at: float | None = None) -> Caller:
    """A caller whom no scopes limit.

    Args:
        principal: Who it is.
        owner_secret: See `DeploymentKeys.owner_secret`.
        expires_at: See `Caller.expires_at`.
    """
    return Caller(
        owner=owner_of(principal, owner_secret),
        identity=Identity(issuer=principal.issuer, subject=principal.subject, client_id=principal.client_id),
        expires_at=expires_at,
    )
