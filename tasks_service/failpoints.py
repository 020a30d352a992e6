"""Named points where a test lets a process die, stop or wait; free when off.

Off unless `TASKS_FAILPOINTS` names a directory when the process starts: then `failpoint` is a function that
returns at once. It is a device of this project's own tests (tests/faults), not a setting: never set it where
tasks are worth something. Which points there are, and which kinds of process reach them, is said in
tests/faults/points.py.

A file in that directory arms the point of its name; its content says what happens: `kill` (SIGKILL of the own
process), `stop` (SIGSTOP), or `sleep` and seconds. `Claim.before` strikes any process, `Claim.before.leader`
only one that leads its process group, as what a supervisor starts does, and `Claim.before.member` only one
that does not, as the children of a worker's pool. Of all processes that reach the point, the first takes the
file away, under the file's name and its own process id, and does as it was told; so each arming strikes once,
and leaves a witness. Points in the transaction loop are called after the event: `Claim.before` is when it has
been decided, and `Claim.after` when EXEC has answered.
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
"""The subdirectory that armings are taken to."""

logger = logging.getLogger(__name__)


def _off(name: str, side: str) -> None:
    """Nothing."""


def _on(name: str, side: str) -> None:
    # Asked at each call: a process that was forked may have been given a directory of its own.
    directory = Path(os.environ[VARIABLE])
    role = "leader" if os.getpgrp() == os.getpid() else "member"
    for armed in (f"{name}.{side}", f"{name}.{side}.{role}"):
        if (directory / armed).exists() and (told := _taken(directory, armed)):
            _act(told)


def _taken(directory: Path, armed: str) -> list[str]:
    """What an arming says, if it is this process that has taken it; else nothing."""
    file = directory / armed
    mine = directory / TAKEN / f"{armed}.{os.getpid()}.{time.monotonic_ns()}"
    try:
        mine.parent.mkdir(exist_ok=True)
        # Opened before it is taken: whoever waits for the witness may remove it at once.
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
    logger.warning("Failpoints are on: this process dies whenever %s says so", os.environ[VARIABLE])

failpoint = _on if os.environ.get(VARIABLE) else _off
"""Pass a point: what is about to be done, or has been, and which of the two (`before`, `after`)."""
