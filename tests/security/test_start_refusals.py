"""What cannot be meant is refused at start, with a sentence that says how to mend it and quotes no secret."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from pydantic import SecretStr, ValidationError

from tasks_service.cli import commands
from tasks_service.crypto.core_dumps import forbid_core_dumps
from tasks_service.crypto.keys import load_keys
from tasks_service.crypto.secret import check_secret
from tasks_service.domain.errors import ConfigurationError
from tasks_service.frontend.app import check_settings
from tasks_service.settings import Settings, load_settings
from workers.settings import ToolSettings

KEY, OTHER = "mU3xQ9wzR7kYb2Lc", "Hn8vT4sJd6pGq1Wf"
REDIS = "redis://127.0.0.1:6379/0"
CANARY = "CANARY4f9bQ7"


@pytest.fixture(autouse=True)
def _only_what_a_test_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TASKS_HOST", "TASKS_DATA_DIR", "TASKS_API_KEYS", "TASKS_SECRET", "TASKS_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TASKS_REDIS_URL", REDIS)
    monkeypatch.chdir(tmp_path)


def a_front_end() -> None:
    check_settings(load_settings())


def the_keys() -> None:
    settings = load_settings()
    load_keys(settings.secret, settings.accepted_secrets, settings.owner_secret, settings.data_dir)


def the_tools() -> None:
    ToolSettings()


PUBLIC = {"TASKS_HOST": "0.0.0.0"}

REFUSED: dict[str, tuple[Callable[[], None], dict[str, str], str]] = {
    "all addresses without keys": (a_front_end, PUBLIC, "TASKS_API_KEYS is empty.*Set TASKS_API_KEYS="),
    "all IPv6 addresses without keys": (a_front_end, {"TASKS_HOST": "::"}, "TASKS_API_KEYS is empty"),
    "a public host without keys": (
        a_front_end,
        {"TASKS_ALLOWED_HOSTS": "tasks.example.com"},
        "TASKS_ALLOWED_HOSTS has tasks.example.com, so .*leave TASKS_ALLOWED_HOSTS out",
    ),
    "a proxy without keys": (
        a_front_end,
        {"TASKS_TRUSTED_PROXIES": "10.0.0.0/8"},
        "TASKS_TRUSTED_PROXIES is set, so .*leave TASKS_TRUSTED_PROXIES out",
    ),
    "a short key": (a_front_end, {"TASKS_API_KEYS": "ann:short"}, "at least 16 characters"),
    "a weak key": (a_front_end, PUBLIC | {"TASKS_API_KEYS": f"ann:{'a' * 16}"}, "could be guessed.*prints a"),
    "a key that counts": (a_front_end, {"TASKS_API_KEYS": "ann:0123456789abcdef"}, "follow each other"),
    "a key that repeats": (a_front_end, {"TASKS_API_KEYS": "ann:changemechangeme"}, "one piece, repeated"),
    "one key of two names": (a_front_end, {"TASKS_API_KEYS": f"a:{KEY},b:{KEY}"}, "a key of its own"),
    "one key twice": (a_front_end, {"TASKS_API_KEYS": f"a:{KEY},a:{KEY}"}, "Leave one of them out"),
    "no key that has not ended": (
        a_front_end,
        {"TASKS_API_KEYS": f"a:{KEY}:2020-01-01,b:{OTHER}:2021-01-01"},
        "no key that has not ended.*Add one with a later end",
    ),
    "a short secret": (the_keys, {"TASKS_SECRET": "short"}, "use at least 16.*openssl rand"),
    "a weak secret": (the_keys, {"TASKS_SECRET": "s" * 32}, "could be guessed.*openssl rand"),
    "a Redis by HTTP": (a_front_end, {"TASKS_REDIS_URL": "http://host"}, "TASKS_REDIS_URL: .*redis://"),
    "a Redis elsewhere in the clear": (
        a_front_end,
        {"TASKS_REDIS_URL": "redis://:pw@redis.example/0"},
        "not encrypted.*rediss://.*TASKS_PRIVATE_NETWORK=true",
    ),
    "a broker elsewhere in the clear": (
        a_front_end,
        {"TASKS_BROKER_URL": "amqp://u:pw@mq.example//"},
        "TASKS_BROKER_URL .*not encrypted",
    ),
    "a Redis elsewhere that anybody may be": (
        a_front_end,
        {"TASKS_REDIS_URL": "rediss://redis.example/0?ssl_cert_reqs=none"},
        "whoever answers.*ssl_ca_certs",
    ),
    "every host": (
        a_front_end,
        {"TASKS_ALLOWED_HOSTS": "*"},
        "TASKS_ALLOWED_HOSTS: .* is not of the form",
    ),
    "arguments without a limit": (
        a_front_end,
        {"TASKS_MAX_ARGUMENTS": "1000000000000"},
        "TASKS_MAX_ARGUMENTS: expected at most 67108864, not",
    ),
    "the root of the machine for tools": (
        the_tools,
        {"TASKS_TOOLS_ROOT": "/"},
        "own files.*Set it to",
    ),
    "a system directory for tools": (the_tools, {"TASKS_TOOLS_ROOT": "/proc/self"}, "machine's own files"),
    "a system directory for reports": (the_tools, {"TASKS_REPORTS_DIR": "/etc"}, "TASKS_REPORTS_DIR is /etc"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused_with_how_to_mend_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, variables, sentence = REFUSED[name]
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)

    with pytest.raises((ConfigurationError, ValidationError), match=f"(?s){sentence}"):
        start()


def test_what_can_be_meant_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKS_API_KEYS", f"ann:{KEY}:2020-01-01,ann:{OTHER}")
    monkeypatch.setenv("TASKS_HOST", "0.0.0.0")
    monkeypatch.setenv("TASKS_REDIS_URL", "redis://redis.example/0")
    monkeypatch.setenv("TASKS_PRIVATE_NETWORK", "true")
    a_front_end()

    monkeypatch.setenv("TASKS_REDIS_URL", "rediss://redis.example/0")
    monkeypatch.setenv("TASKS_PRIVATE_NETWORK", "false")
    a_front_end()

    for local in ("localhost:9000", "dev.localhost", "127.0.0.1", "[::1]:80"):
        monkeypatch.setenv("TASKS_API_KEYS", "")
        monkeypatch.setenv("TASKS_HOST", "127.0.0.1")
        monkeypatch.setenv("TASKS_ALLOWED_HOSTS", local)
        a_front_end()


# --- files ---


@pytest.mark.parametrize("mode", [0o666, 0o646])
def test_settings_that_others_could_have_written_are_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / ".env"
    file.write_text(f"TASKS_API_KEYS=ann:{KEY}\n")
    file.chmod(0o600)
    load_settings()
    file.chmod(mode)

    with pytest.raises(ConfigurationError, match=r"\.env can be written by other users.*chmod go-w"):
        load_settings()


def test_settings_of_another_user_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("TASKS_PORT=8787\n")
    owner = (tmp_path / ".env").stat().st_uid or 4711
    os.chown(tmp_path / ".env", owner, -1)  # a no-op, unless root runs this
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)

    with pytest.raises(ConfigurationError, match=r"\.env belongs to user \d+, who could change it"):
        load_settings()


def test_a_data_directory_that_others_may_write_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    directory.chmod(0o777)

    with pytest.raises(ConfigurationError, match=r"can be written by other users.*chmod go-w"):
        load_keys(None, (), None, directory)

    directory.chmod(0o750)
    load_keys(None, (), None, directory)


def test_a_file_of_keys_that_cannot_be_used_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys"
    monkeypatch.setenv("TASKS_API_KEYS_FILE", str(file))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        a_front_end()

    for text, sentence in {
        "": "no key that has not ended",
        f"ann:{CANARY}\n": "line 1 of .* is not of the form",
        f"# a comment\n\nann:{'0' * 64}:{CANARY}\n": "line 3 of .* is not of the form",
        f"ann:{'0' * 64}:2020-01-01\n": "no key that has not ended",
        f"ann:{'0' * 64}\nbob:{'0' * 64}\n": "one key 2 times, of ann and bob",
    }.items():
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=sentence) as refusal:
            a_front_end()
        assert CANARY not in str(refusal.value)

    file.write_text(f"ann:{'0' * 64}\n")
    file.chmod(0o666)
    with pytest.raises(ConfigurationError, match="written by other users"):
        a_front_end()


def test_a_command_allows_no_core_dump() -> None:
    before = resource.getrlimit(resource.RLIMIT_CORE)
    try:
        forbid_core_dumps()
        assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)


# --- nothing secret is quoted ---

HOLD_SECRETS = sorted(
    name
    for name, field in Settings.model_fields.items()
    if "Secret" in str(field.annotation) or name in ("api_keys", "redis_url", "broker_url")
)

PROBES = (
    CANARY,
    f":{CANARY}",
    f"ann:{CANARY}",
    f"ann:12345678,{CANARY}90123456789",
    f"{CANARY}1234567890:ann",
    f"ann:{CANARY}1234567890:2027-02-31",
    f"ann:{CANARY}1234567890:tomorrow",
    f"ann:{CANARY}1234567890,bob:{CANARY}1234567890",
    f"ann:{CANARY} with spaces in it",
    f"ann {CANARY}:x",
    f"ann:{CANARY}ü1234567890",
    f"redis://:{CANARY}@host:port/0",
    f"redis://:{CANARY}/x@host/0",
    f"redis://:{CANARY}@host/zero",
    f"redis://host/0?pasword={CANARY}",
    f"redis://host/0?password={CANARY}&socket_timeout=5",
    f"rediss://:{CANARY}@host/0?ssl_cert_reqs=perhaps",
    f"redis://:{CANARY}@one/0,redis://two/0",
    f"redis://:{CANARY}@[::1/0",
    f"amqp://u:{CANARY}@host:port//",
    f"rabbit://u:{CANARY}@host",
    f"http://u:{CANARY}@host",
)


def test_the_settings_that_hold_secrets_are_known() -> None:
    assert {"api_keys", "secret", "owner_secret", "message_secret", "oauth_client_secret"} < set(HOLD_SECRETS)
    assert len(PROBES) == 22


@pytest.mark.parametrize("setting", HOLD_SECRETS)
def test_no_secret_is_quoted_whatever_is_wrong_with_it(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = 0
    for probe in PROBES:
        monkeypatch.setenv(f"TASKS_{setting.upper()}", probe)
        said = []
        for start in (a_front_end, Settings, the_keys):
            try:
                start()
            except (ConfigurationError, ValidationError) as error:
                said.append(f"{error}{error!r}")
        refused += bool(said)
        assert CANARY not in " ".join(said), probe
    assert refused or "secret" in setting


def test_a_weak_secret_can_be_replaced_and_its_owners_find_their_tasks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weak = "s" * 32
    monkeypatch.setenv("TASKS_SECRET", "the-secret-of-this-deployment")
    monkeypatch.setenv("TASKS_ACCEPTED_SECRETS", weak)
    monkeypatch.setenv("TASKS_OWNER_SECRET", weak)

    the_keys()


@pytest.mark.parametrize("secret", ["x" * 20, CANARY, f"{CANARY}{CANARY}"])
def test_a_refused_secret_is_not_quoted(secret: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        check_secret("TASKS_SECRET", SecretStr(secret))

    assert secret not in str(refusal.value)


# --- the command that draws a key ---


def test_a_key_is_drawn_with_the_line_that_lets_it_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(*options: str) -> dict[str, str]:
        done = CliRunner().invoke(commands, ["key", "ann", *options])
        assert done.exit_code == 0, done.output
        return dict(line.split(maxsplit=1) for line in done.output.splitlines())

    first, second = drawn(), drawn("--until", "2099-01-31T12:00:00Z")
    (tmp_path / "keys").write_text(first["line:"] + "\n" + second["line:"] + "\n")
    monkeypatch.setenv("TASKS_API_KEYS_FILE", str(tmp_path / "keys"))

    a_front_end()

    assert first["key:"] != second["key:"]
    assert first["key:"] not in first["line:"]
    assert json.dumps(second["line:"]).endswith(':2099-01-31T12:00:00Z"')


@pytest.mark.parametrize("arguments", [["a:b"], ["ann", "--until", "tomorrow"], ["#ann"]])
def test_a_line_that_the_file_could_not_have_is_not_drawn(arguments: list[Any]) -> None:
    done = CliRunner().invoke(commands, ["key", *arguments])

    assert isinstance(done.exception, ConfigurationError)
