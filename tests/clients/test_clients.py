"""Clients that we did not write, act by act, on two front ends behind a balancer; then while these die.

Each client is a program of its own (`programs/`) that prints what each of its acts saw. While front ends die,
it tries again what broke, as a host would; what it sees in the end must be the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.kit.environments import NotInstallable, node_packages, python_environment

from .running import Deployment, deployed, not_tried

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

LOCKS = Path(__file__).parent / "locks"
PROGRAMS = Path(__file__).parent / "programs"
RUN_SECONDS = 400
PATIENCE = {"calm": 0, "dying": 90}
"""For how many seconds a program tries again what broke: not at all while nothing may break."""

KILLS = 2
"""So many front ends die, at least, while a client is at its acts; it repeats them until then."""

GREETED = {"asked": ["Your name?"], "result": ["Hello, Ada!"]}
COUNTED = {"last": "completed", "result": ["counted to 20"]}
PROGRESSED = {"result": ["done"], "some": True, "rising": True}
OF_2025 = {
    "connect": {"version": "2025-11-25", "can_list": True, "support": "required"},
    "call": {"result": 3},
    "progress": PROGRESSED,
    "poll": COUNTED,
    "question": GREETED,
    "cancel": {"status": "cancelled", "code": -32800},
    "list_tasks": {"newest_first": True},
    "notifications": ["cancelled", "completed"],
}
OF_2026 = {
    "connect": {"version": "2026-07-28", "found": True},
    "call": 3,
    "resolved": ["counted to 10"],
    "poll": COUNTED,
    "question": GREETED,
    "cancel": "cancelled",
}
OF_MCPDO = {
    "call": ["3"],
    "call_as_task": ["counted to 20"],
    "question": {"asked": "Your name?", "result": ["Hello, Ada!"]},
    "poll_and_cancel": {"first": "working", "last": "cancelled", "caller_told": True},
}


@dataclass(frozen=True)
class Client:
    """A client: how its program is started, after which URL and patience come, and what its acts must see."""

    command: Callable[[], list[str]]
    acts: dict[str, Any]
    after: Callable[[Path], list[str]] = lambda home: []
    only_calm: tuple[str, ...] = ()
    """Acts that nobody can repeat: a notification that was on its way when the process died is lost."""


def _python(program: str, environment: str | None = None) -> Callable[[], list[str]]:
    def command() -> list[str]:
        python = sys.executable if environment is None else python_environment(LOCKS / f"{environment}.txt")
        return [python, str(PROGRAMS / program)]

    return command


def _typescript() -> list[str]:
    packages = node_packages(LOCKS / "node")
    return [packages.node, str(PROGRAMS / "typescript_sdk_1.mjs")]


def _mcpdo(era: str) -> Client:
    def arguments(home: Path) -> list[str]:
        packages = node_packages(LOCKS / "node")
        mcpdo = packages.home / "node_modules" / ".bin" / "mcpdo"
        return [era, packages.node, str(mcpdo), str(home)]

    def command() -> list[str]:
        node_packages(LOCKS / "node")
        return [sys.executable, str(PROGRAMS / "mcpdo.py")]

    return Client(command, {"connect": era, **OF_MCPDO}, arguments)


CLIENTS = {
    "python-mcp-1.30": Client(
        _python("python_mcp_1_30.py", "python-mcp-1.30"),
        {**OF_2025, "question_on_the_session_stream": {"last": "completed", "result": ["Hello, Ada!"]}},
        only_calm=("notifications",),
    ),
    "typescript-sdk-1.32": Client(
        _typescript,
        {
            **OF_2025,
            "stream": {"kinds": ["taskCreated", "taskStatus", "result"], "result": ["counted to 10"]},
        },
        lambda home: [str(node_packages(LOCKS / "node").home)],
        only_calm=("notifications",),
    ),
    "python-mcp-2.3": Client(
        _python("python_mcp_2_3.py"),
        {**OF_2026, "progress": PROGRESSED, "question_without_a_task": GREETED},
    ),
    "fastmcp-4.1": Client(_python("fastmcp_4.py", "fastmcp-4"), OF_2026),
    "mcpdo-legacy": _mcpdo("legacy"),
    "mcpdo-modern": _mcpdo("modern"),
}

Acts = dict[str, dict[str, Any]]
TRIALS = [
    pytest.param(name, weather, act, id=f"{name}-{weather}-{act}")
    for weather in PATIENCE
    for name, client in CLIENTS.items()
    for act in client.acts
    if weather == "calm" or act not in client.only_calm
]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("deployment")) as deployment:
        yield deployment


@pytest.fixture(scope="module")
def seen(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Acts]:
    """What the acts of a client saw, calm or while front ends die; each pair is run once."""

    @cache
    def run(name: str, weather: str) -> Acts:
        arguments = CLIENTS[name].after(tmp_path_factory.mktemp("home"))
        command = [*CLIENTS[name].command(), deployment.url, str(PATIENCE[weather]), *arguments]
        if weather == "calm":
            return _go(command)
        with deployment.dying():
            before = deployment.kills
            acts = _go(command)
            while deployment.kills < before + KILLS and _as_it_should(CLIENTS[name], acts):
                acts = _go(command)
        return acts

    return run


def _as_it_should(client: Client, acts: Acts) -> bool:
    """Whether nothing went wrong yet; what did is not to be covered by another run."""
    wanted = {name: saw for name, saw in client.acts.items() if name not in client.only_calm}
    return all(acts[name].get("saw") == saw for name, saw in wanted.items())


def _go(command: list[str]) -> Acts:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert ran.returncode == 0, ran.stderr[-4000:]
    return {line["act"]: {**line, "told": ran.stderr[-4000:]} for line in lines}


@pytest.mark.parametrize(("name", "weather", "act"), TRIALS)
def test_a_client_sees_what_it_should(
    seen: Callable[[str, str], Acts], name: str, weather: str, act: str, pytestconfig: pytest.Config
) -> None:
    try:
        CLIENTS[name].command()
    except NotInstallable as reason:
        not_tried(f"NOT TRIED: {name}: {reason}", pytestconfig)

    done = seen(name, weather)[act]

    assert done.get("saw") == CLIENTS[name].acts[act], done.get("error", done["told"])
