"""Redis behind TLS: verified by default, from end to end, and refused with a sentence that helps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tasks_service.domain.errors import StoreUnavailable
from tasks_service.store.redis import AsyncRedisTaskStore, RedisTaskStore
from tests.kit.servers import RedisServer
from tests.kit.tls import Authority, TlsProxy
from tests.kit.waiting import wait_until
from tests.kit.wire import WITH_TASKS, WireClient
from tests.kit.workers import worker_node

from .roles import FrontEnd, command, ready

DEADLINE = 1.5
"""Seconds that a store may try."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def ca(directory: Path) -> Authority:
    return Authority(directory)


@pytest.fixture(scope="module")
def proxy(module_redis: RedisServer, ca: Authority) -> Iterator[TlsProxy]:
    with closing(TlsProxy(module_redis.port, ca.issue())) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def url(proxy: TlsProxy, ca: Authority) -> str:
    return f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={ca.file}"


def test_a_front_end_and_a_worker_do_their_work_over_tls(url: str, tmp_path: Path) -> None:
    worker = worker_node(url, name="tls")
    web = FrontEnd(url, tmp_path, "tests.kit.worker_app")
    try:
        assert worker.ready(), worker.logs()
        ready(web, "/readyz")
        with WireClient(web.port, capabilities=WITH_TASKS) as client:
            done = client.task("add", {"x": 1, "y": 2})
            wait_until(lambda: client.get(done)["status"] == "completed", "it completes", seconds=60)
            # That it has ended reaches the worker over the subscription.
            endless = client.task("loop", {})
            wait_until(lambda: "pid" in client.get(endless).get("statusMessage", ""), "it runs", seconds=60)
            client.request("tasks/cancel", {"taskId": endless}).result  # noqa: B018
        wait_until(lambda: "ended early: The task was cancelled" in worker.logs(), worker.logs)
        assert "insecure" not in worker.logs() + web.logs()
        doctor = command("doctor", TASKS_REDIS_URL=url, TASKS_APP="tests.kit.worker_app:service")
        assert "ok       broker" in doctor.stdout, doctor.stdout + doctor.stderr
        assert "ok       workers" in doctor.stdout
    finally:
        worker.teardown()
        web.teardown()


def test_a_certificate_of_our_own_is_shown_to_a_redis_that_wants_one(
    module_redis: RedisServer, ca: Authority, directory: Path
) -> None:
    with closing(TlsProxy(module_redis.port, ca.issue("mutual"), clients=ca.file)) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={ca.file}"
        own = ca.issue("client")
        store = RedisTaskStore(f"{url}&ssl_certfile={own}&ssl_keyfile={own}", deadline=10)
        with closing(store):
            assert store.now_ms() > 0
        with closing(RedisTaskStore(url, deadline=DEADLINE)) as store, pytest.raises(StoreUnavailable):
            store.now_ms()


Refused = Callable[[RedisServer, Authority, TlsProxy], tuple[str, TlsProxy | None]]


def unknown_authority(redis: RedisServer, ca: Authority, proxy: TlsProxy) -> tuple[str, TlsProxy | None]:
    other = Authority(ca.file.parent, "other")
    return f"rediss://127.0.0.1:{proxy.port}/0?ssl_ca_certs={other.file}", None


def no_authority(redis: RedisServer, ca: Authority, proxy: TlsProxy) -> tuple[str, TlsProxy | None]:
    return f"rediss://127.0.0.1:{proxy.port}/0", None


def expired(redis: RedisServer, ca: Authority, proxy: TlsProxy) -> tuple[str, TlsProxy | None]:
    old = TlsProxy(redis.port, ca.issue("expired", days=-1))
    return f"rediss://127.0.0.1:{old.port}/0?ssl_ca_certs={ca.file}", old


def another_host(redis: RedisServer, ca: Authority, proxy: TlsProxy) -> tuple[str, TlsProxy | None]:
    another = TlsProxy(redis.port, ca.issue("another", host="redis.example"))
    return f"rediss://127.0.0.1:{another.port}/0?ssl_ca_certs={ca.file}", another


def plain_to_tls(redis: RedisServer, ca: Authority, proxy: TlsProxy) -> tuple[str, TlsProxy | None]:
    return f"redis://127.0.0.1:{proxy.port}/0", None


def tls_to_plain(redis: RedisServer, ca: Authority, proxy: TlsProxy) -> tuple[str, TlsProxy | None]:
    return f"rediss://127.0.0.1:{redis.port}/0?ssl_ca_certs={ca.file}", None


@pytest.mark.parametrize(
    ("refused", "sentence"),
    [
        (unknown_authority, "Name the certificate of its CA"),
        (no_authority, "Name the certificate of its CA"),
        (expired, "Renew the certificate of Redis"),
        (another_host, "Write the name into the URL that its certificate is for"),
        (plain_to_tls, "the URL begins with rediss://"),
        (tls_to_plain, "the URL begins with redis://"),
    ],
)
def test_what_cannot_be_trusted_is_refused_in_time_with_a_sentence_that_helps(
    module_redis: RedisServer, ca: Authority, proxy: TlsProxy, refused: Refused, sentence: str
) -> None:
    url, of_its_own = refused(module_redis, ca, proxy)

    async def ask() -> None:
        store = AsyncRedisTaskStore(url, deadline=DEADLINE)
        try:
            await store.ping()
        finally:
            await store.aclose()

    def ask_blocking() -> Any:
        with closing(RedisTaskStore(url, deadline=DEADLINE)) as store:
            return store.now_ms()

    began = time.monotonic()
    try:
        for way in (ask_blocking, lambda: asyncio.run(ask())):
            with pytest.raises(StoreUnavailable, match=sentence):
                way()
    finally:
        if of_its_own is not None:
            of_its_own.close()
    assert time.monotonic() - began < 60


def test_doctor_says_why_redis_cannot_be_trusted(proxy: TlsProxy) -> None:
    done = command("doctor", TASKS_REDIS_URL=f"rediss://127.0.0.1:{proxy.port}/0")
    assert done.returncode == 1
    assert "Name the certificate of its CA" in done.stdout


def test_a_worker_does_not_send_messages_to_a_broker_that_it_cannot_trust(
    module_redis: RedisServer, proxy: TlsProxy
) -> None:
    worker = worker_node(module_redis.url, name="wary", TASKS_BROKER_URL=f"rediss://127.0.0.1:{proxy.port}/0")
    try:
        wait_until(lambda: "certificate verify failed" in worker.logs(), worker.logs)
        assert " ready." not in worker.logs()
    finally:
        worker.teardown()
