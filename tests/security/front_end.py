"""A front end as a process of its own: `python -m tests.security.front_end REDIS_URL DATA_DIR PORT`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from tasks_service.authoring.library import Library
from tasks_service.authoring.resource import build_resource
from tasks_service.frontend.uvicorn_server import run
from tests.kit.servers import free_port
from tests.kit.serving import front_end_of, registry, settings
from tests.kit.waiting import wait_until

from .conftest import LARGE, greet, large

GRACE_SECONDS = 10
"""Seconds that open requests have to end when the front end stops."""


class FrontEndProcess:
    """A front-end process, and what it takes of the machine.

    Args:
        redis_url: Its store.
        directory: For its data and its log.
        configuration: Settings that it has beside, as texts.
    """

    def __init__(self, redis_url: str, directory: Path, **configuration: str) -> None:
        self.port = free_port()
        self._log = directory / "log"
        command = [sys.executable, "-m", __name__, redis_url, str(directory), str(self.port)]
        command += [f"{name}={value}" for name, value in configuration.items()]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=log, stderr=log)
        wait_until(self._ready, self.log)

    def _ready(self) -> bool:
        assert self.is_alive(), self.log()
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=10) as response:
                return bool(response.status == 200)
        except (URLError, OSError):
            return False

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def cpu_seconds(self) -> float:
        """CPU time that it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def cpu_seconds_when_quiet(self) -> float:
        """CPU time that it has used once it has worked off what was sent to it."""
        before = self.cpu_seconds()
        while True:
            time.sleep(0.3)
            if (now := self.cpu_seconds()) - before < 0.02:
                return now
            before = now

    def memory(self) -> int:
        """Bytes of memory that are its own now."""
        return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGE_SIZE"
        )

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def stop(self) -> float:
        """SIGTERM; the seconds that it took to end."""
        began = time.monotonic()
        self._process.terminate()
        assert self._process.wait(120) in (0, -signal.SIGTERM)
        return time.monotonic() - began

    def close(self) -> None:
        if self.is_alive():
            self._process.kill()
            self._process.wait()


def main(redis_url: str, data_dir: str, port: str, *configured: str) -> None:
    library = Library()
    library.resources.add(build_resource(LARGE, large))
    changes: dict[str, Any] = dict(pair.split("=", 1) for pair in configured)
    configuration = settings(redis_url, Path(data_dir), **changes)
    front_end = front_end_of(registry(greet), configuration, library)
    run(
        front_end,
        port=int(port),
        loop="uvloop",
        log_level="warning",
        lifespan="on",
        access_log=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
