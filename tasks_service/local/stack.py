"""A whole service on one machine: its processes, and a private Redis if none is set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from ..domain.errors import ConfigurationError
from ..settings import Settings
from .ports import free_port, http_status, http_url, refuse_taken
from .procfile import ProcessSpec, environment
from .redis_server import EmbeddedRedis
from .supervisor import Emit, Supervisor

#: Flower's own variables: where it listens, and those that make it ask for a login.
FLOWER_ADDRESS, FLOWER_PORT, FLOWER_LOGINS = (
    "FLOWER_ADDRESS",
    "FLOWER_PORT",
    ("FLOWER_BASIC_AUTH", "FLOWER_AUTH"),
)
DEFAULT_FLOWER_PORT = 5555

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Stack:
    """A service whose processes start, run and stop together.

    Args:
        settings: The settings; they say where it listens and where its data is.
        specs: The processes.
        emit: Prints their output.
        changes: Further environment variables of the processes.
        restart: Whether a process that ends by itself is started again.
        reloading: See `Supervisor`.
    """

    def __init__(
        self,
        settings: Settings,
        specs: Sequence[ProcessSpec],
        emit: Emit,
        *,
        changes: Mapping[str, str] | None = None,
        restart: bool = True,
        reloading: bool = False,
    ) -> None:
        self.flower_port = int(os.environ.get(FLOWER_PORT) or DEFAULT_FLOWER_PORT)
        self._flower_host = os.environ.get(FLOWER_ADDRESS) or "127.0.0.1"
        self.has_flower = any(spec.name == "flower" for spec in specs)
        if self.has_flower:
            refuse_open_flower(os.environ)
        self.host, self.port = settings.host, settings.port or free_port()
        self._redis = None if settings.redis_url else EmbeddedRedis(settings.data_dir)
        self._specs, self._emit = specs, emit
        self._changes, self._restart, self._reloading = dict(changes or {}), restart, reloading
        self.redis_url = settings.redis_url or ""
        self.processes = Supervisor(specs, {}, emit, restart)

    @property
    def mcp_url(self) -> str:
        """The URL that MCP clients connect to."""
        return http_url(self.host, self.port, "/mcp")

    @property
    def flower_url(self) -> str:
        """The URL of Flower."""
        return http_url(self._flower_host, self.flower_port)

    def start(self) -> None:
        """Start Redis, then the processes, without waiting for those.

        Raises:
            ConfigurationError: A port is taken, or no Redis can be started.
        """
        refuse_taken(self.host, self.port, "TASKS_PORT")
        if self.has_flower:
            refuse_taken(self._flower_host, self.flower_port, FLOWER_PORT)
        if self._redis is not None:
            self.redis_url = self._redis.start().url
        env = environment({"TASKS_REDIS_URL": self.redis_url, "TASKS_PORT": str(self.port), **self._changes})
        self.processes = Supervisor(self._specs, env, self._emit, self._restart, self._reloading)
        self.processes.start()

    def stop(self) -> None:
        """Stop the processes in order, Redis last."""
        self.processes.stop()
        if self._redis is not None:
            self._redis.stop()

    def is_ready(self) -> bool:
        """Whether the front end answers that it is ready."""
        return http_status(self.host, self.port, "/readyz") == HTTPStatus.OK

    def flower_answers(self) -> bool:
        """Whether Flower answers."""
        status = http_status(self._flower_host, self.flower_port, "/healthcheck")
        return self.has_flower and status == HTTPStatus.OK


def refuse_open_flower(variables: Mapping[str, str]) -> None:
    """Refuse a Flower without a login that other machines can reach.

    Raises:
        ConfigurationError: `FLOWER_ADDRESS` is not a loopback address and no login is set.
    """
    address = variables.get(FLOWER_ADDRESS) or "127.0.0.1"
    if address in _LOOPBACK or any(variables.get(name) for name in FLOWER_LOGINS):
        return
    raise ConfigurationError(
        f"FLOWER_ADDRESS is {address}, which other machines can reach, and Flower has no login. "
        "Set FLOWER_BASIC_AUTH=name:password, or FLOWER_ADDRESS=127.0.0.1."
    )
