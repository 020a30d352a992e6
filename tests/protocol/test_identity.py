"""Who may call: keys, owners, the secret behind them, and the addresses that are let in."""

from __future__ import annotations

import stat
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr

from tasks_service.authoring.tool import ToolRegistry
from tasks_service.crypto.owners import LOCAL_USER, Principal, owner_of
from tasks_service.crypto.secret import SECRET_FILE, load_secret
from tasks_service.domain.errors import ConfigurationError
from tasks_service.frontend.app import check_settings
from tests.kit.serving import serving, settings
from tests.kit.wire import WireClient

ALICE, BOB = "mU3xQ9wzR7kYb2Lc", "Hn8vT4sJd6pGq1Wf"
KEYS = f"alice:{ALICE},bob:{BOB}"


@pytest.fixture
def guarded(redis_url: str, tools: ToolRegistry, tmp_path: Path) -> object:
    with serving(tools, settings(redis_url, tmp_path, api_keys=KEYS)) as port:
        yield port


# --- keys ---


def test_while_a_key_is_replaced_both_are_of_one_owner(
    redis_url: str, tools: ToolRegistry, tmp_path: Path
) -> None:
    keys = f"alice:{ALICE}:2099-01-01T00:00:00Z,alice:{BOB}"
    with (
        serving(tools, settings(redis_url, tmp_path, api_keys=keys)) as port,
        WireClient(port, key=ALICE) as old,
        WireClient(port, key=BOB) as new,
    ):
        task_id = old.task("heavy", {})
        assert new.get(task_id)["taskId"] == task_id


@pytest.mark.parametrize("key", [None, "", "wrong-wrong-wrong", ALICE[:-1], f"{ALICE} {BOB}", "alice"])
def test_a_missing_and_a_wrong_key_get_the_same_refusal(guarded: int, key: str | None) -> None:
    with WireClient(guarded, key=key) as client, WireClient(guarded) as nobody:
        reply, expected = client.request("tools/list"), nobody.request("tools/list")

    assert reply.status == 401
    assert reply.headers["www-authenticate"].startswith("Bearer")
    assert reply.body == expected.body


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_key_is_accepted_in_any_spelling_of_the_scheme(guarded: int, scheme: str) -> None:
    with WireClient(guarded) as client:
        assert client.request("tools/list", authorization=f"{scheme} {ALICE}").status == 200


@pytest.mark.parametrize("header", [f"Basic {ALICE}", ALICE, f"Bearer{ALICE}"])
def test_a_key_elsewhere_does_not_count(guarded: int, header: str) -> None:
    with WireClient(guarded) as client:
        assert client.request("tools/list", authorization=header).status == 401
        body, headers = b"{}", client.headers("tools/list", {})
        assert client.post(body, headers, path=f"/mcp?access_token={ALICE}").status == 401


def test_health_needs_no_key(guarded: int) -> None:
    with WireClient(guarded) as client:
        assert client.probe("/healthz").status == 200
        assert client.probe("/readyz").status == 200


def test_without_keys_others_than_this_machine_are_not_served(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"TASKS_API_KEYS=name:key"):
        check_settings(settings("redis://127.0.0.1:1", tmp_path, host="0.0.0.0"))


def test_without_redis_the_settings_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="tasks-service up"):
        check_settings(settings(None, tmp_path))


# --- owners ---


def test_principals_that_differ_in_any_part_are_different_owners() -> None:
    principals = [
        LOCAL_USER,
        Principal(issuer="a", subject="bc"),
        Principal(issuer="ab", subject="c"),
        Principal(issuer="a", subject="b", client_id="c"),
        Principal(issuer="a", subject="", client_id="bc"),
    ]

    owners = {owner_of(principal, b"secret") for principal in principals}

    assert len(owners) == len(principals)
    assert owners.isdisjoint(owner_of(principal, b"another") for principal in principals)


def test_an_owner_is_stable_and_names_nobody() -> None:
    owner = owner_of(Principal(issuer="api-key", subject="alice"), b"secret")

    assert owner == owner_of(Principal(issuer="api-key", subject="alice"), b"secret")
    assert len(owner) == 26
    assert "alice" not in owner


# --- the secret ---


def test_a_configured_secret_is_used_and_nothing_is_written(tmp_path: Path) -> None:
    directory = tmp_path / "data"

    assert load_secret(SecretStr("a-long-enough-secret"), directory) == b"a-long-enough-secret"
    assert not directory.exists()


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="at least 16"):
        load_secret(SecretStr("short"), tmp_path)


def test_a_secret_is_made_once_for_this_user_only(tmp_path: Path) -> None:
    configuration = settings(None, tmp_path / "data", secret=None)

    first = load_secret(configuration.secret, configuration.data_dir)

    assert load_secret(configuration.secret, configuration.data_dir) == first
    assert len(first) >= 32
    assert stat.S_IMODE((tmp_path / "data" / SECRET_FILE).stat().st_mode) == 0o600


def test_processes_that_start_together_agree_on_the_secret(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4) as pool:
        secrets = set(pool.map(load_secret, [None] * 16, [tmp_path / "data"] * 16))

    assert len(secrets) == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == [SECRET_FILE]


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    configuration = settings(None, tmp_path, secret=None)
    load_secret(configuration.secret, configuration.data_dir)
    (tmp_path / SECRET_FILE).chmod(0o644)

    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_secret(configuration.secret, configuration.data_dir)


# --- addresses ---


@pytest.mark.parametrize("host", ["evil.example.com", "evil.example.com:8787", "localhost.evil.com"])
def test_a_foreign_host_is_refused(client: WireClient, host: str) -> None:
    reply = client.request("tools/list", host=host)

    assert reply.status == 421
    assert "TASKS_ALLOWED_HOSTS" in reply.error["message"]


@pytest.mark.parametrize("origin", ["http://evil.example.com", "https://localhost.evil.com", "null"])
def test_a_foreign_origin_is_refused(client: WireClient, origin: str) -> None:
    assert client.request("tools/list", origin=origin).status == 403


def test_this_machine_is_let_in(client: WireClient) -> None:
    for host in ("localhost", "127.0.0.1:8787", "[::1]:8787"):
        assert client.request("tools/list", host=host, origin=f"http://{host}").status == 200


def test_hosts_that_are_named_are_let_in(redis_url: str, tools: ToolRegistry, tmp_path: Path) -> None:
    configuration = settings(
        redis_url, tmp_path, allowed_hosts="mcp.example.com,other.example.com:8443", api_keys=KEYS
    )
    with serving(tools, configuration) as port, WireClient(port, key=ALICE) as client:
        for host in ("mcp.example.com", "mcp.example.com:443", "other.example.com:8443"):
            assert client.request("tools/list", host=host, origin=f"https://{host}").status == 200
        assert client.request("tools/list", host="other.example.com").status == 421
