"""What an operator got wrong is said at start, by every process alike, in one sentence and with status 2."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from celery.bin.celery import celery as celery_command
from click.testing import CliRunner, Result
from pydantic import ValidationError

from tasks_service import TaskService
from tasks_service.addresses.broker import broker_of
from tasks_service.broker.app import create_app
from tasks_service.cli import main
from tasks_service.domain.errors import ConfigurationError
from tasks_service.domain.tools import ToolDefinition
from tasks_service.local.redis_server import EmbeddedRedis
from tasks_service.settings import Settings, load_settings, tell_if_misspelled
from tasks_service.store.redis import RedisTaskStore
from tasks_service.store.registry import AnnouncedTools, WorkerAnnouncement

TUNED = "redis://host/0?socket_timeout=5&health_check_interval=30"


@pytest.fixture(autouse=True)
def _only_our_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("TASKS_REDIS_URL", "TASKS_BROKER_URL", "TASKS_DATA_DIR", "TASKS_PORT", "TASKS_HOST"):
        monkeypatch.delenv(name, raising=False)


# --- URLs ---


@pytest.mark.parametrize("setting", ["redis_url", "broker_url"])
@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (TUNED, "socket_timeout cannot stand in the URL, since .*TASKS_STORE_DEADLINE"),
        ("redis://host?max_connections=9", "max_connections cannot .*TASKS_POOL"),
        ("redis://host?retry_on_timeout=true", "tries again by itself"),
        ("rediss://host?health_check_interval=30", "finds out by itself"),
        ("redis://host?decode_responses=true", "read and write in one way"),
        ("redis://host?ssl=true", "has rediss:// or amqps:// in front"),
        ("redis://host?pasword=x", r"pasword is not known; did you mean password\?"),
        ("unix:///run/redis.sock?colour=red", "colour is not known; expected one of db, password, username"),
        ("redis+sentinel://host?service=m&socket_timeout=5", "socket_timeout cannot"),
        ("redis://host/zero", "number of a database behind the host, not 'zero'"),
        ("redis://host?db=zero", "number of a database behind the host, not 'zero'"),
        ("redis://:pa/ss@host/0", "write %2F"),
        ("redis://host:port/0", "the port is no number"),
        ("redis://one/0,redis://two/0", "expected (one|a) URL"),
        ("redis://:pass;word@host/0", "write .*%3B"),
        ("redis://[::1/0", "Invalid IPv6 URL"),
    ],
)
def test_an_option_that_libraries_would_take_differently_or_not_at_all_is_refused(
    setting: str, url: str, sentence: str
) -> None:
    with pytest.raises(ValidationError, match=sentence) as refusal:
        Settings(_env_file=None, **{setting: url})

    (problem,) = refusal.value.errors()
    assert f"TASKS_{setting.upper()}: " in problem["msg"]
    assert "ss@" not in problem["msg"], "nothing of a password"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("amqp://host//?heartbeat=30", "heartbeat cannot stand in the URL"),
        ("amqp://host//?frame_max=3", "frame_max is not known"),
        ("redis+cluster://host", "A Redis Cluster cannot be Celery's broker"),
        ("rabbit://host", "No such transport: rabbit"),
        ("redis://one/0;amqp://two//", "the same scheme"),
        ("redis+sentinel://one?service=m;redis+sentinel://two?service=m", "the same scheme, one of"),
        ("rediss://one/0;rediss://two/0?ssl_cert_reqs=none", "the same options of encryption"),
        ("amqp://one//,amqp://two//", "separated by semicolons"),
        ("rabbit.example", "expected a URL"),
    ],
)
def test_a_broker_that_celery_could_not_use_is_refused(url: str, sentence: str) -> None:
    with pytest.raises(ValidationError, match=rf"TASKS_BROKER_URL: .*{sentence}"):
        Settings(_env_file=None, broker_url=url)


@pytest.mark.parametrize(
    ("url", "for_kombu"),
    [
        ("redis://host/2", "redis://host/2"),
        ("redis://host?db=2", "redis://host/2"),
        ("redis://host/1?virtual_host=2", "redis://host/2"),
        ("redis://host/2?username=ann&password=p%40w", "redis://ann:p%40w@host/2"),
        ("redis://eve@host?username=ann&password=p%40w", "redis://eve:p%40w@host/0"),
        ("rediss://:pw@host?db=2&ssl_cert_reqs=none", "rediss://:pw@host/2"),
        ("unix:///r.sock?db=2&username=ann&password=pw", "redis+socket://ann:pw@/r.sock?virtual_host=2"),
        ("redis+socket:///r.sock?db=2", "redis+socket:///r.sock?virtual_host=2"),
        ("redis://one?db=2;redis://two?db=2", "redis://one/2;redis://two/2"),
        ("amqp://one//;amqp://two//?login_method=PLAIN", "amqp://one//;amqp://two//?login_method=PLAIN"),
        ("memory://", "memory://"),
    ],
)
def test_what_both_libraries_have_is_told_to_celery_in_kombus_words(url: str, for_kombu: str) -> None:
    accepted = Settings(_env_file=None, broker_url=url).broker_url

    assert broker_of(str(accepted)).url == for_kombu
    with create_app("acme", broker_url=url, key_prefix="ts").connection_for_write() as connection:
        assert connection.as_uri()


def test_the_database_of_a_query_is_that_of_the_store(redis_url: str) -> None:
    server = redis_url.rpartition("/")[0]
    with closing(RedisTaskStore(f"{server}?db=7&username=default")) as store:
        store.count_dropped("gpu", 1)
    with closing(RedisTaskStore(f"{server}/7")) as same, closing(RedisTaskStore(redis_url)) as other:
        assert (list(same.dropped_messages()), list(other.dropped_messages())) == (["gpu"], [])


def test_sentinels_of_kombus_form_are_refused_by_an_app_that_cannot_know_the_master() -> None:
    with pytest.raises(ConfigurationError, match=r"Write redis\+sentinel://host:port"):
        create_app("acme", broker_url="sentinel://host:26379/0", key_prefix="ts")


def test_a_variable_that_is_empty_is_not_set() -> None:
    settings = Settings(_env_file=None, redis_url="", broker_url="")

    assert (settings.redis_url, settings.broker_url) == (None, None)


# --- numbers ---


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("TASKS_WAIT_LIMIT", "60s", "expected a number of seconds, without a unit, as in 2.5, not '60s'"),
        ("TASKS_HANDLE_AFTER", "inf", "expected a number of seconds that is not endless, not 'inf'"),
        ("TASKS_MAX_RESULT", "1M", "expected a whole number, without a unit, not '1M'"),
        ("TASKS_PORT", "", "expected a whole number, without a unit, not ''"),
        ("TASKS_TOGETHER", "maybe", "expected true or false, not 'maybe'"),
    ],
)
def test_a_number_of_another_form_is_refused_with_what_was_expected(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(ConfigurationError) as refusal:
        load_settings()

    assert str(refusal.value) == f"{variable}: {sentence}"


def test_each_mistake_has_a_sentence_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKS_PORT", "x")
    monkeypatch.setenv("TASKS_REDIS_URL", TUNED)

    with pytest.raises(ConfigurationError) as refusal:
        load_settings()

    assert [line.partition(":")[0] for line in str(refusal.value).splitlines()] == [
        "TASKS_REDIS_URL",
        "TASKS_PORT",
    ]


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("TASKS_REDIS_ULR", "TASKS_REDIS_URL"),
        ("TASKS_SERCET", "TASKS_SECRET"),
        ("TASKS_API_KEY", "TASKS_API_KEYS"),
        ("TASKS_ALOWED_HOSTS", "TASKS_ALLOWED_HOSTS"),
    ],
)
@pytest.mark.parametrize("is_in_a_file", [False, True], ids=["environment", "file"])
def test_a_variable_that_is_misspelled_is_told_once_with_the_one_that_was_meant(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    variable: str,
    meant: str,
    is_in_a_file: bool,
) -> None:
    tell_if_misspelled.cache_clear()
    if is_in_a_file:
        (tmp_path / ".env").write_text(f"{variable}=x\n")
    else:
        monkeypatch.setenv(variable, "x")

    load_settings()
    load_settings()

    assert caplog.messages == [f"{variable} is read by nobody; did you mean {meant}?"]


def test_variables_of_others_that_begin_alike_are_nobodys_business(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (
        "TASKS_APP",
        "TASKS_URL",
        "TASKS_KEY",
        "TASKS_TOOLS_ROOT",
        "TASKS_DATABASE",
        "TASKS_TIMEOUT",
    ):
        monkeypatch.setenv(name, "x")

    load_settings()

    assert caplog.messages == []


# --- ports ---


def test_a_port_that_is_taken_is_refused_with_the_variable_that_chooses_another(
    app_module: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("TASKS_REDIS_URL", "redis://127.0.0.1:1/0")
        monkeypatch.setenv("TASKS_PORT", str(taken.getsockname()[1]))
        monkeypatch.setattr(sys, "argv", ["tasks-service", "serve", "--app", app_module])

        with pytest.raises(SystemExit) as ended:
            main()

    assert ended.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "cannot be used (Address already in use)" in line
    assert line.endswith("Choose another port with TASKS_PORT.")


# --- commands ---


@pytest.fixture
def app_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with a service, that nobody has imported yet."""
    (tmp_path / "acme_mistaken.py").write_text(
        "from tasks_service import TaskService\nservice = TaskService('acme')\napp = service.celery\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "acme_mistaken", raising=False)
    return "acme_mistaken"


def celery(*arguments: str) -> Result:
    return CliRunner().invoke(celery_command, arguments)


@pytest.mark.parametrize("command", ["worker", "beat", "report"])
def test_celerys_own_commands_say_a_mistake_in_one_sentence(
    app_module: str, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("TASKS_REDIS_URL", TUNED)

    ended = celery("-A", app_module, command)

    assert ended.exit_code == 2
    (line,) = ended.output.splitlines()
    assert line.startswith("tasks-service: TASKS_REDIS_URL: the option socket_timeout")


def test_in_any_other_process_it_is_an_error_that_can_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKS_PORT", "x")

    with pytest.raises(ConfigurationError, match="TASKS_PORT"):
        TaskService("acme")


def test_what_an_author_got_wrong_keeps_its_traceback(app_module: str, tmp_path: Path) -> None:
    module = tmp_path / f"{app_module}.py"
    module.write_text(module.read_text() + "service.expose('no.such.task')\n")

    ended = celery("-A", app_module, "report")

    assert ended.exit_code == 2
    assert "Traceback" in ended.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve"],
        ["serve", "--app", "acme_mistaken"],
        ["up", "--app", "acme_mistaken"],
        ["doctor", "--app", "acme_mistaken"],
        ["list"],
        ["workers"],
        ["repair"],
    ],
    ids=" ".join,
)
def test_every_command_says_a_mistake_in_one_sentence(
    app_module: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    monkeypatch.setenv("TASKS_REDIS_URL", TUNED)
    monkeypatch.setattr(sys, "argv", ["tasks-service", *arguments])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("Error: TASKS_REDIS_URL: the option socket_timeout")


def test_stdio_says_a_mistake_on_stderr_and_nothing_to_its_host(
    app_module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TASKS_REDIS_URL", TUNED)

    command = [sys.executable, "-m", "tasks_service", "stdio", "--app", app_module]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("Error: TASKS_REDIS_URL: the option socket_timeout")


def test_a_broker_whose_package_is_missing_is_refused_by_whoever_sends_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pymongo", None)
    url = str(Settings(_env_file=None, broker_url="mongodb://host/db").broker_url)

    with pytest.raises(ConfigurationError, match=r"TASKS_BROKER_URL: a package is missing.*pymongo"):
        create_app("acme", broker_url=url, key_prefix="ts")


def test_an_encrypted_broker_is_not_looked_at_without_its_encryption(
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = str(Settings(_env_file=None, broker_url="rediss://host/0").broker_url)

    create_app("acme", broker_url=url, key_prefix="ts")

    assert "insecure" not in caplog.text


# --- two services ---


def announce(url: str, service: str, *tools: str) -> None:
    """A worker of a service says that it runs."""
    announced = AnnouncedTools.of(
        ToolDefinition(name=name, input_schema={"type": "object"}, queue="tasks") for name in tools
    )
    worker = WorkerAnnouncement(service=service, node="w@host", tools=announced.digest)
    with closing(RedisTaskStore(url)) as store:
        store.registry.announce(worker, announced)


def service_of(redis_url: str, tmp_path: Path, **options: Any) -> TaskService:
    settings = Settings(_env_file=None, redis_url=redis_url, data_dir=tmp_path)
    service = TaskService("Office", settings=settings, **options)

    @service.tool
    def render() -> str:
        return "the office's"

    return service


async def start(service: TaskService) -> None:
    async with service.asgi().lifespan():
        """It has started."""


def test_a_front_end_is_refused_where_another_services_workers_would_take_its_calls(
    redis_url: str, tmp_path: Path
) -> None:
    announce(redis_url, "Shop", "render")

    with pytest.raises(ConfigurationError, match=r"service 'Shop' use the same store.*TASKS_KEY_PREFIX"):
        asyncio.run(start(service_of(redis_url, tmp_path)))

    asyncio.run(start(service_of(redis_url, tmp_path, former_names=["Shop"])))


def test_front_ends_of_services_with_tools_of_other_names_share_a_store(
    redis_url: str, tmp_path: Path
) -> None:
    announce(redis_url, "Shop", "print")

    asyncio.run(start(service_of(redis_url, tmp_path)))


def test_a_desktop_hosts_service_is_refused_in_the_data_directory_of_another_service(
    app_module: str, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    with EmbeddedRedis(data_dir) as redis:
        announce(redis.url, "Shop", "render")
        options = ["--app", app_module, "--data-dir", str(data_dir)]
        command = [sys.executable, "-m", "tasks_service", "back-end", *options]
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "TASKS_DATA_DIR": str(data_dir)},
        )

    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"Error: The service 'Shop' uses {data_dir} already")
    assert "Set TASKS_DATA_DIR to another directory for 'acme'." in line
