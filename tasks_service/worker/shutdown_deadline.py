"""The time at which a stopping worker's tools must end, shared by the main process and its pool children.

It is set in `bootsteps.install` when the worker gets SIGTERM.

Celery's warm shutdown waits for running tools without a limit, and does not tell them. So the main process
writes a deadline to memory that its children share; each child's lease keeper reads it, and stops what still
runs.
"""

from __future__ import annotations

import mmap
import struct
import time

_MOMENT = struct.Struct("d")


class ShutdownDeadline:
    """A deadline in shared memory; infinite until it is set.

    It is created before the pool forks, so that children share it. The clock is the machine's monotonic one,
    which all its processes share.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _MOMENT.size)
        _MOMENT.pack_into(self._memory, 0, float("inf"))

    def set(self, seconds: float) -> None:
        """Set the deadline to that many seconds from now."""
        _MOMENT.pack_into(self._memory, 0, time.monotonic() + seconds)

    @property
    def reached(self) -> bool:
        """Whether tools must end now."""
        (moment,) = _MOMENT.unpack_from(self._memory, 0)
        return bool(time.monotonic() >= moment)
