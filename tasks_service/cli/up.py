"""`tasks-service up`: run everything on one machine, until Ctrl-C."""

from __future__ import annotations

import importlib.util
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from ..domain.errors import ConfigurationError
from ..local.procfile import ProcessSpec, parse_procfile
from ..local.source_watch import SourceWatch
from ..local.stack import Stack
from ..observability.formats import json_line
from .application import app_option, queues_option, settings_of
from .own_processes import own_processes

#: One colour for each process, in their order.
COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")
#: Seconds between two checks whether the front end is ready.
READY_SECONDS = 0.2


@click.command()
@app_option
@click.option(
    "--procfile",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Run the processes of this Procfile instead of the usual ones.",
)
@queues_option
@click.option(
    "--reload",
    is_flag=True,
    help="For development: start front end, worker and beat again when a Python file below the current "
    "directory changes.",
)
def up(app: str, procfile: Path | None, queues: tuple[str, ...], reload: bool) -> None:
    """Run everything on this machine: Redis, front end, worker, beat, Flower.

    Without TASKS_REDIS_URL a private Redis keeps its data in TASKS_DATA_DIR. Ctrl-C stops everything in
    order. On a Celery app of your own its worker takes the tools' queues only, and its beat asks for
    maintenance only. Flower runs where it is installed (`pip install 'tasks-service[flower]'`), for this
    machine only.
    """
    settings = settings_of("up")
    specs, sentences = _processes(app, procfile, queues)
    specs = [spec for spec in specs if spec.name != "flower" or _has_flower()]
    emit = print_json_line if settings.log_format == "json" else line_printer([spec.name for spec in specs])
    for sentence in sentences:
        emit("up", sentence)
    stack = Stack(settings, specs, emit, reloading=reload)
    changed = SourceWatch(Path.cwd(), [settings.data_dir]).changed if reload else tuple
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        stack.start()
        threading.Thread(target=_announce, args=(stack, stop, emit), daemon=True).start()
        stack.processes.run(stop, changed)
    finally:
        stop.set()
        stack.stop()
    emit("up", "everything is stopped")


def line_printer(names: list[str]) -> Callable[[str, str], None]:
    """A function that prints lines with a coloured name in front; safe to use from several threads."""
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(name) for name in [*names, "up"])
    colours = dict(zip(names, COLOURS * len(names), strict=False))

    def emit(name: str, line: str) -> None:
        prefix = Text(f"{name:{width}} | ", style=colours.get(name, "bold"))
        console.print(prefix + Text.from_ansi(line))

    return emit


def print_json_line(name: str, line: str) -> None:
    """Print what a process has written as JSON: as it is, or as the message of a line of its own."""
    click.echo(json_line(name, line))


def _processes(
    app: str, procfile: Path | None, queues: tuple[str, ...]
) -> tuple[list[ProcessSpec], list[str]]:
    if procfile is None:
        return own_processes(app, queues)
    if queues:
        raise ConfigurationError(
            "--queues is for the usual processes; with --procfile, name the queues there (-Q)."
        )
    return parse_procfile(procfile.read_text()), []


def _has_flower() -> bool:
    return importlib.util.find_spec("flower") is not None


def _announce(stack: Stack, stop: threading.Event, emit: Callable[[str, str], None]) -> None:
    """Print the addresses of the front end and of Flower when each is ready."""
    while not stop.is_set() and not stack.is_ready():
        time.sleep(READY_SECONDS)
    if not stop.is_set():
        emit("up", f"ready: MCP at {stack.mcp_url} (try: tasks-service call --help)")
    while stack.has_flower and not stop.is_set() and not stack.flower_answers():
        time.sleep(READY_SECONDS)
    if stack.has_flower and not stop.is_set():
        emit("up", f"ready: Flower at {stack.flower_url}")
