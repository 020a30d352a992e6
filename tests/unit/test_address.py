"""What a URL says of where Redis is."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tasks_service.addresses.redis import Kind, Node, parse_address
from tasks_service.settings import Settings

SENTINELS = "redis+sentinel://ann:p%40ss@one:26380,two/3?service=tasks&sentinel_password=s%2Fp"


@pytest.mark.parametrize("url", ["redis://h/1", "rediss://:pw@h", "unix:///run/redis.sock?db=2"])
def test_a_single_servers_url_is_redis_pys(url: str) -> None:
    address = parse_address(url)
    assert (address.kind, address.nodes, address.url_of(None)) == (Kind.SINGLE, (), url)


def test_sentinels_are_asked_with_their_own_password_for_a_master_with_its_own() -> None:
    address = parse_address(SENTINELS)
    assert address.kind is Kind.SENTINEL
    assert address.service == "tasks"
    assert address.nodes == (Node("one", 26380, True), Node("two", 26379, True))
    assert address.url_of(address.nodes[0]) == "redis://:s%2Fp@one:26380/0"
    assert address.url_of(Node("10.0.0.1", 6379)) == "redis://ann:p%40ss@10.0.0.1:6379/3"


def test_a_clusters_nodes_are_reached_with_the_options_of_the_url() -> None:
    address = parse_address("rediss+cluster://:pw@one,[::1]:7001?ssl_ca_certs=/etc/ca.pem")
    assert address.kind is Kind.CLUSTER
    assert address.nodes == (Node("one", 6379), Node("::1", 7001))
    assert address.url_of(address.nodes[1]) == "rediss://:pw@[::1]:7001/0?ssl_ca_certs=%2Fetc%2Fca.pem"


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("amqp://h//", "expected redis://"),
        ("redis+sentinel://h/0", "service="),
        ("redis+cluster://h?service=tasks", "service="),
        ("redis+cluster://h/1", "no other database than 0"),
        ("redis+sentinel://h/one?service=tasks", "number of a database"),
        ("redis+cluster://h,,i", "a host is missing"),
        ("redis+cluster://h:port", "port"),
    ],
)
def test_a_url_that_means_no_redis_is_refused_at_start_with_what_was_expected(url: str, what: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        Settings(redis_url=url)
    (problem,) = refusal.value.errors()
    assert problem["loc"] == ("redis_url",)
    assert "TASKS_REDIS_URL" in problem["msg"]
    assert what.lower() in problem["msg"].lower()


def test_a_store_on_a_cluster_has_sixteen_shards_unless_told_otherwise() -> None:
    assert Settings(redis_url="redis+cluster://h").shards == parse_address("redis+cluster://h").shards == 16
    assert Settings(redis_url="redis+cluster://h", shards=4).shards == 4
    assert Settings(redis_url=SENTINELS).shards == parse_address(SENTINELS).shards == 1
