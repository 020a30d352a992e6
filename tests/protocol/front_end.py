"""A front end as a process of its own: `python -m tests.protocol.front_end REDIS_URL DATA_DIR PORT`."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tasks_service.frontend.app import create_app
from tasks_service.frontend.core.catalogue import FixedCatalogue
from tasks_service.frontend.uvicorn_server import run
from tasks_service.store.outbox import NoOutbox
from tests.kit.servers import free_port
from tests.kit.serving import registry, settings
from tests.kit.waiting import wait_until


class FrontEnd:
    """A front-end process."""

    def __init__(self, redis_url: str, directory: Path) -> None:
        self.port = free_port()
        self._arguments = [redis_url, str(directory), str(self.port)]
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.protocol.front_end", *self._arguments]
        self._process = subprocess.Popen(command, cwd=Path(__file__).parents[2])

    def ready(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=10) as response:
                return bool(response.status == 200)
        except (URLError, OSError):
            return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> float:
        """SIGTERM; the seconds that it took to end."""
        began = time.monotonic()
        self._process.terminate()
        assert self._process.wait(120) in (0, -signal.SIGTERM)
        return time.monotonic() - began

    def restart(self) -> None:
        self.kill()
        self.start()
        wait_until(self.ready, "it is ready")


def greet(name: str) -> str:
    """Say hello."""
    return f"Hello, {name}!"


def main(redis_url: str, data_dir: str, port: str) -> None:
    app = create_app(
        name="Test service",
        version="1.2.3",
        instructions=None,
        catalogue=FixedCatalogue("Test service", registry(greet)),
        settings=settings(redis_url, Path(data_dir)),
        outbox=NoOutbox(),
    )
    run(app, port=int(port), log_level="warning", lifespan="on", timeout_graceful_shutdown=60)


if __name__ == "__main__":
    main(*sys.argv[1:])
