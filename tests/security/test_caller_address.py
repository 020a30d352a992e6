"""Which address a request counts for, whatever its headers claim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tasks_service.frontend.access.caller_address import HOPS, CallerAddress, TrustedProxies

PROXY, OTHER_PROXY, CALLER, VICTIM = "10.0.0.2", "10.0.0.3", "203.0.113.9", "198.51.100.7"
PROXIES = TrustedProxies(("10.0.0.0/24", "2001:db8:1::2"))


def scope(
    peer: str | None, *headers: tuple[str, str], server: object = ("10.0.0.11", 8787)
) -> dict[str, Any]:
    return {
        "type": "http",
        "client": None if peer is None else (peer, 4711),
        "server": server,
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }


def x_forwarded_for(*values: str) -> list[tuple[str, str]]:
    return [("x-forwarded-for", value) for value in values]


def forwarded(*values: str) -> list[tuple[str, str]]:
    return [("forwarded", value) for value in values]


@pytest.mark.parametrize("peer", [CALLER, "127.0.0.1", "::1", "10.0.1.2", "2001:db8:1::3"])
def test_nobody_but_a_trusted_proxy_is_believed(peer: str) -> None:
    headers = [*x_forwarded_for(VICTIM), *forwarded(f"for={VICTIM}"), ("x-real-ip", VICTIM)]

    assert PROXIES.caller_address(scope(peer, *headers)).address == peer
    assert TrustedProxies(()).caller_address(scope(peer, *headers)).address == peer


@pytest.mark.parametrize(
    "headers",
    [
        x_forwarded_for(CALLER),
        x_forwarded_for(f"{VICTIM}, {CALLER}"),
        x_forwarded_for(VICTIM, CALLER),
        x_forwarded_for(f"{CALLER}, {OTHER_PROXY}"),
        x_forwarded_for(f"{VICTIM},{CALLER},{OTHER_PROXY},{OTHER_PROXY}"),
        x_forwarded_for(f"{CALLER}:4711"),
        x_forwarded_for(f"unknown, {CALLER}"),
        x_forwarded_for(f"{VICTIM}, nonsense, , {CALLER}"),
        x_forwarded_for(f"::ffff:{CALLER}"),
        forwarded(f"for={CALLER}"),
        forwarded(f"For={VICTIM};proto=http, for={CALLER};by={PROXY}"),
        forwarded(f"for={VICTIM}", f'for="{CALLER}:4711"'),
        forwarded(f'for="_hidden", for={CALLER}, for={OTHER_PROXY}'),
        [*x_forwarded_for(CALLER), *forwarded(f"for={CALLER}")],
    ],
)
def test_the_caller_is_the_rightmost_address_that_is_no_trusted_proxy(headers: list[tuple[str, str]]) -> None:
    assert PROXIES.caller_address(scope(PROXY, *headers)).address == CALLER


@pytest.mark.parametrize(
    "headers",
    [
        [],
        x_forwarded_for(""),
        x_forwarded_for(f"{VICTIM}, nonsense"),
        x_forwarded_for(f"{VICTIM}, unknown"),
        x_forwarded_for(f"{VICTIM}, 1.2.3.4.5"),
        forwarded(f"for={VICTIM}, for=unknown"),
        forwarded(f"for={VICTIM}, by={PROXY}"),
        forwarded(f'for={VICTIM}, for="{CALLER}'),
        forwarded(f"for={VICTIM} for={CALLER}"),
        [*x_forwarded_for(CALLER), *forwarded(f"for={VICTIM}")],
        [*x_forwarded_for(VICTIM), *forwarded("nonsense")],
    ],
)
def test_what_names_nobody_for_certain_counts_for_the_proxy(headers: list[tuple[str, str]]) -> None:
    assert PROXIES.caller_address(scope(PROXY, *headers)).address == PROXY


def test_a_quote_that_a_caller_leaves_open_does_not_hide_what_the_proxy_adds() -> None:
    headers = forwarded(f'for={VICTIM};x="', f'for="{CALLER}"')

    assert PROXIES.caller_address(scope(PROXY, *headers)).address == PROXY


def test_where_all_are_proxies_the_first_of_them_called() -> None:
    headers = x_forwarded_for(f"10.0.0.7, {OTHER_PROXY}")

    assert PROXIES.caller_address(scope(PROXY, *headers)).address == "10.0.0.7"


def test_only_so_many_proxies_are_looked_at() -> None:
    headers = x_forwarded_for(", ".join([CALLER, *[OTHER_PROXY] * HOPS]))

    assert PROXIES.caller_address(scope(PROXY, *headers)).address == OTHER_PROXY


@pytest.mark.parametrize(
    ("peer", "found"),
    [
        (CALLER, CallerAddress(CALLER, CALLER)),
        (f"::ffff:{CALLER}", CallerAddress(CALLER, CALLER)),
        ("2001:db8:7:7:1::1", CallerAddress("2001:db8:7:7:1::1", "2001:db8:7:7::/64")),
        ("fe80::1%eth0", CallerAddress("fe80::1", "fe80::/64")),
        ("testclient", CallerAddress("testclient", "testclient")),
    ],
)
def test_limits_count_an_ipv6_caller_by_its_network(peer: str, found: CallerAddress) -> None:
    assert PROXIES.caller_address(scope(peer)) == found


def test_a_caller_by_ipv6_behind_a_proxy_by_ipv6_is_found() -> None:
    for headers in (
        x_forwarded_for("2001:db8:7::1"),
        x_forwarded_for("[2001:db8:7::1]:4711"),
        forwarded('for="[2001:db8:7::1]:4711"'),
    ):
        found = PROXIES.caller_address(scope("2001:db8:1::2", *headers))
        assert found == CallerAddress("2001:db8:7::1", "2001:db8:7::/64")


@pytest.mark.parametrize(("proxies", "address"), [(("unix",), CALLER), ((), "unix")])
def test_a_proxy_by_a_unix_socket_is_believed_if_that_was_said(proxies: Sequence[str], address: str) -> None:
    asked = scope(None, *x_forwarded_for(CALLER), server=("/run/tasks.sock", None))

    assert TrustedProxies(proxies).caller_address(asked).address == address


def test_a_server_that_does_not_say_who_called_is_no_proxy() -> None:
    asked = scope(None, *x_forwarded_for(CALLER), server=None)

    assert TrustedProxies(("unix",)).caller_address(asked) == CallerAddress("", "")
