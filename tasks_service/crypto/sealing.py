"""Sealing: what a client carries for the service, and can neither read, change, nor use for something else.

A sealed text is AES-256-GCM over JSON, in base64url. It is bound to its purpose by the key, and to an owner,
a session or a call by associated data: these are not in the text, so whoever opens it has to know them.
"""

from __future__ import annotations

import base64
import json
import os
import time
from contextlib import suppress
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .keys import KeyRing

NONCE_BYTES = 12
"""Random bytes in front of the ciphertext; good for four thousand million texts under one key."""

TAG_BYTES = 16
"""Bytes that GCM appends, by which a change is noticed."""


class SealBroken(Exception):
    """A text does not open; the message says why, for the log and not for whoever sent it."""


class Sealer:
    """Seals for one purpose.

    Args:
        ring: The first of its secrets seals, all open.
        purpose: What was sealed for another purpose does not open.
    """

    def __init__(self, ring: KeyRing, purpose: str) -> None:
        self._ciphers = [AESGCM(key) for key in ring.keys(purpose)]

    def seal(self, content: Any, *binding: str, seconds: float | None = None) -> str:
        """A new text, which opens with the same binding only.

        Args:
            content: Anything that JSON can say.
            binding: What the text belongs to; the order matters.
            seconds: How long the text is good, by this machine's clock; None: for ever.
        """
        until = None if seconds is None else time.time() + seconds
        payload = json.dumps([until, content], separators=(",", ":")).encode()
        nonce = os.urandom(NONCE_BYTES)
        return _text(nonce + self._ciphers[0].encrypt(nonce, payload, _associated(binding)))

    def open(self, text: str, *binding: str) -> Any:
        """The content of a sealed text.

        Raises:
            SealBroken: It was changed, has expired, or was sealed for another purpose, with another binding
                or a secret that is not on the ring.
        """
        until, content = json.loads(self._decrypted(_raw(text), _associated(binding)))
        if until is not None and time.time() >= until:
            raise SealBroken("it has expired")
        return content

    def _decrypted(self, raw: bytes, associated: bytes) -> bytes:
        for cipher in self._ciphers:
            with suppress(InvalidTag):
                return cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], associated)
        raise SealBroken("it was changed, or sealed for another use, caller or call, or with another secret")


def _associated(binding: tuple[str, ...]) -> bytes:
    return json.dumps(binding).encode()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _raw(text: str) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        raw = b""
    # Several texts can stand for the same bytes; only the one that was given out is good.
    if len(raw) < NONCE_BYTES + TAG_BYTES or _text(raw) != text:
        raise SealBroken("it is not a sealed text")
    return raw
