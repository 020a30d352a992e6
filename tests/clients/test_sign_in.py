"""Clients that others wrote sign in at an authorization server that others wrote, in both revisions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.environments import NotInstallable, node_packages, python_environment
from tests.kit.servers import RedisServer

from .running import not_tried
from .signing_in import PROGRAMS, Place, place, run
from .test_clients import LOCKS

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

Command = Callable[[Place, Path], list[str]]

STEPS_UP = {"result": "Hello, Ada!", "published": "published", "asked": 1, "asked_again": 1}
"""It signs in once, and once more when a tool wants a scope that it did not ask for."""

STAYS = {"result": "Hello, Ada!", "asked": 1}
"""It signs in once; what a later answer says of more scopes, it tells as an error."""


def _python(program: str, *arguments: str, environment: str | None = None) -> Command:
    def command(at: Place, home: Path) -> list[str]:
        python = sys.executable if environment is None else python_environment(LOCKS / f"{environment}.txt")
        return [python, str(PROGRAMS / program), at.url, *arguments]

    return command


def _typescript(era: str) -> Command:
    def command(at: Place, home: Path) -> list[str]:
        packages = node_packages(LOCKS / "node")
        program = str(PROGRAMS / "sign_in_typescript.mjs")
        return [packages.node, program, at.url, str(packages.home), era, sys.executable]

    return command


def _mcpdo(era: str) -> Command:
    def command(at: Place, home: Path) -> list[str]:
        packages = node_packages(LOCKS / "node")
        mcpdo = str(packages.home / "node_modules" / ".bin" / "mcpdo")
        program = str(PROGRAMS / "sign_in_mcpdo.py")
        return [sys.executable, program, at.url, era, packages.node, mcpdo, str(home)]

    return command


EARLIER, LATER = "2025-11-25", "2026-07-28"
CLIENTS: dict[str, tuple[Command, dict[str, Any]]] = {
    "python-mcp-2.3": (_python("sign_in_python_2_3.py", "auto"), {"version": LATER, **STEPS_UP}),
    "python-mcp-2.3-legacy": (_python("sign_in_python_2_3.py", "legacy"), {"version": EARLIER, **STEPS_UP}),
    "python-mcp-1.30": (
        _python("sign_in_python_1_30.py", environment="python-mcp-1.30"),
        {"version": EARLIER, **STEPS_UP},
    ),
    "fastmcp-4.1": (
        _python("sign_in_fastmcp_4.py", environment="fastmcp-4"),
        {"version": LATER, **STEPS_UP},
    ),
    "typescript-sdk-1.32": (_typescript(EARLIER), {"version": EARLIER, **STEPS_UP}),
    "typescript-sdk-2": (_typescript(LATER), {"version": LATER, **STEPS_UP}),
    "mcpdo-legacy": (_mcpdo("legacy"), {"version": EARLIER, **STAYS}),
    "mcpdo-modern": (_mcpdo("modern"), {"version": LATER, **STAYS}),
}


@pytest.fixture(scope="module")
def at(
    redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Place]:
    try:
        with place(redis_server.url, tmp_path_factory.mktemp("front-end")) as at:
            yield at
    except NotInstallable as reason:
        not_tried(f"NOT TRIED: signing in: {reason}", pytestconfig)


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_signs_in(at: Place, name: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    command, wanted = CLIENTS[name]
    try:
        arguments = command(at, tmp_path)
    except NotInstallable as reason:
        not_tried(f"NOT TRIED: {name}: {reason}", pytestconfig)

    assert run(arguments) == {"found": True, **wanted}
