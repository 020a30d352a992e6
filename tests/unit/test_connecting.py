"""What a client is told that cannot connect."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks_service.client.service_client import CannotConnect, connect
from tests.kit.servers import free_port
from tests.kit.tls import Authority, TlsProxy

STARTING_SECONDS = 60.0
"""For so long a server may start: a certificate that is not trusted now will not be then."""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def proxy(authority: Authority) -> Iterator[TlsProxy]:
    """A server with a certificate of a CA of our own, behind which nobody answers."""
    proxy = TlsProxy(free_port(), authority.issue())
    yield proxy
    proxy.close()


def refusal(proxy: TlsProxy, starting_seconds: float) -> str:
    async def enter() -> None:
        async with connect(f"https://127.0.0.1:{proxy.port}/mcp", starting_seconds=starting_seconds):
            pass

    with pytest.raises(CannotConnect) as refused:
        asyncio.run(asyncio.wait_for(enter(), STARTING_SECONDS / 2))
    return str(refused.value)


def test_a_certificate_that_is_not_trusted_is_told_at_once_with_what_to_set(proxy: TlsProxy) -> None:
    told = refusal(proxy, STARTING_SECONDS)

    assert told.startswith(f"The certificate of https://127.0.0.1:{proxy.port}/mcp is not trusted")
    assert "SSL_CERT_FILE=/path/ca.pem" in told


def test_the_certificate_of_a_ca_that_is_named_is_trusted(
    proxy: TlsProxy, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))

    assert "No MCP server answers" in refusal(proxy, 0.0)
