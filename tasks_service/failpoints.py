"""Named points where a test lets a process die, stop or wait; free when off.

Off unless `TASKS_FAILPOINTS` names a directory when the process starts: then `failpoint` is a function that
returns at once. It is a device of this project's own tests (tests/faults), not a setting: never set it where
tasks are worth something.

A file in that directory arms the point of its name; its content says what happens: `kill` (SIGKILL of the own
process), `stop` (SIGSTOP), or `sleep` and seconds. Of all processes that reach the point, the first takes the
file away, under the name of the point and its own process id, and does as it was told; so each arming strikes
once, and leaves a witness. Points in the transaction loop are called after the event: `Claim.before` is when
it has been decided, and `Claim.after` when EXEC has answered.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

TAKEN = "taken"
"""The subdirectory that armings are taken to."""

logger = logging.getLogger(__name__)

_DIRECTORY = os.environ.get("TASKS_FAILPOINTS")


def _off(name: str, side: str) -> None:
    """Nothing."""


def _on(name: str, side: str) -> None:
    point = f"{name}.{side}"
    armed = Path(str(_DIRECTORY)) / point
    if not armed.exists():
        return
    mine = armed.parent / TAKEN / f"{point}.{os.getpid()}.{time.monotonic_ns()}"
    try:
        armed.rename(mine)
    except FileNotFoundError:
        return  # another process was first
    _act(mine.read_text().split())


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


if _DIRECTORY:
    (Path(_DIRECTORY) / TAKEN).mkdir(parents=True, exist_ok=True)
    logger.warning("Failpoints are on: this process dies whenever %s says so", _DIRECTORY)

failpoint = _on if _DIRECTORY else _off
"""Pass a point: what is about to be done, or has been, and which of the two (`before`, `after`)."""
