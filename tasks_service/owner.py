"""Whose task it is: from a principal to the opaque `Owner` that keys and logs may hold.

An owner is a keyed hash of issuer, subject and client id, each length-prefixed, so that no two principals
share one and nobody without the secret can tell which principal it was. All processes of a deployment must
use one secret: a front end that does not finds none of the tasks that the others made.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from .domain.errors import ConfigurationError
from .domain.task import Owner
from .settings import Settings

SECRET_FILE = "secret"  # noqa: S105 - the name of a file
"""Where the secret lives in `data_dir` when `TASKS_SECRET` is not set."""

SECRET_BYTES = 32
"""Random bytes in a secret that we make."""

SECRET_CHARACTERS = 16
"""Fewest characters of a secret that is configured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who calls, as those who authenticated the call name it.

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


def owner_of(principal: Principal, secret: bytes) -> Owner:
    """The owner that stands for a principal: 26 characters of base32, 128 bits.

    Args:
        principal: Who calls.
        secret: The deployment's secret, see `load_secret`.
    """
    digest = hashlib.blake2b(digest_size=16, key=_key(secret), person=b"tasks-owner")
    for part in (principal.issuer, principal.subject, principal.client_id):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return Owner(base64.b32encode(digest.digest()).decode().rstrip("=").lower())


def load_secret(settings: Settings) -> bytes:
    """The secret of this deployment: `TASKS_SECRET`, else a file in `data_dir`, made at first use.

    Any number of processes may do this at once; all of them get the same secret.

    Raises:
        ConfigurationError: Too short, unreadable, or readable by others than its owner.
    """
    if settings.secret is None:
        return _secret_in(settings.data_dir)
    configured = settings.secret.get_secret_value()
    if len(configured) < SECRET_CHARACTERS:
        raise ConfigurationError(
            f"TASKS_SECRET has {len(configured)} characters; use at least {SECRET_CHARACTERS}, "
            "for example the output of: openssl rand -hex 32"
        )
    return configured.encode()


def _secret_in(directory: Path) -> bytes:
    path = directory / SECRET_FILE
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            _create(path)
        mode, secret = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"The secret in {path} cannot be made or read ({error.strerror}); "
            "set TASKS_SECRET, or TASKS_DATA_DIR to a directory that this user may write"
        ) from error
    if mode & 0o077:
        raise ConfigurationError(f"{path} can be read by other users; mend it with: chmod 600 {path}")
    if len(secret) < SECRET_CHARACTERS:
        raise ConfigurationError(
            f"{path} is damaged: {len(secret)} bytes; restore it, or remove it if no task matters any more"
        )
    return secret


def _create(path: Path) -> None:
    """Write a new secret under another name, then link it: the first link wins, nobody reads half a file."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_hex(SECRET_BYTES).encode())
            file.flush()
            os.fsync(file.fileno())
        # Another process was faster: its secret holds.
        _link_unless_there(draft, path)
    finally:
        draft.unlink()


def _link_unless_there(draft: Path, path: Path) -> None:
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        return


def _key(secret: bytes) -> bytes:
    """A key of the length that blake2b takes, from a secret of any length."""
    return hashlib.blake2b(secret, digest_size=32).digest()
