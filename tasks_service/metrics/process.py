"""Metrics of this process: counted and served once `start` was called."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

from ..domain.errors import ConfigurationError
from .address import Address
from .counting import Role, turn_off, turn_on
from .series import INFO, Sample
from .server import PATH, MetricsServer

logger = logging.getLogger(__name__)

RETRY_SECONDS: Final = 2.0
"""Pause between two tries to listen at an address that another process has, which may be about to end."""

PORTS: Final = {Role.FRONT_END: 0, Role.WORKER: 1, Role.BEAT: 2}
"""How far the port of each role is from `TASKS_METRICS_PORT`, so that one machine needs one setting."""

_Reader = Callable[[], Sequence[Sample]]


class ProcessMetrics:
    """Serves the metrics of this process until it is stopped.

    Args:
        address: Where.
        role: What this process does.
        readers: Read its gauges.

    Raises:
        ConfigurationError: The extra `metrics` is not installed, or the address cannot be used.
    """

    def __init__(self, address: Address, role: Role, readers: Sequence[_Reader] = ()) -> None:
        try:
            from .exposition import exposition
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "prometheus_client":
                raise
            raise ConfigurationError(
                "TASKS_METRICS_PORT is set, and the package prometheus-client is not installed: "
                "pip install 'tasks-service[metrics]', or leave the setting out"
            ) from error
        self._host, self._key = address.host, address.key
        self._port = address.port + PORTS[role]
        self._app = exposition(role, [lambda: [Sample(INFO, 1, (role,))], *readers])
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._server = self._listen()
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        turn_on()

    def start(self) -> None:
        """Begin to serve, unless that was done."""
        if not self._thread.is_alive():
            self._thread.start()

    def stop(self) -> None:
        """Serve no more, and count no more for it."""
        turn_off()
        self._stopped.set()
        with self._lock:
            server = self._server
        if self._thread.ident is not None:  # else it waits for a thread that never began to serve
            if server is not None:
                server.shutdown()
            self._thread.join()
        if server is not None:
            server.server_close()

    def _listen(self) -> MetricsServer | None:
        """The server; None while another process has its address.

        Raises:
            ConfigurationError: The address cannot be used.
        """
        try:
            return MetricsServer(self._host, self._port, self._app, self._key)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return None
            raise ConfigurationError(
                f"TASKS_METRICS_HOST and TASKS_METRICS_PORT: nothing can be served at {self._host}, port "
                f"{self._port} ({error.strerror}). Name an address of this machine, and a port that this "
                "user may listen on"
            ) from error

    def _serve(self) -> None:
        if self._server is None:
            logger.warning(
                "Metrics are not served yet: another process has port %d of %s. That is tried again until it "
                "has ended; if it is to stay, give this process another TASKS_METRICS_PORT.",
                self._port,
                self._host,
            )
        while (server := self._server) is None:
            if self._stopped.wait(RETRY_SECONDS):
                return
            found = self._listen()
            with self._lock:
                if not self._stopped.is_set():
                    self._server = found
                elif found is not None:
                    found.server_close()
        logger.info("Metrics are served at %s, port %d, %s", self._host, self._port, PATH)
        server.serve_forever(poll_interval=0.2)  # not at all, if it was shut down before
