"""What the processes of a prefork pool count reaches the main process, which serves it.

A pipe is made before the pool is forked. A child writes what it has counted after each transition of a task,
so that nothing of that is lost if it is killed; its parent adds it up. A write is at most as long as the
kernel takes in one piece (PIPE_BUF), so that those of several children never mix. Where the pipe is full, the
child keeps its counts for the next time, and waits for nobody.

The client library has a mode for several processes, in files under a directory that an environment variable
names. It was not taken: the variable would change what a shop's own metrics in the same processes are, each
process that ever was leaves its files behind, and all of them are read for each scrape.
"""

from __future__ import annotations

import json
import logging
import os
import select
import threading
from typing import Final

from .counting import Delta, begin_anew, give_back, take_changes
from .series import BY_NAME, SERIES

logger = logging.getLogger(__name__)

_READ_BYTES: Final = 64 * 1024

_encode = json.JSONEncoder(separators=(",", ":")).encode


class ChildCounts:
    """The way from the children of a process to it."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._is_child = False
        self._flushing = threading.Lock()
        self._adding = threading.Thread(target=self._add_all, name="metrics of children", daemon=True)
        os.register_at_fork(after_in_child=self._in_child)

    def start(self) -> None:
        """Begin to add up what children write."""
        self._adding.start()

    def _in_child(self) -> None:
        """Begin at zero: what was counted until now is the parent's."""
        self._is_child, self._flushing = True, threading.Lock()
        begin_anew(SERIES, hands_on=True)

    def flush(self) -> None:
        """In a child: hand on what was counted since the last time. Elsewhere: nothing."""
        if not self._is_child:
            return
        with self._flushing:
            unwritten = [take_changes()]
            while unwritten:
                deltas = unwritten.pop()
                line = f"{_encode(deltas)}\n".encode()
                if len(line) > select.PIPE_BUF and len(deltas) > 1:
                    unwritten += [deltas[len(deltas) // 2 :], deltas[: len(deltas) // 2]]
                elif deltas and not self._wrote(line):
                    for some in (deltas, *unwritten):
                        give_back(some, BY_NAME)
                    return

    def _wrote(self, line: bytes) -> bool:
        try:
            os.write(self._write, line)
        except BlockingIOError:
            return False
        except OSError as error:  # the parent is gone, and this process will be soon
            logger.debug("Counts are lost: %s", error)
        return True

    def _add_all(self) -> None:
        unread = b""
        while True:
            unread += os.read(self._read, _READ_BYTES)
            *lines, unread = unread.split(b"\n")
            for line in lines:
                give_back(_deltas(line), BY_NAME)


def _deltas(line: bytes) -> list[Delta]:
    return [Delta(name, tuple(labels), numbers) for name, labels, numbers in json.loads(line)]


_children: ChildCounts | None = None


def count_in_children() -> None:
    """Add to the counts of this process what its children count, those that are forked from now on."""
    global _children  # one for each process, as its counts are
    if _children is None:
        _children = ChildCounts()
        _children.start()


def flush() -> None:
    """In a child: hand on what was counted; call it when something was counted that must not be lost."""
    if _children is not None:
        _children.flush()
