"""Named points at which a fault-injection test can kill, stop or delay a process.

Without `TASKS_FAILPOINTS`, `failpoint` does nothing. If the variable is set when the process starts, it names
a directory. This is for the project's own tests (tests/faults): never set it where tasks matter. The points,
and the kinds of process that reach them, are listed in tests/faults/points.py.

A file in that directory arms the point of the same name. Its content is the action: `kill` (SIGKILL of the
process itself), `stop` (SIGSTOP), or `sleep` and seconds. `Claim.before` applies to any process,
`Claim.before.leader` only to one that leads its process group, as those that a supervisor starts do, and
`Claim.before.member` only to one that does not, such as a pool child. The first process that reaches the
point moves the file to the subdirectory `taken`, adds its process id to the name, and takes the action. So
each file takes effect once, and shows in which process. Points in the transaction loop are named after the
event: `Claim.before` is passed when it has been decided, `Claim.after` when EXEC has answered.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

VARIABLE = "TASKS_FAILPOINTS"
"""The environment variable that names the directory of armed points."""

TAKEN = "taken"
"""The subdirectory to which files are moved when they take effect."""

logger = logging.getLogger(__name__)


def _off(name: str, side: str) -> None:
    """Do nothing."""


def _on(name: str, side: str) -> None:
    # Read at each call: a forked process may have been given a directory of its own.
    directory = Path(os.environ[VARIABLE])
    role = "leader" if os.getpgrp() == os.getpid() else "member"
    for armed in (f"{name}.{side}", f"{name}.{side}.{role}"):
        if (directory / armed).exists() and (instruction := _take(directory, armed)):
            _act(instruction)


def _take(directory: Path, armed: str) -> list[str]:
    """Take an armed point's file, and return its words; empty if another process was first."""
    file = directory / armed
    mine = directory / TAKEN / f"{armed}.{os.getpid()}.{time.monotonic_ns()}"
    try:
        mine.parent.mkdir(exist_ok=True)
        # Opened before it is moved: the test that waits for the moved file may remove it at once.
        with file.open(encoding="utf-8") as arming:
            file.rename(mine)
            return arming.read().split()
    except FileNotFoundError:
        return []  # another process was first


def _act(words: list[str]) -> None:
    match words:
        case ["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["stop"]:
            os.kill(os.getpid(), signal.SIGSTOP)
        case ["sleep", seconds]:
            time.sleep(float(seconds))
        case _:
            raise ValueError(f"a failpoint does not know how to {words!r}")


if os.environ.get(VARIABLE):
    logger.warning("Failpoints are on: files in %s can kill this process", os.environ[VARIABLE])

failpoint = _on if os.environ.get(VARIABLE) else _off
"""Pass a point, given its name, and `before` or `after` for whether the action is still to come or done."""
