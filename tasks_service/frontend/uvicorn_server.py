"""Running a front end so that it stops soon: streams that clients hold open for ever are ended first."""

from __future__ import annotations

import socket
import sys
from typing import Any

import uvicorn

from .app import FrontEnd

EXIT_NOT_STARTED = 3
"""The exit status of a server that could not start, as uvicorn's own command has it."""


class DrainingServer(uvicorn.Server):
    """A server that lets the front end end its streams before it waits for them.

    Args:
        front_end: What is served.
        config: Of uvicorn.
    """

    def __init__(self, front_end: FrontEnd, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._front_end = front_end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Uvicorn waits for open responses before it ends the application's lifespan."""
        self._front_end.drain()
        await super().shutdown(sockets)


def run(front_end: FrontEnd, **options: Any) -> None:
    """Serve until a signal says stop, like `uvicorn.run`.

    Args:
        front_end: What is served.
        options: Of `uvicorn.Config`; one process, no reloading.

    Raises:
        ConfigurationError: The front end refused to start.
        SystemExit: The server could not start.
    """
    server = DrainingServer(front_end, uvicorn.Config(front_end, **options))
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    except SystemExit:
        if front_end.refusal is None:
            raise
    if front_end.refusal is not None:
        raise front_end.refusal
    if not server.started:
        sys.exit(EXIT_NOT_STARTED)
