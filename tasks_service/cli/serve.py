"""`tasks-service serve`: run only the front end."""

from __future__ import annotations

import click

from ..frontend.uvicorn_server import run
from ..settings import Settings
from .application import app_option, load_connected_service

#: Seconds that open requests have to end when the front end stops.
GRACEFUL_SECONDS = 10


@click.command()
@app_option
def serve(app: str) -> None:
    """Serve MCP over HTTP; workers and beat run elsewhere."""
    service = load_connected_service(app, Settings())
    run(
        service.asgi(),
        host=service.settings.host,
        port=service.settings.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
