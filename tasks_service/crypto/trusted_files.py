"""Files that a process believes: whoever may write one of them decides what the process does."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..domain.errors import ConfigurationError


def refuse_foreign(path: Path, status: os.stat_result) -> None:
    """Refuse a file or directory that somebody else could have written.

    A group may write only if it is the owner's private one, which bears the owner's number: there, new files
    are often made so.

    Args:
        path: For the message.
        status: Of the file, or of the directory.

    Raises:
        ConfigurationError: It belongs to neither this user nor root, or others may write it.
    """
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigurationError(
            f"{path} belongs to user {status.st_uid}, who could change it, and this process runs as user "
            f"{os.geteuid()}. Give it to this user or to root with chown, or start from another directory"
        )
    if status.st_mode & stat.S_ISVTX and stat.S_ISDIR(status.st_mode):
        return  # in such a directory each user may change only what is the user's own
    by_group = status.st_mode & stat.S_IWGRP and status.st_gid != status.st_uid
    if by_group or status.st_mode & stat.S_IWOTH:
        raise ConfigurationError(
            f"{path} can be written by other users, who could change it; fix it with: chmod go-w {path}"
        )


def check_env_file(path: Path) -> None:
    """Refuse a `.env` file that somebody else could have written; none is fine.

    Raises:
        ConfigurationError: See `refuse_foreign`.
    """
    try:
        status = path.stat()
    except OSError:
        return
    refuse_foreign(path.absolute(), status)
