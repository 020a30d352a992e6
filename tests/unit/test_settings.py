"""Settings: what is refused at start says which variable, what is wrong, and what was expected."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

import tasks_service
from beat_schedule import BEAT_SCHEDULE
from tasks_service.settings import Settings


@pytest.fixture(autouse=True)
def _only_our_variables(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("no-dotenv"))
    for name in ("TASKS_REDIS_URL", "TASKS_DATA_DIR", "TASKS_PORT", "TASKS_HOST", "TASKS_API_KEYS"):
        monkeypatch.delenv(name, raising=False)


def test_without_variables_it_serves_this_machine_only() -> None:
    settings = Settings()

    assert settings.redis_url is None
    assert settings.is_loopback


def test_api_keys_are_pairs_of_name_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKS_API_KEYS", "ann:mU3xQ9wzR7kYb2Lc, bob:Hn8vT4sJd6pGq1Wf")

    keys = Settings().api_keys

    assert {name: key.key.get_secret_value() for name, (key,) in keys.items()} == {
        "ann": "mU3xQ9wzR7kYb2Lc",
        "bob": "Hn8vT4sJd6pGq1Wf",
    }


def test_a_key_may_end_at_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "TASKS_API_KEYS",
        "ann:mU3xQ9wzR7kYb2Lc:2027-01-31T12:00:00Z,bob:Hn8vT4sJd6pGq1Wf:2027-01-31,cy:a:b:c:d:e:f:g:h:i",
    )

    keys = {name: key for name, (key,) in Settings().api_keys.items()}

    assert keys["ann"].until == datetime(2027, 1, 31, 12, tzinfo=UTC)
    assert keys["ann"].key.get_secret_value() == "mU3xQ9wzR7kYb2Lc"
    assert keys["bob"].until == datetime(2027, 1, 31, tzinfo=UTC)
    assert keys["cy"].until is None
    assert keys["cy"].key.get_secret_value() == "a:b:c:d:e:f:g:h:i"


OLD, NEW = "the-key-of-last-year", "the-key-of-this-year"


def test_a_name_has_several_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKS_API_KEYS", f"ann:{OLD}:2099-01-01T00:00:00Z,ann:{NEW},ann:{NEW}-too")

    (keys,) = Settings().api_keys.values()

    assert [key.key.get_secret_value() for key in keys] == [OLD, NEW, f"{NEW}-too"]
    assert [key.until for key in keys] == [datetime(2099, 1, 1, tzinfo=UTC), None, None]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (f"ann:{OLD},ann:{OLD}:2099-01-01", "a name has the same key twice"),
        (f"ann:{OLD},bob:{OLD}", "two names have the same key"),
    ],
)
def test_a_second_key_that_must_be_a_mistake_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, keys: str, sentence: str
) -> None:
    monkeypatch.setenv("TASKS_API_KEYS", keys)

    with pytest.raises(ValidationError, match=sentence) as refusal:
        Settings()

    assert OLD[:8] not in str(refusal.value)


@pytest.mark.parametrize(
    "until", ["2099-01-01T00:00:00", "2099-01-01T00:00:00+01:00", "2099-1-1", "2099-01-01 00:00"]
)
def test_an_end_of_another_form_is_not_taken_for_a_part_of_the_key(
    monkeypatch: pytest.MonkeyPatch, until: str
) -> None:
    monkeypatch.setenv("TASKS_API_KEYS", f"ann:{OLD}:{until}")

    with pytest.raises(ValidationError, match=r"not a moment in UTC like 2027-01-31T12:00:00Z"):
        Settings()


def test_a_key_that_no_client_can_send_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKS_API_KEYS", "ann:a key with spaces in it")

    with pytest.raises(ValidationError, match="no client can send in a header"):
        Settings()


def test_no_api_keys_is_an_empty_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKS_API_KEYS", "")

    assert Settings().api_keys == {}


def test_keys_never_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKS_API_KEYS", "ann:mU3xQ9wzR7kYb2Lc")

    assert "mU3xQ9wzR7kYb2Lc" not in repr(Settings())


@pytest.mark.parametrize(
    "keys", ["ann", "ann:short", ":mU3xQ9wzR7kYb2Lc", "ann:mU3xQ9wzR7kYb2Lc,bob", "ann:short:2027-01-31"]
)
def test_keys_of_another_form_are_refused(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    monkeypatch.setenv("TASKS_API_KEYS", keys)

    with pytest.raises(ValidationError, match="key of at least 16 characters"):
        Settings()


def test_a_key_that_ends_at_no_moment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKS_API_KEYS", "ann:mU3xQ9wzR7kYb2Lc:2027-02-31")

    with pytest.raises(ValidationError, match="no moment"):
        Settings()


def test_a_refused_key_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKS_API_KEYS", "ann:tooshort")

    with pytest.raises(ValidationError) as refusal:
        Settings()

    assert all("tooshort" not in problem["msg"] for problem in refusal.value.errors())


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TASKS_PORT", "70000"),
        ("TASKS_SHARDS", "0"),
        ("TASKS_KEY_PREFIX", "no spaces"),
        ("TASKS_POOL", "1"),
        ("TASKS_SWEEP_INTERVAL", "0"),
        ("TASKS_MAX_RESULT", "3"),
    ],
)
def test_a_value_out_of_range_names_its_field(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(ValidationError) as refusal:
        Settings()

    assert [problem["loc"] for problem in refusal.value.errors()] == [
        (variable.removeprefix("TASKS_").lower(),)
    ]


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)],
)
def test_it_knows_who_can_reach_it(monkeypatch: pytest.MonkeyPatch, host: str, loopback: bool) -> None:
    monkeypatch.setenv("TASKS_HOST", host)

    assert Settings().is_loopback is loopback


def test_settings_cannot_change() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("value", "slots"),
    [
        ("8", {"*": 8}),
        ("gpu:1", {"gpu": 1}),
        (" 8, gpu:1 ,a:b:2", {"*": 8, "gpu": 1, "a:b": 2}),
        ("", {}),
    ],
)
def test_a_limit_of_running_tasks_is_for_every_queue_or_for_one(
    monkeypatch: pytest.MonkeyPatch, value: str, slots: dict[str, int]
) -> None:
    monkeypatch.setenv("TASKS_MAX_RUNNING_PER_OWNER", value)

    assert Settings().limits.running_per_owner == slots


@pytest.mark.parametrize(
    ("configured", "take_turns"),
    [
        ({}, False),
        ({"api_keys": "ann:mU3xQ9wzR7kYb2Lc"}, False),
        ({"api_keys": "ann:mU3xQ9wzR7kYb2Lc,ann:Hn8vT4sJd6pGq1Wf"}, False),
        ({"api_keys": "ann:mU3xQ9wzR7kYb2Lc,bob:Hn8vT4sJd6pGq1Wf"}, True),
        ({"api_keys_file": "keys"}, True),
        ({"oauth_issuers": "https://login.example", "oauth_resource": "https://tasks.example/mcp"}, True),
        ({"take_turns": "true"}, True),
        ({"take_turns": "false", "api_keys_file": "keys"}, False),
    ],
)
def test_owners_take_turns_where_there_may_be_several(configured: dict[str, str], take_turns: bool) -> None:
    assert Settings(_env_file=None, **configured).owners_take_turns is take_turns


def test_a_limit_that_lets_nobody_run_is_refused_with_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKS_MAX_RUNNING_PER_OWNER", "8,gpu:0")

    with pytest.raises(ValidationError, match=r"'gpu:0' is neither a number of tasks.* as in 8,gpu:1"):
        Settings()


def test_limits_follow_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKS_MAX_LIVE_PER_OWNER", "7")

    assert Settings().limits.live_per_owner == 7


def test_the_schedule_of_this_deployment_is_the_default_one() -> None:
    assert BEAT_SCHEDULE == tasks_service.BEAT_SCHEDULE


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "fe80::1%eth0", "0.0.0.0", "web_1"])
def test_an_address_or_a_name_can_be_served_on(host: str) -> None:
    assert Settings(host=host).host == host


@pytest.mark.parametrize("host", ["", "127.0.0.1:8787", "http://localhost", "local host"])
def test_what_is_no_address_is_refused_and_told_where_a_port_goes(host: str) -> None:
    with pytest.raises(ValueError, match=r"TASKS_HOST: .* TASKS_PORT"):
        Settings(host=host)
