"""How commands find the author's service, and what they say where they do not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks_service import ConfigurationError
from tasks_service.cli.application import celery_path, find_celery_path, load_service

Write = Callable[[str], str]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Write:
    """Writes a module into the current directory; its name is that of the test."""
    name = f"module_of_{request.node.name.partition('[')[0]}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)

    def write(text: str) -> str:
        (tmp_path / f"{name}.py").write_text(f"from tasks_service import TaskService\n{text}\n")
        return name

    return write


def test_a_module_is_enough_where_the_names_are_the_usual_ones(module: Write) -> None:
    name = module("service = TaskService('Acme')\napp = service.celery")
    assert load_service(name).name == "Acme"
    assert celery_path(name) == name


def test_other_names_are_said(module: Write) -> None:
    name = module("tools = TaskService('Acme')\nqueue = tools.celery")
    with pytest.raises(ConfigurationError, match=f"no 'service'. Name it: --app {name}:tools"):
        load_service(name)
    assert load_service(f"{name}:tools").name == "Acme"
    assert celery_path(f"{name}:tools") == f"{name}:queue"


def test_a_module_without_a_service_is_told_from_one_whose_service_is_something_else(module: Write) -> None:
    name = module("service = 5")
    with pytest.raises(ConfigurationError, match="service is of type int"):
        load_service(name)
    with pytest.raises(ConfigurationError, match=r"Add `tools = TaskService\(\.\.\.\)`"):
        load_service(f"{name}:tools")


def test_a_celery_app_without_a_name_is_refused_with_the_line_that_names_it(module: Write) -> None:
    name = module("tools = TaskService('Acme')")
    assert find_celery_path(f"{name}:tools") is None
    with pytest.raises(ConfigurationError, match=f"add the line `app = tools.celery` to {name}"):
        celery_path(f"{name}:tools")


def test_a_module_that_is_not_there_is_named(module: Write) -> None:
    with pytest.raises(
        ConfigurationError, match=r"There is no module 'nowhere'.*--app, such as acme\.service"
    ):
        load_service("nowhere")
