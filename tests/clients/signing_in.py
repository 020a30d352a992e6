"""A front end, and an authorization server that others wrote, at which everybody is signed in as Ada."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kit.environments import node_packages
from tests.kit.hand_worker import Worker
from tests.kit.servers import free_port
from tests.kit.serving import serving, settings
from tests.security.signing_in import tools

LOCK = Path(__file__).parent / "locks" / "authorization-server"
PROGRAMS = Path(__file__).parent / "programs"
SECONDS = 120


@dataclass(frozen=True)
class Place:
    """Where clients sign in.

    Attributes:
        url: What they enter.
        issuer: The authorization server.
        redis_url: Where their tasks are.
    """

    url: str
    issuer: str
    redis_url: str


@contextmanager
def authorization_server(resource: str, **options: Any) -> Iterator[str]:
    """An authorization server for a resource; yields its issuer.

    Raises:
        NotInstallable: npm is missing, or cannot install it.
    """
    packages, port = node_packages(LOCK), free_port()
    program = [str(PROGRAMS / "authorization_server.mjs"), str(port), resource, str(packages.home)]
    command = [packages.node, *program, json.dumps(options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            yield str(json.loads(server.stdout.readline())["issuer"])
        finally:
            server.terminate()


@contextmanager
def place(
    redis_url: str, directory: Path, options: dict[str, Any] | None = None, **changes: Any
) -> Iterator[Place]:
    """A front end whose callers sign in.

    Args:
        redis_url: Where tasks are.
        directory: For its data.
        options: Of the authorization server.
        changes: Of the settings; `ISSUER` stands for the authorization server.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    with (
        authorization_server(url, **(options or {})) as issuer,
        front_end(redis_url, directory, port, issuer, **changes),
    ):
        yield Place(url, issuer, redis_url)


@contextmanager
def front_end(redis_url: str, directory: Path, port: int, issuer: str, **changes: Any) -> Iterator[None]:
    """A front end on a port, and its worker; see `place`."""
    told = {"oauth_issuers": "ISSUER", "oauth_resource": f"http://127.0.0.1:{port}/mcp", **changes}
    configured = {name: value.replace("ISSUER", issuer) for name, value in told.items()}
    with serving(tools(), settings(redis_url, directory, **configured), port=port):
        worker = Worker(redis_url, tools())
        worker.start()
        try:
            yield
        finally:
            worker.close()


def run(command: list[str]) -> dict[str, Any]:
    """What a client's program has seen."""
    ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    seen: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return seen
