"""The secret of a deployment."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pydantic import SecretStr

from ..domain.errors import ConfigurationError
from .strength import GENERATE, weakness
from .trusted_files import refuse_foreign

SECRET_FILE = "secret"  # noqa: S105 - the name of a file
"""Where the secret lives in `data_dir` when `TASKS_SECRET` is not set."""


SECRET_BYTES = 32
"""Random bytes in a secret that we make."""


SECRET_CHARACTERS = 16
"""Fewest characters of a secret that is configured."""


def load_secret(configured: SecretStr | None, data_dir: Path) -> bytes:
    """The secret of this deployment: `TASKS_SECRET`, else a file in `TASKS_DATA_DIR`, made at first use.

    Any number of processes may do this at once; all of them get the same secret.

    Args:
        configured: `TASKS_SECRET`; None if it is not set.
        data_dir: `TASKS_DATA_DIR`.

    Raises:
        ConfigurationError: Too short, unreadable, or readable by others than its owner.
    """
    if configured is None:
        return _secret_in(data_dir)
    return check_secret("TASKS_SECRET", configured)


def has_secret(data_dir: Path) -> bool:
    """Whether a secret was made in `TASKS_DATA_DIR`."""
    return (data_dir / SECRET_FILE).exists()


def check_secret(variable: str, configured: SecretStr, *, may_be_weak: bool = False) -> bytes:
    """A secret that is configured, as bytes.

    Args:
        variable: Where it is from, for the error.
        configured: The secret.
        may_be_weak: Whether one that could be guessed is taken: an old one, of what was made with it.

    Raises:
        ConfigurationError: It is too short, or could be guessed.
    """
    secret = configured.get_secret_value()
    if len(secret) < SECRET_CHARACTERS:
        raise ConfigurationError(
            f"{variable}: a secret has {len(secret)} characters; use at least {SECRET_CHARACTERS}, "
            f"for example the output of: {GENERATE}"
        )
    if not may_be_weak and (weak := weakness(secret)) is not None:
        raise ConfigurationError(
            f"{variable}: a secret could be guessed: it {weak}. Use for example the output of: {GENERATE}"
        )
    return secret.encode()


def _secret_in(directory: Path) -> bytes:
    path = directory / SECRET_FILE
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        refuse_foreign(directory, directory.stat())
        if not path.exists():
            _create(path)
        mode, secret = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"The secret in {path} cannot be made or read ({error.strerror}); "
            "set TASKS_SECRET, or TASKS_DATA_DIR to a directory that this user may write"
        ) from error
    if mode & 0o077:
        raise ConfigurationError(f"{path} can be read by other users; fix it with: chmod 600 {path}")
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
