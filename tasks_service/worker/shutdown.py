"""When a worker's tools must end: one moment, seen by the main process and all its pool children.

Celery's warm shutdown waits for running tools for ever, and tells them nothing. So the main process writes
down, in memory that its children share, when their time is over; each child's keeper sees it and ends what
still runs.
"""

from __future__ import annotations

import mmap
import struct
import time

_MOMENT = struct.Struct("d")


class ShutdownDeadline:
    """A moment in shared memory; never, until it is set.

    Made before a pool forks, so that children see it. The clock is the machine's monotonic one, which its
    processes have in common.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _MOMENT.size)
        _MOMENT.pack_into(self._memory, 0, float("inf"))

    def set(self, seconds: float) -> None:
        """Tools must end that many seconds from now."""
        _MOMENT.pack_into(self._memory, 0, time.monotonic() + seconds)

    @property
    def reached(self) -> bool:
        """Whether tools must end now."""
        (moment,) = _MOMENT.unpack_from(self._memory, 0)
        return bool(time.monotonic() >= moment)
