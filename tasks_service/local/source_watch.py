"""Watching the Python files below a directory, for development: which have changed since the last look.

By looking at their times and sizes, so that it needs no package and works on every file system.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

#: Seconds between two looks at the files.
LOOK_SECONDS = 0.5
#: Directories that are not the author's code, beside hidden ones and virtual environments.
SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})

#: Time of change in nanoseconds and size of each file, by its path.
Files = dict[str, tuple[int, int]]


class SourceWatch:
    """The Python files below a directory, and whether they have changed.

    An editor that saves several files, or one in several steps, is waited for: a change is told once, when
    the files have been the same at two looks.

    Args:
        directory: Where they are, however deep.
        without: Directories in it that are not looked into.
        clock: Seconds that pass.
    """

    def __init__(
        self,
        directory: Path,
        without: Collection[Path] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory.resolve()
        self._without = {str(path.resolve()) for path in without}
        self._clock = clock
        self._told = self._seen = dict(self._files())
        self._next_look = clock() + LOOK_SECONDS

    def changed(self) -> list[str]:
        """Files that were written, added or removed, relative to the directory; empty: none, or not yet."""
        if self._clock() < self._next_look:
            return []
        self._next_look = self._clock() + LOOK_SECONDS
        before, self._seen = self._seen, dict(self._files())
        if self._seen != before or self._seen == self._told:
            return []
        names = {name for name, _ in self._told.items() ^ self._seen.items()}
        self._told = self._seen
        return sorted(os.path.relpath(name, self._directory) for name in names)

    def _files(self) -> Iterator[tuple[str, tuple[int, int]]]:
        directories = [str(self._directory)]
        while directories:
            for entry in _entries(directories.pop()):
                if entry.name.endswith(".py"):
                    try:
                        found = entry.stat()
                    except OSError:  # removed meanwhile
                        continue
                    yield entry.path, (found.st_mtime_ns, found.st_size)
                elif entry.is_dir(follow_symlinks=False) and self._is_code(entry):
                    directories.append(entry.path)

    def _is_code(self, entry: os.DirEntry[str]) -> bool:
        return not (
            entry.name.startswith(".")
            or entry.name in SKIPPED
            or entry.path in self._without
            or Path(entry.path, "pyvenv.cfg").exists()
        )


def _entries(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except OSError:  # removed meanwhile, or not ours to read
        return []
