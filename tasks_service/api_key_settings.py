"""The settings of API keys: `TASKS_API_KEYS` and `TASKS_API_KEYS_FILE`, with their checks.

What is refused may be a key in the wrong place, with a comma in it, or behind a name that is missing. So
messages name entries by their numbers, and quote nothing of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from .crypto.key_file import MOMENT, NAME, parse_moment
from .crypto.strength import weakness

VARIABLE: Final = "TASKS_API_KEYS"

KEY_CHARACTERS: Final = 16
"""Fewest characters of a key."""

_GENERATE: Final = "The command 'tasks-service key NAME' prints a strong one"

_EXPIRING_KEY = re.compile(r"(.+?):(\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::\d\d)?Z)?)")

_DATED_KEY = re.compile(r".*:\d{4}-\d{1,2}-\d{1,2}(?!\d).*")
"""A key that ends in what its writer must have meant for a moment."""


class ApiKey(BaseModel):
    """An API key.

    Attributes:
        key: The secret, of at least 16 characters.
        until: When it expires; None: never.
    """

    model_config = ConfigDict(frozen=True)

    key: SecretStr
    until: AwareDatetime | None = None

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, value: object) -> object:
        return {"key": value} if isinstance(value, str | SecretStr) else value


class ApiKeySettings(BaseModel):
    """The part of the settings that is about API keys.

    Attributes:
        api_keys: `name:key` pairs, comma-separated; each name is an owner of its own. `name:key:until`
            expires, at a time in UTC like 2027-01-31T12:00:00Z. A name may have several keys, and each is
            good until its end. Keys or `oauth_issuers` are required unless `host` is a loopback address.
        api_keys_file: A file of further keys that are hashed, with lines as `tasks-service key NAME` prints
            them. It is read again when it has changed.
    """

    api_keys: dict[str, tuple[ApiKey, ...]] = Field(default_factory=dict)
    api_keys_file: Path | None = None

    @field_validator("api_keys", mode="before")
    @classmethod
    def _parse_keys(cls, value: object) -> object:
        if isinstance(value, dict):
            return {name: keys if isinstance(keys, list | tuple) else (keys,) for name, keys in value.items()}
        if not isinstance(value, str):
            return value
        pairs = [pair.strip() for pair in value.split(",") if pair.strip()]
        keys: dict[str, list[ApiKey]] = {}
        for number, pair in enumerate(pairs, start=1):
            name, _, text = (part.strip() for part in pair.partition(":"))
            keys.setdefault(name, []).append(_api_key(f"{VARIABLE}: entry {number}", name, text))
        return keys

    @field_validator("api_keys")
    @classmethod
    def _refuse_bad_keys(cls, value: dict[str, tuple[ApiKey, ...]]) -> dict[str, tuple[ApiKey, ...]]:
        listed = [_Listed(name, key.key.get_secret_value()) for name, keys in value.items() for key in keys]
        _refuse_weak(listed)
        _refuse_repeated(listed)
        return value

    @field_validator("api_keys_file", mode="before")
    @classmethod
    def _no_file(cls, value: object) -> object:
        return value or None

    @property
    def has_api_keys(self) -> bool:
        """Whether there are API keys, or a file of them."""
        return bool(self.api_keys) or self.api_keys_file is not None


class _Listed(NamedTuple):
    name: str
    key: str


def _refuse_weak(listed: Sequence[_Listed]) -> None:
    for _, key in listed:
        if len(key) < KEY_CHARACTERS:
            raise ValueError(f"{VARIABLE}: a key has fewer than {KEY_CHARACTERS} characters. {_GENERATE}")
        if (weak := weakness(key)) is not None:
            raise ValueError(f"{VARIABLE}: a key could be guessed: it {weak}. {_GENERATE}")


def _refuse_repeated(listed: Sequence[_Listed]) -> None:
    names: dict[str, str] = {}
    for name, key in listed:
        other = names.setdefault(key, name)
        if other != name:
            raise ValueError(
                f"{VARIABLE}: two names have the same key, so that nobody knows who calls with it. Give each "
                "a key of its own"
            )
    if len(names) < len(listed):
        raise ValueError(f"{VARIABLE}: a name has the same key twice. Leave one of them out")


def _api_key(where: str, name: str, text: str) -> ApiKey:
    """The key that stands behind a name, and its end."""
    expiring = _EXPIRING_KEY.fullmatch(text)
    key, until = expiring.groups() if expiring else (text, None)
    if NAME.fullmatch(name) is None or len(key) < KEY_CHARACTERS:
        raise ValueError(
            f"{where} is not of the form name:key or name:key:until, with a key of at least {KEY_CHARACTERS} "
            f"characters, none of them a comma, and {MOMENT}. Nothing of it is shown here, since it may be "
            "a key"
        )
    if until is None and _DATED_KEY.fullmatch(key) is not None:
        raise ValueError(f"{where} ends with what is not {MOMENT}")
    if not re.fullmatch(r"[!-~]+", key):
        raise ValueError(
            f"{where} has a character that no client can send in a header. Use letters, digits and "
            "punctuation of ASCII, without spaces"
        )
    moment = None if until is None else parse_moment(until)
    if until is not None and moment is None:
        raise ValueError(f"{where} ends at what is no moment; expected {MOMENT}")
    return ApiKey(key=SecretStr(key), until=moment)
