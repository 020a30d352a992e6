"""Processes whose clock is wrong: libfaketime, preloaded, changes what they are told, and nothing else."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

SKEW = 120
"""Seconds by which clocks are wrong, one way or the other."""


def library() -> Path | None:
    """Where libfaketime is; None where its wheel has none that runs here."""
    found = find_spec("libfaketime")
    if found is None or found.origin is None or (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return None
    return Path(found.origin).parent / "vendor/libfaketime/src/libfaketime.so.1"


class WrongClock:
    """A clock that processes started with `environment` see; `be` sets it while they run.

    Args:
        file: Where they read by how much it is wrong; rewritten for a step.
    """

    def __init__(self, file: Path, seconds: int) -> None:
        self._file = file
        self.be(seconds)

    def be(self, seconds: int) -> None:
        """From now on, be so much ahead (or behind)."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self._file)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def says(self) -> float:
        """What a process is told."""
        told = subprocess.run(
            [sys.executable, "-c", "import time; print(time.time())"],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return float(told.stdout)
