"""Signatures: who may write where a worker reads, and may not make a worker believe them.

A signature is an HMAC over a text. It hides nothing, and it does not say when it was made: whoever verifies
has to know by other means that what was signed is still wanted.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from ..domain.errors import ConfigurationError
from .keys import KeyRing
from .private_secret import PRIVATE_SUFFIX, SECRET_BYTES
from .secret import check_secret

VERSION = "1"
"""Stands before each signature, so that another algorithm can come beside this one."""


class Signer:
    """Signs for one purpose, and verifies.

    Args:
        ring: The first of its secrets signs, all verify.
        purpose: What was signed for another purpose does not verify.
    """

    def __init__(self, ring: KeyRing, purpose: str) -> None:
        self._keys = ring.keys(purpose)

    def sign(self, content: bytes) -> str:
        """A signature: always the same for the same content and secret."""
        return _signature(self._keys[0], content)

    def verifies(self, signature: str, content: bytes) -> bool:
        """Whether a signature was made of this content with a secret of the ring."""
        given = signature.encode(errors="replace")
        return any(hmac.compare_digest(given, _signature(key, content).encode()) for key in self._keys)


def _signature(key: bytes, content: bytes) -> str:
    digest = hmac.digest(key, content, hashlib.sha256)
    return f"{VERSION}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def message_ring(
    secret: SecretStr | None, accepted: tuple[SecretStr, ...], redis_url: str | None
) -> KeyRing | None:
    """The secrets that sign messages; None: messages are not signed.

    They are not those of front ends: workers and beat sign too, and have no use for what opens cursors.

    Args:
        secret: `TASKS_MESSAGE_SECRET`. None: that of the private Redis, where the store is one.
        accepted: `TASKS_ACCEPTED_MESSAGE_SECRETS`: verify what they have signed.
        redis_url: The store.

    Raises:
        ConfigurationError: A secret is too short, or cannot be read.
    """
    others = [check_secret("TASKS_ACCEPTED_MESSAGE_SECRETS", other, may_be_weak=True) for other in accepted]
    if secret is not None:
        return KeyRing((check_secret("TASKS_MESSAGE_SECRET", secret), *others))
    private = None if redis_url is None else _read_private_secret(redis_url)
    if private is not None:
        return KeyRing((private, *others))
    if others:
        raise ConfigurationError(
            "TASKS_ACCEPTED_MESSAGE_SECRETS is set, and TASKS_MESSAGE_SECRET, which signs, is not. Set both"
        )
    return None


def _read_private_secret(redis_url: str) -> bytes | None:
    parts = urlsplit(redis_url)
    if parts.scheme != "unix":
        return None
    path = Path(unquote(parts.path)).with_suffix(PRIVATE_SUFFIX)
    try:
        mode, secret = path.stat().st_mode, path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(
            f"The secret of messages in {path} cannot be read ({error.strerror}). Run as the user that has "
            "started this Redis, or set TASKS_MESSAGE_SECRET"
        ) from error
    if mode & 0o077:
        raise ConfigurationError(f"{path} can be read by other users; fix it with: chmod 600 {path}")
    if len(secret) < SECRET_BYTES:
        raise ConfigurationError(f"{path} is damaged: {len(secret)} bytes; remove it, and start Redis again")
    return secret
