"""The tool `checksum_tree`: digests of all files of a directory, and one digest for the whole directory.

Reading takes most of the time, so a few threads read ahead while the event loop stays free for other calls.
The result is in the order of the walk, whichever file is done first.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from tasks_service import AsyncTaskContext, TaskService, ToolAnnotations, ToolError

from ..settings import ToolSettings
from .confine import confine, open_file, relative_name
from .walk import Found, Skipped, Why, reason, walk

Algorithm = Literal["sha256", "sha512", "blake2b", "sha1", "md5"]

THREADS = 4
"""Files that are read at once by one call."""

AHEAD = 16
"""Batches that are being read, or done and not yet added to the result; limits memory."""

BATCH_BYTES = 4 * 1024 * 1024
"""Bytes of the files that one thread reads at a time; more if the first one is larger."""

BATCH_FILES = 64
"""Most files that one thread reads at a time."""

CHUNK = 1024 * 1024
"""Bytes between two checks whether to stop: a fraction of a second even on a slow disk."""

LISTED = 1000
"""Files that are listed one by one; all of them count in the tree's digest."""

LISTED_PROBLEMS = 50
"""Unreadable files that are named; all are counted."""

TICK = 0.1
"""Seconds between two checkpoints."""

REPORT_EVERY = 0.5
"""Seconds between two progress reports."""

ProgressReading = Callable[[], tuple[float, float | None, str]]
P = ParamSpec("P")
T = TypeVar("T")


class Report(BaseModel):
    """The base of all parts of the result."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class FileDigest(Report):
    """One file."""

    path: str
    """Relative to the path that was asked for."""
    size: int
    """Bytes that were read."""
    digest: str
    """Hexadecimal."""


class TreeDigest(Report):
    """A directory tree, or a single file."""

    path: str
    """What was digested, relative to the tools' data directory."""
    algorithm: str
    """Of all digests here."""
    tree_digest: str
    """Digest of the lines `digest, two spaces, path, newline` of all files, sorted by path as bytes."""
    files_total: int
    """How many files were digested."""
    bytes_total: int
    """Their size together."""
    files: list[FileDigest]
    """The files in that order, at most 1000 of them."""
    is_complete: bool
    """Whether every file could be read; if not, the tree's digest covers only those that could."""
    unreadable_total: int
    """How many files or directories could not be read."""
    unreadable: list[str]
    """The first of them, with the reason."""
    hidden_skipped: int
    """Files and directories whose names begin with a dot; they may hold secrets."""
    links_skipped: int
    """Symbolic links; they are never followed."""
    special_skipped: int
    """Pipes, sockets and devices."""


def register(service: TaskService, settings: ToolSettings) -> None:
    """Add the tool to a service."""

    @service.tool(
        title="Checksum a directory tree",
        annotations=ToolAnnotations(
            read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
        ),
        poll_interval=timedelta(seconds=0.5),
        timeout=timedelta(hours=12),
    )
    async def checksum_tree(
        ctx: AsyncTaskContext,
        path: Annotated[
            str, Field(description="A directory or a file, relative to the tools' data directory.")
        ] = ".",
        algorithm: Annotated[Algorithm, Field(description="The hash function.")] = "sha256",
        pattern: Annotated[
            str,
            Field(
                min_length=1,
                max_length=1000,
                description="Which files: a shell pattern such as *.csv for their names, or, if it holds a "
                "slash, for their paths.",
            ),
        ] = "*",
    ) -> TreeDigest:
        """Compute the digest of every file in a directory tree, and one for the whole tree.

        Use it to verify a copy, to find out whether anything changed, or to check a download. Symbolic links
        are not followed. Up to 1000 files are listed; the tree's digest covers all of them.
        """
        return await digest_tree(settings.tools_root, path, algorithm, pattern, ctx)


async def digest_tree(
    root: Path, path: str, algorithm: Algorithm, pattern: str, ctx: AsyncTaskContext
) -> TreeDigest:
    """Digest a directory tree beneath the root.

    Args:
        root: The directory that `path` may not leave.
        path: The path from the client.
        algorithm: The hash function.
        pattern: Which files; see `walk`.
        ctx: The context; progress is counted in bytes.

    Raises:
        ToolError: There is no such path beneath the root.
        AttemptEnded: The attempt must stop; noticed within `TICK`, and no thread reads more than another
            `CHUNK`.
    """
    real = await asyncio.to_thread(confine, root, path)
    threads = _Threads(ctx)
    try:
        tree = _Tree(root, real, algorithm, pattern, threads.stop)
        await threads.result(threads.start(tree.measure), lambda: (0, None, "looking for files"))
        return await _digest(tree, threads)
    finally:
        threads.close()


async def _digest(tree: _Tree, threads: _Threads) -> TreeDigest:
    answer = _Answer(tree)
    under_way: deque[Future[list[FileDigest]]] = deque()
    exhausted = False
    while under_way or not exhausted:
        while not exhausted and len(under_way) < AHEAD:
            batch = await threads.result(threads.start(tree.next_batch), tree.progress)
            exhausted = not batch
            under_way.append(threads.start(tree.digest, batch))
        answer.add(await threads.result(under_way.popleft(), tree.progress))
    await threads.report(tree.progress)
    return answer.finish()


