"""A pair of pipes with one JSON message to a line, as the protocol's stdio transport has them.

Both ends are served by threads of their own. The event loop's way would make the descriptors non-blocking,
also for whoever else holds them (a terminal, the host), and takes no files. The threads do not hold up the
end of the process.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from .jsonrpc import encode

CHUNK_BYTES: Final = 1 << 16

READ_AHEAD: Final = 8
"""Lines that are read before those in front of them have been looked at."""

MOST_UNREAD: Final = 10_000
"""Messages that wait for a reader who does not read before the pipe counts as broken."""


class Pipe:
    """Lines in, messages out. To be used within one running event loop.

    Args:
        source: The descriptor to read from.
        sink: The descriptor to write to.
        line_bytes: The longest line; a longer one is skipped.

    Attributes:
        ended: Set once the other side has closed one of the two.
    """

    def __init__(self, source: int, sink: int, *, line_bytes: int) -> None:
        self._source, self._sink, self._line_bytes = source, sink, line_bytes
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[tuple[bytes | None] | None] = asyncio.Queue()
        self._ahead = threading.Semaphore(READ_AHEAD)
        self._unwritten: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]]] = queue.SimpleQueue()
        self._broken = False
        self.ended = asyncio.Event()
        for work in (self._read, self._write):
            threading.Thread(target=work, daemon=True, name=f"stdio{work.__name__}").start()

    async def lines(self) -> AsyncIterator[bytes | None]:
        """The lines as they come, without their ends; None for one that was too long."""
        while (item := await self._lines.get()) is not None:
            yield item[0]
            self._ahead.release()

    async def send(self, message: Mapping[str, Any]) -> None:
        """Write a message; returns when it is written, or nobody reads any more.

        Whoever sends waits for a reader that is slow. A message is written whole, even if this is cancelled.
        """
        if self._broken:
            return
        if self._unwritten.qsize() >= MOST_UNREAD:
            self._break()
            return
        written = self._loop.create_future()
        self._unwritten.put((encode(message) + b"\n", written))
        await written

    async def flush(self) -> None:
        """Return when all that was sent before is written, or nobody reads any more."""
        if not self._broken:
            written = self._loop.create_future()
            self._unwritten.put((b"", written))
            await written

    def _read(self) -> None:
        line, skips = bytearray(), False
        while chunk := self._chunk():
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                line += end
                self._hand_over(None if skips or len(line) > self._line_bytes else bytes(line))
                line, skips = bytearray(), False
            if not skips:
                line += rest
            if len(line) > self._line_bytes:
                line, skips = bytearray(), True
        if line or skips:
            self._hand_over(None if skips else bytes(line))
        self._in_loop(self._lines.put_nowait, None)
        self._in_loop(self.ended.set)

    def _chunk(self) -> bytes:
        with suppress(OSError):
            return os.read(self._source, CHUNK_BYTES)
        return b""

    def _hand_over(self, line: bytes | None) -> None:
        self._ahead.acquire()
        self._in_loop(self._lines.put_nowait, (line,))

    def _write(self) -> None:
        while True:
            line, written = self._unwritten.get()
            rest = memoryview(b"" if self._broken else line)
            try:
                while rest:
                    rest = rest[os.write(self._sink, rest) :]
            except OSError:
                self._in_loop(self._break)
            self._in_loop(_done, written)

    def _break(self) -> None:
        self._broken = True
        self.ended.set()

    def _in_loop(self, call: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(call, *arguments)


def _done(written: asyncio.Future[None]) -> None:
    if not written.done():
        written.set_result(None)
