"""The envelope around what Redis stores of a task: sealed there, plain everywhere above the store.

A sealed text is `~1.<key>.<fingerprint>.<base64 of nonce, ciphertext and tag>`, AES-256-GCM. Each task has
a key of its own, made of the key of the ring and of the task's owner and name; so random nonces are enough,
however many texts there are. The name of the field is associated data. So a text opens where it was sealed,
and nowhere else: not in another field, another task, or for another owner.

No JSON text begins as a sealed one does, so plain and sealed ones are never mistaken for each other.

This module imports `cryptography` only once there are keys: workers without encryption do not have it.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from ..domain.errors import ConfigurationError, RecordSealed
from .keys import KEY_BYTES, derive_key

MARK = "~"
"""What each sealed text begins with."""

VERSION = f"{MARK}1"
"""Stands before each sealed text, so that another algorithm can come beside this one."""

NONCE_BYTES, TAG_BYTES = 12, 16

_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")

_PURPOSE = "envelope of records"

FINGERPRINT_BYTES = 4
"""Length of a fingerprint: enough to tell a wrong key from a changed text."""

MOST_CIPHERS = 1_000
"""How many ciphers are kept, of the tasks that were met last."""

Cipher = Callable[[bytes], Any]
"""Makes an AES-GCM cipher of a key."""


class EnvelopeBroken(ValueError):
    """A sealed text does not open, though its key is there: it was changed, or belongs elsewhere."""


class Mode(StrEnum):
    """What is done with texts that are plain, and with new ones."""

    PREPARE = "prepare"
    """New texts are plain, and both are read: until every process has the keys, and to take them back."""
    ACCEPT = "accept"
    """New texts are sealed, and both are read."""
    REQUIRED = "required"
    """New texts are sealed, and plain ones are refused."""


@dataclass(frozen=True, slots=True)
class EncryptionKey:
    """A key of the ring.

    Attributes:
        key_id: Its name; not secret.
        secret: 32 bytes.
    """

    key_id: str
    secret: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """What a sealed text calls the key: its name and its fingerprint, which a wrong key does not have."""
        fingerprint = derive_key(self.secret, f"fingerprint of {_PURPOSE}")[:FINGERPRINT_BYTES].hex()
        return f"{self.key_id}.{fingerprint}"


class Envelope:
    """Seals and opens what is stored.

    Args:
        ring: The first key seals, all of them open. Empty: nothing is sealed, and nothing sealed is opened.
        mode: See `Mode`.

    Raises:
        ConfigurationError: There are keys, and the extra `encryption` is not installed.
    """

    def __init__(self, ring: Sequence[EncryptionKey] = (), mode: Mode = Mode.REQUIRED) -> None:
        self._ring, self._mode = tuple(ring), mode
        self._secrets = {key.name: key.secret for key in ring}
        self.key_names = tuple(self._secrets)
        self.seals = bool(ring) and mode is not Mode.PREPARE
        self.requires = bool(ring) and mode is Mode.REQUIRED
        self.invalid_tag: type[Exception] = Exception
        if ring:
            self._make_cipher, self.invalid_tag = _load_cipher()
        # A task is read more often than once, and to make a cipher takes longer than to use it.
        self.cipher = lru_cache(maxsize=MOST_CIPHERS)(self._new_cipher)

    def __reduce__(self) -> tuple[type[Envelope], tuple[tuple[EncryptionKey, ...], Mode]]:
        """What is pickled: settings hold an envelope, and may go to another process."""
        return Envelope, (self._ring, self._mode)

    @property
    def sealing_name(self) -> str | None:
        """The name of the key that seals; None if new texts are plain."""
        return self.key_names[0] if self.seals else None

    def of(self, owner: str, task: str) -> TaskSeal:
        """What seals and opens the texts of a task.

        Args:
            owner: Whose task it is; empty for texts that no record holds.
            task: The task's name.
        """
        return TaskSeal(self, owner, task)

    def is_current(self, text: str) -> bool:
        """Whether a stored text is as it would be written now: sealed under the first key, or plain."""
        name = key_name(text)
        return name == self.sealing_name

    def _new_cipher(self, name: str, owner: str, task: str) -> Any:
        """The cipher of a task under a key; None if there is no such key."""
        secret = self._secrets.get(name)
        if secret is None:
            return None
        return self._make_cipher(derive_key(secret, f"{_PURPOSE}: {len(owner)}:{owner}:{task}"))


class TaskSeal:
    """Seals and opens the texts of one task.

    Args:
        envelope: Has the keys.
        owner: See `Envelope.of`.
        task: See `Envelope.of`.
    """

    __slots__ = ("_envelope", "_owner", "task")

    def __init__(self, envelope: Envelope, owner: str, task: str) -> None:
        self._envelope, self._owner, self.task = envelope, owner, task

    def seal(self, field: str, text: str) -> str:
        """A text as it is to be stored in a field."""
        name = self._envelope.sealing_name
        if name is None:
            return text
        nonce = os.urandom(NONCE_BYTES)
        sealed = nonce + self._cipher(name).encrypt(nonce, text.encode(), field.encode())
        return f"{VERSION}.{name}.{_text(sealed)}"

    def open(self, field: str, text: str) -> str:
        """The text that is stored in a field.

        Raises:
            RecordSealed: Its key is not there, or it is plain, and must not be.
            EnvelopeBroken: It was changed, or was sealed for another place.
        """
        if not text.startswith(MARK):
            if self._envelope.requires:
                raise RecordSealed(self.task, f"its {field} is not encrypted ({_PLAIN})")
            return text
        version, name, payload = _parts(text)
        if version != VERSION:
            raise RecordSealed(self.task, f"its {field} is encrypted in a form that a newer release knows")
        cipher = self._cipher(name)
        if cipher is None:
            raise RecordSealed(self.task, f"it is encrypted under the key {name!a}, {_MISSING}")
        raw = _raw(payload)
        try:
            plain: bytes = cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], field.encode())
        except self._envelope.invalid_tag:
            raise EnvelopeBroken(f"its {field} was changed, or was encrypted for another place") from None
        return plain.decode()

    def _cipher(self, name: str) -> Any:
        return self._envelope.cipher(name, self._owner, self.task)


_PLAIN = "TASKS_ENCRYPTION=accept reads what was stored before"
_MISSING = "which this process does not have (TASKS_ENCRYPTION_KEYS)"

NO_ENVELOPE = Envelope()
"""Of a process without keys."""


def key_name(text: str) -> str | None:
    """The name of the key that a stored text is sealed under; None if it is plain."""
    return _parts(text)[1] if text.startswith(MARK) else None


def _parts(text: str) -> tuple[str, str, str]:
    """The version, the name of the key, and the payload of a sealed text."""
    version, _, rest = text.partition(".")
    name, _, payload = rest.rpartition(".")
    return version, name[:64], payload


def _raw(payload: str) -> bytes:
    try:
        raw = binascii.a2b_base64(payload, strict_mode=True)
    except ValueError:
        raw = b""
    # Several texts can end in the same bytes; only the one that was written is good.
    end = len(raw) % 3 or 3
    if len(raw) < NONCE_BYTES + TAG_BYTES or _text(raw[-end:]) != payload[-4:]:
        raise EnvelopeBroken("it is not a sealed text")
    return raw


def _text(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).decode()


def _load_cipher() -> tuple[Cipher, type[Exception]]:
    try:
        # Not at the top: see the module's text.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "TASKS_ENCRYPTION_KEYS needs the package cryptography, which this environment has not: "
            "pip install 'tasks-service[encryption]'"
        ) from error
    return AESGCM, InvalidTag


def load_envelope(keys: Sequence[SecretStr], file: Path | None, mode: Mode) -> Envelope:
    """The envelope of a process.

    Args:
        keys: `TASKS_ENCRYPTION_KEYS`, each `id:base64`.
        file: `TASKS_ENCRYPTION_KEYS_FILE`: such keys, one a line.
        mode: `TASKS_ENCRYPTION`.

    Raises:
        ConfigurationError: A key is none, two have one name, or the file cannot be read, or can be by others.
    """
    if keys and file is not None:
        raise ConfigurationError(
            "TASKS_ENCRYPTION_KEYS and TASKS_ENCRYPTION_KEYS_FILE are both set: keep one"
        )
    if file is None:
        ring = [_key("TASKS_ENCRYPTION_KEYS", key.get_secret_value()) for key in keys]
    else:
        ring = [_key(str(file), line) for line in _lines_of(file)]
        if not ring:
            raise ConfigurationError(f"TASKS_ENCRYPTION_KEYS_FILE: there is no key in {file}")
    names = [key.key_id for key in ring]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigurationError(
            f"TASKS_ENCRYPTION_KEYS: two keys are named {min(twice)!r}. Give each a name of its own"
        )
    return Envelope(ring, mode) if ring else NO_ENVELOPE


def _lines_of(file: Path) -> list[str]:
    try:
        mode, text = file.stat().st_mode, file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(f"TASKS_ENCRYPTION_KEYS_FILE: {file} cannot be read ({reason})") from None
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigurationError(f"{file} can be read by other users; fix it with: chmod 600 {file}")
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _key(where: str, text: str) -> EncryptionKey:
    """A key as it is configured; nothing of it is in an error, not even its name, which may be misplaced."""
    key_id, _, encoded = text.partition(":")
    try:
        secret = base64.b64decode(encoded.strip(), validate=True)
    except (ValueError, binascii.Error):
        secret = b""
    if _KEY_ID.fullmatch(key_id) is None or len(secret) != KEY_BYTES:
        raise ConfigurationError(
            f"{where}: a key is not of the form id:key, with an id of letters, digits, - and _, and with "
            f"{KEY_BYTES} random bytes in base64, as `openssl rand -base64 {KEY_BYTES}` makes them"
        )
    if len(set(secret)) < KEY_BYTES // 4:
        raise ConfigurationError(f"{where}: the key {key_id!r} is not random; use openssl rand -base64 32")
    return EncryptionKey(key_id, secret)
