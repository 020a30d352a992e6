"""The official Python client signs in at an authorization server that others wrote, set up in several ways.

Other clients: tests/clients/test_sign_in.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.clients.running import not_tried
from tests.clients.signing_in import PROGRAMS, authorization_server, front_end, place, run
from tests.kit.environments import NotInstallable
from tests.kit.pages import ROOT, blocks
from tests.kit.servers import free_port
from tests.kit.waiting import wait_until

IN_EARNEST = bool(os.environ.get("TASKS_TEST_PROVIDERS"))
CALLBACK = "http://127.0.0.1:9/callback"
ENTRY = {
    "client_id": "entered-by-hand",
    "redirect_uris": [CALLBACK],
    "token_endpoint_auth_method": "none",
    "grant_types": ["authorization_code", "refresh_token"],
}
SERVICE = {
    "client_id": "tasks",
    "client_secret": "a secret of the service",
    "redirect_uris": [],
    "grant_types": [],
    "response_types": [],
}
ALL = {"oauth_scopes": "tasks:call,tasks:read,tasks:cancel,tasks:answer,reports:write"}

PROVIDERS: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "that registers clients": ({}, {}, []),
    "that registers no clients": ({"registers": False, "clients": [ENTRY]}, ALL, ["entered-by-hand"]),
    "that has names of its own for its audiences": (
        {"audience": "api://tasks"},
        {"oauth_audience": "api://tasks"},
        [],
    ),
    "that issues opaque tokens": (
        {"format": "opaque", "clients": [SERVICE]},
        {
            "oauth_introspection_url": "ISSUER/token/introspection",
            "oauth_client_id": "tasks",
            "oauth_client_secret": "a secret of the service",
        },
        [],
    ),
}
"""How a provider is set up, what the service is told of it, what users enter beside the address."""

TRIED = [(provider, era) for provider in PROVIDERS for era in ("auto", "legacy")]


@pytest.mark.parametrize(("provider", "era"), TRIED if IN_EARNEST else TRIED[:1])
def test_a_client_signs_in_at_a_provider(
    provider: str, era: str, redis_url: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    options, changes, entered = PROVIDERS[provider]
    try:
        with place(redis_url, tmp_path, options, **changes) as at:
            seen = run([sys.executable, str(PROGRAMS / "sign_in_python_2_3.py"), at.url, era, *entered])
    except NotInstallable as reason:
        not_tried(f"NOT TRIED: signing in at a provider: {reason}", pytestconfig)

    assert (seen["result"], seen["published"], seen["asked"]) == ("Hello, Ada!", "published", 1)


@contextmanager
def gateway(issuer: str, directory: Path) -> Iterator[str]:
    """The gateway of the guide, in front of an authorization server; yields its address."""
    nginx = shutil.which("nginx")
    if nginx is None:
        raise NotInstallable("nginx is not on PATH")
    (configured,) = (block.text for block in blocks(ROOT / "docs/guide-sign-in.md", "nginx"))
    port = free_port()
    for told, here in (
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        ("https://gateway.example.com", f"http://127.0.0.1:{port}"),
        ("https://login.example.com/authorize", f"{issuer}/auth"),
        ("https://login.example.com", issuer),
        ("https://client.example.com/callback", CALLBACK),
        ("the-id-of-your-entry", ENTRY["client_id"]),
    ):
        assert told in configured
        configured = configured.replace(told, str(here))
    main = f"daemon off; pid {directory}/pid; error_log {directory}/log; events {{}}"
    file = directory / "nginx.conf"
    file.write_text(f"{main} http {{ access_log off; {configured} }}")
    with subprocess.Popen([nginx, "-p", str(directory), "-c", str(file)]) as server:
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}"), "the gateway answers")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def answers(address: str) -> bool:
    with suppress(URLError), urlopen(f"{address}/.well-known/oauth-authorization-server", timeout=5) as reply:
        return bool(reply.status == 200)
    return False


@pytest.mark.skipif(not IN_EARNEST, reason="make security tries it")
def test_the_gateway_of_the_guide_registers_clients_that_the_provider_does_not(
    redis_url: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/mcp"
    try:
        with (
            authorization_server(url, registers=False, unnamed=True, clients=[ENTRY]) as issuer,
            gateway(issuer, tmp_path) as address,
            front_end(redis_url, tmp_path, port, issuer, oauth_authorization_servers=address, **ALL),
        ):
            seen = run([sys.executable, str(PROGRAMS / "sign_in_python_2_3.py"), url, "auto"])
    except NotInstallable as reason:
        not_tried(f"NOT TRIED: the gateway: {reason}", pytestconfig)

    assert (seen["result"], seen["published"], seen["asked"]) == ("Hello, Ada!", "published", 1)
