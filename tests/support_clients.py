"""Plain Redis clients, for a look at what a store has written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.cluster import ClusterNode

from tasks_service.addresses.redis import Kind, parse_address


@contextmanager
def client_of(url: str) -> Iterator[Any]:
    """A plain client of whatever a store's URL means."""
    address = parse_address(url)
    if address.kind is Kind.SINGLE:
        client: Any = redis.Redis.from_url(url, decode_responses=True)
    elif address.kind is Kind.CLUSTER:
        nodes = [ClusterNode(node.host, node.port) for node in address.nodes]
        client = redis.RedisCluster(startup_nodes=nodes, decode_responses=True)
    else:
        hosts = [(node.host, node.port) for node in address.nodes]
        client = redis.Sentinel(hosts, decode_responses=True).master_for(address.service)
    try:
        yield client
    finally:
        client.close()
