"""`tasks-service serve`: run only the front end."""

from __future__ import annotations

import click

from ..domain.errors import ConfigurationError
from ..frontend.app import FrontEnd, create_codeless_app
from ..frontend.uvicorn_server import run
from ..local.ports import refuse_taken
from ..observability.formats import PROCESS
from ..settings import Settings
from .application import load_connected_service, optional_app_option, redis_url_of, settings_of

#: Seconds that an idle connection stays open: longer than proxies keep theirs (nginx: 60), so that none of
#: them sends a request on one that is about to be closed.
KEEP_ALIVE_SECONDS = 75

#: Seconds that open requests have to end when the front end stops.
GRACEFUL_SECONDS = 10


@click.command()
@optional_app_option(
    "Without it, the tools are served that workers announce, and no code of theirs is needed."
)
@click.option(
    "--together",
    is_flag=True,
    help="Without --app: serve the tools of all services at /mcp, each with its service's name in front; "
    "also TASKS_TOGETHER.",
)
def serve(app: str | None, together: bool) -> None:
    """Serve MCP over HTTP; workers and beat run elsewhere."""
    if app is not None and together:
        raise ConfigurationError("--together is for a front end without --app: an app has one service.")
    settings = settings_of("front-end")
    front_end, settings = _codeless(settings, together=together) if app is None else _of_app(app, settings)
    refuse_taken(settings.host, settings.port, "TASKS_PORT")
    run(
        front_end,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )


def _codeless(settings: Settings, *, together: bool) -> tuple[FrontEnd, Settings]:
    """A front end of whatever workers announce."""
    connected = settings.model_copy(update={"redis_url": redis_url_of(settings)})
    return create_codeless_app(connected, together=together or settings.together), connected


def _of_app(app: str, settings: Settings) -> tuple[FrontEnd, Settings]:
    """The front end of a service, with the settings that it was made with."""
    service = load_connected_service(app, settings)
    PROCESS.service = service.name
    return service.asgi(), service.settings
