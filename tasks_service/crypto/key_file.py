"""The file of hashed API keys: a line for each, `name:hash` or `name:hash:until`.

A hash is plain SHA-256. That is right for keys that are drawn at random, as `new_key` does: there are too
many to try them all. It would be wrong for keys that people think of.
"""

from __future__ import annotations

import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final

from ..domain.errors import ConfigurationError
from .trusted_files import refuse_foreign

VARIABLE: Final = "TASKS_API_KEYS_FILE"

KEY_PREFIX: Final = "tsk_"
"""What generated keys begin with, so that scanners for secrets in code know them."""

KEY_BYTES: Final = 32
"""Random bytes in a generated key."""

FILE_BYTES: Final = 1024 * 1024
"""Largest file."""

MOMENT: Final = "a moment in UTC like 2027-01-31T12:00:00Z"

NAME: Final = re.compile(r"[^\s:,#][^\s:,]{0,127}")
"""A name of keys."""

_LINE: Final = re.compile(rf"({NAME.pattern}):([0-9a-f]{{64}})(?::(\S+))?")

_UNTIL: Final = re.compile(r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d)?Z)?")


@dataclass(frozen=True, slots=True)
class HashedKey:
    """A key of the file.

    Attributes:
        name: Its owner's.
        digest: SHA-256 of the key.
        until: When it ends; None: never.
    """

    name: str
    digest: bytes
    until: datetime | None


def new_key() -> str:
    """Draw a key: 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def line_of(name: str, key: str, until: str | None = None) -> str:
    """The line of the file for a key."""
    return f"{name}:{hash_key(key.encode()).hex()}" + (f":{until}" if until else "")


def hash_key(key: bytes) -> bytes:
    """The hash of a key."""
    return sha256(key).digest()


def read_key_file(path: Path) -> tuple[HashedKey, ...]:
    """The keys of a file.

    Raises:
        ConfigurationError: It cannot be read, others may write it, or a line is not of the form; the message
            names the line, and nothing that is in it.
    """
    try:
        with path.open("rb") as file:
            refuse_foreign(path, os.fstat(file.fileno()))
            text = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(
            f"{VARIABLE}: {path} cannot be read ({error.strerror}). Make it with the lines that "
            "'tasks-service key NAME' prints, readable for this user"
        ) from error
    if len(text) > FILE_BYTES:
        raise ConfigurationError(f"{VARIABLE}: {path} is larger than {FILE_BYTES} bytes")
    keys = tuple(_keys(path, text.decode("utf-8", "replace")))
    _refuse_repeated(path, keys)
    return keys


def parse_moment(text: str) -> datetime | None:
    """A moment as keys may end at; None if it is not of the form, or there is no such moment."""
    if _UNTIL.fullmatch(text) is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _keys(path: Path, text: str) -> Iterator[HashedKey]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        until = None if found is None or found[3] is None else parse_moment(found[3])
        if found is None or (found[3] is not None and until is None):
            raise ConfigurationError(
                f"{VARIABLE}: line {number} of {path} is not of the form name:hash or name:hash:until, with "
                f"the 64 hexadecimal digits that 'tasks-service key NAME' prints, and {MOMENT}. Nothing of "
                "it is shown here, since it may be a key"
            )
        yield HashedKey(found[1], bytes.fromhex(found[2]), until)


def _refuse_repeated(path: Path, keys: tuple[HashedKey, ...]) -> None:
    most = Counter(key.digest for key in keys).most_common(1)
    if most and most[0][1] > 1:
        names = sorted({key.name for key in keys if key.digest == most[0][0]})
        raise ConfigurationError(
            f"{VARIABLE}: {path} has one key {most[0][1]} times, of {' and '.join(names)}. Leave it once, "
            "and give each name a key of its own"
        )
