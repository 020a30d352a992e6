"""The secret with which messages are signed that go over a private Redis: a file beside its socket.

Whoever knows the socket has the secret; so all processes of such a service sign, and nothing is to be set.
This module imports nothing that takes long: the process that starts a private Redis is in a hurry.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

PRIVATE_SUFFIX = ".messages"
"""Of the file, in place of that of the socket."""

SECRET_BYTES = 32
"""Random bytes in it."""


def make_private_secret(socket: Path) -> None:
    """Make the secret of a private Redis; it stays if there is one.

    Args:
        socket: Of the Redis, in a directory that only this user may enter.
    """
    path = socket.with_suffix(PRIVATE_SUFFIX)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(SECRET_BYTES))
