"""The confinement of paths from clients to one directory.

A client names files relative to the operator's root. `confine` resolves such a path, and refuses everything
outside the root, and everything hidden: the root may be the directory that the service runs in, where `.env`
and the secret in `.tasks-service` are. `open_file` opens what `confine` allowed, one directory at a time and
never through a symbolic link, so that a link that is created between the two calls is not followed. Refusals
are `ToolError`s that quote the client's path and never reveal the root.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from tasks_service import ToolError

MAX_PATH = 4096
"""Most characters in a path from a client, as on Linux."""

_ADVICE = "Give a path relative to the tools' data directory, such as 'sales/2024.csv'."


def confine(root: Path, path: str) -> Path:
    """Resolve a client's path inside the root, with every symbolic link.

    Args:
        root: The only directory whose contents may be used; may itself be a link.
        path: The path from the client. An absolute path is accepted if it lies inside the root.

    Returns:
        The real path of an existing regular file or directory at or below the real root.

    Raises:
        ToolError: The path is empty, too long, holds a NUL or a lone surrogate, leaves the root (by `..`, by
            a link or by being absolute), does not exist, is hidden, or is neither a file nor a directory.
    """
    shown = _shown(path)
    if not path or len(path) > MAX_PATH:
        raise ToolError(f"A path has 1 to {MAX_PATH} characters. {_ADVICE}")
    if "\0" in path or not _is_unicode(path):
        raise ToolError(f"The path {shown} holds a character that no path can have. {_ADVICE}")
    real_root = root.resolve()
    try:
        real = (real_root / path).resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        raise ToolError(f"There is no file or directory {shown} in the tools' data directory.") from None
    except (OSError, RuntimeError):
        raise ToolError(f"The path {shown} cannot be followed. {_ADVICE}") from None
    if not real.is_relative_to(real_root):
        raise ToolError(f"The path {shown} leads outside the tools' data directory. {_ADVICE}")
    if any(map(is_hidden, real.relative_to(real_root).parts)):
        raise ToolError(f"{shown} is hidden: it, or a directory on the way to it, has a dot in front.")
    if not (real.is_file() or real.is_dir()):
        raise ToolError(f"{shown} is a device, a pipe or a socket; only files and directories can be read.")
    return real


def is_hidden(name: str) -> bool:
    """Whether a file or directory of that name is not read."""
    return name.startswith(".")


def open_file(root: Path, real: Path) -> io.FileIO:
    """Open a regular file that `confine` allowed for reading, unbuffered.

    Args:
        root: The root that was given to `confine`.
        real: A path at or below the real root, without links.

    Raises:
        ToolError: It is no regular file, or no longer one, or may not be read.
    """
    # A pipe would block the open until someone writes; to a file, O_NONBLOCK makes no difference.
    descriptor = _open_beneath(root, real, os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ToolError(f"{_shown(relative_name(root, real))} is not a file. Name a single file.")
    return io.FileIO(descriptor)


def open_directory(root: Path, real: Path) -> int:
    """Open a directory that `confine` allowed, for `os.scandir`; the caller closes the descriptor.

    Args:
        root: The root that was given to `confine`.
        real: A path at or below the real root, without links.

    Raises:
        ToolError: It is no directory, or no longer one, or may not be read.
    """
    return _open_beneath(root, real, os.O_DIRECTORY)


def relative_name(root: Path, real: Path) -> str:
    """The name of a confined path for clients: relative to the root, always valid Unicode."""
    return os.fsencode(real.relative_to(root.resolve())).decode("utf-8", "backslashreplace")


def _open_beneath(root: Path, real: Path, kind: int) -> int:
    real_root = root.resolve()
    parts = real.relative_to(real_root).parts
    try:
        descriptor = os.open(real_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for position, part in enumerate(parts, start=1):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            flags |= kind if position == len(parts) else os.O_DIRECTORY
            parent = descriptor
            try:
                descriptor = os.open(part, flags, dir_fd=parent)
            finally:
                os.close(parent)
    except OSError as error:
        name = _shown(relative_name(root, real))
        raise ToolError(f"{name} cannot be opened: {os.strerror(error.errno or 0)}.") from None
    return descriptor


def _is_unicode(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: str) -> str:
    return repr(path if len(path) <= 100 else path[:99] + "…")