class _Threads:
    """The threads of one call, and the event that stops them."""

    def __init__(self, ctx: AsyncTaskContext) -> None:
        self.stop = threading.Event()
        self._ctx = ctx
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="checksum")
        self._reported = 0.0

    def start(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._pool.submit(work, *args, **kwargs)

    async def result(self, future: Future[T], progress: ProgressReading) -> T:
        """Wait for a thread's result, with checkpoints and progress meanwhile."""
        waiting = asyncio.wrap_future(future)
        try:
            while True:
                await self._ctx.check()
                if time.monotonic() - self._reported >= REPORT_EVERY:
                    await self.report(progress)
                if (await asyncio.wait({waiting}, timeout=TICK))[0]:
                    return waiting.result()
        finally:
            waiting.cancel()

    async def report(self, progress: ProgressReading) -> None:
        self._reported = time.monotonic()
        await self._ctx.progress(*progress())

    def close(self) -> None:
        # Without waiting: a read from a disk that hangs must not delay the end of the attempt.
        self.stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Stopped(Exception):
    """Raised in a thread whose call has ended."""


class _Tree:
    """The blocking part: walks and reads, in threads, until the call stops."""

    def __init__(self, root: Path, top: Path, algorithm: str, pattern: str, stop: threading.Event) -> None:
        self.algorithm, self.name = algorithm, relative_name(root, top)
        self.hidden = self.links = self.special = self.unreadable = 0
        self.problems: list[str] = []
        self._root, self._top, self._pattern, self._stop = root, top, pattern, stop
        self._entries = walk(root, top, pattern)
        self._lock = threading.Lock()
        self._files = self._size = self._files_read = self._bytes_read = 0

    def measure(self) -> None:
        """Count files and bytes, so that progress has a total."""
        for entry in walk(self._root, self._top, self._pattern):
            self._check()
            if isinstance(entry, Found):
                self._files += 1
                self._size += entry.size

    def next_batch(self) -> list[Found]:
        """Return the next files to read, of about `BATCH_BYTES` together; none at the end."""
        batch: list[Found] = []
        size = 0
        for entry in self._entries:
            self._check()
            if isinstance(entry, Skipped):
                self._skip(entry)
                continue
            batch.append(entry)
            size += entry.size
            if size >= BATCH_BYTES or len(batch) == BATCH_FILES:
                break
        return batch

    def digest(self, batch: list[Found]) -> list[FileDigest]:
        """Digest files; those that cannot be read are counted and left out."""
        digests = []
        for found in batch:
            try:
                digests.append(self._digest_file(found))
            except (ToolError, OSError) as error:
                self._refuse(found.name, reason(error))
        return digests

    def progress(self) -> tuple[float, float | None, str]:
        """The progress in bytes, its total, and a message."""
        message = f"{self._files_read:,} of {self._files:,} files"
        return self._bytes_read, max(self._size, self._bytes_read), message

    def _digest_file(self, found: Found) -> FileDigest:
        hasher = hashlib.new(self.algorithm, usedforsecurity=False)
        size = 0
        with open_file(self._root, found.path) as file:
            while chunk := file.read(CHUNK):
                self._check()
                hasher.update(chunk)
                size += len(chunk)
                with self._lock:
                    self._bytes_read += len(chunk)
        with self._lock:
            self._files_read += 1
        return FileDigest(path=found.name, size=size, digest=hasher.hexdigest())

    def _skip(self, entry: Skipped) -> None:
        match entry.why:
            case Why.HIDDEN:
                self.hidden += 1
            case Why.LINK:
                self.links += 1
            case Why.SPECIAL:
                self.special += 1
            case Why.UNREADABLE:
                self._refuse(entry.name, entry.reason)

    def _refuse(self, name: str, reason: str) -> None:
        with self._lock:
            self.unreadable += 1
            if len(self.problems) < LISTED_PROBLEMS:
                self.problems.append(f"{name}: {reason}")

    def _check(self) -> None:
        if self._stop.is_set():
            raise _Stopped


class _Answer:
    """The result, built file by file."""

    def __init__(self, tree: _Tree) -> None:
        self._tree = tree
        self._hasher = hashlib.new(tree.algorithm, usedforsecurity=False)
        self._listed: list[FileDigest] = []
        self._files = self._size = 0

    def add(self, digests: list[FileDigest]) -> None:
        for digest in digests:
            self._hasher.update(f"{digest.digest}  {digest.path}\n".encode())
            self._files += 1
            self._size += digest.size
            if self._files <= LISTED:
                self._listed.append(digest)

    def finish(self) -> TreeDigest:
        tree = self._tree
        return TreeDigest(
            path=tree.name,
            algorithm=tree.algorithm,
            tree_digest=self._hasher.hexdigest(),
            files_total=self._files,
            bytes_total=self._size,
            files=self._listed,
            is_complete=not tree.unreadable,
            unreadable_total=tree.unreadable,
            unreadable=tree.problems,
            hidden_skipped=tree.hidden,
            links_skipped=tree.links,
            special_skipped=tree.special,
        )
