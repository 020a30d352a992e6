"""API keys, or the one local user of a service that only this machine can reach.

A key travels in the `Authorization` header of every request, never in the URL (2026-07-28, basic/
authorization). Each key's name is an owner of its own. A missing and a wrong key get the same refusal.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

from ...crypto.owners import API_KEY_ISSUER, LOCAL_USER, Principal, owner_of
from ...domain.errors import ConfigurationError
from ...domain.task import Identity
from ...settings import Settings
from ..core.requests import Caller

CHALLENGE = b'Bearer realm="tasks-service"'
"""What a 401 asks for (RFC 6750, section 3)."""

_SCHEME = b"bearer "


@dataclass(frozen=True, slots=True)
class _Key:
    digest: bytes
    caller: Caller


class Authenticator:
    """Finds the caller of a request by its API key; see `Authentication` for all that a caller may have.

    Args:
        settings: Its `api_keys`, and where it listens.
        owner_secret: See `DeploymentKeys.owner_secret`.

    Raises:
        ConfigurationError: Others than this machine could reach the service, and it knows no callers.
    """

    def __init__(self, settings: Settings, owner_secret: bytes) -> None:
        require_auth_if_public(settings)
        # Digests are compared within this process only.
        self._pepper = secrets.token_bytes()
        self._keys = [
            _Key(
                self._digest(api_key.key.get_secret_value().encode()),
                caller_of(
                    Principal(issuer=API_KEY_ISSUER, subject=name),
                    owner_secret,
                    None if api_key.until is None else api_key.until.timestamp(),
                ),
            )
            for name, api_keys in settings.api_keys.items()
            for api_key in api_keys
        ]
        self._local = None if settings.knows_callers else caller_of(LOCAL_USER, owner_secret)

    def caller(self, authorization: bytes | None) -> Caller | None:
        """The caller that an `Authorization` header proves, or None.

        A key that has run out proves nothing. Takes the same time whichever key it is, and whether it is one
        at all.
        """
        if self._local is not None:
            return self._local
        if authorization is None or authorization[: len(_SCHEME)].lower() != _SCHEME:
            return None
        presented = self._digest(authorization[len(_SCHEME) :].strip())
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, presented):
                found = key.caller
        if found is not None and found.expires_at is not None and time.time() >= found.expires_at:
            return None
        return found

    def _digest(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, key=self._pepper, digest_size=32).digest()


def require_auth_if_public(settings: Settings) -> None:
    """Refuse to serve other machines without API keys or sign-in.

    Raises:
        ConfigurationError: The address is not a loopback one, and callers cannot prove who they are.
    """
    if not settings.is_loopback and not settings.knows_callers:
        raise ConfigurationError(
            f"TASKS_HOST is {settings.host}, which other machines can reach, and TASKS_API_KEYS is empty. "
            "Set TASKS_API_KEYS=name:key (a key of at least 16 characters), TASKS_OAUTH_ISSUERS for callers "
            "that sign in, or TASKS_HOST=127.0.0.1"
        )


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
