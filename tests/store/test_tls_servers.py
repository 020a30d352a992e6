"""Sentinels and clusters behind TLS: every connection of the store is encrypted, and verified."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tasks_service.addresses.redis import parse_address
from tasks_service.domain.errors import StoreUnavailable
from tasks_service.domain.names import new_task_id
from tasks_service.store.redis import AsyncRedisTaskStore, RedisTaskStore
from tests.kit.factories import ALICE, creation
from tests.kit.groups import ClusterServers, SentinelGroup
from tests.kit.servers import RedisServer
from tests.kit.tls import Authority, TlsProxy
from tests.kit.waiting import PATIENCE, wait_until

DEADLINE = 2.0
"""Seconds that a store may try that will not succeed."""


class Encrypted:
    """Where the servers are, and the proxies that end TLS: the hosts in the address, and others behind."""

    def __init__(self, scheme: str, hosts: list[TlsProxy], others: list[TlsProxy], query: str = "") -> None:
        self._address = f"{scheme}://" + ",".join(f"127.0.0.1:{proxy.port}" for proxy in hosts)
        self._query, self.hosts, self.others = query, hosts, others

    def url(self, ca: Authority) -> str:
        return f"{self._address}?{self._query}ssl_ca_certs={ca.file}"


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module", params=["cluster", "sentinels"])
def servers(request: pytest.FixtureRequest, ca: Authority) -> Iterator[Encrypted]:
    certificate = ca.issue()
    with ExitStack() as opened:

        def in_front(port: int, *, plain_too: bool = False) -> TlsProxy:
            return opened.enter_context(closing(TlsProxy(port, certificate, plain_too=plain_too)))

        if request.param == "cluster":
            cluster = opened.enter_context(closing(ClusterServers()))
            nodes = [in_front(server.port) for server in cluster.servers]
            for server, proxy in zip(cluster.servers, nodes, strict=True):
                with server.client() as client:
                    client.config_set("cluster-announce-port", proxy.port)
            ports = {proxy.port for proxy in nodes}
            wait_until(lambda: all(_told(server) == ports for server in cluster.servers), "all are told")
            yield Encrypted("rediss+cluster", nodes, [])
            return
        behind: list[TlsProxy] = []

        def known_to_sentinels(port: int) -> int:
            behind.append(in_front(port, plain_too=True))
            return behind[-1].port

        group = opened.enter_context(closing(SentinelGroup(in_front=known_to_sentinels)))
        sentinels = [in_front(sentinel.port) for sentinel in group.sentinels]
        yield Encrypted("rediss+sentinel", sentinels, behind, "service=tasks&")


def _told(server: RedisServer) -> set[int]:
    """The ports at which a node says that others are."""
    with server.client() as client:
        return {int(key.rpartition(":")[2]) for key in client.execute_command("CLUSTER NODES")}


def test_both_faces_write_and_read_over_tls(servers: Encrypted, ca: Authority) -> None:
    async def read(task_id: str) -> str:
        store = AsyncRedisTaskStore(servers.url(ca), deadline=PATIENCE)
        try:
            return (await store.get(ALICE, task_id)).task.task_id
        finally:
            await store.aclose()

    hosts, others = (_encrypted(proxies) for proxies in (servers.hosts, servers.others))
    new = new_task_id(ALICE, parse_address(servers.url(ca)).shards)
    with closing(RedisTaskStore(servers.url(ca))) as store:
        task_id = store.create(creation(task_id=new)).task.task_id
        assert asyncio.run(read(task_id)) == task_id
    # One connection is enough where the node that is asked for the slots is also the one that has the task.
    assert _encrypted(servers.hosts) - hosts >= 2
    assert not servers.others or _encrypted(servers.others) - others >= 2


def _encrypted(proxies: list[TlsProxy]) -> int:
    return sum(proxy.encrypted for proxy in proxies)


def test_servers_of_an_unknown_authority_are_refused(servers: Encrypted, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    store = RedisTaskStore(servers.url(other), deadline=DEADLINE)
    with closing(store), pytest.raises(StoreUnavailable):
        store.now_ms()
