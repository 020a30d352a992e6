"""A real front end on a real HTTP server, in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tasks_service.authoring.library import Library
from tasks_service.authoring.tool import Tool, ToolRegistry, build_tool
from tasks_service.frontend.app import FrontEnd, create_app, create_codeless_app
from tasks_service.frontend.core.catalogue import FixedCatalogue
from tasks_service.frontend.edge.limits import ConnectionLimits
from tasks_service.frontend.timings import DEFAULT_TIMINGS, Timings
from tasks_service.frontend.uvicorn_server import DrainingServer
from tasks_service.settings import Settings
from tasks_service.store.outbox import NoOutbox, Outbox

from .waiting import wait_until

SERVICE = "Test service"
SECRET = "the secret of all front ends of a test"


def registry(*tools: Tool | Callable[..., Any]) -> ToolRegistry:
    """Tools by their functions, or ready made."""
    made = ToolRegistry()
    for tool in tools:
        made.add(tool if isinstance(tool, Tool) else build_tool(tool))
    return made


def settings(redis_url: str | None, data_dir: Path, **changes: Any) -> Settings:
    """Settings that no environment of the machine leaks into."""
    values = {
        "redis_url": redis_url,
        "data_dir": data_dir,
        "host": "127.0.0.1",
        "secret": SECRET,
        **changes,
    }
    return Settings(_env_file=None, **values)


@contextmanager
def serving(
    tools: ToolRegistry,
    configuration: Settings,
    library: Library | None = None,
    outbox: Outbox | None = None,
    timings: Timings = DEFAULT_TIMINGS,
    port: int = 0,
    name: str = SERVICE,
    limits: ConnectionLimits | None = None,
) -> Iterator[int]:
    """Serve the front end on a port of this machine, by default a free one, in a thread; yields the port."""
    front_end = front_end_of(tools, configuration, library, outbox, timings, name)
    with serving_app(front_end, port, limits) as served:
        yield served


def front_end_of(
    tools: ToolRegistry,
    configuration: Settings,
    library: Library | None = None,
    outbox: Outbox | None = None,
    timings: Timings = DEFAULT_TIMINGS,
    name: str = SERVICE,
) -> FrontEnd:
    """A front end of these tools, of a service, which nobody has started."""
    return create_app(
        name=name,
        version="1.2.3",
        instructions="Call the tools.",
        catalogue=FixedCatalogue(name, tools),
        settings=configuration,
        outbox=outbox or NoOutbox(),
        library=library,
        timings=timings,
    )


@contextmanager
def serving_codeless(
    configuration: Settings, *, together: bool = False, timings: Timings = DEFAULT_TIMINGS
) -> Iterator[int]:
    """Serve what workers announce, as `serving` does the tools of an app."""
    with serving_app(create_codeless_app(configuration, together=together, timings=timings)) as port:
        yield port


@contextmanager
def serving_app(app: FrontEnd, port: int = 0, limits: ConnectionLimits | None = None) -> Iterator[int]:
    """Serve a front end on a port of this machine, by default a free one, in a thread; yields the port."""
    server = DrainingServer(app, limits, log_level="warning", lifespan="on", timeout_graceful_shutdown=3)
    listener = socket.create_server(("127.0.0.1", port))
    thread = threading.Thread(target=_run, args=(server, listener), daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), "the server starts")
        assert server.started, "the front end refused to start; its log says why"
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


def _run(server: DrainingServer, listener: socket.socket) -> None:
    """A refusal to start ends the thread, as it ends a process."""
    with suppress(SystemExit):
        server.run([listener])
