"""What an installation without extras imports and can do, and what it says of the rest."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import tasks_service
from tasks_service.cli import COMMANDS
from tasks_service.domain.errors import ConfigurationError
from tasks_service.extras import SERVER, front_end_packages
from tests.kit.records import configured
from tests.matrix.environments import ROOT, shops

WITHOUT_EXTRAS = "import sys\nfor name in {}: sys.modules[name] = None\n"
"""Python that begins as if these modules were not installed."""


def run_without(modules: frozenset[str], code: str) -> subprocess.CompletedProcess[str]:
    program = WITHOUT_EXTRAS.format(sorted(modules)) + code
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


def test_every_public_name_is_there_and_no_other() -> None:
    assert {name for names in tasks_service._MODULES.values() for name in names} == set(tasks_service.__all__)
    assert all(getattr(tasks_service, name) is not None for name in tasks_service.__all__)
    assert set(tasks_service.__all__) <= set(dir(tasks_service))
    with pytest.raises(AttributeError, match="no attribute 'TaskServer'"):
        tasks_service.TaskServer  # noqa: B018


@pytest.mark.parametrize("name", COMMANDS)
def test_what_the_list_of_commands_says_of_one_is_how_its_own_help_begins(name: str) -> None:
    listed, full = COMMANDS[name].help, COMMANDS[name].load().help or ""
    assert full.startswith(listed.removesuffix("."))


def test_the_help_imports_no_command() -> None:
    code = "from tasks_service.cli import main\nsys.argv[1:] = ['--help']\nmain()"
    ended = run_without(SERVER | {"celery", "redis", "rich"}, code)
    assert ended.returncode == 0, ended.stderr
    assert "doctor" in ended.stdout


def test_tools_are_tested_with_neither_an_extra_nor_pytest() -> None:
    ended = run_without(SERVER | {"pytest", "_pytest"}, "import tasks_service.testing")
    assert ended.returncode == 0, ended.stderr


def test_a_desktop_hosts_server_starts_redis_and_worker_before_it_imports_what_takes_long() -> None:
    """Until then it needs none of these; the time that they take is not the first call's."""
    slow = SERVER | {"celery", "kombu", "redis", "rich", "jsonschema", "referencing"}
    for absent, module in ((slow, "stdio"), (slow | {"pydantic", "pydantic_settings"}, "back_end")):
        ended = run_without(absent, f"import tasks_service.cli.{module}")
        assert ended.returncode == 0, ended.stderr


def test_a_private_redis_is_started_and_found_without_the_client_library(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from tasks_service.local.redis_server import EmbeddedRedis, find_running\n"
        f"home = Path({str(tmp_path)!r})\n"
        "with EmbeddedRedis(home) as redis:\n"
        "    assert find_running(home) == redis.url\n"
    )
    ended = run_without(frozenset({"redis"}), code)
    assert ended.returncode == 0, ended.stderr


def test_operators_commands_need_neither_celery_nor_a_front_end() -> None:
    code = "import tasks_service.cli.inspect_commands, tasks_service.cli.repair"
    ended = run_without(SERVER | {"celery", "kombu", "hiredis"}, code)
    assert ended.returncode == 0, ended.stderr


def test_keys_need_an_extra_and_name_it_where_it_is_missing() -> None:
    code = f"from tasks_service.settings import Settings\nSettings(encryption_keys={configured('a')!r})"
    ended = run_without(frozenset({"cryptography"}), code)
    assert ended.returncode == 1
    assert "pip install 'tasks-service[encryption]'" in ended.stderr


@pytest.mark.parametrize("command", ["serve", "call", "stdio"])
def test_a_command_that_needs_an_extra_names_it(command: str) -> None:
    code = f"from tasks_service.cli import main\nsys.argv[1:] = [{command!r}, '--app', 'acme']\nmain()"
    ended = run_without(SERVER, code)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "pip install 'tasks-service[server]'" in ended.stderr


def test_a_missing_module_of_an_author_is_not_taken_for_a_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError), front_end_packages("It"):
        import no_such_module_of_an_author  # type: ignore[import-not-found]  # noqa: F401
    with pytest.raises(ConfigurationError, match="It needs the package mcp"), front_end_packages("It"):
        raise ModuleNotFoundError(name="mcp.server")


@pytest.mark.parametrize("kind, name", [(kind, name) for kind in ("sets", "shops") for name in shops(kind)])
def test_our_ranges_take_the_pins_of_a_shop(kind: str, name: str) -> None:
    """What the index has is asked by `make test-matrix`; this finds a range that was made too narrow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ranges = {one.name: one.specifier for one in map(Requirement, project["dependencies"])}
    pinned = [Requirement(pin) for pin in shops(kind)[name]["pins"]]
    for pin in pinned:
        (version,) = pin.specifier
        assert pin.name not in ranges or version.version in ranges[pin.name], (pin, ranges[pin.name])


def test_nothing_is_needed_that_only_a_front_end_uses() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {Requirement(one).name for one in project["dependencies"]}
    assert needed == {
        *("celery", "kombu", "amqp", "redis", "packaging", "pydantic", "pydantic-settings"),
        *("jsonschema", "referencing", "typing-extensions", "click", "rich"),
    }
