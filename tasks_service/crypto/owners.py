"""The way from a principal to the opaque `Owner` that keys and logs may hold.

An owner is a keyed hash of issuer, subject and client id, each length-prefixed, so that no two principals
share one and nobody without the secret can tell which principal it was. All processes of a deployment must
use one owner secret: a front end that does not finds none of the tasks that the others made.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from ..domain.task import Identity, Owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A caller, as whoever authenticated the call names it.

    Attributes:
        issuer: Who vouches: "local", "api-key", or an authorization server.
        subject: Whom they vouch for.
        client_id: Through which client; the same user's other clients are other owners.
    """

    issuer: str
    subject: str
    client_id: str = ""


LOCAL_USER = Principal(issuer="local", subject="user")
"""The one user of a service that only this machine can reach: stdio, and loopback without API keys."""

API_KEY_ISSUER = "api-key"
"""The issuer of principals that an API key names."""


def key_name(identity: Identity) -> str:
    """The name of the API key that somebody has called with; empty if it was none."""
    return identity.subject if identity.issuer == API_KEY_ISSUER else ""


def owner_of(principal: Principal, secret: bytes) -> Owner:
    """The owner that stands for a principal: 26 characters of base32, 128 bits.

    Args:
        principal: Who calls.
        secret: See `DeploymentKeys.owner_secret`.
    """
    digest = hashlib.blake2b(digest_size=16, key=_key(secret), person=b"tasks-owner")
    for part in (principal.issuer, principal.subject, principal.client_id):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return Owner(base64.b32encode(digest.digest()).decode().rstrip("=").lower())


def _key(secret: bytes) -> bytes:
    """A key of the length that blake2b takes, from a secret of any length.

    Not `derive_key`: tasks are stored under their owners, so that these stay what they were.
    """
    return hashlib.blake2b(secret, digest_size=32).digest()
