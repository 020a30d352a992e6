"""Flower answers under its own names only, and gives no order that its user may not give."""

from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest

from tests.e2e.roles import Flower, ready
from tests.kit.servers import RedisServer

FOREIGN = (
    "evil.example",
    "evil.example:80",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "localhost:80:evil",
    "localhost, evil.example",
    "user@localhost",
    "flower.example.org",
    "0.0.0.0",
    "",
)
OWN = ("localhost", "127.0.0.1", "[::1]", "LOCALHOST", "flower.example.com")
PAGES = ("/", "/workers", "/tasks", "/broker", "/metrics", "/healthcheck", "/api/workers", "/no-such-page")


@pytest.fixture(scope="module")
def flower() -> Iterator[Flower]:
    server = RedisServer()
    flower = Flower(server.url, TASKS_ALLOWED_HOSTS="flower.example.com")
    ready(flower, "/healthcheck")
    yield flower
    flower.teardown()
    server.close()


def status(flower: Flower, path: str, *hosts: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", flower.port, timeout=10)
    connection.putrequest("GET", path, skip_host=True)
    for host in hosts:
        connection.putheader("Host", host)
    connection.endheaders()
    code = connection.getresponse().status
    connection.close()
    return code


@pytest.mark.parametrize("page", PAGES)
def test_a_foreign_host_is_refused_whatever_it_asks_for(flower: Flower, page: str) -> None:
    answers = {host: status(flower, page, host) for host in FOREIGN}
    assert set(answers.values()) <= {400, 421}, answers
    assert answers["evil.example"] == 421


@pytest.mark.parametrize("host", OWN)
def test_its_own_names_are_served_on_any_port(flower: Flower, host: str) -> None:
    for name in (host, f"{host}:{flower.port}"):
        assert status(flower, "/healthcheck", name) == 200, name


def test_several_hosts_are_refused(flower: Flower) -> None:
    assert status(flower, "/healthcheck", "localhost", "evil.example") in (400, 421)
