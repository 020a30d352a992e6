"""A walk over a directory tree that follows no links and always has the same order."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from tasks_service import ToolError

from .confine import is_hidden, open_directory


class Why(Enum):
    """The reason why an entry was skipped."""

    HIDDEN = "hidden"
    LINK = "link"
    SPECIAL = "special"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Found:
    """A regular file.

    Attributes:
        name: Its path relative to the top, always valid Unicode.
        path: Its full path.
        size: Its size in bytes, as of the walk.
    """

    name: str
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """An entry that is no regular file, or could not be read.

    Attributes:
        name: Its path relative to the top, always valid Unicode.
        why: Why it was skipped.
        reason: The error, for people, if it could not be read.
    """

    name: str
    why: Why
    reason: str = ""


def walk(root: Path, top: Path, pattern: str = "*") -> Iterator[Found | Skipped]:
    """Walk over a confined directory, or a single file, in the order of the paths' bytes.

    Args:
        root: The root that the top was confined to.
        top: The path that `confine` returned.
        pattern: A shell pattern for the entries' names, or for their paths relative to the top if it contains
            a slash (`*` then matches slashes too). All directories are entered but hidden ones.
    """
    if not top.is_dir():
        if _matches(top.name, pattern):
            yield Found(_unicode(top.name), top, top.stat().st_size)
        return
    # A stack instead of recursion: directories may be nested deeper than Python's calls may.
    levels = [iter([_Entry("", top, stat.S_IFDIR, 0)])]
    while levels:
        entry = next(levels[-1], None)
        if entry is None:
            levels.pop()
        elif is_hidden(entry.name.rpartition("/")[2]):
            yield Skipped(_unicode(entry.name), Why.HIDDEN)
        elif stat.S_ISDIR(entry.mode):
            try:
                levels.append(iter(_entries(root, entry)))
            except (ToolError, OSError) as error:
                yield Skipped(_unicode(entry.name or "."), Why.UNREADABLE, reason(error))
        elif _matches(entry.name, pattern):
            yield _seen(entry)


def reason(error: ToolError | OSError) -> str:
    """The reason of an error, without the path."""
    return error.message if isinstance(error, ToolError) else os.strerror(error.errno or 0)


class _Entry(NamedTuple):
    name: str
    path: Path
    mode: int
    size: int

    @property
    def order(self) -> bytes:
        # With the slash that follows a directory's name in a path, entries sort as whole paths do.
        return os.fsencode(self.name) + (b"/" if stat.S_ISDIR(self.mode) else b"")


def _entries(root: Path, directory: _Entry) -> list[_Entry]:
    descriptor = open_directory(root, directory.path)
    try:
        with os.scandir(descriptor) as entries:
            found = [_entry(directory, entry) for entry in entries]
    finally:
        os.close(descriptor)
    return sorted(filter(None, found), key=lambda entry: entry.order)


def _entry(directory: _Entry, entry: os.DirEntry[str]) -> _Entry | None:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    name = f"{directory.name}/{entry.name}" if directory.name else entry.name
    return _Entry(name, directory.path / entry.name, status.st_mode, status.st_size)


def _seen(entry: _Entry) -> Found | Skipped:
    if stat.S_ISREG(entry.mode):
        return Found(_unicode(entry.name), entry.path, entry.size)
    return Skipped(_unicode(entry.name), Why.LINK if stat.S_ISLNK(entry.mode) else Why.SPECIAL)


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path if "/" in pattern else path.rpartition("/")[2], pattern)


def _unicode(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")
