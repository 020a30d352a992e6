"""Which redis-server a run uses: the one that the product finds, unless `TASKS_TEST_REDIS` names another.

It may be a path; `redis`, the one on PATH; or `valkey`, the one of the wheel. These two may go on with the
beginning of a version: `redis-7.0`. A server that is named and cannot be had ends the run before it begins.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from tasks_service.domain.errors import ConfigurationError
from tasks_service.local.redis_server import SERVER_IN_WHEEL, SERVER_WHEEL, find_server

CHOICE = "TASKS_TEST_REDIS"


def choose_server(config: pytest.Config) -> None:
    """Put the server that is named first on PATH: for this process, and for all that it starts."""
    if wanted := os.environ.get(CHOICE):
        path = _find(wanted)
        directory = tempfile.TemporaryDirectory(prefix="chosen-")
        config.add_cleanup(directory.cleanup)
        (Path(directory.name) / "redis-server").symlink_to(path)
        os.environ["PATH"] = f"{directory.name}{os.pathsep}{os.environ['PATH']}"
        if not find_server().samefile(path):
            raise pytest.UsageError(f"{CHOICE}={wanted}: {path} is {_name(path)}, which is too old")


def chosen_server() -> str:
    """Which one it is, for the header of a run."""
    try:
        path = find_server()
    except ConfigurationError as error:
        return str(error)
    wanted = os.environ.get(CHOICE)
    return f"{_name(path)}, {f'as {CHOICE}={wanted} says' if wanted else path}"


def _find(wanted: str) -> Path:
    kind, _, version = wanted.partition("-")
    place = {"redis": _on_path, "valkey": _in_wheel}.get(kind)
    path = Path(wanted) if place is None else place()
    if path is None or not os.access(path, os.X_OK):
        raise pytest.UsageError(f"{CHOICE}={wanted}: there is no such server on this machine")
    found, _, found_version = _name(path).lower().partition(" ")
    if place is not None and (found != kind or not f"{found_version}.".startswith(version and f"{version}.")):
        raise pytest.UsageError(f"{CHOICE}={wanted}: {path} is {_name(path)}")
    return path.absolute()


def _on_path() -> Path | None:
    found = shutil.which("redis-server")
    return Path(found) if found else None


def _in_wheel() -> Path | None:
    spec = find_spec(SERVER_WHEEL)
    places = (spec and spec.submodule_search_locations) or ()
    return next((path for place in places for path in Path(place).glob(SERVER_IN_WHEEL)), None)


def _name(path: Path) -> str:
    """As `Redis 7.0.15`."""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    match = re.match(r"(\w+) server v=([\d.]+)", said)
    return f"{match[1]} {match[2]}" if match else "no redis-server"
